"""What the operator sees: pages of messages, one message with its events, a body. Read only, on a reader's connection."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.spool.base import SpoolError

# What a filter of `list` stands for; the statuses that recipient_open does not index are found through message.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "active": ("queued", "deferred", "held"),
    "failed": ("bounced", "expired"),
    **{name: (name,) for name in ("queued", "deferred", "held", "sent", "delivered", "bounced", "expired", "dropped")},
}
UNINDEXED = frozenset({"sent", "delivered"})
# One word for a message: the first of these that one of its recipients has.
STATUSES = ("held", "deferred", "queued", "bounced", "expired", "dropped", "sent", "delivered")
AFTER_ALL = "\U0010ffff"

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


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages: those with a recipient that is all of this at once. `reason` is sought in its last reply and fault,
    without case; `since`: the message came, or came to its end, at this time or later."""

    status: str = ""
    reason: str = ""
    provider: str = ""
    since: float = 0.0

    @property
    def plain(self) -> bool:
        return not (self.reason or self.provider or self.since)

    def takes(self, row: dict[str, Any]) -> bool:
        return max(row["created_at"], row["resolved_at"] or 0.0) >= self.since and any(
            self._takes(one) for one in row["recipients"]
        )

    def _takes(self, one: dict[str, Any]) -> bool:
        said = f"{one['code'] or ''} {one['enhanced']} {one['text']} {one['fault']}".lower()
        wanted = GROUPS.get(self.status, ())
        return (
            (not wanted or one["status"] in wanted)
            and self.reason.lower() in said
            and (not self.provider or one["provider"] == self.provider)
        )


def list_messages(db: sqlite3.Connection, status: str, limit: int, before: str) -> list[dict[str, Any]]:
    """Newest first. Queue ids sort by time, so a page begins before the last id of the one before, even if that is gone."""
    return summary_rows(db, _page(db, status, limit, before or AFTER_ALL))


def summary_rows(db: sqlite3.Connection, ids: Sequence[str]) -> list[dict[str, Any]]:
    """As in the list, newest first."""
    return [_summary(row, recipients) for row, recipients in _rows(db, ids)]


def _page(db: sqlite3.Connection, status: str, limit: int, before: str) -> list[str]:
    if not status:
        return [row[0] for row in db.execute(_PAGE, (before, limit))]
    if status not in GROUPS:
        raise SpoolError(f"no such status: {status}; one of {', '.join(GROUPS)}")
    found: set[str] = set()
    for one in GROUPS[status]:
        sql = _PAGE_DONE if one in UNINDEXED else _PAGE_OPEN
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
    return {
        **facts(row),
        "status": status_of({one["status"] for one in recipients}),
        "recipients": [recipient(one) for one in recipients],
    }


def facts(row: sqlite3.Row) -> dict[str, Any]:
    """Of the message itself."""
    kept = ("queue_id", "created_at", "expires_at", "resolved_at", "size", "kind", "subject", "message_id",
            "client", "helo", "user", "listener", "protocol")  # fmt: skip
    return {
        **{name: row[name] for name in kept},
        "sender": row["reverse_path"],
        "smtputf8": bool(row["smtputf8"]),
        "has_body": row["body"] != "",
    }


def status_of(statuses: Container[str]) -> str:
    return next((word for word in STATUSES if word in statuses), "")


def recipient(row: sqlite3.Row) -> dict[str, Any]:
    kept = ("address", "status", "attempts", "next_attempt_at", "expires_at", "code", "enhanced", "text", "fault",
            "provider", "provider_message_id", "unknowns", "blocked_at", "leased_until", "lane", "notice")  # fmt: skip
    return {name: row[name] for name in kept}


def show(db: sqlite3.Connection, queue_id: str) -> dict[str, Any] | None:
    """As in the list, with `events` and, by address, `timelines`."""
    for row, recipients in _rows(db, [queue_id]):
        told = [dict(event) for event in db.execute(f"{EVENTS} ORDER BY seq", (queue_id,))]
        by_address = timelines(told, [one["address"] for one in recipients])
        return {**_summary(row, recipients), "events": told, "timelines": by_address}
    return None


EVENTS = "SELECT at, event, address, provider, code, enhanced, text, detail FROM event WHERE queue_id = ?"


_ATTEMPTS = frozenset({"sent", "deferred", "bounced", "unknown"})


def timelines(events: Sequence[dict[str, Any]], addresses: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """By address what concerns this recipient, in order; `attempt`: its number when it is the end of one, else None."""
    found: dict[str, list[dict[str, Any]]] = {address: [] for address in addresses}
    attempts: Counter[str] = Counter()
    for event in events:
        is_attempt = event["event"] in _ATTEMPTS and event["provider"] != ""
        for address in addresses if event["address"] == "" else (event["address"],):
            if address in found:
                attempts[address] += is_attempt
                found[address].append({**event, "attempt": attempts[address] if is_attempt else None})
    return found


def find_body(db: sqlite3.Connection, queue_id: str) -> sqlite3.Row | None:
    """body ('', 'row', 'file'), size, crc, raw."""
    row: sqlite3.Row | None = db.execute(
        "SELECT message.body, size, crc, raw FROM message LEFT JOIN body USING (queue_id) WHERE queue_id = ?",
        (queue_id,),
    ).fetchone()
    return row


_DEPTH = "SELECT lane, count(*) FROM recipient INDEXED BY recipient_ready WHERE ready = 1 GROUP BY lane"
_DEPTH_WAITING = """
SELECT lane, count(*) FROM recipient INDEXED BY recipient_due
WHERE ready = 0 AND status IN ('queued', 'deferred') GROUP BY lane
"""
_AGES = "SELECT count(*) FROM message WHERE failed = 0 AND resolved_at IS NULL AND created_at <= ? AND created_at > ?"
_FAILURES = """
SELECT queue_id, address, status, provider, code, enhanced, text FROM recipient INDEXED BY recipient_open
WHERE status IN ('queued', 'deferred', 'held', 'bounced', 'expired', 'dropped') AND status = ?
ORDER BY queue_id DESC LIMIT ?
"""


def depth(db: sqlite3.Connection) -> dict[str, int]:
    """Recipients that wait, by lane."""
    found: dict[str, int] = {}
    for sql in (_DEPTH, _DEPTH_WAITING):
        for lane, count in db.execute(sql):
            found[lane] = found.get(lane, 0) + count
    return found


def ages(db: sqlite3.Connection, now: float, bounds: Sequence[float]) -> list[int]:
    """Unresolved messages not older than each bound and older than the one before, in seconds; then those beyond the last."""
    edges = [0.0, *bounds, now + 1.0]
    return [
        db.execute(_AGES, (now - younger if younger else now + 1e9, now - older)).fetchone()[0]
        for younger, older in itertools.pairwise(edges)
    ]


def last_failures(db: sqlite3.Connection, limit: int) -> list[dict[str, Any]]:
    """The newest messages that failed or are held, newest first."""
    found = [dict(row) for one in ("held", "bounced", "expired") for row in db.execute(_FAILURES, (one, limit))]
    return sorted(found, key=lambda row: str(row["queue_id"]), reverse=True)[:limit]
