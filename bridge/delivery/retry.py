"""What an outcome means for a recipient: sent, again later, or over. Rules only; the time is passed in."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from bridge.model import Fault, Outcome
from bridge.providers.base import Policy
from bridge.spool.base import Result

QUOTA_MAXIMUM = 86400.0  # a used-up daily quota may ask for more patience than retry.maximum


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Times in seconds. `jitter` is a share: 0.2 spreads a delay over 80 to 120 percent."""

    first: float = 1.0
    factor: float = 2.0
    maximum: float = 1800.0
    jitter: float = 0.2

    def delay(
        self,
        attempts: int,
        *,
        retry_after: float | None = None,
        quota: bool = False,
        chance: Callable[[], float] = random.random,
    ) -> float:
        """Seconds until the next attempt, after `attempts` of them.

        Capped first, then jittered, so that what waits at the cap does not come due all at once.
        """
        backoff = min(self.first * self.factor ** min(max(attempts - 1, 0), 60), self.maximum)
        wait = backoff * (1 + self.jitter * (2 * chance() - 1))
        if retry_after is None:
            return wait
        asked = min(retry_after, QUOTA_MAXIMUM if quota else self.maximum)
        # Never before the moment the provider named, and not everybody at it.
        return max(wait, asked * (1 + self.jitter * chance() / 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What is known of a recipient when its attempt has ended; `attempts` counts that one."""

    attempts: int = 1
    unknowns: int = 0
    expires_at: float = float("inf")


def dispose(
    tried: Tried,
    outcome: Outcome,
    *,
    now: float,
    retry: RetryPolicy,
    provider: str,
    policy: Policy,
    idempotent: bool,
    chance: Callable[[], float] = random.random,
) -> Result:
    """The result to record for one recipient after one attempt with `provider`. `chance` gives the jitter, 0 to 1."""
    if outcome.status in ("sent", "bounced"):
        return _result(outcome, provider)
    if outcome.status == "unknown":
        if _must_hold(tried.unknowns + 1, policy, idempotent=idempotent and not outcome.keyless):
            return _result(outcome, provider, status="held", unknown=True)
        if now >= tried.expires_at:
            return _result(outcome, provider, status="expired")
        at = now + retry.delay(tried.attempts, chance=chance)
        return _result(outcome, provider, status="deferred", at=min(at, tried.expires_at), unknown=True)
    at = now + retry.delay(tried.attempts, retry_after=outcome.retry_after, quota=outcome.quota, chance=chance)
    if outcome.fault is Fault.ACCOUNT:  # the operator's to mend: mail does not expire meanwhile
        return _result(outcome, provider, status="deferred", at=at, blocked=True)
    if now >= tried.expires_at:
        return _result(outcome, provider, status="expired")
    return _result(outcome, provider, status="deferred", at=min(at, tried.expires_at))


def may_try_again(unknowns: int, policy: Policy, *, idempotent: bool) -> bool:
    """Whether a recipient whose last answer was lost, for the `unknowns`th time, may be tried again by itself."""
    return not _must_hold(unknowns, policy, idempotent=idempotent)


def _must_hold(unknowns: int, policy: Policy, *, idempotent: bool) -> bool:
    if unknowns >= policy.max_unknown:
        return True
    return not idempotent and policy.on_unknown == "hold"


def _result(
    outcome: Outcome,
    provider: str,
    *,
    status: str = "",
    at: float | None = None,
    unknown: bool = False,
    blocked: bool = False,
) -> Result:
    return Result(
        status=status or outcome.status,  # type: ignore[arg-type]  # an outcome that ends here has a recipient's status
        reply=outcome.reply,
        fault=outcome.fault,
        at=at,
        provider=provider,
        provider_message_id=outcome.provider_message_id,
        detail=outcome.detail,
        unknown=unknown,
        blocked=blocked,
        passed_on=outcome.passed_on,
    )
