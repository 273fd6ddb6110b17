"""What an outcome means for a recipient: tables of values, the time and the chance passed in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.retry import QUOTA_MAXIMUM, RetryPolicy, Tried, dispose, may_try_again
from bridge.model import Outcome
from bridge.providers.base import Policy
from bridge.spool.base import Result
from tests.delivery.conftest import BAD_KEY, BUSY, LOST, REFUSED, SENT, later

RETRY = RetryPolicy(first=1, factor=2, maximum=30, jitter=0.2)


@pytest.mark.parametrize(
    ("attempts", "low", "middle", "high"),
    [
        (0, 0.8, 1, 1.2),
        (1, 0.8, 1, 1.2),
        (2, 1.6, 2, 2.4),
        (3, 3.2, 4, 4.8),
        (5, 12.8, 16, 19.2),
        (6, 24, 30, 36),
        (7, 24, 30, 36),
        (1000, 24, 30, 36),
    ],
)
def test_the_wait_doubles_to_the_cap_and_is_spread_after_the_cap(
    attempts: int, low: float, middle: float, high: float
) -> None:
    waits = [RETRY.delay(attempts, chance=lambda c=c: c) for c in (0.0, 0.5, 1.0)]  # type: ignore[misc]

    assert waits == pytest.approx([low, middle, high])


@pytest.mark.parametrize(
    ("attempts", "retry_after", "quota", "chance", "wait"),
    [
        (1, 10, False, 0.0, 10),
        (1, 10, False, 1.0, 10.5),
        (5, 10, False, 0.5, 16),
        (1, 0, False, 0.5, 1),
        (1, 3600, False, 0.0, 30),
        (1, 3600, True, 0.0, 3600),
        (1, 10 * QUOTA_MAXIMUM, True, 0.0, QUOTA_MAXIMUM),
    ],
)
def test_a_provider_may_ask_for_patience_within_bounds(
    attempts: int, retry_after: float, quota: bool, chance: float, wait: float
) -> None:
    got = RETRY.delay(attempts, retry_after=retry_after, quota=quota, chance=lambda: chance)

    assert got == pytest.approx(wait)


@given(attempts=st.integers(0, 10**9), asked=st.none() | st.floats(0, 1e12), chance=st.floats(0, 1))
def test_no_wait_is_negative_or_longer_than_the_longest(attempts: int, asked: float | None, chance: float) -> None:
    wait = RETRY.delay(attempts, retry_after=asked, chance=lambda: chance)

    assert 0 < wait <= RETRY.maximum * (1 + RETRY.jitter)
    if asked is not None:
        assert wait >= min(asked, RETRY.maximum)


def disposed(outcome: Outcome, *, idempotent: bool = False, policy: Policy | None = None, **tried: Any) -> Result:
    return dispose(
        Tried(**tried),
        outcome,
        now=1000.0,
        retry=replace(RETRY, jitter=0),
        provider="main",
        policy=policy or Policy(),
        idempotent=idempotent,
    )


HOLD = Policy(on_unknown="hold")


@pytest.mark.parametrize(
    ("result", "status", "at", "unknown", "blocked"),
    [
        (disposed(SENT), "sent", None, False, False),
        (disposed(REFUSED), "bounced", None, False, False),
        (disposed(BUSY), "deferred", 1001, False, False),
        (disposed(BUSY, attempts=3), "deferred", 1004, False, False),
        (disposed(BUSY, expires_at=1000), "expired", None, False, False),
        (disposed(BUSY, attempts=6, expires_at=1010), "deferred", 1010, False, False),
        (disposed(later(20)), "deferred", 1020, False, False),
        (disposed(later(20), expires_at=1005), "deferred", 1005, False, False),
        (disposed(BAD_KEY), "deferred", 1001, False, True),
        (disposed(BAD_KEY, attempts=6, expires_at=0), "deferred", 1030, False, True),
        (disposed(LOST), "deferred", 1001, True, False),
        (disposed(LOST, expires_at=1000), "expired", None, False, False),
        (disposed(LOST, policy=HOLD), "held", None, True, False),
        (disposed(LOST, policy=HOLD, idempotent=True), "deferred", 1001, True, False),
        (disposed(LOST, unknowns=6), "deferred", 1001, True, False),
        (disposed(LOST, unknowns=7), "held", None, True, False),
        (disposed(LOST, unknowns=7, idempotent=True), "held", None, True, False),
        (disposed(LOST, unknowns=7, expires_at=0), "held", None, True, False),
    ],
)
def test_what_becomes_of_a_recipient(
    result: Result, status: str, at: float | None, unknown: bool, blocked: bool
) -> None:
    assert (result.status, result.at, result.unknown, result.blocked) == (status, at, unknown, blocked)
    assert result.provider == "main"
    assert result.reply is not None


@pytest.mark.parametrize(
    ("unknowns", "policy", "idempotent", "may"),
    [
        (1, Policy(), False, True),
        (7, Policy(), False, True),
        (8, Policy(), False, False),
        (8, Policy(), True, False),
        (1, HOLD, False, False),
        (1, HOLD, True, True),
        (3, Policy(max_unknown=3), True, False),
    ],
)
def test_a_lost_answer_is_tried_again_as_the_operator_says(
    unknowns: int, policy: Policy, idempotent: bool, may: bool
) -> None:
    assert may_try_again(unknowns, policy, idempotent=idempotent) is may
