"""The spool on SQLite (`base.Spool`): a coroutine hands a job to the writer's thread and waits for its commit.

One daemon owns the file. Bodies above a threshold are files, written by a small pool before their row, so that a large
one does not keep small ones waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from bridge.model import FAILED, UNRESOLVED, Message
from bridge.reply import Reply
from bridge.spool import leases, retention
from bridge.spool.base import Claimed, Lease, Result, SpoolError, SpoolFull, Stats
from bridge.spool.bodies import Bodies, BodyLost
from bridge.spool.history import History
from bridge.spool.intake import Intake, Retention, head, insert_messages, written_status
from bridge.spool.messages import Found, as_claimed, find_claimed
from bridge.spool.operator import SqliteOperator
from bridge.spool.ownership import Bell, Lock
from bridge.spool.reader import Pool, Reader
from bridge.spool.space import Space, used_bytes
from bridge.spool.writer import NO_ROOM, Operation, Writer

BODY_LOST = Reply(451, "4.3.0", "The message body is missing or damaged in the spool")
_ROW_BYTES = 512  # what a message takes beside its body, roughly
_WRITABLE_BYTES = 64 << 10  # a spool that could just take a tiny message is as good as full

log = structlog.get_logger()


class SqliteSpool(SqliteOperator):
    """Made by `opening.open_spool`."""

    def __init__(
        self,
        *,
        writer: Writer,
        readers: tuple[Reader, Reader],
        bodies: Bodies,
        space: Space,
        bell: Bell,
        lock: Lock | None,
        keep: Retention,
        file_threshold: int,
        owner: str,
        generation: int,
    ) -> None:
        pool = Pool("spool-body", 2)
        write = partial(insert_messages, retention=keep)
        past = Operation("history", _flattened(write), durable=False, grows=True, rank=0)
        history = History(writer, past, asyncio.get_running_loop())
        super().__init__(
            writer=writer, reader=readers[0], history=history, bodies=bodies, pool=pool, bell=bell, keep=keep
        )
        self._loader = readers[1]
        self._space = space
        self._lock = lock
        self._keep = keep
        self._threshold = file_threshold
        self._owner = owner
        self._epochs = itertools.count(generation << 32 | 1)
        self._closed = False
        self._put = Operation("put", write, grows=True, rank=0)
        self._claim = Operation("claim", leases.claim, rank=2)
        self._renew = Operation("renew", leases.renew)
        self._record = Operation("record", partial(leases.record, retention=keep))
        self._unclaim = Operation("give_back", leases.give_back)
        self._prune = Operation("prune", partial(retention.prune, retention=keep), rank=2)
        self._look = Operation("look", self._look_around, durable=False)

    # New messages

    async def put(
        self,
        message: Message,
        *,
        results: Mapping[str, Result] | None = None,
        lease: Lease | None = None,
        leased: Sequence[str] = (),
        provider: str = "",
    ) -> None:
        entry = Intake(
            head=head(message),
            recipients=message.envelope.recipients,
            expires_at=message.expires_at,
            now=message.created_at,
            raw=message.raw,
            crc=None,
            results=results or {},
            lease=lease,
            leased=frozenset(leased),
            provider=provider,
        )
        await self._put_entry(entry)

    async def put_history(
        self, message: Message, results: Mapping[str, Result], *, keep_body: bool = False, durable: bool = False
    ) -> None:
        if self._keep.history_s <= 0:
            return
        entry = Intake(
            head=head(message),
            recipients=message.envelope.recipients,
            expires_at=message.expires_at,
            now=message.created_at,
            raw=message.raw if keep_body else None,
            crc=None,
            results=results,
            keep_body=keep_body,
            queue=False,
        )
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
            if _needs_body(entry, self._keep):
                await self._put_large(entry, raw)
                return
            entry, raw = replace(entry, raw=None), b""
        if self._space.full and self._space.fresh:
            raise SpoolFull(NO_ROOM)
        await self._writer.submit(self._put, entry, len(raw) + _ROW_BYTES)

    async def _put_large(self, entry: Intake, raw: bytes) -> None:
        """The file first, durably, then the row that names it."""
        queue_id = entry.head[0]
        if not (await self._looked() and self._space.reserve_file(len(raw))):
            raise SpoolFull(NO_ROOM)
        kept = False
        try:
            crc = await self._pool.run(self._bodies.write, queue_id, raw)
            await self._writer.submit(self._put, replace(entry, raw=None, crc=crc), _ROW_BYTES)
            kept = True
        except SpoolFull:
            self._discard((queue_id,))
            raise
        finally:
            # After a SpoolError the row may be there all the same (a failed fsync): the next start knows.
            self._space.settle_file(len(raw), kept=kept)

    # Attempts

    def new_lease(self, until: float) -> Lease:
        """For an attempt made while the client waits, should its message have to be spooled under it (`put`)."""
        return Lease(owner=self._owner, epoch=next(self._epochs), until=until)

    async def claim(self, *, owner: str, now: float, lease_s: float, limit: int) -> Sequence[Claimed]:
        lease = Lease(owner=owner, epoch=next(self._epochs), until=now + lease_s)
        if not await self._writer.submit(self._claim, leases.Claim(lease, now, limit)):
            return ()
        try:
            found = await self._loader.run(find_claimed, lease)
        except SpoolError:
            with suppress(SpoolError):
                await self._writer.submit(self._unclaim, leases.Unclaim(owner, now, lease.epoch))
            raise
        loaded = [await self._load(one, now) for one in found]
        return tuple(one for one in loaded if one is not None)

    async def _load(self, found: Found, now: float) -> Claimed | None:
        """None for a message whose body is lost: it is held, and the queue goes on (a corrupt entry never stops it)."""
        row = found.row
        try:
            if row["body"] == "file":
                raw = await self._pool.run(self._bodies.read, row["queue_id"], row["size"], row["crc"])
            elif found.raw is not None and len(found.raw) == row["size"]:
                raw = found.raw
            else:
                raise BodyLost("no body row")
        except BodyLost as error:
            await self._set_aside(found, str(error), now)
            return None
        return as_claimed(found, raw, now)

    async def _set_aside(self, found: Found, why: str, now: float) -> None:
        log.error("spool.body_lost", queue_id=found.row["queue_id"], error=why)
        held = Result(status="held", reply=BODY_LOST, detail=why)
        await self.record(found.row["queue_id"], found.lease, dict.fromkeys(found.addresses, held), now=now)

    async def renew(self, queue_id: str, lease: Lease, until: float) -> bool:
        renewed: bool = await self._writer.submit(self._renew, leases.Renewal(queue_id, lease, until))
        return renewed

    async def record(self, queue_id: str, lease: Lease, results: Mapping[str, Result], *, now: float) -> frozenset[str]:
        recorded: leases.Recorded
        recorded = await self._writer.submit(self._record, leases.Record(queue_id, lease, results, now))
        self._discard(recorded.files)
        return recorded.written

    async def give_back(self, queue_id: str, lease: Lease, *, now: float) -> int:
        given: int = await self._writer.submit(self._unclaim, leases.Unclaim(lease.owner, now, lease.epoch, queue_id))
        return given

    # Housekeeping

    async def next_due(self) -> float | None:
        return await self._reader.run(_next_due)

    async def prune(self, *, now: float, limit: int = 500) -> int:
        """In small transactions: what else waits is written in between."""
        deleted = 0
        while deleted < limit:
            size = min(retention.PRUNE_BATCH, limit - deleted)
            pruned: retention.Pruned = await self._writer.submit(self._prune, retention.Prune(now, size))
            self._discard(pruned.files)
            deleted += pruned.deleted
            if not pruned.more:
                break
        return deleted

    async def stats(self) -> Stats:
        """Of what was sent there is no count here: metrics count it, and the rows go with the history."""
        await self._history.settle()
        return await self._reader.run(_stats)

    async def writable(self) -> bool:
        return await self._looked() and self._space.has_room(_WRITABLE_BYTES)

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

    # Around it

    def on_wake(self, callback: Callable[[], None]) -> None:
        """Call back, on this loop, when another process (or the API in this one) changed the queue."""
        self._bell.on_ring(callback)

    @property
    def commits(self) -> int:
        """Transactions with an fsync so far."""
        return self._writer.commits

    @property
    def relaxed_commits(self) -> int:
        """Transactions without one: history only."""
        return self._writer.relaxed_commits

    @property
    def batch_sizes(self) -> Mapping[int, int]:
        """Jobs in a transaction, rounded up to a power of two -> how often."""
        return self._writer.batch_sizes

    async def close(self) -> None:
        """Finish what waits, checkpoint, and let go of the file. What is asked for afterwards is a SpoolError."""
        if self._closed:
            return
        self._closed = True
        await self._history.settle()
        self._bell.close()
        for reader in (self._reader, self._loader):
            await asyncio.to_thread(reader.close)
        await self._writer.close()
        await asyncio.to_thread(self._pool.close)
        if self._lock is not None:
            self._lock.release()


def _needs_body(entry: Intake, keep: Retention) -> bool:
    """False for one whose recipients are all decided and need no second try; then no file is written for it."""
    statuses = {written_status(result) for result in entry.results.values()}
    undecided = len(entry.results) < len(entry.recipients) or not statuses.isdisjoint(UNRESOLVED)
    return entry.keep_body or undecided or (keep.failed_s > 0 and not statuses.isdisjoint(FAILED))


def _flattened(write: Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]) -> Callable[..., list[None]]:
    """The history comes in blocks: a job is a list of entries."""

    def write_blocks(db: sqlite3.Connection, blocks: Sequence[Sequence[Any]]) -> list[None]:
        write(db, [entry for block in blocks for entry in block])
        return [None] * len(blocks)

    return write_blocks


def _next_due(db: sqlite3.Connection) -> float | None:
    row = db.execute(
        "SELECT next_attempt_at FROM recipient INDEXED BY recipient_due"
        " WHERE status IN ('queued', 'deferred') ORDER BY next_attempt_at LIMIT 1"
    ).fetchone()
    return None if row is None else float(row[0])


def _stats(db: sqlite3.Connection) -> Stats:
    counts = db.execute(
        "SELECT status, count(*) FROM recipient INDEXED BY recipient_open"
        " WHERE status IN ('queued', 'deferred', 'held', 'bounced', 'expired', 'dropped') GROUP BY status"
    )
    by_status = {row[0]: row[1] for row in counts}
    (oldest,) = db.execute("SELECT min(created_at) FROM message WHERE failed = 0 AND resolved_at IS NULL").fetchone()
    return Stats(by_status=by_status, oldest=oldest, bytes=used_bytes(db))
