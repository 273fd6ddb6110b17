"""The way in: messages that are queued, and the history of those that never had to be.

Bodies above a threshold are files, written by a small pool before their row, so that a large one does not keep small ones
waiting.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from bridge import tracing
from bridge.model import FAILED, UNRESOLVED, Message
from bridge.spool.base import Lease, Result, SpoolError, SpoolFull
from bridge.spool.engine import ROW_BYTES, Parts
from bridge.spool.intake import Intake, Retention, head, insert_messages, new_entry, written_status
from bridge.spool.numbers import Numbers
from bridge.spool.writer import NO_ROOM, Operation

log = structlog.get_logger()


def past_operation(keep: Retention) -> Operation:
    """What `History` has the writer do."""
    write = _flattened(partial(insert_messages, retention=keep))
    return Operation("history", write, durable=False, grows=True, rank=0)


class Entrance(Numbers):
    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._put = Operation("put", partial(insert_messages, retention=parts.keep), grows=True, rank=0)
        self._look = Operation("look", self._look_around, durable=False)

    async def put(
        self,
        message: Message,
        *,
        results: Mapping[str, Result] | None = None,
        lease: Lease | None = None,
        leased: Mapping[str, str] | Sequence[str] = (),
        provider: str = "",
        lanes: Mapping[str, str] | None = None,
    ) -> None:
        began = tracing.tracer.now()
        entry = replace(
            new_entry(message, lanes or {}),
            results=results or {},
            lease=lease,
            leased=leased if isinstance(leased, Mapping) else dict.fromkeys(leased, provider),
            provider=provider,
            keep_body=any(result.keep_body for result in (results or {}).values()),
        )
        await self._put_entry(entry)
        tracing.tracer.ended("spool.put", message.queue_id, began)
        self._count(entry)

    async def put_history(
        self, message: Message, results: Mapping[str, Result], *, keep_body: bool = False, durable: bool = False
    ) -> None:
        entry = Intake(
            head=head(message),
            recipients=message.envelope.recipients,
            expires_at=message.expires_at,
            now=message.created_at,
            raw=message.raw if keep_body else None,
            crc=None,
            results=results,
            keep_body=keep_body,
            source=message.source,
            queue=False,
        )
        self._count(entry)
        if self._keep.history_s <= 0:
            return
        if not (durable or keep_body):
            await self._history.add(entry)
            return
        try:
            await self._put_entry(entry)
        except (SpoolFull, SpoolError) as error:
            if durable:
                raise
            log.warning("spool.history_lost", messages=1, error=str(error))

    async def _put_entry(self, entry: Intake) -> None:
        raw = entry.raw or b""
        if len(raw) > self._threshold:
            if _needs_body(entry):
                await self._put_large(entry, raw)
                return
            entry, raw = replace(entry, raw=None), b""
        if self._space.full and self._space.fresh:
            raise SpoolFull(NO_ROOM)
        await self._writer.submit(self._put, entry, len(raw) + ROW_BYTES)

    async def _put_large(self, entry: Intake, raw: bytes) -> None:
        """The file first, durably, then the row that names it."""
        queue_id = entry.head[0]
        if not (await self._looked() and self._space.reserve_file(len(raw))):
            raise SpoolFull(NO_ROOM)
        kept = False
        try:
            crc = await self._pool.run(self._bodies.write, queue_id, raw)
            await self._writer.submit(self._put, replace(entry, raw=None, crc=crc), ROW_BYTES)
            kept = True
        except SpoolFull:
            self._discard((queue_id,))
            raise
        finally:
            # After a SpoolError the row may be there all the same (a failed fsync): the next start knows.
            self._space.settle_file(len(raw), kept=kept)

    async def _looked(self) -> bool:
        """Have what is known about the space be fresh; False when the spool cannot even be read."""
        if not self._space.fresh:
            try:
                await self._writer.submit(self._look, None)
            except SpoolError:
                return False
        return True

    def _look_around(self, db: sqlite3.Connection, args: Sequence[Any]) -> list[None]:
        self._space.refresh(db)
        return [None] * len(args)


def _needs_body(entry: Intake) -> bool:
    """False for one whose recipients are all decided and of whom nobody is told; then no file is written for it."""
    statuses = {written_status(result) for result in entry.results.values()}
    undecided = len(entry.results) < len(entry.recipients) or not statuses.isdisjoint(UNRESOLVED)
    told = not statuses.isdisjoint(FAILED) or any(wish.wants("SUCCESS") for wish in entry.wishes.values())
    return entry.keep_body or undecided or (entry.queue and told)


def _flattened(write: Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]) -> Callable[..., list[None]]:
    """The history comes in blocks: a job is a list of entries."""

    def write_blocks(db: sqlite3.Connection, blocks: Sequence[Sequence[Any]]) -> list[None]:
        write(db, [entry for block in blocks for entry in block])
        return [None] * len(blocks)

    return write_blocks
