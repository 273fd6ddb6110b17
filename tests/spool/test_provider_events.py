"""What providers tell later: joined to its recipient, once, with what follows, in one transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.model import EVENT_KINDS, Event, EventKind
from bridge.reply import Reply
from bridge.spool.base import Heard, NotedEvent, Post, SpoolError
from bridge.spool.events import MAX_LOOKS
from bridge.spool.sqlite import SqliteSpool

from .support import (
    ANN,
    BOB,
    EVE,
    NOW,
    SENT,
    claim,
    claim_one,
    deferred,
    events,
    message,
    record,
    statuses,
    tell_senders,
)

REPLY = Reply(550, "5.1.1", "No such user")
DAY = 86400.0


@pytest.fixture
async def spool(spool: SqliteSpool) -> SqliteSpool:
    await spool.expect_events(True)
    return spool


def told(
    kind: EventKind, recipient: str = ANN, *, event_id: str = "", bounces: bool = False, **more: Any
) -> NotedEvent:
    more = {"provider_message_id": "id-1", "raw": "{}", "at": NOW + 5, **more}
    event = Event(kind=kind, event_id=event_id or f"{kind}-{recipient}", recipient=recipient, **more)
    bounces = bounces or kind == "bounced"
    return NotedEvent(event=event, reply=REPLY if bounces else None, suppression="it is no good" if bounces else "")


async def take(spool: SqliteSpool, *noted: NotedEvent, provider: str = "main", now: float = NOW + 9) -> Sequence[Heard]:
    return await spool.take_events(provider, noted, now=now)


async def sent(spool: SqliteSpool, *recipients: str, provider_message_id: str = "id-1", **more: Any) -> str:
    mail = message(*recipients, **more)
    result = replace(SENT, provider_message_id=provider_message_id)
    await spool.put_history(mail, dict.fromkeys(mail.envelope.recipients, result))
    return mail.queue_id


@pytest.mark.parametrize("kind", EVENT_KINDS)
async def test_each_kind_stands_in_the_history_of_its_message_and_is_kept_as_it_came(
    spool: SqliteSpool, kind: EventKind
) -> None:
    queue_id = await sent(spool)
    (heard,) = await take(spool, told(kind, raw='{"x": 1}'))

    assert (heard.queue_id, heard.address, heard.known) == (queue_id, ANN, False)
    assert await events(spool, queue_id) == ["sent", kind]
    (kept,) = await spool.provider_events(queue_id)
    assert (kept["event"], kept["address"], kept["raw"]) == (kind, ANN, '{"x": 1}')


@pytest.mark.parametrize(
    ("order", "status"),
    [
        (("delivered",), "delivered"),
        (("bounced",), "bounced"),
        (("delivered", "bounced"), "bounced"),
        (("bounced", "delivered"), "bounced"),
        (("opened", "complained"), "sent"),
        (("delivered", "deferred", "sent"), "delivered"),
    ],
)
async def test_a_recipient_goes_from_sent_to_delivered_and_from_both_to_bounced(
    spool: SqliteSpool, order: tuple[EventKind, ...], status: str
) -> None:
    queue_id = await sent(spool)
    for kind in order:
        await take(spool, told(kind))

    assert await statuses(spool, queue_id) == {ANN: status}


async def test_the_same_event_is_known_and_one_of_another_provider_is_another(spool: SqliteSpool) -> None:
    await sent(spool)
    (first, again) = await take(spool, told("opened"), told("opened"))
    (later,) = await take(spool, told("opened"))
    (other,) = await take(spool, told("opened"), provider="backup")

    assert [one.known for one in (first, again, later, other)] == [False, True, True, False]


async def test_a_bounce_is_told_once_and_the_message_is_among_the_failed_ones(spool: SqliteSpool) -> None:
    queue_id = await sent(spool, ANN, BOB)
    await take(spool, told("bounced"))
    (due,) = await spool.notices()

    assert due.message.raw == b""
    (recipient,) = due.recipients
    assert (recipient.address, recipient.kind, recipient.reply) == (ANN, "failure", REPLY)
    assert await tell_senders(spool) == 1
    await take(spool, told("bounced", event_id="another"))
    assert await spool.notices() == []
    assert [row["queue_id"] for row in await spool.list_messages(status="failed")] == [queue_id]
    assert await spool.suppressions() == {ANN: "it is no good"}


async def test_who_bounced_late_is_not_forgotten_before_its_sender_was_told_and_then_kept_as_a_failure(
    spool: SqliteSpool,
) -> None:
    """The history is kept for 100 s here, failures for 300 s."""
    queue_id = await sent(spool)
    await take(spool, told("bounced"), now=NOW + 99)

    assert await spool.prune(now=NOW + 5000) == 0
    assert await tell_senders(spool, NOW + 200) == 1
    assert await spool.prune(now=NOW + 499) == 0
    assert await statuses(spool, queue_id) == {ANN: "bounced"}
    assert await spool.prune(now=NOW + 501) == 1


async def test_what_still_waits_is_not_touched(spool: SqliteSpool) -> None:
    mail = message(ANN, BOB, EVE)
    await spool.put(mail)
    await record(spool, await claim_one(spool), {ANN: SENT, BOB: deferred(NOW + 50), EVE: deferred(NOW + 50)})
    await spool.hold([mail.queue_id], now=NOW + 1)
    await spool.release([mail.queue_id], now=NOW + 2)
    heard = await take(spool, *(told("bounced", r, queue_id=mail.queue_id) for r in (ANN, BOB, EVE)))

    assert [one.status for one in heard] == ["bounced", "", ""]
    assert await statuses(spool, mail.queue_id) == {ANN: "bounced", BOB: "deferred", EVE: "deferred"}
    await tell_senders(spool)
    (claimed,) = await claim(spool, NOW + 60)
    assert {one.address for one in claimed.recipients} == {BOB, EVE}
    assert claimed.message.raw == mail.raw


async def test_after_a_retry_by_hand_nobody_is_told_a_second_time(spool: SqliteSpool) -> None:
    mail = message(ANN, BOB)
    await spool.put(mail)
    await record(spool, await claim_one(spool), {ANN: SENT, BOB: deferred(NOW + 50)})
    await take(spool, told("bounced"))
    await tell_senders(spool)
    await spool.retry([mail.queue_id], now=NOW + 20)
    await record(spool, await claim_one(spool, NOW + 20), SENT, now=NOW + 20)
    heard = await take(spool, told("bounced", event_id="again"), told("bounced", BOB), now=NOW + 30)

    assert [one.status for one in heard] == ["bounced", "bounced"]
    (due,) = await spool.notices()
    assert [one.address for one in due.recipients] == [BOB]


# --- joined to whom


async def test_it_is_joined_by_our_id_before_the_provider_s(spool: SqliteSpool) -> None:
    one, other = await sent(spool), await sent(spool)
    (heard,) = await take(spool, told("delivered", queue_id=one))
    (by_id,) = await take(spool, told("delivered", event_id="b", queue_id="Q-unknown"))

    assert (heard.queue_id, by_id.queue_id) == (one, other)  # of one id the latest


@pytest.mark.parametrize(
    ("recipient", "address"),
    [("Ann@example.com", ANN), ("ann@EXAMPLE.com", ANN), ("bob@example.com", BOB), ("eve@example.com", ""), ("", "")],
)
async def test_it_is_joined_to_the_recipient_however_it_is_spelt(
    spool: SqliteSpool, recipient: str, address: str
) -> None:
    await sent(spool, ANN, BOB)
    (heard,) = await take(spool, told("delivered", recipient))

    assert heard.address == address


async def test_two_that_differ_by_case_stay_two(spool: SqliteSpool) -> None:
    queue_id = await sent(spool, "Ann@example.com", ANN)
    await take(spool, told("delivered", ANN))

    assert await statuses(spool, queue_id) == {"Ann@example.com": "sent", ANN: "delivered"}


async def test_one_that_names_nobody_is_about_the_only_recipient(spool: SqliteSpool) -> None:
    queue_id = await sent(spool)
    (heard,) = await take(spool, told("opened", ""))

    assert (heard.queue_id, heard.address) == (queue_id, ANN)


async def test_the_word_of_a_provider_that_did_not_take_it_changes_nothing(spool: SqliteSpool) -> None:
    queue_id = await sent(spool)
    (heard,) = await take(spool, told("bounced", queue_id=queue_id), provider="backup")
    (by_id,) = await take(spool, told("bounced", event_id="b"), provider="backup")

    assert (heard.queue_id, heard.status, heard.suppressed, by_id.queue_id) == (queue_id, "", False, "")
    assert await statuses(spool, queue_id) == {ANN: "sent"}
    assert await spool.suppressions() == {}


async def test_what_belongs_to_nobody_is_kept_and_counted_and_suppresses_nobody(spool: SqliteSpool) -> None:
    await sent(spool)
    (heard,) = await take(spool, told("bounced", EVE, provider_message_id="other", raw='{"e": 1}'))

    assert (heard.queue_id, heard.suppressed) == ("", False)
    assert await spool.count_unjoined() == 1
    assert [row["raw"] for row in await spool.unjoined_events()] == ['{"e": 1}']
    assert await spool.suppressions() == {}


async def test_one_that_came_before_its_message_is_joined_later(spool: SqliteSpool) -> None:
    (early,) = await take(spool, told("bounced"))
    queue_id = await sent(spool)
    noted = told("bounced")

    assert early.queue_id == ""
    assert await spool.rejoin_events(since=NOW + 10, now=NOW + 60, note=lambda event: noted) == []
    assert (await spool.show(queue_id) or {})["recipients"][0]["status"] == "sent"
    seen: list[Event] = []

    def note(event: Event) -> NotedEvent:
        seen.append(event)
        return noted

    (heard,) = await spool.rejoin_events(since=NOW, now=NOW + 60, note=note)
    assert seen == [noted.event]
    assert (heard.queue_id, heard.status, heard.suppressed) == (queue_id, "bounced", True)
    assert await spool.rejoin_events(since=NOW, now=NOW + 120, note=note) == []
    assert await spool.count_unjoined() == 0


async def test_it_is_joined_however_many_there_are_that_never_will_be(spool: SqliteSpool) -> None:
    mail = message(ANN, BOB)
    earlier, noted = told("bounced", queue_id=mail.queue_id, provider_message_id=""), told("delivered", BOB)
    await take(spool, earlier)
    foreign = [told("bounced", event_id=f"f{n}", provider_message_id=f"foreign-{n}", queue_id="x") for n in range(30)]
    await take(spool, *foreign, now=NOW + 10)
    await take(spool, noted, now=NOW + 11)
    result = replace(SENT, provider_message_id="id-1")
    await spool.put_history(mail, {ANN: result, BOB: result})
    asked: list[Event] = []

    def note(event: Event) -> NotedEvent:
        asked.append(event)
        return earlier if event.kind == "bounced" else noted

    heard = await spool.rejoin_events(since=NOW, now=NOW + 60, note=note, limit=10)
    assert asked == [earlier.event, noted.event]
    assert [(one.address, one.status) for one in heard] == [(ANN, "bounced"), (BOB, "delivered")]
    assert await spool.count_unjoined() == 30


async def test_one_that_comes_while_the_attempt_runs_waits_until_it_is_recorded(spool: SqliteSpool) -> None:
    mail = message(ANN)
    await spool.put(mail)
    claimed = await claim_one(spool)
    noted = told("bounced", queue_id=mail.queue_id)
    (early,) = await take(spool, noted)
    assert await spool.rejoin_events(since=NOW, now=NOW + 60, note=lambda event: noted) == []
    await record(spool, claimed, SENT)
    (later,) = await spool.rejoin_events(since=NOW, now=NOW + 120, note=lambda event: noted)

    assert (early.queue_id, later.queue_id, later.status) == ("", mail.queue_id, "bounced")


async def test_one_that_comes_while_an_answer_is_lost_waits_until_it_is_known(spool: SqliteSpool) -> None:
    """The provider took it and then gave up, and we only know that we asked: what comes of the retry is no second bounce."""
    mail = message(ANN)
    await spool.put(mail)
    claimed = await claim_one(spool)
    await record(spool, claimed, replace(deferred(NOW + 1), unknown=True))
    noted = told("bounced", queue_id=mail.queue_id)
    (early,) = await take(spool, noted)
    assert (early.queue_id, early.suppressed) == ("", False)
    claimed = await claim_one(spool, now=NOW + 20)
    await record(spool, claimed, SENT)
    (later,) = await spool.rejoin_events(since=NOW, now=NOW + 120, note=lambda event: noted)

    assert (later.queue_id, later.status, later.suppressed) == (mail.queue_id, "bounced", True)


async def test_without_a_history_nothing_is_known(opened: Any) -> None:
    spool = await opened(history_s=0)
    await spool.expect_events(True)
    await sent(spool)
    (heard,) = await take(spool, told("bounced"))

    assert heard.queue_id == ""


# --- bounds


async def test_a_mail_that_is_opened_without_end_does_not_fill_the_spool(spool: SqliteSpool) -> None:
    queue_id = await sent(spool)
    await take(spool, *(told("opened", event_id=f"o{n}") for n in range(MAX_LOOKS + 50)))
    (last,) = await take(spool, told("bounced"))

    assert len(await spool.provider_events(queue_id)) == MAX_LOOKS + 1
    assert last.status == "bounced"


async def test_they_are_forgotten_with_the_history_but_not_before_two_days(opened: Any) -> None:
    for history_s, kept_s in ((100.0, 2 * DAY), (7 * DAY, 7 * DAY)):
        spool = await opened(history_s=history_s)
        await spool.expect_events(True)
        await take(spool, told("opened", event_id=str(history_s)), now=NOW)
        assert await spool.prune_events(now=NOW + kept_s) == 0
        assert await spool.prune_events(now=NOW + kept_s + 1) == 1
        await spool.close()


async def test_posts_and_events_are_kept_together_or_not_at_all(spool: SqliteSpool) -> None:
    queue_id = await sent(spool)

    def broken(heard: Sequence[Heard]) -> Sequence[Post]:
        raise RuntimeError("a defect")

    with pytest.raises(SpoolError):
        await spool.take_events("main", [told("bounced")], now=NOW, posts=broken)
    assert await statuses(spool, queue_id) == {ANN: "sent"}
    assert await spool.suppressions() == {}

    given: list[Sequence[Heard]] = []

    def posts(heard: Sequence[Heard]) -> Sequence[Post]:
        given.append(heard)
        return [Post(id="p", target="events", body="{}", created_at=NOW)]

    await spool.take_events("main", [told("bounced"), told("bounced")], now=NOW, posts=posts)
    assert [one.known for one in given[-1]] == [False]
    assert [post.target for post in await spool.due_posts(now=NOW)] == ["events"]


async def test_odd_text_is_kept(spool: SqliteSpool) -> None:
    odd = "\ud800 é\x00'\";--"
    (heard,) = await take(
        spool, told("delivered", odd, event_id=odd, queue_id=odd, provider_message_id=odd, text=odd, raw=odd)
    )

    assert not heard.known


async def test_messages_are_found_by_an_index_and_not_by_looking_through_them(spool: SqliteSpool, path: Path) -> None:
    await sent(spool)
    await spool.stats()
    with sqlite3.connect(path) as db:
        db.execute("ANALYZE")
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT queue_id, address, provider FROM recipient INDEXED BY recipient_provider_id"
            " WHERE provider_message_id = ? AND provider_message_id <> '' AND provider = ? ORDER BY queue_id DESC LIMIT 1",
            ("x", "y"),
        ).fetchall()

    await spool.expect_events(False)
    with sqlite3.connect(path) as db:
        left = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'recipient_provider_id'").fetchone()

    assert left == (0,)
    (step,) = [row[3] for row in plan]
    assert step.startswith("SEARCH recipient USING INDEX recipient_provider_id")


@pytest.mark.parametrize(("spelled", "many"), [(str, 5000), (str.upper, 2000)])
async def test_events_of_all_of_a_large_mail_cost_each_the_same(spool: SqliteSpool, spelled: Any, many: int) -> None:
    """They have one id in common, and all of it was looked through for each event; beyond the 2000th none was found."""
    people = [f"p{n}@example.org" for n in range(many)]
    queue_id = await sent(spool, *people)
    heard: list[Heard] = []
    began = time.process_time()
    for start in range(0, many, 200):
        heard += await take(spool, *(told("delivered", spelled(one)) for one in people[start : start + 200]))
    took = time.process_time() - began

    assert {one.queue_id for one in heard} == {queue_id}
    assert [one.address for one in heard] == people
    assert took < 5  # a second in fact


async def test_an_address_is_found_in_the_latest_of_the_messages_with_one_id(spool: SqliteSpool) -> None:
    await sent(spool, ANN)
    second = await sent(spool, ANN, BOB)
    third = await sent(spool, EVE)
    heard = await take(spool, told("delivered"), told("delivered", BOB), told("delivered", EVE))

    assert [one.queue_id for one in heard] == [second, second, third]
