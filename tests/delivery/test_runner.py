"""The runner on a real spool: when it tries, what it tries together, and what it never does."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from typing import Any

import pytest
import structlog

from bridge.delivery.retry import RetryPolicy
from bridge.delivery.runner import POLL_S
from bridge.model import idempotency_key
from bridge.spool.base import SpoolError, SpoolFull
from tests.delivery.conftest import BAD_KEY, BUSY, LOST, REFUSED, SENT, FakeClock, ScriptedProvider, later

Make = Any


def never() -> Any:
    return asyncio.get_running_loop().create_future()


async def test_what_is_spooled_is_sent_at_once(bench: Make) -> None:
    one = bench(SENT)
    message = await one.put()

    await one.quiet()

    assert await one.statuses() == {"bob@example.org": "sent"}
    assert one.provider.calls_made == [(("bob@example.org",), idempotency_key(message.queue_id, ["bob@example.org"]))]


async def test_the_waits_between_attempts_double_up_to_the_cap(bench: Make) -> None:
    one = bench(BUSY)
    await one.put()
    waits = []
    for _ in range(7):
        await one.quiet()
        waits.append(await one.next_attempt_in())
        made = len(one.provider.calls_made)
        await one.advance(waits[-1] - 0.01)
        assert len(one.provider.calls_made) == made
        await one.advance(0.01)

    assert waits == pytest.approx([1, 2, 4, 8, 16, 30, 30])


@pytest.mark.parametrize(("outcome", "wait"), [(later(7), 7), (later(3600), 30), (later(3600, quota=True), 3600)])
async def test_the_provider_names_the_moment(outcome: Any, wait: float, bench: Make) -> None:
    one = bench(outcome, SENT)
    await one.put()
    await one.quiet()
    assert await one.next_attempt_in() == pytest.approx(wait)

    await one.advance(wait)

    assert await one.statuses() == {"bob@example.org": "sent"}


async def test_mail_expires_with_the_reply_of_its_last_attempt(bench: Make) -> None:
    one = bench(BUSY)
    await one.put(lifetime=5)
    for _ in range(4):
        await one.quiet()
        if (await one.spool.next_due()) is not None:
            await one.advance(await one.next_attempt_in())

    (recipient,) = await one.recipients()
    assert (recipient["status"], recipient["enhanced"]) == ("expired", "4.3.2")
    assert one.clock.now() == pytest.approx(1_800_000_005)


async def test_a_bad_key_never_expires_mail_and_its_time_does_not_count(bench: Make) -> None:
    one = bench(BAD_KEY, BAD_KEY, BAD_KEY, BUSY)
    await one.put(lifetime=100)
    await one.quiet()
    for _ in range(2):
        await one.advance(1000)
    assert await one.statuses() == {"bob@example.org": "deferred"}

    await one.advance(1000)  # the key is right again, the provider busy

    (recipient,) = await one.recipients()
    assert recipient["status"] == "deferred"
    assert recipient["expires_at"] == pytest.approx(1_800_000_100 + 3000)


async def test_only_what_is_not_resolved_is_tried_again(bench: Make) -> None:
    first = {"sent@example.org": SENT, "refused@example.org": REFUSED, "busy@example.org": BUSY}
    one = bench(first, SENT)
    await one.put(*first)
    await one.quiet()

    await one.advance(1)

    assert [recipients for recipients, _ in one.provider.calls_made] == [tuple(first), ("busy@example.org",)]
    assert await one.statuses() == {
        "sent@example.org": "sent",
        "refused@example.org": "bounced",
        "busy@example.org": "sent",
    }


async def test_a_lost_call_is_made_again_whole_and_with_its_key(bench: Make) -> None:
    """Two recipients were in the call whose answer was lost, a third is deferred: the key covers the two."""
    first = {"a@example.org": LOST, "b@example.org": LOST, "c@example.org": BUSY}
    one = bench(first, SENT)
    message = await one.put(*first)
    await one.quiet()

    await one.advance(1)

    made = one.provider.calls_made[1:]
    assert sorted(made) == sorted(
        (group, idempotency_key(message.queue_id, group))
        for group in (("a@example.org", "b@example.org"), ("c@example.org",))
    )


async def test_each_lost_call_of_its_own_keeps_its_own_key(bench: Make) -> None:
    one = bench(LOST, LOST, BUSY, SENT, separate=True)
    await one.put("a@example.org", "b@example.org", "c@example.org")
    await one.quiet()
    await one.advance(1)

    first, again = one.provider.calls_made[:3], one.provider.calls_made[3:]
    assert sorted(first) == sorted(again)


@pytest.mark.parametrize(
    ("options", "status", "calls"),
    [
        ({"on_unknown": "hold"}, "held", 1),
        ({"on_unknown": "hold", "idempotent": True, "max_unknown": 3}, "held", 3),
        ({"max_unknown": 2}, "held", 2),
    ],
)
async def test_lost_answers_are_held_when_that_is_asked_for(
    options: dict[str, Any], status: str, calls: int, bench: Make
) -> None:
    one = bench(LOST, **options)
    await one.put()
    await one.quiet()
    for _ in range(5):
        await one.advance(100)

    assert await one.statuses() == {"bob@example.org": status}
    assert len(one.provider.calls_made) == calls


@pytest.mark.parametrize(
    ("options", "status", "calls"),
    [({}, "sent", 1), ({"on_unknown": "hold"}, "held", 0), ({"on_unknown": "hold", "idempotent": True}, "sent", 1)],
)
async def test_an_attempt_that_was_begun_and_never_recorded_counts_as_a_lost_answer(
    options: dict[str, Any], status: str, calls: int, bench: Make, clock: FakeClock, spool: Any
) -> None:
    one = bench(SENT, **options)
    one.task.cancel()  # somebody else claims it, and dies
    await asyncio.gather(one.task, return_exceptions=True)
    message = await one.put()
    assert await spool.claim(owner="dead", now=clock.now(), lease_s=60, limit=1)

    one.task = asyncio.create_task(one.runner.run())
    await one.quiet()
    assert one.provider.calls_made == []
    await one.advance(60)

    assert await one.statuses() == {"bob@example.org": status}
    assert len(one.provider.calls_made) == calls
    assert all(key == idempotency_key(message.queue_id, ["bob@example.org"]) for _, key in one.provider.calls_made)


async def test_there_are_never_more_claims_than_the_provider_has_slots(bench: Make) -> None:
    gate = asyncio.Event()

    async def wait() -> Any:
        await gate.wait()
        return SENT

    one = bench(wait, concurrency=3)
    for n in range(10):
        await one.put(f"r{n}@example.org")
    await one.until(lambda: one.provider.running == 3)
    with sqlite3.connect(f"file:{one.spool._writer._connect.args[0]}?mode=ro", uri=True) as db:
        (leased,) = db.execute("SELECT count(*) FROM recipient WHERE lease_owner IS NOT NULL").fetchone()
    db.close()
    assert leased == 3
    assert one.provider.most == 3

    gate.set()
    await one.until(lambda: _all_sent(one))
    assert one.provider.most == 3


async def _all_sent(one: Any) -> bool:
    return set((await one.statuses()).values()) == {"sent"}


async def test_mail_that_nobody_woke_it_for_is_found_by_looking(bench: Make) -> None:
    one = bench(SENT)
    await one.quiet()
    wake, one.runner.wake = one.runner.wake, lambda: None
    await one.put()
    one.runner.wake = wake
    assert one.provider.calls_made == []

    one.clock.advance(POLL_S)

    await one.until(lambda: _all_sent(one))


async def test_a_work_that_fails_does_not_stop_the_others(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench(SENT)
    parse, calls = one.runner._parse, []

    def sometimes(raw: bytes) -> Any:
        calls.append(raw)
        if len(calls) == 1:
            raise RecursionError
        return parse(raw)

    monkeypatch.setattr(one.runner, "_parse", sometimes)
    with structlog.testing.capture_logs() as logs:
        await one.put("first@example.org")
        await one.quiet()
        await one.put("second@example.org")
        await one.quiet()

    assert (await one.statuses())["second@example.org"] == "sent"
    assert "runner.error" in {line["event"] for line in logs}
    assert not one.task.done()
    await one.advance(one.recorder.lease_s)
    assert (await one.statuses())["first@example.org"] == "sent"


async def test_a_message_that_breaks_its_reader_waits_longer_each_time_and_expires(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was claimed again whenever its lease ran out, for ever, and each time counted as a lost answer."""
    one = bench(SENT)
    tries: list[float] = []

    def broken(raw: bytes) -> Any:
        tries.append(one.clock.now())
        raise RecursionError

    monkeypatch.setattr(one.runner, "_parse", broken)
    with structlog.testing.capture_logs():
        await one.put(lifetime=50)
        await one.quiet()
        (first,) = await one.recipients()
        for _ in range(60):
            await one.advance(1)

    waits = [round(later - earlier) for earlier, later in itertools.pairwise(tries)]
    assert (first["status"], first["enhanced"], first["unknowns"]) == ("deferred", "4.3.0", 0)
    assert waits == [1, 2, 4, 8, 16, 19]  # the last attempt is at the end of its lifetime
    assert await one.statuses() == {"bob@example.org": "expired"}
    assert one.provider.calls_made == []


async def test_a_message_that_breaks_whoever_sorts_it_expires_too(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench(SENT)
    await one.quiet()
    monkeypatch.setattr(one.runner, "_parse", lambda raw: 1 / 0)
    with structlog.testing.capture_logs() as logs:
        await one.spool.put(one.message(lifetime=100), lanes={"bob@example.org": ""})  # as under other settings
        for _ in range(3):
            await one.advance(one.recorder.lease_s)

    assert await one.statuses() == {"bob@example.org": "expired"}
    assert [line["event"] for line in logs].count("runner.error") == 2
    assert one.provider.calls_made == []


async def test_a_defect_leaves_a_lost_answer_with_its_provider_and_its_key(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench(LOST, SENT, idempotent=True)
    await one.put("ann@example.org", "bob@example.org")
    await one.quiet()
    with monkeypatch.context() as patch, structlog.testing.capture_logs():
        patch.setattr(one.runner, "_parse", lambda raw: 1 / 0)
        await one.advance(1)
    await one.advance(5)

    assert set((await one.statuses()).values()) == {"sent"}
    first, second = one.provider.calls_made
    assert first == second


async def test_a_provider_with_a_defect_defers_and_is_tried_again(bench: Make) -> None:
    async def broken() -> Any:
        raise ZeroDivisionError

    one = bench(broken, SENT)
    with structlog.testing.capture_logs() as logs:
        await one.put()
        await one.quiet()
    (recipient,) = await one.recipients()
    assert (recipient["status"], recipient["unknowns"]) == ("deferred", 1)
    assert "attempt.error" in {line["event"] for line in logs}

    await one.advance(1)

    assert await one.statuses() == {"bob@example.org": "sent"}


# --- a disk that refuses


@pytest.mark.parametrize("error", [SpoolError("broken"), SpoolFull("full")])
async def test_a_spool_that_refuses_claims_is_asked_again_after_a_pause(
    error: Exception, bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench(SENT)
    await one.quiet()
    claim, asked = one.spool.claim, 0

    async def refuse(**named: Any) -> Any:
        nonlocal asked
        asked += 1
        raise error

    with structlog.testing.capture_logs():
        monkeypatch.setattr(one.spool, "claim", refuse)
        await one.put()
        await asyncio.sleep(0.05)
        assert asked == 1
        monkeypatch.setattr(one.spool, "claim", claim)
        one.clock.advance(1)
        await one.until(lambda: _all_sent(one))


async def test_a_result_that_cannot_be_written_is_kept_until_it_can_and_nothing_is_attempted_meanwhile(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease runs out meanwhile, and still nothing is sent twice."""
    one = bench(SENT)
    await one.quiet()
    record = one.spool.record

    async def refuse(*args: Any, **named: Any) -> Any:
        raise SpoolError("disk full")

    with structlog.testing.capture_logs() as logs:
        monkeypatch.setattr(one.spool, "record", refuse)
        await one.put()
        await one.until(lambda: one.recorder.stuck)
        for _ in range(10):
            one.clock.advance(60)
            one.runner.wake()
            await asyncio.sleep(0.01)
        monkeypatch.setattr(one.spool, "record", record)
        while one.recorder.stuck:
            one.clock.advance(5)
            await asyncio.sleep(0.005)
        await one.advance(5)

    assert await one.statuses() == {"bob@example.org": "sent"}
    assert len(one.provider.calls_made) == 1
    assert "spool.record_failed" in {line["event"] for line in logs}


async def test_a_lease_that_cannot_be_renewed_does_not_stop_the_attempt(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def wait() -> Any:
        await gate.wait()
        return SENT

    one = bench(wait, timeout=0.001)
    monkeypatch.setattr("bridge.delivery.recorder.LEASE_MARGIN_S", 0.01)
    refused = []

    async def refuse(*args: Any) -> Any:
        refused.append(args)
        raise SpoolError("disk full")

    monkeypatch.setattr(one.spool, "renew", refuse)
    with structlog.testing.capture_logs():
        await one.put()
        await one.until(lambda: len(refused) > 2)
        gate.set()
        await one.until(lambda: _all_sent(one))


# --- the end


async def test_what_was_claimed_and_not_begun_is_given_back_at_the_end(bench: Make, spool: Any) -> None:
    """Else the next start would take it for a lost answer, and hold it where the operator wants that."""
    one = bench(never, concurrency=2, on_unknown="hold")
    await one.put("begun@example.org")
    await one.until(lambda: one.provider.running == 1)
    await one.dispatcher._slots.acquire()  # a client's attempt has the other slot
    await one.put("waiting@example.org")
    await one.until(lambda: len(one.runner._works) == 2)

    await one.stop()

    recipients = {r["address"]: r for r in await one.recipients()}
    assert recipients["waiting@example.org"]["leased_until"] is None
    assert recipients["waiting@example.org"]["unknowns"] == 0
    assert recipients["begun@example.org"]["leased_until"] is not None
    assert [r for r, _ in one.provider.calls_made] == [("begun@example.org",)]


async def test_an_attempt_that_is_withdrawn_never_calls_even_if_its_slot_comes_that_moment(bench: Make) -> None:
    one = bench(SENT, concurrency=1, separate=True)
    message = await one.put("done@example.org")
    await one.quiet()
    await one.dispatcher._slots.acquire()
    email = one.runner._parse(message.raw)
    for recipients in (("a@example.org",), ("a@example.org", "b@example.org")):
        attempt = one.dispatcher.begin(message, email, [recipients])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        one.dispatcher._slots.release()
        assert attempt.withdraw()
        await asyncio.gather(attempt.task, return_exceptions=True)
        assert not attempt.begun
        await asyncio.wait_for(one.dispatcher._slots.acquire(), 1)

    assert len(one.provider.calls_made) == 1


async def test_a_running_attempt_cannot_be_withdrawn(bench: Make) -> None:
    one = bench(never)
    message = await one.put()
    await one.until(lambda: one.provider.running == 1)
    attempt = one.dispatcher.begin(message, one.runner._parse(message.raw), [("x@example.org",)])
    await one.until(lambda: attempt.begun)

    assert not attempt.withdraw()
    assert not attempt.task.cancelling()


async def test_recipients_of_one_lost_call_come_due_together(bench: Make) -> None:
    one = bench(LOST, retry=RetryPolicy(jitter=1.0, first=100, maximum=100))
    await one.put(*(f"r{n}@example.org" for n in range(20)))
    await one.quiet()

    assert len({r["next_attempt_at"] for r in await one.recipients()}) == 1


def test_a_scripted_provider_repeats_its_last_answer() -> None:
    provider = ScriptedProvider()
    assert provider.answers == [SENT]
