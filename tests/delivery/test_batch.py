"""Calls that wait together go as one request: who shares one, who never does, and what each is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.retry import RetryPolicy, Tried, dispose
from bridge.mime.parse import parse
from bridge.model import Envelope, Message, Origin, idempotency_key
from tests.delivery.conftest import BUSY, LOST, RAW, REFUSED, SENT, ScriptedProvider, every_line

Make = Any


def message_to(recipient: str) -> Message:
    return Message(
        queue_id=recipient,
        envelope=Envelope(reverse_path="a@example.com", recipients=(recipient,)),
        raw=RAW,
        created_at=0.0,
        expires_at=1e12,
        origin=Origin(),
        message_id="",
        subject="",
    )


def never() -> Any:
    return asyncio.get_running_loop().create_future()


def names(number: int, start: int = 0) -> list[str]:
    return [f"r{n}@example.org" for n in range(start, start + number)]


async def put(one: Any, number: int, *, start: int = 0, **named: Any) -> list[str]:
    """Messages that are due together, one recipient each; the recipients."""
    await one.quiet()
    recipients = names(number, start)
    await one.put_together(*(one.message(recipient, **named) for recipient in recipients))
    return recipients


async def sizes(one: Any, number: int = 0) -> list[int]:
    """Calls in each request, when `number` requests were made (0: when all is quiet)."""
    if number:
        await one.until(lambda: len(one.provider.requests) >= number)
    else:
        await one.quiet()
    return [len(recipients) for recipients in one.provider.requests]


async def test_messages_that_are_due_together_go_as_one_request_in_their_order(bench: Make) -> None:
    one = bench(SENT, max_batch=50)
    recipients = await put(one, 20)

    assert await sizes(one) == [20]
    assert list(one.provider.requests[0]) == recipients
    assert await one.statuses() == dict.fromkeys(recipients, "sent")


async def test_each_call_of_a_batch_carries_the_key_it_would_carry_alone(bench: Make) -> None:
    one = bench(SENT, max_batch=50)
    messages = [one.message(recipient) for recipient in names(3)]
    await one.quiet()
    await one.put_together(*messages)
    await one.quiet()

    assert [key for _, key in one.provider.calls_made] == [
        idempotency_key(m.queue_id, m.envelope.recipients) for m in messages
    ]


async def test_two_hundred_messages_claimed_together_fill_batches_from_the_first_on(bench: Make) -> None:
    one = bench(SENT, max_batch=50, concurrency=10)
    await put(one, 200)

    assert await sizes(one) == [50, 50, 50, 50]


async def test_a_queue_goes_on_in_whole_batches_when_works_end_one_by_one(bench: Make) -> None:
    """Singles fill the window; without waiting for a whole batch of room each would be followed by a single."""
    gates: list[asyncio.Event] = []

    async def wait() -> Any:
        gates.append(asyncio.Event())
        await gates[-1].wait()
        return SENT

    one = bench(wait, max_batch=10, concurrency=100)
    for recipient in names(20):
        await one.put(recipient)
        await one.until(lambda made=recipient: (made,) in one.provider.requests)
    await one.idle()
    await one.put_together(*(one.message(recipient) for recipient in names(40, start=20)))
    for number, gate in enumerate(gates, start=1):
        gate.set()
        await one.until(lambda left=20 - number: len(one.runner._works) <= left or len(one.provider.requests) > 20)
    for number in range(21, 25):
        await one.until(lambda made=number: len(one.provider.requests) >= made)
        gates[number - 1].set()

    assert (await sizes(one))[20:] == [10, 10, 10, 10]


async def test_a_lone_message_goes_at_once_as_a_call_of_its_own(bench: Make) -> None:
    one = bench(SENT, max_batch=50)
    one.provider.send_many = None
    await one.put()

    assert await sizes(one) == [1]
    assert await one.statuses() == {"bob@example.org": "sent"}


async def test_what_comes_while_all_slots_are_taken_goes_together_when_one_is_free(bench: Make) -> None:
    gate = asyncio.Event()

    async def wait() -> Any:
        await gate.wait()
        return SENT

    one = bench(wait, SENT, max_batch=10, concurrency=1)
    await one.put("first@example.org")
    await one.until(lambda: one.provider.running == 1)
    for recipient in names(5):
        await one.put(recipient)
    await one.until(lambda: len(one.runner._works) == 6)
    await asyncio.sleep(0.02)

    gate.set()

    assert await sizes(one) == [1, 5]


async def test_a_batch_ends_before_the_message_that_would_make_it_too_large(bench: Make) -> None:
    one = bench(SENT, max_batch=50, max_batch_bytes=3500)
    await put(one, 7, size=1000)

    assert await sizes(one) == [3, 3, 1]


async def test_a_message_larger_than_a_batch_goes_alone(bench: Make) -> None:
    one = bench(SENT, max_batch=50, max_batch_bytes=500)
    await put(one, 2, size=1000)

    assert await sizes(one) == [1, 1]


async def test_calls_of_different_keys_and_those_without_one_go_apart(bench: Make) -> None:
    keys = {"a": "a", "b": "b", "c": None}
    one = bench(SENT, max_batch=50, batch_key=lambda call: keys[call.email.subject])
    await one.quiet()
    messages = [one.message(f"{subject}{n}@example.org", subject=subject) for n in range(3) for subject in "abc"]
    await one.put_together(*messages)

    assert sorted(await sizes(one)) == [1, 1, 1, 3, 3]
    assert {tuple(r[0] for r in request) for request in one.provider.requests} == {tuple("aaa"), tuple("bbb"), ("c",)}


async def test_a_message_in_several_calls_shares_requests_with_others(bench: Make) -> None:
    one = bench(SENT, max_batch=50, separate=True)
    await one.quiet()
    await one.put_together(one.message("a@example.org", "b@example.org"), one.message("c@example.org"))

    assert await sizes(one) == [3]
    assert set((await one.statuses()).values()) == {"sent"}


async def test_each_recipient_is_recorded_with_its_own_verdict(bench: Make) -> None:
    first = {"r0@example.org": SENT, "r1@example.org": REFUSED, "r2@example.org": BUSY}  # none for r3
    one = bench(first, max_batch=50)
    with every_line() as logs:
        await put(one, 4)
        await one.quiet()

    assert await one.statuses() == {
        "r0@example.org": "sent",
        "r1@example.org": "bounced",
        "r2@example.org": "deferred",
        "r3@example.org": "deferred",
    }
    assert {r["address"]: r["unknowns"] for r in await one.recipients()}["r3@example.org"] == 1
    lines = {line["recipient"]: line for line in logs if line["event"].startswith("attempt.")}
    assert {line["batch"] for line in lines.values()} == {4}
    assert lines["r3@example.org"]["event"] == "attempt.unknown"
    assert all(line["duration_ms"] >= 0 for line in lines.values())


async def test_a_lost_answer_is_unknown_for_each_and_each_is_retried_in_its_own_time(bench: Make) -> None:
    retry = RetryPolicy(jitter=1.0, first=100, maximum=100)
    one = bench(LOST, max_batch=50, retry=retry)
    await put(one, 10)
    await one.quiet()

    recipients = await one.recipients()
    assert [(r["status"], r["unknowns"]) for r in recipients] == [("deferred", 1)] * 10
    assert len({r["next_attempt_at"] for r in recipients}) > 1


async def test_a_provider_with_a_defect_leaves_an_outcome_for_each(bench: Make) -> None:
    async def broken() -> Any:
        raise ZeroDivisionError

    one = bench(broken, SENT, max_batch=50)
    with structlog.testing.capture_logs() as logs:
        recipients = await put(one, 3)
        await one.quiet()
    assert [(r["status"], r["unknowns"]) for r in await one.recipients()] == [("deferred", 1)] * 3
    assert [line["batch"] for line in logs if line["event"] == "attempt.error"] == [3]

    await one.advance(1)

    assert await one.statuses() == dict.fromkeys(recipients, "sent")


async def test_a_call_whose_answer_was_lost_is_made_again_alone_where_its_key_counts(bench: Make) -> None:
    one = bench(LOST, SENT, max_batch=50, idempotent=True)
    await one.put("lost@example.org")
    await one.quiet()
    await one.put_together(one.message("a@example.org"), one.message("b@example.org"))
    one.clock.advance(1)
    one.runner.wake()
    await one.quiet()

    assert ("lost@example.org",) in one.provider.requests[1:]
    assert len({key for recipients, key in one.provider.calls_made if recipients == ("lost@example.org",)}) == 1


@pytest.mark.parametrize(("max_batch", "status"), [(1, "sent"), (50, "held")])
async def test_an_interrupted_attempt_that_may_have_been_in_a_batch_had_another_key(
    max_batch: int, status: str, bench: Make, spool: Any, clock: Any
) -> None:
    one = bench(SENT, max_batch=max_batch, idempotent=True, on_unknown="hold")
    one.task.cancel()
    await asyncio.gather(one.task, return_exceptions=True)
    await one.put()
    assert await spool.claim(owner="dead", now=clock.now(), lease_s=60, limit=1)

    one.task = asyncio.create_task(one.runner.run())
    await one.quiet()
    await one.advance(60)

    assert await one.statuses() == {"bob@example.org": status}


# --- mail whose client waits


async def test_a_client_that_waits_is_neither_delayed_by_a_batch_nor_put_into_one(bench: Make) -> None:
    one = bench(never, never, never, SENT, max_batch=10, concurrency=4)
    await one.put("first@example.org")
    await one.until(lambda: one.provider.running == 1)
    await one.idle()
    await one.put_together(*(one.message(recipient) for recipient in names(15)))
    await one.until(lambda: one.provider.running == 3)
    message = one.message("waited@example.org")
    attempt = one.dispatcher.begin(message, one.runner._parse(message.raw), [("waited@example.org",)], waited=True)
    await asyncio.wait_for(attempt.task, 1)

    assert attempt.outcomes == {"waited@example.org": SENT}
    assert [len(request) for request in one.provider.requests] == [1, 10, 5, 1]


async def test_a_client_that_waits_has_its_turn_among_the_batches(bench: Make) -> None:
    gate = asyncio.Event()

    async def wait() -> Any:
        await gate.wait()
        return SENT

    one = bench(wait, SENT, max_batch=10, concurrency=1)
    await one.put("first@example.org")
    await one.until(lambda: one.provider.running == 1)
    await one.idle()
    message = one.message("waited@example.org")
    attempt = one.dispatcher.begin(message, one.runner._parse(message.raw), [("waited@example.org",)], waited=True)
    await one.put_together(*(one.message(recipient) for recipient in names(15)))
    await one.until(lambda: len(one.runner._works) == 16)
    await asyncio.sleep(0.02)

    gate.set()
    await one.quiet()

    assert attempt.outcomes == {"waited@example.org": SENT}
    assert one.provider.requests[1] == ("waited@example.org",)
    assert [len(request) for request in one.provider.requests] == [1, 1, 10, 5]


# --- how much is held


async def test_a_window_holds_a_batch_under_way_and_one_that_fills(bench: Make) -> None:
    one = bench(never, max_batch=10, concurrency=1)
    await put(one, 50)
    await one.until(lambda: one.provider.running == 1)
    await asyncio.sleep(0.05)

    assert len(one.runner._works) == 20


async def test_nothing_is_claimed_while_what_is_held_is_large(bench: Make) -> None:
    gate = asyncio.Event()

    async def wait() -> Any:
        await gate.wait()
        return SENT

    one = bench(wait, SENT, max_batch=10)
    one.budget.total, one.budget.most_large = 50_000, 40_000
    await put(one, 6, size=1000)
    await one.until(lambda: len(one.runner._works) == 6)
    await one.idle()
    more = [one.message(recipient) for recipient in names(3, start=6)]
    await one.put_together(*more)
    await asyncio.sleep(0.05)
    assert len(one.runner._works) == 6

    gate.set()
    await one.quiet()

    assert await one.statuses() == dict.fromkeys(names(9), "sent")
    assert one.budget.used == 0


async def test_of_large_messages_no_more_are_read_than_the_budget_has(bench: Make) -> None:
    gate = asyncio.Event()

    async def wait() -> Any:
        await gate.wait()
        return SENT

    one = bench(wait, max_batch=10)
    one.budget.total = one.budget.most_large = 12_500_000
    await put(one, 8, size=1_000_000)
    await one.until(lambda: len(one.runner._works) == 3)
    await asyncio.sleep(0.05)
    assert len(one.runner._works) == 3

    gate.set()
    await one.quiet()

    assert await one.statuses() == dict.fromkeys(names(8), "sent")
    assert one.budget.used == 0


async def test_works_have_their_share_though_the_sessions_hold_everything(bench: Make) -> None:
    one = bench(SENT)
    theirs = one.budget.charge(one.budget.total, large=True)
    await put(one, 3)
    await one.quiet()

    assert await one.statuses() == dict.fromkeys(names(3), "sent")
    theirs.release()


async def test_what_waits_for_a_batch_keeps_its_lease(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.delivery.recorder.LEASE_MARGIN_S", 0.05)
    one = bench(never, max_batch=10, concurrency=1, timeout=0.01)
    renewed: set[str] = set()
    renew = one.spool.renew

    async def note(queue_id: str, *args: Any) -> Any:
        renewed.add(queue_id)
        return await renew(queue_id, *args)

    monkeypatch.setattr(one.spool, "renew", note)
    await put(one, 20)
    await one.until(lambda: len(renewed) == 20)

    assert [len(request) for request in one.provider.requests] == [10]


# --- the end


async def test_what_waits_for_a_batch_is_given_back_at_the_end_and_what_was_begun_is_not(bench: Make) -> None:
    one = bench(never, max_batch=5, concurrency=1, on_unknown="hold")
    recipients = await put(one, 10)
    await one.until(lambda: one.provider.running == 1 and len(one.runner._works) == 10)

    await one.stop()

    found = {r["address"]: r for r in await one.recipients()}
    assert all(found[r]["leased_until"] is not None for r in recipients[:5])
    assert all(found[r]["leased_until"] is None and found[r]["unknowns"] == 0 for r in recipients[5:])
    assert one.provider.requests == [tuple(recipients[:5])]
    await one.until(lambda: one.provider.running == 0)


async def test_a_drain_cuts_a_batch_off_and_each_of_it_is_unknown(bench: Make) -> None:
    one = bench(never, max_batch=5)
    recipients = await put(one, 5)
    await one.until(lambda: one.provider.running == 1)

    assert not await one.dispatchers.drain(0)

    await one.until(lambda: not one.runner._works)
    assert {r["address"]: r["unknowns"] for r in await one.recipients()} == dict.fromkeys(recipients, 1)
    assert one.provider.running == 0


async def test_an_attempt_in_a_batch_cannot_be_withdrawn_and_one_that_is_cut_off_does_not_end_the_others(
    bench: Make,
) -> None:
    gate = asyncio.Event()

    async def wait() -> Any:
        await gate.wait()
        return SENT

    one = bench(wait, max_batch=5)
    attempts = []
    for recipient in names(3):
        message = one.message(recipient)
        attempts.append(one.dispatcher.begin(message, one.runner._parse(message.raw), [(recipient,)]))
    await one.until(lambda: one.provider.running == 1)
    assert not attempts[0].withdraw()
    attempts[0].task.cancel()
    await asyncio.gather(attempts[0].task, return_exceptions=True)

    gate.set()
    await asyncio.gather(*(attempt.task for attempt in attempts[1:]))

    assert [[o.status for o in attempt.outcomes.values()] for attempt in attempts] == [["unknown"], ["sent"], ["sent"]]


@pytest.mark.parametrize("end", ["withdraw", "close"])
async def test_an_attempt_that_ended_while_it_waited_is_left_out_and_costs_no_slot(end: str, bench: Make) -> None:
    one = bench(SENT, max_batch=5, concurrency=1)
    await one.dispatcher._slots.acquire()
    attempts = []
    for recipient in names(3):
        message = one.message(recipient)
        attempts.append(one.dispatcher.begin(message, one.runner._parse(message.raw), [(recipient,)]))
    await asyncio.sleep(0.01)

    getattr(attempts[1], end)()
    one.dispatcher._slots.release()
    await asyncio.gather(*(attempt.task for attempt in attempts), return_exceptions=True)

    assert one.provider.requests == [("r0@example.org", "r2@example.org")]
    assert {o.status for o in attempts[1].outcomes.values()} == {"deferred"}
    await asyncio.wait_for(one.dispatcher._slots.acquire(), 1)


@pytest.mark.parametrize(("number", "status"), [(3, "held"), (1, "deferred")])
async def test_a_call_cut_off_within_a_batch_may_not_be_made_again_as_if_its_key_were_known(
    number: int, status: str
) -> None:
    """Alone it is made again under the key the provider knows; in a batch it had another."""

    class Hanging(ScriptedProvider):
        async def send(self, *given: Any, **more: Any) -> Any:
            await asyncio.Event().wait()

        async def send_many(self, calls: Any) -> Any:
            await asyncio.Event().wait()

    provider = Hanging(idempotent=True, max_batch=10, on_unknown="hold", concurrency=1)
    dispatcher = Dispatcher(provider)
    attempts = [
        dispatcher.begin(message_to(f"r{n}@example.org"), parse(RAW), [(f"r{n}@example.org",)]) for n in range(number)
    ]
    await asyncio.sleep(0.01)
    assert not await dispatcher.drain(0.01)

    for attempt in attempts:
        for outcome in attempt.outcomes.values():
            tried = Tried(expires_at=1e12)
            result = dispose(
                tried, outcome, now=1.0, retry=RetryPolicy(), provider="p", policy=provider.policy, idempotent=True
            )
            assert (outcome.status, result.status) == ("unknown", status)
