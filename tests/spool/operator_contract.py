"""What the operator can rely on, whatever the spool is built on."""

from __future__ import annotations

import pytest

from bridge.spool.base import Result, SpoolError
from bridge.spool.sqlite import SqliteSpool

from .support import (
    ANN,
    BLOCKED,
    BOB,
    BOUNCED,
    EXPIRED,
    HELD,
    LIFETIME,
    NOW,
    SENT,
    claim,
    claim_one,
    deferred,
    events,
    message,
    record,
    statuses,
)

LATER = deferred(NOW + 500)
RESULTS: dict[str, Result | None] = {
    "queued": None, "deferred": LATER, "held": HELD, "sent": SENT, "bounced": BOUNCED, "expired": EXPIRED,
}  # fmt: skip


async def put_as(spool: SqliteSpool, status: str, *recipients: str) -> str:
    """Put a message and bring its recipients to `status`; returns its queue id."""
    mail = message(*recipients)
    result = RESULTS.get(status)
    results = dict.fromkeys(mail.envelope.recipients, result) if result else {}
    await spool.put(mail, results=results)
    if status == "dropped":
        await spool.drop([mail.queue_id], now=NOW)
    return mail.queue_id


class OperatorContract:
    async def test_failed_messages_can_be_dropped_with_their_bodies(self, spool: SqliteSpool) -> None:
        mail = message(ANN, BOB)
        await spool.put(mail, results={ANN: BOUNCED, BOB: SENT})
        assert await spool.body(mail.queue_id) is not None

        assert await spool.drop([mail.queue_id], now=NOW + 1) == 1
        assert await spool.body(mail.queue_id) is None
        assert await statuses(spool, mail.queue_id) == {ANN: "dropped", BOB: "sent"}

    async def test_the_list_is_newest_first_in_pages(self, spool: SqliteSpool) -> None:
        ids = [await put_as(spool, status) for status in ("queued", "sent", "held", "bounced", "queued")]
        pages, before = [], ""
        while page := await spool.list_messages(limit=2, before=before):
            pages.append([row["queue_id"] for row in page])
            before = pages[-1][-1]

        assert pages == [ids[4:2:-1], ids[2:0:-1], ids[:1]]

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ("active", {"queued", "deferred", "held"}),
            ("failed", {"bounced", "expired"}),
            *((one, {one}) for one in (*RESULTS, "dropped")),
            ("delivered", set()),
        ],
    )
    async def test_the_list_is_filtered(self, spool: SqliteSpool, status: str, expected: set[str]) -> None:
        ids = {await put_as(spool, one): one for one in (*RESULTS, "dropped") for _ in range(2)}
        pages, before = [], ""
        while page := await spool.list_messages(status=status, limit=1, before=before):
            pages += [ids[row["queue_id"]] for row in page]
            before = page[-1]["queue_id"]

        assert sorted(pages) == sorted([*expected] * 2)

    async def test_an_unknown_filter_is_named(self, spool: SqliteSpool) -> None:
        with pytest.raises(SpoolError, match="no such status: lost"):
            await spool.list_messages(status="lost")

    async def test_a_row_says_who_what_and_why(self, spool: SqliteSpool) -> None:
        mail = message(ANN, BOB)
        await spool.put(mail, results={ANN: SENT, BOB: LATER})
        (row,) = await spool.list_messages()

        assert {key: row[key] for key in ("queue_id", "sender", "subject", "message_id", "size", "status")} == {
            "queue_id": mail.queue_id,
            "sender": "sender@example.org",
            "subject": "hi",
            "message_id": "<1@example.org>",
            "size": len(mail.raw),
            "status": "deferred",
        }
        ann, bob = row["recipients"]
        assert (ann["provider"], ann["provider_message_id"], ann["code"]) == ("main", "id-1", 250)
        assert (bob["code"], bob["enhanced"], bob["text"], bob["fault"]) == (451, "4.4.1", "Later", "provider")
        assert (bob["attempts"], bob["next_attempt_at"]) == (1, NOW + 500)

    async def test_show_tells_the_events_in_order(self, spool: SqliteSpool) -> None:
        queue_id = await put_as(spool, "deferred")
        await spool.hold([queue_id], now=NOW + 1)
        await spool.release([queue_id], now=NOW + 2)
        await record(spool, await claim_one(spool, NOW + 2), SENT, NOW + 3)

        assert await events(spool, queue_id) == ["deferred", "held", "released", "sent"]
        assert await spool.show("nothing") is None

    @pytest.mark.parametrize(
        ("action", "changes"),
        [
            ("retry", {"queued", "deferred", "held", "bounced", "expired"}),
            ("hold", {"queued", "deferred"}),
            ("release", {"held"}),
            ("drop", {"queued", "deferred", "held", "bounced", "expired"}),
        ],
    )
    async def test_an_action_changes_what_it_is_for_and_says_how_many(
        self, spool: SqliteSpool, action: str, changes: set[str]
    ) -> None:
        ids = {one: await put_as(spool, one, ANN, BOB) for one in (*RESULTS, "dropped")}
        changed = {one: await getattr(spool, action)([queue_id], now=NOW) for one, queue_id in ids.items()}

        assert changed == {one: 2 if one in changes else 0 for one in ids}

    async def test_an_action_takes_many_messages(self, spool: SqliteSpool) -> None:
        ids = [await put_as(spool, "queued") for _ in range(12)]

        assert await spool.hold([*ids, "unknown"], now=NOW) == 12
        assert await claim(spool) == []

    @pytest.mark.parametrize("status", ["bounced", "expired"])
    async def test_a_failed_message_retried_begins_a_new_lifetime(self, spool: SqliteSpool, status: str) -> None:
        queue_id = await put_as(spool, status)
        assert await spool.retry([queue_id], now=NOW + 200) == 1

        item = await claim_one(spool, NOW + 200)
        assert item.recipients[0].expires_at == NOW + 200 + LIFETIME
        await record(spool, item, SENT, NOW + 201)
        assert await statuses(spool, queue_id) == {ANN: "sent"}
        assert await spool.body(queue_id) is None

    async def test_a_failed_message_without_a_body_cannot_be_retried(self, spool: SqliteSpool) -> None:
        mail = message()
        await spool.put_history(mail, {ANN: BOUNCED})
        await spool.stats()

        assert await spool.retry([mail.queue_id], now=NOW) == 0

    async def test_retry_makes_blocked_mail_due_and_keeps_the_account_of_time(self, spool: SqliteSpool) -> None:
        mail = message()
        await spool.put(mail, results={ANN: BLOCKED})
        await spool.retry([mail.queue_id], now=NOW + 5)

        assert (await claim_one(spool, NOW + 5)).recipients[0].expires_at == NOW + LIFETIME + 5

    @pytest.mark.parametrize("action", ["retry", "hold", "drop"])
    async def test_a_running_attempt_is_left_alone(self, spool: SqliteSpool, action: str) -> None:
        mail = message(ANN, BOB)
        await spool.put(mail, results={BOB: deferred(NOW + 5)})
        item = await claim_one(spool)

        assert await getattr(spool, action)([mail.queue_id], now=NOW + 1) == 1
        assert await record(spool, item, SENT, NOW + 2) == {ANN}

    async def test_an_attempt_that_was_lost_can_be_dropped(self, spool: SqliteSpool) -> None:
        mail = message()
        await spool.put(mail)
        item = await claim_one(spool, lease_s=10)

        assert await spool.drop([mail.queue_id], now=NOW + 10) == 1
        assert await record(spool, item, SENT, NOW + 11) == frozenset()
        assert await statuses(spool, mail.queue_id) == {ANN: "dropped"}
        assert await spool.body(mail.queue_id) is None

    async def test_a_lost_attempt_on_hold_is_still_interrupted_when_released(self, spool: SqliteSpool) -> None:
        mail = message()
        await spool.put(mail)
        lost = await claim_one(spool, lease_s=10)
        await spool.hold([mail.queue_id], now=NOW + 10)
        await spool.release([mail.queue_id], now=NOW + 20)

        (ann,) = (await claim_one(spool, NOW + 20)).recipients
        assert (ann.interrupted, ann.group) == (True, lost.lease.epoch)

    async def test_export_gives_every_message_with_its_body(self, spool: SqliteSpool) -> None:
        ids = [await put_as(spool, "queued") for _ in range(60)]
        await put_as(spool, "sent")
        exported = [(row["queue_id"], body) async for row, body in spool.export(status="queued")]

        assert exported == [(queue_id, message().raw) for queue_id in reversed(ids)]
