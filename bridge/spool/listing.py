"""What the operator sees: pages of messages, one message with its events, a body. Read only, on a reader's connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from bridge.spool.base import SpoolError

# What a filter of `list` stands for; the statuses that recipient_open does not index are found through message.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "active": ("queued", "deferred", "held"),
    "failed": ("bounced", "expired"),
    **{name: (name,) for name in ("queued", "deferred", "held", "sent", "delivered", "bounced", "expired", "dropped")},
}
_UNINDEXED = frozenset({"sent", "delivered"})
# One word for a message: the first of these that one of its recipients has.
_SUMMARY = ("held", "deferred", "queued", "bounced", "expired", "dropped", "sent", "delivered")
_AFTER_ALL = "\U0010ffff"

_PAGE = "SELECT queue_id FROM message WHERE queue_id < ? ORDER BY queue_id DESC LIMIT ?"
_PAGE_OPEN = """
SELECT DISTINCT queue_id FROM recipient INDEXED BY recipient_open
WHERE status IN ('queued', 'deferred', 'held', 'bounced', 'expired', 'dropped') AND status = ? AND queue_id < ?
ORDER BY queue_id DESC LIMIT ?
"""
_PAGE_DONE = """
SELECT queue_id FROM message WHERE EXISTS (
    SELECT 1 FROM recipient WHERE recipient.queue_id = message.queue_id AND status = ?
) AND queue_id < ? ORDER BY queue_id DESC LIMIT ?
"""


def list_messages(db: sqlite3.Connection, status: str, limit: int, before: str) -> list[dict[str, Any]]:
    """Newest first. Queue ids sort by time, so a page begins before the last id of the one before, even if that is gone."""
    ids = _page(db, status, limit, before or _AFTER_ALL)
    return [_summary(row, recipients) for row, recipients in _rows(db, ids)]


def _page(db: sqlite3.Connection, status: str, limit: int, before: str) -> list[str]:
    if not status:
        return [row[0] for row in db.execute(_PAGE, (before, limit))]
    if status not in GROUPS:
        raise SpoolError(f"no such status: {status}; one of {', '.join(GROUPS)}")
    found: set[str] = set()
    for one in GROUPS[status]:
        sql = _PAGE_DONE if one in _UNINDEXED else _PAGE_OPEN
        found.update(row[0] for row in db.execute(sql, (one, before, limit)))
    return sorted(found, reverse=True)[:limit]


def _rows(db: sqlite3.Connection, ids: Sequence[str]) -> list[tuple[sqlite3.Row, list[sqlite3.Row]]]:
    wanted = json.dumps(ids)
    recipients: dict[str, list[sqlite3.Row]] = {queue_id: [] for queue_id in ids}
    for row in db.execute(
        "SELECT * FROM recipient WHERE queue_id IN (SELECT value FROM json_each(?)) ORDER BY queue_id, position",
        (wanted,),
    ):
        recipients[row["queue_id"]].append(row)
    messages = db.execute(
        "SELECT * FROM message WHERE queue_id IN (SELECT value FROM json_each(?)) ORDER BY queue_id DESC", (wanted,)
    )
    return [(row, recipients[row["queue_id"]]) for row in messages]


def _summary(row: sqlite3.Row, recipients: list[sqlite3.Row]) -> dict[str, Any]:
    statuses = {one["status"] for one in recipients}
    kept = ("queue_id", "created_at", "expires_at", "resolved_at", "size", "kind", "subject", "message_id",
            "client", "helo", "user", "protocol")  # fmt: skip
    return {
        **{name: row[name] for name in kept},
        "sender": row["reverse_path"],
        "smtputf8": bool(row["smtputf8"]),
        "status": next((word for word in _SUMMARY if word in statuses), ""),
        "has_body": row["body"] != "",
        "recipients": [_recipient(one) for one in recipients],
    }


def _recipient(row: sqlite3.Row) -> dict[str, Any]:
    kept = ("address", "status", "attempts", "next_attempt_at", "expires_at", "code", "enhanced", "text", "fault",
            "provider", "provider_message_id", "unknowns", "blocked_at", "leased_until")  # fmt: skip
    return {name: row[name] for name in kept}


def show(db: sqlite3.Connection, queue_id: str) -> dict[str, Any] | None:
    for row, recipients in _rows(db, [queue_id]):
        events = db.execute(
            "SELECT at, event, address, provider, code, enhanced, text, detail FROM event WHERE queue_id = ? ORDER BY seq",
            (queue_id,),
        )
        return {**_summary(row, recipients), "events": [dict(event) for event in events]}
    return None


def find_body(db: sqlite3.Connection, queue_id: str) -> sqlite3.Row | None:
    """body ('', 'row', 'file'), size, crc, raw."""
    row: sqlite3.Row | None = db.execute(
        "SELECT message.body, size, crc, raw FROM message LEFT JOIN body USING (queue_id) WHERE queue_id = ?",
        (queue_id,),
    ).fetchone()
    return row
