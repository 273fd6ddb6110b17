"""Failover: the next provider of the route when the first certainly did not take it, and never otherwise."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import structlog

from bridge.delivery.breaker import BreakerPolicy
from bridge.delivery.routing import Route
from bridge.model import Fault, Outcome
from bridge.reply import Reply
from tests.delivery.conftest import BAD_KEY, BUSY, LOST, REFUSED, SENT, ScriptedProvider, every_line, later

Make = Any
BOB = "bob@example.org"
UNREACHED = Outcome(status="deferred", reply=Reply(451, "4.4.1", "x"), fault=Fault.PROVIDER)
ODD = Outcome(status="deferred", reply=Reply(451, "4.3.0", "x"), fault=Fault.PROVIDER)
SLOW = Outcome(status="deferred", reply=Reply(451, "4.4.5", "x"), fault=Fault.PROVIDER, retry_after=3)
VERY_SLOW = replace(SLOW, retry_after=600)
QUICK = BreakerPolicy(failures=2, wait=10, maximum=40)


def pair(*answers: Any, backup: Any = SENT, **policy: Any) -> list[ScriptedProvider]:
    return [ScriptedProvider(*answers, name="main", **policy), ScriptedProvider(backup, name="backup", **policy)]


@pytest.mark.parametrize(
    "answer", [UNREACHED, BUSY, BAD_KEY, VERY_SLOW], ids=["unreached", "503", "account", "429 long"]
)
async def test_what_was_certainly_not_taken_goes_to_the_next_at_once(answer: Outcome, bench: Make) -> None:
    main, backup = providers = pair(answer)
    one = bench(providers=providers)
    with every_line() as lines:
        await one.put()
        await one.quiet()

    assert (len(main.requests), backup.requests) == (1, [(BOB,)])
    (recipient,) = await one.recipients()
    assert (recipient["status"], recipient["provider"]) == ("sent", "backup")
    assert [line["provider"] for line in lines if line["event"] == "message.failover"] == ["backup"]


@pytest.mark.parametrize("answer", [LOST, ODD, SLOW], ids=["lost", "409", "429"])
async def test_anything_else_waits_for_the_same_provider(answer: Outcome, bench: Make) -> None:
    main, backup = providers = pair(answer, SENT)
    one = bench(providers=providers)
    await one.put()
    await one.quiet()
    await one.advance(10)

    assert (len(main.requests), len(backup.requests)) == (2, 0)
    assert await one.statuses() == {BOB: "sent"}


async def test_a_refusal_is_the_end_and_nobody_else_is_asked(bench: Make) -> None:
    _, backup = providers = pair(REFUSED)
    one = bench(providers=providers)
    with structlog.testing.capture_logs():
        await one.put()
        await one.quiet()

    assert await one.statuses() == {BOB: "bounced"}
    assert backup.requests == []


async def test_a_lost_answer_goes_on_only_where_the_route_allows_it(bench: Make) -> None:
    main, backup = providers = pair(LOST)
    one = bench(providers=providers, routes=[Route(providers=("main", "backup"), failover_unknown=True)])
    await one.put()
    await one.quiet()

    assert (len(main.requests), len(backup.requests)) == (1, 1)
    assert await one.statuses() == {BOB: "sent"}


async def test_when_nobody_takes_it_the_next_round_begins_with_the_first(bench: Make) -> None:
    main, backup = providers = pair(BUSY, BUSY, SENT, backup=BUSY)
    one = bench(providers=providers)
    await one.put()
    await one.quiet()
    assert (len(main.requests), len(backup.requests)) == (1, 1)
    assert await one.next_attempt_in() == 2  # the second attempt's wait
    await one.advance(2)
    assert (len(main.requests), len(backup.requests)) == (2, 2)
    await one.advance(8)

    assert (len(main.requests), len(backup.requests)) == (3, 2)
    assert await one.statuses() == {BOB: "sent"}


async def test_only_the_recipients_that_were_not_taken_go_on(bench: Make) -> None:
    answers = {"sent@x.org": SENT, "busy@x.org": BUSY, "lost@x.org": LOST, "nobody@x.org": REFUSED}
    _, backup = providers = pair(answers)
    one = bench(providers=providers)
    with structlog.testing.capture_logs():
        await one.put(*answers)
        await one.quiet()

    assert backup.requests == [("busy@x.org",)]
    assert await one.statuses() == {
        "sent@x.org": "sent",
        "busy@x.org": "sent",
        "lost@x.org": "deferred",
        "nobody@x.org": "bounced",
    }


async def test_while_the_first_is_left_alone_the_next_is_asked_first(bench: Make) -> None:
    main, backup = providers = pair(UNREACHED)
    one = bench(providers=providers, breaker=QUICK)
    with structlog.testing.capture_logs():
        for n in range(10):
            await one.put(f"r{n}@example.org")
            await one.quiet()

    assert len(main.requests) == 2
    assert len(backup.requests) == 10


async def test_the_first_is_back_after_one_message_found_out(bench: Make) -> None:
    main, backup = providers = pair(UNREACHED, UNREACHED, SENT)
    one = bench(providers=providers, breaker=QUICK)
    with every_line() as lines:
        for n in range(4):
            await one.put(f"r{n}@example.org")
            await one.quiet()
        await one.advance(10)
        for n in range(4, 8):
            await one.put(f"r{n}@example.org")
            await one.quiet()

    assert len(backup.requests) == 4
    assert main.requests[2:] == [(f"r{n}@example.org",) for n in range(4, 8)]
    assert [line["event"] for line in lines if "breaker" in line["event"]] == [
        "provider.breaker_opened",
        "provider.breaker_closed",
    ]


async def test_failover_works_both_ways(bench: Make) -> None:
    main, backup = providers = pair(SENT, backup=BAD_KEY)
    one = bench(providers=providers, routes=[Route(providers=("backup", "main"))])
    with structlog.testing.capture_logs():
        for n in range(5):
            await one.put(f"r{n}@example.org")
            await one.quiet()

    assert (len(backup.requests), len(main.requests)) == (1, 5)
    assert set((await one.statuses()).values()) == {"sent"}


async def test_a_probe_that_fails_costs_its_message_nothing(bench: Make) -> None:
    main, backup = providers = pair(UNREACHED)
    one = bench(providers=providers, breaker=QUICK)
    with structlog.testing.capture_logs():
        for n in range(3):
            await one.put(f"r{n}@example.org")
            await one.quiet()
        await one.advance(10)
        await one.put("probe@example.org")
        await one.quiet()

    assert main.requests[-1] == ("probe@example.org",)
    assert backup.requests[-1] == ("probe@example.org",)
    assert await one.statuses() == {**{f"r{n}@example.org": "sent" for n in range(3)}, "probe@example.org": "sent"}


async def test_recipients_of_different_routes_are_each_mailed_once(bench: Make) -> None:
    a, b, c = (ScriptedProvider(name=name) for name in "abc")
    routes = [Route(providers=("a",), recipient="*@a.org"), Route(providers=("b",), recipient="*@b.org")]
    one = bench(providers=[c, a, b], routes=routes)
    await one.put("1@a.org", "1@b.org", "1@c.org", "2@a.org")
    await one.quiet()

    assert (a.requests, b.requests, c.requests) == ([("1@a.org", "2@a.org")], [("1@b.org",)], [("1@c.org",)])


async def test_a_slow_provider_holds_up_nobody_elses_mail(bench: Make) -> None:
    def never() -> Any:
        return asyncio.get_running_loop().create_future()

    slow, quick = ScriptedProvider(never, name="slow", concurrency=3), ScriptedProvider(name="quick")
    one = bench(providers=[quick, slow], routes=[Route(providers=("slow",), recipient="*@slow.org")])
    for n in range(20):
        await one.put(f"{n}@slow.org")
    for n in range(20):
        await one.put(f"{n}@quick.org")
    await one.until(lambda: len(quick.requests) == 20)

    assert slow.running == 3


async def test_a_recipient_is_bound_to_the_backup_that_lost_its_answer(bench: Make) -> None:
    main, backup = providers = pair(BUSY, SENT, backup=LOST)
    one = bench(providers=providers)
    await one.put()
    await one.quiet()
    backup.answers = [SENT]
    await one.advance(5)

    assert (len(main.requests), len(backup.requests)) == (1, 2)
    assert await one.statuses() == {BOB: "sent"}


async def test_mail_that_only_the_first_can_carry_waits_for_it(bench: Make) -> None:
    from tests.delivery.test_choice import SIGNED

    main = ScriptedProvider(BUSY, SENT, name="main")
    backup = ScriptedProvider(name="backup", unfit_for={"x": SIGNED})
    one = bench(providers=[main, backup])
    await one.put()
    await one.quiet()
    assert await one.statuses() == {BOB: "deferred"}
    await one.advance(1)

    assert (len(main.requests), backup.requests) == (2, [])


async def test_two_providers_that_wait_long_are_both_passed_over_until_one_is_there(bench: Make) -> None:
    main, backup = providers = pair(later(5000), SENT, backup=later(100))
    one = bench(providers=providers)
    main.answers = [VERY_SLOW, SENT]
    backup.answers = [replace(SLOW, retry_after=100), SENT]
    await one.put()
    await one.quiet()
    await one.put("eve@example.org")
    for _ in range(9):
        one.clock.advance(20)
        one.runner.wake()
        await one.until(one._is_quiet_or_waits)

    assert len(main.requests) == 1
    assert set((await one.statuses()).values()) == {"sent"}
