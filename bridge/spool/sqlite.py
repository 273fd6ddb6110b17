"""The spool on SQLite (`base.Spool`): a coroutine hands a job to the writer's thread and waits for its commit.

One daemon owns the file. Bodies above a threshold are files, written by a small pool before their row, so that a large
one does not keep small ones waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from bridge import tracing
from bridge.model import FAILED, UNRESOLVED, Event, Message
from bridge.reply import Reply
from bridge.spool import events as event_rows
from bridge.spool import leases, memory, requests, retention, waiting
from bridge.spool import notices as notice_rows
from bridge.spool.base import (
    Asked,
    Claimed,
    Depth,
    Due,
    Heard,
    Lease,
    NotedEvent,
    Post,
    Result,
    SpoolError,
    SpoolFull,
    Stats,
)
from bridge.spool.bodies import Bodies, BodyLost
from bridge.spool.history import History
from bridge.spool.ids import time_of
from bridge.spool.intake import Intake, Retention, head, insert_messages, written_status
from bridge.spool.messages import Found, as_claimed, find_claimed
from bridge.spool.operator import SqliteOperator
from bridge.spool.ownership import Bell, Lock
from bridge.spool.reader import Pool, Reader
from bridge.spool.space import Space, used_bytes
from bridge.spool.tally import KEY as TALLY
from bridge.spool.writer import NO_ROOM, Operation, Writer

BODY_LOST = Reply(451, "4.3.0", "The message body is missing or damaged in the spool")
REFUSED = (*FAILED, "dropped")
_ROW_BYTES = 512  # what a message takes beside its body, roughly
NOTICE_BYTES = 8 << 20  # of messages whose senders are to be told something, read at once, or one of any size
WAITING_PAGE = 500  # recipients in one transaction when a provider is back
_WRITABLE_BYTES = 64 << 10  # a spool that could just take a tiny message is as good as full

log = structlog.get_logger()


class SqliteSpool(SqliteOperator):
    """Made by `opening.open_spool`."""

    def __init__(
        self,
        *,
        writer: Writer,
        readers: tuple[Reader, Reader, Reader],
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
            writer=writer,
            reader=readers[0],
            searcher=readers[2],
            history=history,
            bodies=bodies,
            pool=pool,
            bell=bell,
            keep=keep,
        )
        self._loader = readers[1]
        self._space = space
        self._lock = lock
        self._keep = keep
        self._threshold = file_threshold
        self._owner = owner
        self._epochs = itertools.count(generation << 32 | 1)
        self._closed = False
        self._saved = ""  # of the numbers
        self._put = Operation("put", write, grows=True, rank=0)
        self._claim = Operation("claim", leases.Turns().claim, rank=2)
        self._renew = Operation("renew", leases.renew)
        self._record = Operation("record", partial(leases.record, retention=keep))
        self._unclaim = Operation("give_back", leases.give_back)
        self._prune = Operation("prune", partial(retention.prune, retention=keep), rank=2)
        self._resume = Operation("resume", waiting.resume)
        self._lengthen = Operation("lengthen", waiting.lengthen)
        self._expire = Operation("expire", partial(waiting.expire, retention=keep))
        self._late = Operation("note_late", notice_rows.note_late)
        self._settle = Operation("settle_notices", partial(notice_rows.settle, retention=keep), grows=True)
        self._take_events = Operation("take_events", partial(event_rows.take, retention=keep), grows=True)
        self._index_events = Operation("expect_events", event_rows.index)
        self._rejoin = Operation("rejoin_events", partial(event_rows.rejoin, retention=keep))
        self._prune_events = Operation("prune_events", event_rows.prune, rank=2)
        self._remember = Operation("remember", memory.remember, durable=False)
        self._remember_well = Operation("remember", memory.remember)
        self._note_seen = Operation("note_seen", memory.note_seen, durable=False)
        self._forget = Operation("forget", memory.forget, durable=False, rank=2)
        self._note_request = Operation("note_request", requests.note, rank=0)
        self._begin_request = Operation("begin_request", requests.note, durable=False, rank=0)
        self._forget_requests = Operation("forget_requests", requests.forget, durable=False, rank=2)
        self._settle_post = Operation("settle_post", memory.settle_posts)
        self._look = Operation("look", self._look_around, durable=False)

    # New messages

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
            _entry(message, lanes or {}),
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

    def _count(self, entry: Intake) -> None:
        queue_id, results = entry.head[0], entry.results
        if entry.queue or any(result.status not in REFUSED for result in results.values()):
            self._tally.accepted(entry.now)
        self._count_results(queue_id, results, entry.now)

    def _count_results(self, queue_id: str, results: Mapping[str, Result], now: float) -> None:
        if results:
            came = time_of(queue_id)
            took_s = None if came is None else time.time() - came
            for address, result in results.items():
                self._tally.result(queue_id, address, result, at=now, took_s=took_s)

    async def _put_entry(self, entry: Intake) -> None:
        raw = entry.raw or b""
        if len(raw) > self._threshold:
            if _needs_body(entry):
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

    async def _read(self, row: sqlite3.Row) -> bytes:
        """Raises BodyLost."""
        if row["body"] == "file":
            return await self._pool.run(self._bodies.read, row["queue_id"], row["size"], row["crc"])
        if row["raw"] is None or len(row["raw"]) != row["size"]:
            raise BodyLost("no body row")
        return bytes(row["raw"])

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

    # What senders and the operator are to be told

    async def note_late(self, *, now: float, after: float, limit: int = 1000) -> int:
        looked: int = await self._writer.submit(self._late, notice_rows.Late(now, after, limit))
        return looked

    async def notices(self, *, limit: int = 50) -> Sequence[Due]:
        found: list[Due] = []
        octets = 0
        for one in await self._loader.run(notice_rows.find, limit):
            octets += one.row["size"]
            if found and octets > NOTICE_BYTES:
                break
            found.append(await self._as_due(one))
        return found

    async def _as_due(self, found: notice_rows.Found) -> Due:
        try:
            raw = await self._read(found.row)
        except BodyLost:
            raw = b""
        return notice_rows.as_due(found, raw)

    async def settle_notices(
        self, due: Due, *, messages: Sequence[tuple[Message, str]] = (), posts: Sequence[Post] = (), now: float
    ) -> None:
        entries = tuple(_entry(m, dict.fromkeys(m.envelope.recipients, lane)) for m, lane in messages)
        settlement = notice_rows.Settlement(due, entries, tuple(posts), now)
        size = sum(len(message.raw) + _ROW_BYTES for message, _ in messages)
        resolved: retention.Resolved = await self._writer.submit(self._settle, settlement, size)
        self._discard(resolved.files)

    async def due_posts(self, *, now: float, limit: int = 20, target: str = "") -> Sequence[Post]:
        return await self._reader.run(memory.due_posts, now, limit, target)

    async def settle_post(self, post: Post, *, next_attempt_at: float | None) -> None:
        await self._writer.submit(self._settle_post, memory.PostDone(post.id, next_attempt_at))

    # What providers tell

    async def expect_events(self, wanted: bool) -> None:
        await self._writer.submit(self._index_events, wanted)

    async def take_events(
        self,
        provider: str,
        events: Sequence[NotedEvent],
        *,
        now: float,
        posts: event_rows.MakePosts = lambda heard: (),
    ) -> Sequence[Heard]:
        await self._history.settle()  # what was sent a moment ago can be told of already
        size = sum(len(noted.event.raw) + _ROW_BYTES for noted in events)
        return await self._heard(self._take_events, event_rows.Take(provider, events, now, posts), size)

    async def rejoin_events(
        self,
        *,
        since: float,
        now: float,
        note: Callable[[Event], NotedEvent],
        limit: int = 500,
        posts: event_rows.MakePosts = lambda heard: (),
    ) -> Sequence[Heard]:
        return await self._heard(self._rejoin, event_rows.Rejoin(since, now, limit, note, posts))

    async def _heard(self, operation: Operation, arg: Any, size: int = 0) -> Sequence[Heard]:
        taken: event_rows.Taken = await self._writer.submit(operation, arg, size)
        self._discard(taken.files)
        for one in taken.heard:
            if one.status == "bounced":
                late = Result(status="bounced", reply=one.reply, provider=one.provider)
                self._tally.result(one.queue_id, one.address, late, at=arg.now, took_s=None)
        return taken.heard

    async def prune_events(self, *, now: float, limit: int = 500) -> int:
        before = now - max(self._keep.history_s, event_rows.KEPT_S)
        pruned: int = await self._writer.submit(self._prune_events, event_rows.PruneEvents(before, limit))
        return pruned

    # What is remembered

    async def remember(
        self, values: Mapping[str, str], *, now: float, durable: bool = False, posts: Sequence[Post] = ()
    ) -> None:
        operation = self._remember_well if durable else self._remember
        await self._writer.submit(operation, memory.Remember(values, now, tuple(posts)))

    async def note_seen(self, fingerprint: bytes, reply: str, *, now: float) -> None:
        await self._writer.submit(self._note_seen, memory.Seen(fingerprint, reply, now))

    async def find_seen(self, fingerprint: bytes, *, since: float) -> str | None:
        return await self._reader.run(memory.find_seen, fingerprint, since)

    async def forget(self, *, seen_before: float, limit: int = 500) -> int:
        dropped: int = await self._writer.submit(self._forget, memory.Forget(seen_before, limit))
        return dropped

    async def note_request(self, asked: Asked, *, now: float) -> None:
        operation = self._note_request if asked.status else self._begin_request
        await self._writer.submit(operation, requests.Note(asked, now))

    async def find_request(self, key: bytes, *, since: float) -> Asked | None:
        return await self._reader.run(requests.find, key, since)

    async def forget_requests(self, *, before: float, limit: int = 500) -> int:
        dropped: int = await self._writer.submit(self._forget_requests, requests.Forget(before, limit))
        return dropped

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

    async def save_numbers(self, *, now: float) -> None:
        if (text := self._tally.text()) != self._saved:
            await self.remember({TALLY: text}, now=now)
            self._saved = text

    async def restore_numbers(self) -> None:
        with suppress(SpoolError):
            if text := (await self.recall(TALLY)).get(TALLY):
                self._tally.restore(text)
        self._saved = self._tally.text()

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


def _entry(message: Message, lanes: Mapping[str, str]) -> Intake:
    return Intake(
        head=head(message),
        recipients=message.envelope.recipients,
        expires_at=message.expires_at,
        now=message.created_at,
        raw=message.raw,
        crc=None,
        results={},
        lanes=lanes,
        source=message.source,
        wishes=message.envelope.wishes,
    )


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


def _stats(db: sqlite3.Connection) -> Stats:
    counts = db.execute(
        "SELECT status, count(*) FROM recipient INDEXED BY recipient_open"
        " WHERE status IN ('queued', 'deferred', 'held', 'bounced', 'expired', 'dropped') GROUP BY status"
    )
    by_status = {row[0]: row[1] for row in counts}
    (oldest,) = db.execute("SELECT min(created_at) FROM message WHERE failed = 0 AND resolved_at IS NULL").fetchone()
    return Stats(by_status=by_status, oldest=oldest, bytes=used_bytes(db))
