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


TOO_BIG = Outcome(status="bounced", reply=Reply(552, "5.3.4", "too big"), fault=Fault.MESSAGE)


async def test_what_is_too_large_for_one_goes_to_the_next_and_is_refused_where_there_is_none(bench: Make) -> None:
    main, backup = providers = pair(TOO_BIG, backup=SENT)
    one = bench(providers=providers)
    await one.put()
    await one.quiet()
    assert await one.statuses() == {BOB: "sent"}
    backup.answers = [TOO_BIG]
    with structlog.testing.capture_logs():
        await one.put("eve@example.org")
        await one.quiet()

    assert (len(main.requests), len(backup.requests)) == (2, 2)
    assert (await one.statuses())["eve@example.org"] == "bounced"


async def test_of_a_probe_with_many_calls_the_first_decides(bench: Make) -> None:
    main = ScriptedProvider(BUSY, name="main", separate=True)
    one = bench(providers=[main], breaker=QUICK)
    with structlog.testing.capture_logs():
        await one.put(*(f"r{n}@example.org" for n in range(20)))
        await one.until(lambda: not one.dispatcher.breaker.closed)
        await one.until(one._is_quiet_or_waits)
        before = len(main.requests)
        one.clock.advance(10)
        one.runner.wake()
        await one.until(one._is_quiet_or_waits)
        assert len(main.requests) == before + 1
        main.answers = [SENT]
        for _ in range(4):
            one.clock.advance(40)
            one.runner.wake()
            await one.until(one._is_quiet_or_waits)

    assert set((await one.statuses()).values()) == {"sent"}
    assert one.dispatcher.breaker.closed


async def test_a_batch_that_fails_is_one_lesson_for_the_breaker(bench: Make) -> None:
    main = ScriptedProvider(BUSY, SENT, name="main", max_batch=10)
    one = bench(providers=[main], breaker=BreakerPolicy(failures=5))
    await one.quiet()
    await one.put_together(*(one.message(f"r{n}@example.org") for n in range(10)))
    await one.quiet()

    assert one.dispatcher.breaker.closed
    await one.advance(2)
    assert set((await one.statuses()).values()) == {"sent"}


async def test_a_bound_recipient_is_judged_by_its_own_address_alone(bench: Make) -> None:
    from bridge.providers.base import Unfit

    class AsciiOnly(ScriptedProvider):
        def unfit(self, email: Any, envelope: Any) -> Unfit | None:
            foreign = not all(recipient.isascii() for recipient in envelope.recipients)
            return Unfit(reply=Reply(553, "5.6.7", "x"), losses=("x",)) if foreign else None

    main, other = AsciiOnly(LOST, SENT, name="main"), ScriptedProvider(name="other")
    routes = [Route(providers=("other",), recipient="j*"), Route(providers=("main",))]
    one = bench(providers=[main, other], routes=routes)
    await one.put("ann@example.org", "j\u00f6rg@example.org")
    await one.quiet()
    await one.advance(2)

    assert set((await one.statuses()).values()) == {"sent"}
    assert len(main.requests) == 2


async def test_a_defect_before_any_call_defers_like_any_other(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    main = ScriptedProvider(name="main")
    one = bench(providers=[main])
    monkeypatch.setattr(main, "calls", lambda *args: 1 / 0)
    with structlog.testing.capture_logs() as lines:
        await one.put()
        await one.quiet()

    assert await one.statuses() == {BOB: "deferred"}
    assert len([line for line in lines if line["event"] == "attempt.error"]) == 1
    monkeypatch.undo()
    await one.advance(2)
    assert await one.statuses() == {BOB: "sent"}


async def test_mail_that_waits_in_a_lane_nobody_told_of_is_found(bench: Make, spool: Any) -> None:
    one = bench(SENT)
    await one.quiet()
    message = one.message()
    await spool.put(message, lanes={BOB: ""})  # as the operator's commands leave it, and their bell was lost
    await one.advance(5)
    await one.advance(5)

    assert await one.statuses() == {BOB: "sent"}


async def test_killed_in_an_attempt_with_a_provider_that_is_then_removed_it_is_held(
    bench: Make, spool: Any, clock: Any
) -> None:
    one = bench(providers=[ScriptedProvider(name="new")], mark="2")
    await one.quiet()
    await spool.put(one.message(), lanes={BOB: "old#1"})
    assert await spool.claim(owner="dead", now=clock.now(), lease_s=60, limit=1, lanes=["old#1"], provider="old")
    with structlog.testing.capture_logs() as lines:
        for _ in range(4):
            one.clock.advance(30)
            one.runner.wake()
            await one.until(one._is_quiet_or_waits)
        await one.until(lambda: not one.runner._works)

    assert await one.statuses() == {BOB: "held"}
    assert [line["provider"] for line in lines if line["event"] == "provider.missing"] == ["old"]
    assert one.provider.requests == []


@pytest.mark.parametrize(
    ("route", "why"),
    [
        (Route(providers=("main",), user="bob"), "No route for this mail"),
        (Route(recipient=BOB, refuse=True), "Recipient refused by a route"),
    ],
)
async def test_mail_that_has_no_route_any_more_is_held_and_not_bounced(
    route: Route, why: str, bench: Make, spool: Any
) -> None:
    before = bench(BUSY)
    await before.put()
    await before.quiet()
    await before.stop()
    main = ScriptedProvider(name="main")
    one = bench(providers=[main], routes=[route], mark="2")
    with structlog.testing.capture_logs() as lines:
        await one.quiet()
        await one.advance(6)

    assert await one.statuses() == {BOB: "held"}
    told = [(line["event"], line["text"]) for line in lines if "route" in line["event"]]
    assert told == [("message.no_route", why)]


async def test_sorting_that_is_interrupted_is_no_attempt(bench: Make, spool: Any, clock: Any) -> None:
    one = bench(providers=[ScriptedProvider(name="main", on_unknown="hold")], mark="2")
    one.task.cancel()
    await asyncio.gather(one.task, return_exceptions=True)
    await spool.put(one.message(), lanes={BOB: "main#1"})
    assert await spool.claim(owner="dead", now=clock.now(), lease_s=60, limit=1, lanes=["main#1"], sorting=True)
    clock.advance(61)
    one.task = asyncio.create_task(one.runner.run())
    await one.quiet()
    await one.advance(5)

    assert await one.statuses() == {BOB: "sent"}
    assert [r["attempts"] for r in await one.recipients()] == [1]
