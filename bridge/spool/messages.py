"""Reading messages back: rows of the database to the words of the stages."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bridge.model import Envelope, Message, Origin, Wish
from bridge.reply import Reply
from bridge.spool.base import Claimed, ClaimedRecipient, Lease

_LEASED = "SELECT queue_id FROM recipient WHERE lease_owner IS NOT NULL AND lease_owner = :owner AND epoch = :epoch"
_MESSAGES = f"""
SELECT message.*, body.raw FROM message LEFT JOIN body ON body.queue_id = message.queue_id
WHERE message.queue_id IN ({_LEASED})
"""  # noqa: S608 constants
_RECIPIENTS = f"""
SELECT *, COALESCE(lease_owner = :owner AND epoch = :epoch, 0) AS ours FROM recipient
WHERE queue_id IN ({_LEASED}) ORDER BY queue_id, position
"""  # noqa: S608 constants


@dataclass(slots=True)
class Found:
    """A claimed message as read; `raw` is None when its body is a file still to be read, or is lost."""

    row: sqlite3.Row
    lease: Lease
    raw: bytes | None = field(repr=False)
    recipients: list[sqlite3.Row]

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(row["address"] for row in self.recipients if row["ours"])


def find_claimed(db: sqlite3.Connection, lease: Lease) -> list[Found]:
    """All that is under `lease`, the oldest message first."""
    values = {"owner": lease.owner, "epoch": lease.epoch}
    db.execute("BEGIN")  # one snapshot for both
    try:
        messages = db.execute(_MESSAGES, values).fetchall()
        recipients = db.execute(_RECIPIENTS, values).fetchall()
    finally:
        db.execute("COMMIT")
    found = {row["queue_id"]: Found(row, lease, row["raw"], []) for row in messages}
    for row in recipients:
        found[row["queue_id"]].recipients.append(row)
    return sorted(found.values(), key=lambda one: str(one.row["queue_id"]))


def as_claimed(found: Found, raw: bytes, now: float, *, sorting: bool = False) -> Claimed:
    recipients = tuple(claimed_recipient(row, now, sorting=sorting) for row in found.recipients if row["ours"])
    message = as_message(found.row, found.recipients, raw)
    return Claimed(message=message, lease=replace(found.lease), recipients=recipients)


def as_message(row: sqlite3.Row, recipients: Sequence[sqlite3.Row], raw: bytes) -> Message:
    return Message(
        queue_id=row["queue_id"],
        envelope=Envelope(
            reverse_path=row["reverse_path"],
            recipients=tuple(one["address"] for one in recipients),
            smtputf8=bool(row["smtputf8"]),
            ret=row["ret"],
            envid=row["envid"],
            wishes={one["address"]: as_wish(one) for one in recipients if one["notify"] or one["orcpt"]},
        ),
        raw=raw,
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        origin=Origin(
            client=row["client"],
            helo=row["helo"],
            user=row["user"],
            listener=row["listener"],
            protocol=row["protocol"],
        ),
        message_id=row["message_id"],
        subject=row["subject"],
        kind=row["kind"],
        source=recipients[0]["source"],
    )


def as_wish(row: sqlite3.Row) -> Wish:
    return Wish(row["notify"], row["orcpt"])


def claimed_recipient(row: sqlite3.Row, now: float, *, sorting: bool = False) -> ClaimedRecipient:
    return ClaimedRecipient(
        address=row["address"],
        attempts=row["attempts"],
        expires_at=moved_expiry(row["expires_at"], row["blocked_at"], now),
        group=row["unknown_group"],
        interrupted=row["begun"] > (0 if sorting else 1),
        unknowns=row["unknowns"],
        provider=row["provider"],
        last_reply=as_reply(row),
        lane=row["lane"],
    )


def moved_expiry(expires_at: float, blocked_at: float | None, now: float) -> float:
    """Time blocked by an ACCOUNT fault or on hold does not count (DESIGN 3.5)."""
    return expires_at if blocked_at is None else expires_at + (now - blocked_at)


def as_reply(row: sqlite3.Row | dict[str, Any]) -> Reply | None:
    return None if row["code"] is None else Reply.safe(row["code"], row["enhanced"], row["text"])
