from __future__ import annotations

from typing import Any

import pytest

from bridge.sandbox.failures import Failure, FailurePlan, failure_from, parse_fail


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("503", Failure(status=503)),
        ("503:3", Failure(status=503, count=3)),
        (" 429:2 , retry_after=30", Failure(status=429, count=2, retry_after=30)),
        ("hang:1", Failure(mode="hang", count=1)),
        ("slow:1,seconds=0.5", Failure(mode="slow", count=1, seconds=0.5)),
        ("lost", Failure(mode="lost")),
        ("html:1,status=502", Failure(mode="html", count=1, status=502)),
        ("sendgrid=429:3", Failure(provider="sendgrid", status=429, count=3)),
        ("sendgrid = hang : 1", Failure(provider="sendgrid", mode="hang", count=1)),
        ("sendgrid=lost", Failure(provider="sendgrid", mode="lost")),
        (
            "sendgrid=unverified_sender:2,recipient=a@x.example",
            Failure(provider="sendgrid", error="unverified_sender", count=2, recipient="a@x.example"),
        ),
        ("sendgrid.send=503", Failure(provider="sendgrid", target="send", status=503)),
        ("422:1,code=odd,recipient=a@x.example", Failure(status=422, count=1, code="odd", recipient="a@x.example")),
    ],
)
def test_text_says_what_fails_and_how_often(text: str, failure: Failure) -> None:
    assert parse_fail(text) == failure


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "unknown mode ''"),
        ("200:1", "400 to 599"),
        ("600", "400 to 599"),
        ("explode:1", "known: status, html"),
        ("503:", "count must be a number"),
        ("503:x", "count must be a number, not 'x'"),
        ("503:-1", "count must be a number"),
        ("503:0", "count must be 1 or more"),
        ("503:9999999999", "count must be"),
        ("503:1,retry", "not name=value"),
        ("503:1,retry_after=soon", "retry_after must be a number"),
        ("slow:1,seconds=1e9", "seconds must be a number"),
        ("503:1,count=2", "count is given twice"),
        ("503:1,colour=red", "unknown field 'colour'"),
        ("hang:1,status=503", "hang has no status"),
        ("html:1,status=204", "one with a body"),
        ("pigeon=503", "unknown provider 'pigeon'; known: "),
        ("=503", "no provider before the '='"),
        ("sendgrid=", "unknown mode ''"),
        ("sendgrid=explode:1", "unknown mode or error 'explode'; sendgrid has: bad_request"),
        ("sendgrid.token=401", "unknown target 'token'; sendgrid has: send"),
        ("sendgrid=503:1,code=odd", "code is for the sandbox's own API"),
        ("503:1,error=odd", "needs the provider"),
        ("503:1,target=token", "needs the provider"),
        ("sendgrid=503:1,error=unauthorized", "no mode and no status"),
    ],
)
def test_text_that_cannot_be_used_is_quoted_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_fail(text)

    assert said in str(refused.value)
    assert "for example 503:3" in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {"status": "503"},
        {"status": True},
        {"status": 503, "count": 1.5},
        {"status": 503, "count": None},
        {"mode": 5},
        {"mode": "slow", "seconds": "2"},
        {"mode": "slow", "seconds": -1},
        {"state": 503},
    ],
)
def test_values_of_a_wrong_type_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        failure_from(values)


def test_failures_are_used_up_in_the_order_given() -> None:
    plan = FailurePlan()
    plan.add(Failure(status=503, count=2))
    plan.add(Failure(mode="hang", count=1))

    taken = [failure and (failure.mode, failure.status) for failure in (plan.take(()) for _ in range(4))]

    assert taken == [("status", 503), ("status", 503), ("hang", 0), None]


def test_without_a_count_it_fails_until_cleared() -> None:
    plan = FailurePlan()
    plan.add(Failure(status=503))

    assert all(plan.take(()) for _ in range(5))
    plan.clear()
    assert plan.take(()) is None


def test_a_failure_for_one_recipient_leaves_the_others_alone() -> None:
    plan = FailurePlan()
    plan.add(Failure(status=422, count=1, recipient="Ann@x.example"))

    assert plan.take(("bob@x.example",)) is None
    assert plan.take(("bob@x.example", "ann@X.example")) is not None
    assert plan.take(("ann@x.example",)) is None


def test_a_failure_of_one_provider_leaves_the_others_alone() -> None:
    plan = FailurePlan()
    plan.add(Failure(provider="sendgrid", status=429, count=1))
    plan.add(Failure(status=503, count=2))

    assert (plan.take(()) or Failure(mode="lost")).status == 503
    assert (plan.take((), provider="sendgrid") or Failure(mode="lost")).status == 429
    assert (plan.take((), provider="sendgrid") or Failure(mode="lost")).status == 503
    assert plan.take((), provider="sendgrid") is None


def test_what_sends_nothing_fails_only_when_it_is_named() -> None:
    plan = FailurePlan()
    plan.add(Failure(status=503))
    plan.add(Failure(provider="msgraph", target="token", status=401))

    assert plan.take((), provider="sendgrid", target="token") is None
    assert (plan.take((), provider="msgraph", target="token") or Failure(mode="lost")).status == 401


def test_the_plan_shows_what_is_left_without_the_parts_that_say_nothing() -> None:
    plan = FailurePlan()
    plan.add(Failure(status=429, count=3, retry_after=0))
    plan.add(Failure(mode="lost"))
    plan.take(())

    assert plan.as_json() == [{"mode": "status", "status": 429, "count": 2, "retry_after": 0}, {"mode": "lost"}]
