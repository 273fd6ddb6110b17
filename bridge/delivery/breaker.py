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
        self._probing = False
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

    def begin_probe(self) -> None:
        self._probing = True

    def end_probe(self, now: float) -> None:
        """The probe brought no verdict: it was not made, or what came of it says nothing of the provider."""
        if self._probing:
            self._probing = False
            self.until = now + self._wait

    def cancel_probe(self) -> None:
        """Nothing was there to be tried: the next message may be."""
        self._probing = False

    def hurry(self) -> None:
        """The operator did something about it: the next message is tried."""
        self.until = 0.0
        self._wait = self._policy.wait

    def note(self, outcome: Outcome, *, now: float, probe: bool) -> Change | None:
        """What a call brought. Calls that were under way when it opened close nothing."""
        verdict = judge(outcome)
        if verdict == "account":
            return self._block(outcome, now, probe)
        if self._open:
            return self._probed(verdict, outcome, now) if probe else None
        if verdict == "neutral":
            return None
        self._count(verdict == "bad", now)
        if verdict == "bad" and self._trips():
            self._open_for(outcome, now)
            return "opened"
        return None

    def _probed(self, verdict: Verdict, outcome: Outcome, now: float) -> Change | None:
        congested = verdict == "neutral" and outcome.reply.enhanced == _CONGESTED  # too many calls: it is there
        if verdict == "good" or congested:
            self.was_blocked = self._blocked
            self._open = self._probing = self._blocked = False
            self._wait = self._policy.wait
            self._calls.clear()
            self._bad = 0
            return "closed"
        self._wait = min(self._wait * 2, self._policy.maximum)
        self.end_probe(now)
        return None

    def _block(self, outcome: Outcome, now: float, probe: bool) -> Change | None:
        if self._open and self._blocked:
            if probe:
                self._wait = min(self._wait * 2, self._policy.maximum)
                self.end_probe(now)
                self._wait_for(outcome, now)
            return None
        self._open_for(outcome, now)
        self._blocked = True
        self._wait_for(outcome, now)
        return "blocked"

    def _wait_for(self, outcome: Outcome, now: float) -> None:
        """A quota comes back when the provider says so."""
        if outcome.retry_after:
            self.until = max(self.until, now + outcome.retry_after)

    def _open_for(self, outcome: Outcome, now: float) -> None:
        self._open, self._probing, self._blocked = True, False, False
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
