"""Several providers: who takes a message, and who keeps it when it may have been mailed already."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from bridge.delivery.choice import Choice, Dispatchers, bound_to, choose
from bridge.delivery.dispatcher import Dispatcher
from bridge.mime.parse import parse
from bridge.model import Envelope, Origin, Outcome
from bridge.providers.base import Unfit
from bridge.reply import Reply
from bridge.spool.base import ClaimedRecipient
from tests.delivery.conftest import BUSY, LOST, RAW, SENT, ScriptedProvider, every_line

Make = Any

SIGNED = Unfit(reply=Reply(554, "5.6.5", "cannot carry a signature"), losses=("a signature",))
LARGE = Unfit(reply=Reply(552, "5.3.4", "too big"), losses=("too large",), degradable=False)
ENVELOPE = Envelope(reverse_path="ann@example.com", recipients=("bob@example.org",))


def never() -> Any:
    return asyncio.get_running_loop().create_future()


# --- the rule


@pytest.mark.parametrize(
    ("verdicts", "degrade", "choice"),
    [
        ([None, None], False, Choice(places=(0, 1))),
        ([None, SIGNED, None], False, Choice(places=(0, 2))),
        ([SIGNED, None], False, Choice(places=(1,), passed_over=(SIGNED,))),
        ([SIGNED, None], True, Choice(places=(1,), passed_over=(SIGNED,))),
        ([SIGNED, LARGE], False, Choice(places=(), unfit=SIGNED)),
        ([SIGNED, SIGNED], True, Choice(places=(0,), unfit=SIGNED)),
        ([LARGE, SIGNED], True, Choice(places=(1,), passed_over=(LARGE,), unfit=SIGNED)),
        ([LARGE, LARGE], True, Choice(places=(), unfit=LARGE)),
    ],
)
def test_those_that_lose_nothing_else_the_first_that_may_lose_it_else_the_refusal_of_the_first(
    verdicts: list[Unfit | None], degrade: bool, choice: Choice
) -> None:
    assert choose(verdicts, degrade=degrade) == choice


@pytest.mark.parametrize(("unknowns", "provider", "bound"), [(0, "a", ""), (1, "a", "a"), (1, "", "")])
def test_only_a_recipient_whose_answer_was_lost_is_bound(unknowns: int, provider: str, bound: str) -> None:
    recipient = ClaimedRecipient(address="x", attempts=2, expires_at=0, unknowns=unknowns, provider=provider)

    assert bound_to(recipient) == bound


# --- what is said at DATA


def accept(subject: str, *providers: ScriptedProvider, degrade: bool = False) -> tuple[Any, list[Any]]:
    dispatchers = Dispatchers([Dispatcher(provider) for provider in providers], degrade=degrade)
    email = parse(RAW.replace(b"Subject: x", b"Subject: " + subject.encode()))
    with every_line() as lines:
        plan = dispatchers.accept("Q", email, ENVELOPE, Origin())
    (bob,) = ENVELOPE.recipients
    return plan.refused[bob] if bob in plan.refused else plan.lanes[bob].names, [
        {key: value for key, value in line.items() if key not in ("queue_id", "log_level")} for line in lines
    ]


async def test_a_provider_that_is_passed_over_is_named_with_what_it_would_have_lost() -> None:
    json = ScriptedProvider(name="json", unfit_for={"signed": SIGNED})
    small = ScriptedProvider(name="small", unfit_for={"signed": LARGE})

    found, lines = accept("signed", json, small, ScriptedProvider(name="raw"))

    assert found == ("raw",)
    assert lines == [
        {
            "event": "message.rerouted",
            "provider": "raw",
            "passed_over": ["json", "small"],
            "losses": ["a signature", "too large"],
        }
    ]
    assert accept("x", json, small) == (("json", "small"), [])


async def test_a_message_that_nobody_can_carry_is_refused_with_the_words_of_the_first() -> None:
    providers = [ScriptedProvider(name=n, unfit_for={"signed": u}) for n, u in (("a", SIGNED), ("b", LARGE))]

    assert accept("signed", *providers) == (
        SIGNED.reply,
        [{"event": "message.unfit", "provider": "a", "losses": ("a signature",)}],
    )
    assert accept("signed", *reversed(providers), degrade=True) == (
        ("a",),
        [
            {"event": "message.degraded", "provider": "a", "losses": ("a signature",)},
            {"event": "message.rerouted", "provider": "a", "passed_over": ["b"], "losses": ["too large"]},
        ],
    )


async def test_what_is_mended_for_the_provider_is_told_once() -> None:
    one = ScriptedProvider(name="a", repairs=("a long line",))

    assert accept("x", one)[1] == [{"event": "message.repaired", "provider": "a", "repairs": ("a long line",)}]


# --- from the spool


async def test_each_message_of_the_spool_goes_to_the_first_that_can_carry_it(bench: Make) -> None:
    json = ScriptedProvider(name="json", unfit_for={"signed": SIGNED})
    raw = ScriptedProvider(name="raw")
    one = bench(providers=[json, raw])
    await one.put("plain@example.org")
    await one.put("signed@example.org", subject="signed")
    await one.quiet()

    assert (json.requests, raw.requests) == ([("plain@example.org",)], [("signed@example.org",)])
    assert {r["address"]: r["provider"] for r in await one.recipients()} == {
        "plain@example.org": "json",
        "signed@example.org": "raw",
    }


async def test_what_nobody_can_carry_any_more_is_refused_as_it_would_have_been_at_data(bench: Make) -> None:
    before = bench(BUSY)
    await before.put()
    await before.quiet()
    await before.stop()
    one = bench(
        providers=[
            ScriptedProvider(name="a", unfit_for={"x": SIGNED}),
            ScriptedProvider(name="b", unfit_for={"x": LARGE}),
        ],
        mark="2",
    )
    with structlog.testing.capture_logs():
        await one.quiet()
        await one.advance(5)

    (recipient,) = await one.recipients()
    assert (recipient["status"], recipient["enhanced"]) == ("bounced", "5.6.5")


async def test_a_deferred_message_goes_to_whoever_is_first_under_the_settings_of_now(bench: Make) -> None:
    one = bench(providers=[ScriptedProvider(BUSY, name="a")])
    await one.put()
    await one.quiet()
    await one.stop()

    other = bench(providers=[ScriptedProvider(name="b"), ScriptedProvider(name="a")], mark="2")
    await other.quiet()
    await other.advance(5)

    assert other.provider.requests == [("bob@example.org",)]


async def lost_with(bench: Make, name: str = "a", answer: Any = LOST) -> None:
    """A recipient whose answer was lost by the provider of that name."""
    one = bench(providers=[ScriptedProvider(answer, name=name)])
    await one.put()
    await one.quiet()
    await one.stop()


async def test_a_recipient_whose_answer_was_lost_stays_with_its_provider(bench: Make) -> None:
    await lost_with(bench)
    a, b = ScriptedProvider(BUSY, SENT, name="a"), ScriptedProvider(name="b")
    one = bench(providers=[b, a])
    await one.quiet()
    await one.advance(1)
    await one.advance(30)

    assert await one.statuses() == {"bob@example.org": "sent"}
    assert (len(a.requests), len(b.requests)) == (2, 0)


async def test_a_recipient_that_is_bound_is_refused_by_its_provider_and_by_no_other(bench: Make) -> None:
    await lost_with(bench)
    a, b = ScriptedProvider(name="a", unfit_for={"x": SIGNED}), ScriptedProvider(name="b")
    one = bench(providers=[b, a], mark="2")
    with structlog.testing.capture_logs():
        await one.quiet()
        await one.advance(1)

    (recipient,) = await one.recipients()
    assert (recipient["status"], recipient["provider"]) == ("bounced", "a")
    assert b.requests == []


async def test_a_recipient_whose_provider_was_removed_is_held_until_the_operator_says_otherwise(bench: Make) -> None:
    await lost_with(bench)
    one = bench(providers=[ScriptedProvider(name="b")], mark="2")
    with structlog.testing.capture_logs() as logs:
        await one.quiet()
        await one.advance(5)
    ((row,), (held,)) = await one.spool.list_messages(), await one.recipients()
    assert (held["status"], held["provider"], one.provider.requests) == ("held", "a", [])
    (line,) = [line for line in logs if line["event"] == "provider.missing"]
    assert (line["provider"], line["recipients"], line["log_level"]) == ("a", ["bob@example.org"], "error")

    await one.spool.release([row["queue_id"]], now=one.clock.now())
    one.runner.hurry()
    await one.quiet()

    assert await one.statuses() == {"bob@example.org": "sent"}


async def test_recipients_of_one_message_are_tried_by_those_they_are_bound_to(bench: Make) -> None:
    first = {"lost@example.org": LOST, "busy@example.org": BUSY}
    one = bench(providers=[ScriptedProvider(first, name="a")])
    message = await one.put(*first)
    await one.quiet()
    await one.stop()

    a, b = ScriptedProvider(name="a"), ScriptedProvider(name="b")
    other = bench(providers=[b, a], mark="2")
    await other.quiet()
    await other.advance(5)

    assert (a.requests, b.requests) == ([("lost@example.org",)], [("busy@example.org",)])
    assert {r["address"]: (r["status"], r["provider"]) for r in await other.recipients()} == {
        "lost@example.org": ("sent", "a"),
        "busy@example.org": ("sent", "b"),
    }
    assert (await other.spool.show(message.queue_id))["resolved_at"] is not None


async def test_an_interrupted_first_attempt_stays_with_whoever_was_to_make_it(
    bench: Make, spool: Any, clock: Any
) -> None:
    a, b = ScriptedProvider(name="a"), ScriptedProvider(name="b")
    one = bench(providers=[b, a])
    one.task.cancel()
    await asyncio.gather(one.task, return_exceptions=True)
    await one.put()
    assert await spool.claim(owner="dead", now=clock.now(), lease_s=60, limit=1, provider="a")

    one.task = asyncio.create_task(one.runner.run())
    await one.quiet()
    await one.advance(60)

    assert await one.statuses() == {"bob@example.org": "sent"}
    assert (a.requests, b.requests) == ([("bob@example.org",)], [])


async def test_whether_an_interrupted_recipient_is_held_is_for_its_own_provider_to_say(
    bench: Make, spool: Any, clock: Any
) -> None:
    await lost_with(bench)
    one = bench(providers=[ScriptedProvider(name="b"), ScriptedProvider(name="a", on_unknown="hold")])
    one.task.cancel()
    await asyncio.gather(one.task, return_exceptions=True)
    clock.advance(1)
    assert await spool.claim(owner="dead", now=clock.now(), lease_s=60, limit=1)

    with structlog.testing.capture_logs():
        one.task = asyncio.create_task(one.runner.run())
        await one.quiet()
        await one.advance(60)

    assert await one.statuses() == {"bob@example.org": "held"}


async def test_each_provider_has_slots_and_batches_of_its_own(bench: Make) -> None:
    json = ScriptedProvider(never, name="json", unfit_for={"signed": SIGNED}, concurrency=1)
    raw = ScriptedProvider(name="raw", max_batch=5)
    one = bench(providers=[json, raw])
    await one.quiet()
    await one.put_together(
        *(
            one.message(f"{subject}{n}@example.org", subject=subject)
            for n in range(3)
            for subject in ("plain", "signed")
        )
    )
    await one.until(lambda: raw.requests and json.running)

    assert [len(request) for request in raw.requests] == [3]
    assert [len(request) for request in json.requests] == [1]


async def test_a_lease_outlives_the_slowest_provider(bench: Make) -> None:
    one = bench(providers=[ScriptedProvider(name="a", timeout=5), ScriptedProvider(name="b", timeout=300)])

    assert one.recorder.lease_s == 360


async def test_the_end_gives_back_a_message_of_which_nothing_was_begun_with_any_provider(bench: Make) -> None:
    first = {"lost@example.org": LOST, "busy@example.org": BUSY}
    one = bench(providers=[ScriptedProvider(first, name="a")])
    await one.put(*first)
    await one.quiet()
    await one.stop()

    other = bench(providers=[ScriptedProvider(name="a", concurrency=1), ScriptedProvider(name="b", concurrency=1)])
    await other.quiet()
    for name in ("a", "b"):
        await other.dispatchers.named(name)._slots.acquire()
    other.clock.advance(1)
    other.runner.wake()
    await other.until(lambda: other.runner._works)
    await asyncio.sleep(0.02)
    await other.stop()

    assert [(r["leased_until"], r["attempts"]) for r in await other.recipients()] == [(None, 1)] * 2


async def test_a_batch_whose_answer_was_lost_has_no_key_that_another_attempt_could_carry(bench: Make) -> None:
    lost = Outcome(status="unknown", reply=LOST.reply, fault=LOST.fault, keyless=True)
    one = bench(lost, idempotent=True, on_unknown="hold", max_batch=5)
    await one.quiet()
    await one.put_together(one.message("a@example.org"), one.message("b@example.org"))
    with structlog.testing.capture_logs():
        await one.quiet()

    assert await one.statuses() == {"a@example.org": "held", "b@example.org": "held"}
