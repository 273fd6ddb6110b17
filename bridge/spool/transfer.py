"""Messages that leave the spool for another one, and those that come from one (`portable`), while the daemon runs or not."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bridge.spool.base import SpoolFull, bound_lane
from bridge.spool.bodies import BodyLost
from bridge.spool.engine import ROW_BYTES, Parts
from bridge.spool.entrance import Entrance
from bridge.spool.intake import EVENT, MESSAGE, RECIPIENT, Retention, plain_event
from bridge.spool.summaries import outdate
from bridge.spool.values import Row, insert
from bridge.spool.writer import NO_ROOM, Operation

if TYPE_CHECKING:  # the daemon never needs these models, which take a moment to make
    from bridge.spool.portable import Portable, PortableRecipient

# Open ones and those that may be retried by hand; what was sent is history.
_ALL = "SELECT queue_id FROM message WHERE body <> '' AND (failed = 1 OR resolved_at IS NULL) ORDER BY queue_id"
_MESSAGE = """
SELECT message.*, body.raw FROM message LEFT JOIN body USING (queue_id)
WHERE queue_id = ? AND message.body <> '' AND (failed = 1 OR resolved_at IS NULL)
"""
RECIPIENTS = "SELECT * FROM recipient WHERE queue_id = ? ORDER BY position"
# `message` alone would forget what was sent as soon as the history does, and a repeated import would send it again.
_KNOWN = """
SELECT queue_id FROM message WHERE queue_id IN (SELECT value FROM json_each(:ids))
UNION SELECT queue_id FROM imported WHERE queue_id IN (SELECT value FROM json_each(:ids))
"""


class Transfer(Entrance):
    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._bring_in = Operation("bring_in", partial(bring_in, retention=parts.keep), grows=True, rank=0)

    async def portable_ids(self) -> Sequence[str]:
        """Of all that waits, is on hold, or failed and may be retried; the oldest first."""
        return await self._searcher.run(_ids)

    async def take_out(self, queue_id: str) -> tuple[Portable, bytes] | None:
        """None for what is over (and was not when it was listed), or has lost its body. It stays in this spool."""
        from bridge.spool.portable import from_rows

        found = await self._searcher.run(_find, queue_id)
        if found is None:
            return None
        row, recipients = found
        try:
            raw = await self._read(row)
        except BodyLost:
            return None
        return from_rows(row, recipients, raw), raw

    async def known(self, queue_ids: Sequence[str]) -> frozenset[str]:
        """Those that are in this spool, or came into it by an import in the last year (`retention.IMPORTED_S`)."""
        return await self._searcher.run(_known, queue_ids)

    async def bring_in(self, message: Portable, raw: bytes, *, now: float) -> bool:
        """Who is not finished is due, now or when he was to be tried again. False: its id is `known`.

        Raises SpoolFull, SpoolError.
        """
        large = len(raw) > self._threshold
        arrival = Arrival(message, now, None, None) if large else Arrival(message, now, raw, None)
        if large:
            brought: bool = await self._bring_in_large(arrival, raw)
        else:
            brought = await self._writer.submit(self._bring_in, arrival, len(raw) + ROW_BYTES)
        if brought:
            self._bell.ring()
        return brought

    async def _bring_in_large(self, arrival: Arrival, raw: bytes) -> bool:
        queue_id = arrival.message.queue_id
        if queue_id in await self.known([queue_id]):
            return False
        if not (await self._looked() and self._space.reserve_file(len(raw))):
            raise SpoolFull(NO_ROOM)
        kept = False
        try:
            crc = await self._pool.run(self._body_file, queue_id, raw)
            arrival = Arrival(arrival.message, arrival.now, None, crc)
            brought: bool = await self._writer.submit(self._bring_in, arrival, ROW_BYTES)
            kept = brought
        finally:
            self._space.settle_file(len(raw), kept=kept)
        return kept

    def _body_file(self, queue_id: str, raw: bytes) -> int:
        """Also the one that an import which was cut short has left."""
        crc = zlib.crc32(raw)
        try:
            self._bodies.read(queue_id, len(raw), crc)
        except BodyLost:
            return self._bodies.write(queue_id, raw, beside=True)
        return crc


def _ids(db: sqlite3.Connection) -> list[str]:
    return [row[0] for row in db.execute(_ALL)]


def _known(db: sqlite3.Connection, queue_ids: Sequence[str]) -> frozenset[str]:
    return frozenset(row[0] for row in db.execute(_KNOWN, {"ids": json.dumps(list(queue_ids))}))


def _find(db: sqlite3.Connection, queue_id: str) -> tuple[sqlite3.Row, list[sqlite3.Row]] | None:
    db.execute("BEGIN")  # one snapshot for both
    try:
        row = db.execute(_MESSAGE, (queue_id,)).fetchone()
        recipients = db.execute(RECIPIENTS, (queue_id,)).fetchall()
    finally:
        db.execute("COMMIT")
    return (row, recipients) if row is not None and recipients else None


@dataclass(frozen=True, slots=True)
class Arrival:
    """`raw` is None when the body is a file (`crc`)."""

    message: Portable
    now: float
    raw: bytes | None
    crc: int | None


def bring_in(db: sqlite3.Connection, args: Sequence[Arrival], *, retention: Retention) -> list[bool]:
    return [_bring_in(db, one, retention) for one in args]


def _bring_in(db: sqlite3.Connection, one: Arrival, retention: Retention) -> bool:
    message, now = one.message, one.now
    if _known(db, [message.queue_id]):
        return False
    outdate(db, message.queue_id)
    insert(db, "message", MESSAGE, [_message_row(one)])
    rows = [_recipient_row(one, place, recipient) for place, recipient in enumerate(message.recipients)]
    insert(db, "recipient", RECIPIENT, rows)
    if one.raw is not None:
        insert(db, "body", ("queue_id", "raw"), [(message.queue_id, one.raw)])
    insert(db, "event", EVENT, [plain_event(message.queue_id, now, "imported")])
    insert(db, "imported", ("queue_id", "at"), [(message.queue_id, now)])
    return True


def _message_row(one: Arrival) -> Row:
    message = one.message
    resolved_at = None if message.open else one.now
    body = "file" if one.raw is None else "row"
    return (
        message.queue_id, message.reverse_path, int(message.smtputf8), message.size, message.kind, message.created_at,
        message.expires_at, message.client, message.helo, message.user, message.protocol, message.message_id,
        message.subject, message.listener, message.ret, message.envid, body, one.crc, 0, int(message.failed), resolved_at,
    )  # fmt: skip


def _recipient_row(one: Arrival, position: int, recipient: PortableRecipient) -> Row:
    message = one.message
    due = None
    if recipient.status in ("queued", "deferred"):
        due = max(one.now, recipient.next_attempt_at or 0.0)
    lane = bound_lane(recipient.bound_to) if recipient.bound_to else ""
    return (
        message.queue_id, recipient.address, position, recipient.status, recipient.attempts, due, None, None, None,
        int(recipient.in_doubt), recipient.group, recipient.unknowns, recipient.provider, recipient.provider_message_id,
        recipient.code, recipient.enhanced, recipient.text, recipient.fault, recipient.expires_at, None,
        recipient.blocked_at, lane, message.source, int(due == one.now), recipient.notify, recipient.orcpt,
        recipient.notice,
    )  # fmt: skip
