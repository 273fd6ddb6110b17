"""What senders are still to be told: found by the marks on recipients, settled with the notices in one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.spool.base import Due, Post, Told
from bridge.spool.intake import Intake, Retention, insert_messages
from bridge.spool.leases import within_bytes
from bridge.spool.memory import insert_posts
from bridge.spool.messages import as_message, as_reply, as_wish
from bridge.spool.retention import Resolved, resolve

CURSOR = "notice.late"  # in `state`: messages up to this queue id have been looked at

_PENDING = """
SELECT DISTINCT queue_id FROM recipient INDEXED BY recipient_notice
WHERE notice IN ('failure', 'delay', 'success') ORDER BY queue_id LIMIT ?
"""
_MESSAGES = """
SELECT message.*, body.raw FROM message LEFT JOIN body ON body.queue_id = message.queue_id
WHERE message.queue_id IN (SELECT value FROM json_each(?)) ORDER BY message.queue_id
"""
_RECIPIENTS = """
SELECT *, (SELECT max(at) FROM event WHERE event.queue_id = recipient.queue_id AND event.address = recipient.address)
    AS tried_at
FROM recipient WHERE queue_id IN (SELECT value FROM json_each(?)) ORDER BY queue_id, position
"""
# Only what is still to be told: a recipient that failed while its delay notice was made is told of that as well.
_SETTLE = """
UPDATE recipient SET notice = CASE WHEN notice = 'failure' THEN 'done' ELSE '' END
WHERE queue_id = ? AND address = ? AND notice = ?
"""
# Messages in the order in which they came, from where the last look ended.
_NEXT = "SELECT queue_id, created_at, resolved_at FROM message WHERE queue_id > ? ORDER BY queue_id LIMIT ?"
_MARK = """
UPDATE recipient SET notice = 'delay'
WHERE queue_id IN (SELECT value FROM json_each(?)) AND status IN ('queued', 'deferred') AND notice = ''
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A message as read; its body may be a file still to be read."""

    row: sqlite3.Row
    recipients: list[sqlite3.Row]


def find(db: sqlite3.Connection, limit: int) -> list[Found]:
    ids = json.dumps(within_bytes(db, [row[0] for row in db.execute(_PENDING, (limit,))]))
    found = {row["queue_id"]: Found(row, []) for row in db.execute(_MESSAGES, (ids,))}
    for row in db.execute(_RECIPIENTS, (ids,)):
        if row["queue_id"] in found:
            found[row["queue_id"]].recipients.append(row)
    return list(found.values())


def as_due(found: Found, raw: bytes) -> Due:
    told = tuple(_told(row) for row in found.recipients if row["notice"] in ("failure", "delay", "success"))
    return Due(message=as_message(found.row, found.recipients, raw), recipients=told)


def _told(row: sqlite3.Row) -> Told:
    return Told(
        address=row["address"],
        kind=row["notice"],
        status=row["status"],
        wish=as_wish(row),
        reply=as_reply(row),
        fault=row["fault"],
        provider=row["provider"],
        provider_message_id=row["provider_message_id"],
        attempts=row["attempts"],
        expires_at=row["expires_at"],
        tried_at=row["tried_at"],
    )


@dataclass(frozen=True, slots=True)
class Settlement:
    due: Due
    messages: tuple[Intake, ...]
    posts: tuple[Post, ...]
    now: float


def settle(db: sqlite3.Connection, args: Sequence[Settlement], *, retention: Retention) -> list[Resolved]:
    return [_settle(db, one, retention) for one in args]


def _settle(db: sqlite3.Connection, one: Settlement, retention: Retention) -> Resolved:
    queue_id = one.due.message.queue_id
    settled = [db.execute(_SETTLE, (queue_id, told.address, told.kind)).rowcount for told in one.due.recipients]
    if any(settled):  # else the operator was faster: retried or dropped, it is nothing to be told of
        insert_messages(db, one.messages, retention=retention)
        insert_posts(db, one.posts)
    return resolve(db, {queue_id: one.now}, retention)


@dataclass(frozen=True, slots=True)
class Late:
    now: float
    after: float
    limit: int


def note_late(db: sqlite3.Connection, args: Sequence[Late]) -> list[int]:
    """How many messages were looked at: `limit` means that there may be more."""
    return [_note_late(db, one) for one in args]


def _note_late(db: sqlite3.Connection, one: Late) -> int:
    row = db.execute("SELECT value FROM state WHERE name = ?", (CURSOR,)).fetchone()
    cursor = row[0] if row else ""
    looked = []
    for queue_id, created_at, resolved_at in db.execute(_NEXT, (cursor, one.limit)):
        if created_at + one.after > one.now:
            break
        looked.append((queue_id, resolved_at))
    if looked:
        db.execute(_MARK, (json.dumps([queue_id for queue_id, resolved_at in looked if resolved_at is None]),))
        db.execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", (CURSOR, looked[-1][0], one.now))
    return len(looked)
