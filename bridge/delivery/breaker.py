"""The breaker of one provider: when it fails it is left alone, and one real message finds out whether it is back.

Rules only; the time is passed in. Faults of the provider open it by count and share over a window; a fault of the account
(a wrong key, an unpaid bill, a used-up quota) opens it at once. Refused recipients and messages never do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from bridge.model import Fault, Outcome

State = Literal["closed", "open", "half-open", "blocked"]
Change = Literal["opened", "blocked", "closed"]
Verdict = Literal["good", "bad", "account", "neutral"]

# RFC 3463 codes of the reply table (README, "Replies"): not reached, not available, answer lost.
_FAILING = frozenset({"4.4.1", "4.3.2", "4.4.2"})
_FAILS_OVER = frozenset({"4.4.1", "4.3.2"})
_CONGESTED = "4.4.5"
LONGEST_QUOTA_S = 86400.0
LONG_WAIT_S = 60.0  # a provider that asks for more patience than this is passed over where there is another


def judge(outcome: Outcome) -> Verdict:
    """What an outcome says of the provider. A refusal is good: it was there and answered."""
    if outcome.status in ("sent", "bounced"):
        return "good"
    if outcome.fault is Fault.ACCOUNT:
        return "account"
    if outcome.fault is not Fault.PROVIDER:
        return "neutral"
    return "bad" if outcome.status == "unknown" or outcome.reply.enhanced in _FAILING else "neutral"


_TOO_BIG = "5.3.4"  # this provider's limit: another's may be larger


def goes_on(outcome: Outcome, *, risky: bool) -> bool:
    """Whether the next provider of the route is to be asked; `risky`: also after a lost answer."""
    too_big = outcome.status == "bounced" and outcome.fault is Fault.MESSAGE and outcome.reply.enhanced == _TOO_BIG
    return too_big or certainly_not_taken(outcome) or (risky and outcome.status == "unknown")


def certainly_not_taken(outcome: Outcome) -> bool:
    """Whether another provider may take it now (README, "Failover")."""
    if outcome.status != "deferred":
        return False
    if outcome.fault is Fault.ACCOUNT:
        return True
    if outcome.fault is not Fault.PROVIDER:
        return False
    long_wait = outcome.reply.enhanced == _CONGESTED and (outcome.retry_after or 0.0) > LONG_WAIT_S
    return outcome.reply.enhanced in _FAILS_OVER or long_wait


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """Open after `failures` bad calls within `window` seconds that are `share` of all; try again after `wait` seconds, which
    double up to `maximum`."""

    failures: int = 5
    share: float = 0.5
    window: float = 60.0
    wait: float = 15.0
    maximum: float = 300.0


class Breaker:
    """`state`, why (`reason`), since when, and until when nothing is tried."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._calls: deque[tuple[float, bool]] = deque()
        self._bad = 0
        self._wait = policy.wait
        self._blocked = False
        self._open = False
        self._probes = 0
        self._probing = 0  # the number of the probe under way
        self.was_blocked = False  # when it was open last
        self.reason = ""
        self.since = 0.0
        self.until = 0.0

    @property
    def state(self) -> State:
        if not self._open:
            return "closed"
        if self._probing:
            return "half-open"
        return "blocked" if self._blocked else "open"

    @property
    def closed(self) -> bool:
        return not self._open

    @property
    def blocked(self) -> bool:
        """Open for a fault of the account, also while a probe is under way."""
        return self._open and self._blocked

    def may_probe(self, now: float) -> bool:
        """Whether one message may be tried although it is open."""
        return self._open and not self._probing and now >= self.until

    def begin_probe(self) -> int:
        """Its number, more than 0."""
        self._probes += 1
        self._probing = self._probes
        return self._probing

    def end_probe(self, probe: int, now: float) -> None:
        """It brought no verdict: it was not made, or what came of it says nothing of the provider."""
        if probe and probe == self._probing:
            self._probing = 0
            self.until = now + self._wait

    def restore_blocked(self, since: float, reason: str) -> None:
        """As it was before a restart: the first message finds out whether the account is in order now, and what waits gets
        the time on top in which it was not."""
        self._open = self._blocked = True
        self.since, self.reason, self.until = since, reason, 0.0

    def hurry(self) -> None:
        """The operator did something about it: the next message is tried."""
        self.until = 0.0
        self._wait = self._policy.wait

    def note(self, outcome: Outcome, *, now: float, probe: int = 0) -> Change | None:
        """What a call brought; `probe` is its number, 0 for any other. Calls that were under way when it opened close nothing."""
        verdict, probe = judge(outcome), probe if probe == self._probing else 0
        if verdict == "account":
            return self._block(outcome, now, probe)
        if self._open:
            return self._probed(verdict, outcome, probe, now) if probe else None
        if verdict == "neutral":
            return None
        self._count(verdict == "bad", now)
        if verdict == "bad" and self._trips():
            self._open_for(outcome, now)
            return "opened"
        return None

    def _probed(self, verdict: Verdict, outcome: Outcome, probe: int, now: float) -> Change | None:
        answered = (
            verdict == "neutral" and outcome.fault is Fault.PROVIDER
        )  # oddly, or that it was too much: it is there
        if verdict == "good" or answered:
            self.was_blocked = self._blocked
            self._open = self._blocked = False
            self._probing = 0
            self._wait = self._policy.wait
            self._calls.clear()
            self._bad = 0
            return "closed"
        if verdict == "bad":
            self._wait = min(self._wait * 2, self._policy.maximum)
        self.end_probe(probe, now)
        return None

    def _block(self, outcome: Outcome, now: float, probe: int) -> Change | None:
        if self._open and self._blocked:
            if probe:
                self._wait = min(self._wait * 2, self._policy.maximum)
                self.end_probe(probe, now)
                self._wait_for(outcome, now)
            return None
        self._open_for(outcome, now)
        self._blocked = True
        self._wait_for(outcome, now)
        return "blocked"

    def _wait_for(self, outcome: Outcome, now: float) -> None:
        """A quota comes back when the provider says so."""
        if outcome.retry_after:
            self.until = max(self.until, now + min(outcome.retry_after, LONGEST_QUOTA_S))

    def _open_for(self, outcome: Outcome, now: float) -> None:
        self._open, self._probing, self._blocked = True, 0, False
        self.reason = outcome.detail or outcome.reply.text
        self.since = now
        self.until = now + self._wait

    def _count(self, bad: bool, now: float) -> None:
        self._calls.append((now, bad))
        self._bad += bad
        while self._calls and (self._calls[0][0] <= now - self._policy.window or len(self._calls) > 10_000):
            _, was_bad = self._calls.popleft()
            self._bad -= was_bad

    def _trips(self) -> bool:
        return self._bad >= self._policy.failures and self._bad >= self._policy.share * len(self._calls)
