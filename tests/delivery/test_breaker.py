"""The breaker's rules, on values; time is a number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bridge.delivery.attempt import NO_SLOT
from bridge.delivery.breaker import Breaker, BreakerPolicy, certainly_not_taken, judge
from bridge.model import Fault, Outcome
from bridge.providers.outcomes import Meaning, outcome_for, outcome_of
from bridge.reply import Reply
from tests.delivery.conftest import BAD_KEY, BUSY, LOST, REFUSED, SENT

POLICY = BreakerPolicy(failures=3, share=0.5, window=60, wait=10, maximum=35)
UNREACHED = Outcome(status="deferred", reply=Reply(451, "4.4.1", "x"), fault=Fault.PROVIDER)
ODD = Outcome(status="deferred", reply=Reply(451, "4.3.0", "x"), fault=Fault.PROVIDER)
OURS = Outcome(status="deferred", reply=Reply(451, "4.3.0", "x"))
CONGESTED = Outcome(status="deferred", reply=Reply(451, "4.4.5", "x"), fault=Fault.PROVIDER)


def opened(outcome: Outcome = BUSY, at: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(3):
        breaker.note(outcome, now=at)
    assert not breaker.closed
    return breaker


@pytest.mark.parametrize(
    ("status", "api_error", "over", "says"),
    [
        (408, True, True, "bad"),
        (425, True, True, "bad"),
        (503, False, True, "bad"),
        (500, True, True, "bad"),
        (500, False, False, "bad"),
        (502, False, False, "bad"),
        (504, False, False, "bad"),
        (429, True, False, "neutral"),
        (401, True, True, "account"),
        (402, True, True, "account"),
        (403, True, True, "account"),
        (404, False, True, "account"),
        (301, False, True, "account"),
        (409, True, False, "neutral"),
        (418, False, False, "neutral"),
        (400, True, False, "good"),
        (413, True, False, "good"),
        (202, True, False, "good"),
    ],
)
def test_each_row_of_the_reply_table_says_something_of_the_provider(
    status: int, api_error: bool, over: bool, says: str
) -> None:
    outcome = outcome_for(status, {}, now=0, api_error=api_error)

    assert (certainly_not_taken(outcome), judge(outcome)) == (over, says)


@pytest.mark.parametrize(
    ("outcome", "over", "says"),
    [
        (UNREACHED, True, "bad"),
        (LOST, False, "bad"),
        (SENT, False, "good"),
        (REFUSED, False, "good"),
        (OURS, False, "neutral"),
        (NO_SLOT, False, "neutral"),
        (replace(CONGESTED, retry_after=60), False, "neutral"),
        (replace(CONGESTED, retry_after=61), True, "neutral"),
        (outcome_of(Meaning.QUOTA), True, "account"),
        (outcome_of(Meaning.SENDER), False, "good"),
    ],
)
def test_so_does_what_has_no_status(outcome: Outcome, over: bool, says: str) -> None:
    assert (certainly_not_taken(outcome), judge(outcome)) == (over, says)


def test_it_opens_when_enough_calls_of_the_window_failed() -> None:
    breaker = Breaker(POLICY)
    notes = [(0.0, SENT), (1.0, SENT), (2.0, BUSY), (3.0, UNREACHED), (4.0, LOST)]

    assert [breaker.note(outcome, now=at) for at, outcome in notes] == [None] * 4 + ["opened"]


def test_three_of_seven_do_not_open_it_and_four_of_eight_do() -> None:
    breaker = Breaker(POLICY)
    for n in range(4):
        breaker.note(SENT, now=n)
    assert [breaker.note(BUSY, now=5 + n) for n in range(4)] == [None, None, None, "opened"]


def test_failures_that_are_long_ago_do_not_count() -> None:
    breaker = Breaker(POLICY)
    changes = [breaker.note(BUSY, now=at) for at in (0, 1, 61, 62)]

    assert changes == [None, None, None, None]
    assert breaker.note(BUSY, now=63) == "opened"


def test_refused_recipients_and_messages_never_open_it() -> None:
    breaker = Breaker(POLICY)

    assert {breaker.note(REFUSED, now=0) for _ in range(100)} == {None}


def test_a_fault_of_the_account_opens_it_at_once() -> None:
    breaker = Breaker(POLICY)

    assert breaker.note(BAD_KEY, now=0) == "blocked"
    assert (breaker.state, breaker.blocked, breaker.reason) == ("blocked", True, "bad key")


def test_one_probe_at_a_time_after_the_wait() -> None:
    breaker = opened()
    assert not breaker.may_probe(9.9)
    assert breaker.may_probe(10)
    breaker.begin_probe()

    assert (breaker.state, breaker.may_probe(10)) == ("half-open", False)


@pytest.mark.parametrize("outcome", [SENT, REFUSED, CONGESTED, ODD])
def test_a_provider_that_answers_the_probe_is_back(outcome: Outcome) -> None:
    breaker = opened()
    probe = breaker.begin_probe()

    assert breaker.note(outcome, now=12, probe=probe) == "closed"
    assert breaker.state == "closed"
    assert [breaker.note(BUSY, now=13) for _ in range(3)] == [None, None, "opened"]


def test_each_failed_probe_doubles_the_wait_up_to_the_maximum() -> None:
    breaker, now, waits = opened(), 0.0, []
    for _ in range(4):
        now = breaker.until
        probe = breaker.begin_probe()
        assert breaker.note(BUSY, now=now, probe=probe) is None
        waits.append(breaker.until - now)

    assert waits == [20, 35, 35, 35]


def test_calls_that_were_under_way_when_it_opened_close_nothing() -> None:
    breaker = opened()

    assert breaker.note(SENT, now=1) is None
    assert breaker.state == "open"


def test_a_probe_that_was_not_made_lets_another_one_go_after_the_wait() -> None:
    breaker = opened()
    breaker.end_probe(breaker.begin_probe(), 20)

    assert not breaker.may_probe(29)
    assert breaker.may_probe(30)


def test_a_quota_is_tried_again_when_the_provider_said_so() -> None:
    breaker = Breaker(POLICY)
    breaker.note(replace(BAD_KEY, retry_after=4000, quota=True), now=0)

    assert breaker.until == 4000


def test_an_account_that_is_still_refused_stays_blocked_and_is_told_once() -> None:
    breaker = Breaker(POLICY)
    breaker.note(BAD_KEY, now=0)
    probe = breaker.begin_probe()

    assert breaker.note(BAD_KEY, now=10, probe=probe) is None
    assert (breaker.state, breaker.until) == ("blocked", 30)


def test_a_fault_of_the_account_while_it_is_open_blocks_it() -> None:
    breaker = opened()
    probe = breaker.begin_probe()

    assert breaker.note(BAD_KEY, now=10, probe=probe) == "blocked"


def test_the_operator_may_have_it_tried_at_once() -> None:
    breaker = opened()
    breaker.hurry()

    assert breaker.may_probe(0.1)


def test_being_told_to_slow_down_never_opens_it() -> None:
    breaker = Breaker(POLICY)

    assert {breaker.note(CONGESTED, now=0) for _ in range(50)} == {None}


def test_a_late_answer_of_an_earlier_probe_says_nothing_of_the_present_one() -> None:
    breaker = opened()
    first = breaker.begin_probe()
    breaker.end_probe(first, 10)
    second = breaker.begin_probe()
    breaker.end_probe(first, 30)

    assert breaker.state == "half-open"
    assert breaker.note(BUSY, now=31, probe=first) is None
    assert breaker.until == 20
    assert breaker.note(SENT, now=32, probe=second) == "closed"


def test_a_block_from_before_a_restart_is_tried_with_the_first_message() -> None:
    breaker = Breaker(POLICY)
    breaker.restore_blocked(100.0, "bad key")
    assert (breaker.state, breaker.may_probe(500.0)) == ("blocked", True)

    assert breaker.note(SENT, now=500.0, probe=breaker.begin_probe()) == "closed"
    assert (breaker.was_blocked, breaker.since) == (True, 100.0)


def test_a_quota_that_asks_for_years_is_looked_at_every_day() -> None:
    breaker = Breaker(POLICY)
    breaker.note(replace(BAD_KEY, retry_after=1e9, quota=True), now=0)

    assert breaker.until == 86400
