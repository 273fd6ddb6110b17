"""The spool on SQLite (`base.Spool`): a coroutine hands a job to the writer's thread and waits for its commit.

One daemon owns the file. Here is what it does with mail that is there: attempts, what waits, housekeeping; the other sides
of a spool are named in `engine`.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import structlog

from bridge import tracing
from bridge.reply import Reply
from bridge.spool import leases, retention, waiting
from bridge.spool.base import Claimed, Depth, Lease, Result, SpoolError, SpoolFull, Stats
from bridge.spool.bodies import BodyLost
from bridge.spool.departure import Departure
from bridge.spool.engine import Parts
from bridge.spool.hearing import Hearing
from bridge.spool.messages import Found, as_claimed, find_claimed
from bridge.spool.operator import SqliteOperator
from bridge.spool.ownership import Lock
from bridge.spool.space import used_bytes
from bridge.spool.telling import Telling
from bridge.spool.writer import Operation

BODY_LOST = Reply(451, "4.3.0", "The message body is missing or damaged in the spool")
WAITING_PAGE = 500  # recipients in one transaction when a provider is back
_WRITABLE_BYTES = 64 << 10  # a spool that could just take a tiny message is as good as full

log = structlog.get_logger()


class SqliteSpool(Departure, Telling, Hearing, SqliteOperator):
    """Made by `opening.open_spool`."""

    def __init__(self, parts: Parts, *, lock: Lock | None, owner: str, generation: int) -> None:
        super().__init__(parts)
        self._lock = lock
        self._owner = owner
        self._epochs = itertools.count(generation << 32 | 1)
        self._closed = False
        self._claim = Operation("claim", leases.Turns().claim, rank=2)
        self._renew = Operation("renew", leases.renew)
        self._record = Operation("record", partial(leases.record, retention=parts.keep))
        self._unclaim = Operation("give_back", leases.give_back)
        self._prune = Operation("prune", partial(retention.prune, retention=parts.keep), rank=2)
        self._resume = Operation("resume", waiting.resume)
        self._lengthen = Operation("lengthen", waiting.lengthen)
        self._expire = Operation("expire", partial(waiting.expire, retention=parts.keep))

    # Attempts

    def new_lease(self, until: float) -> Lease:
        """For an attempt made while the client waits, should its message have to be spooled under it (`put`)."""
        return Lease(owner=self._owner, epoch=next(self._epochs), until=until)

    async def claim(
        self,
        *,
        owner: str,
        now: float,
        lease_s: float,
        limit: int,
        lanes: Sequence[str] | None = None,
        provider: str = "",
        sorting: bool = False,
        octets: int | None = None,
    ) -> Sequence[Claimed]:
        began = tracing.tracer.now()
        lease = Lease(owner=owner, epoch=next(self._epochs), until=now + lease_s)
        among = None if lanes is None else tuple(lanes)
        if not await self._writer.submit(self._claim, leases.Claim(lease, now, limit, among, provider, sorting)):
            return ()
        try:
            found = await self._loader.run(find_claimed, lease)
        except SpoolError:
            with suppress(SpoolError):
                await self._writer.submit(self._unclaim, leases.Unclaim(owner, now, lease.epoch, sorting=sorting))
            raise
        loaded: list[Claimed] = []
        for one in found:
            if octets is not None and loaded and one.row["size"] > octets:
                await self.give_back(one.row["queue_id"], lease, now=now, sorting=sorting)
            elif claimed := await self._load(one, now, sorting):
                loaded.append(claimed)
                tracing.tracer.ended("spool.claim", claimed.message.queue_id, began, provider=provider)
                octets = None if octets is None else octets - one.row["size"]
        return tuple(loaded)

    async def _load(self, found: Found, now: float, sorting: bool) -> Claimed | None:
        """None for a message whose body is lost: it is held, and the queue goes on (a corrupt entry never stops it)."""
        try:
            raw = await self._read(found.row)
        except BodyLost as error:
            await self._set_aside(found, str(error), now)
            return None
        return as_claimed(found, raw, now, sorting=sorting)

    async def _set_aside(self, found: Found, why: str, now: float) -> None:
        log.error("spool.body_lost", queue_id=found.row["queue_id"], error=why)
        held = Result(status="held", reply=BODY_LOST, detail=why)
        await self.record(found.row["queue_id"], found.lease, dict.fromkeys(found.addresses, held), now=now)

    async def renew(self, queue_id: str, lease: Lease, until: float) -> bool:
        renewed: bool = await self._writer.submit(self._renew, leases.Renewal(queue_id, lease, until))
        return renewed

    async def record(self, queue_id: str, lease: Lease, results: Mapping[str, Result], *, now: float) -> frozenset[str]:
        began = tracing.tracer.now()
        recorded: leases.Recorded
        recorded = await self._writer.submit(self._record, leases.Record(queue_id, lease, results, now))
        self._discard(recorded.files)
        tracing.tracer.ended("spool.record", queue_id, began, recipients=len(recorded.written))
        self._count_results(queue_id, {a: r for a, r in results.items() if a in recorded.written}, now)
        return recorded.written

    async def give_back(
        self,
        queue_id: str,
        lease: Lease,
        *,
        now: float,
        lanes: Mapping[str, str] | None = None,
        sorting: bool = False,
    ) -> int:
        undone = leases.Unclaim(lease.owner, now, lease.epoch, queue_id, lanes or {}, sorting)
        given: int = await self._writer.submit(self._unclaim, undone)
        return given

    # What waits

    async def next_due(self, lanes: Sequence[str] | None = None) -> float | None:
        return await self._reader.run(waiting.next_due, lanes)

    async def lanes(self, *, ready_only: bool = False) -> Sequence[str]:
        return await self._reader.run(waiting.lanes, ready_only)

    async def resume(self, lanes: Sequence[str], *, now: float, blocked_s: float = 0.0) -> int:
        """In small transactions, before anything of it is claimed: what is due then has its whole lifetime."""
        among, total, after = tuple(lanes), 0, (0.0, "")
        while page := await self._loader.run(waiting.deferred_page, among, WAITING_PAGE, after):
            total += await self._writer.submit(self._resume, waiting.Resume([q for _, q in page], among, now))
            after = page[-1]
        if blocked_s > 0:
            for lane in among:
                await self._lengthen_lane(lane, blocked_s, now)
        return total

    async def _lengthen_lane(self, lane: str, blocked_s: float, now: float) -> None:
        after = ("", "")
        while page := await self._reader.run(waiting.ready_page, lane, WAITING_PAGE, after):
            ids = [queue_id for _, queue_id in page]
            await self._writer.submit(self._lengthen, waiting.Lengthen(ids, (lane,), blocked_s, now))
            after = page[-1]

    async def expire(self, lanes: Sequence[str], *, now: float, limit: int = 500) -> Mapping[str, Mapping[str, Result]]:
        over = await self._reader.run(waiting.find_over, lanes, now, limit)
        if not over:
            return {}
        expired: waiting.Expired = await self._writer.submit(self._expire, waiting.Expire(over, now))
        self._discard(expired.files)
        for queue_id, results in expired.results.items():
            self._count_results(queue_id, results, now)
        return expired.results

    # Housekeeping

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
        return await self._searcher.run(_stats)

    async def queue_depth(self) -> Depth:
        return await self._reader.run(waiting.depth)

    async def oldest_waiting(self) -> float | None:
        return await self._reader.run(waiting.oldest)

    async def free_bytes(self) -> int:
        return await self._pool.run(self._space.disk_free)

    async def writable(self) -> bool:
        return await self._looked() and self._space.has_room(_WRITABLE_BYTES)

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
        if self._lock is not None:
            with suppress(SpoolError, SpoolFull):
                await self.save_numbers(now=time.time())
        self._bell.close()
        for reader in (self._reader, self._loader, self._searcher):
            await asyncio.to_thread(reader.close)
        await self._writer.close()
        await asyncio.to_thread(self._pool.close)
        if self._lock is not None:
            self._lock.release()


def _stats(db: sqlite3.Connection) -> Stats:
    counts = db.execute(
        "SELECT status, count(*) FROM recipient INDEXED BY recipient_open"
        " WHERE status IN ('queued', 'deferred', 'held', 'bounced', 'expired', 'dropped') GROUP BY status"
    )
    by_status = {row[0]: row[1] for row in counts}
    (oldest,) = db.execute("SELECT min(created_at) FROM message WHERE failed = 0 AND resolved_at IS NULL").fetchone()
    return Stats(by_status=by_status, oldest=oldest, bytes=used_bytes(db))
