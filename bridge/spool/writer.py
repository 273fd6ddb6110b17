"""The one thread that writes. Group commit: all jobs that wait are one transaction, one fsync.

A batch first runs together, all jobs of a kind in a few statements; if anything in it fails, the transaction is rolled
back and runs once more with a SAVEPOINT per job, so that one failing job fails alone. Nobody is answered before COMMIT.
The thread survives every error: it answers the jobs at hand with SpoolFull or SpoolError and opens the database anew.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from bridge import metrics
from bridge.spool.base import SpoolError, SpoolFull
from bridge.spool.errors import as_spool_error, no_room, read_only, shared
from bridge.spool.space import Space

MAX_BATCH = 256
BATCH_BYTES = 1 << 20  # bounds the WAL, see space.py
_TRIES = 3  # together, apart, and apart once more when the reserve had to be given back
NO_ROOM = "no room for another message"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """What a job does, for all jobs of its kind in a batch: `run(db, args)` gives one result per argument.

    `durable`: needs the fsync. `grows`: takes room, so it is refused when there is none. `rank`: order within a batch.
    """

    name: str
    run: Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
    durable: bool = True
    grows: bool = False
    rank: int = 1


@dataclass(slots=True, eq=False)
class Job:
    operation: Operation
    arg: Any
    future: asyncio.Future[Any]
    size: int = 0


class Writer:
    def __init__(
        self, connect: Callable[[], sqlite3.Connection], space: Space, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._connect = connect
        self._space = space
        self._loop = loop
        self._asked: list[Job] = []  # in this turn of the loop
        self._queue: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._db: sqlite3.Connection | None = None
        self._durable = True
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self.commits = 0  # with fsync
        self.relaxed_commits = 0
        self.batch_sizes: dict[int, int] = {}  # jobs in a batch, rounded up to a power of two -> how often

    def start(self) -> None:
        self._thread.start()

    def submit(self, operation: Operation, arg: Any, size: int = 0) -> asyncio.Future[Any]:
        """Ask for a job, on the loop's thread; the future is resolved after its COMMIT.

        What is asked for in one turn of the loop is handed over together at its end: a loop with much to do would otherwise
        wake the writer for every single message, and each commit costs the loop Python's lock for a while.
        """
        if self._closed:
            raise SpoolError("the spool is closed")
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._asked:
            self._loop.call_soon(self._hand_over)
        self._asked.append(Job(operation, arg, future, size))
        return future

    def _hand_over(self) -> None:
        if self._asked:
            self._queue.put(self._asked)
            self._asked = []

    async def close(self) -> None:
        """Finish what waits, checkpoint, end the thread."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # The rest runs on the writer's thread.

    def _run(self) -> None:
        more = True
        while more:
            jobs, more = self._take()
            for batch in _batches(jobs):
                self._serve_safely(batch)
            jobs, batch = [], []  # else the last message would be held until the next
        self._drop_connection()  # the last connection's close is a checkpoint

    def _serve_safely(self, jobs: list[Job]) -> None:
        try:
            self._serve(jobs)
        except BaseException as error:  # nothing may end this thread: every later 250 depends on it
            log.exception("spool.error", where="writer")
            self._answer(jobs, [as_spool_error(error) for _ in jobs])
            self._drop_connection()

    def _take(self) -> tuple[list[Job], bool]:
        """Everything that waits, up to about MAX_BATCH; nothing is waited for beyond the first."""
        jobs: list[Job] = []
        asked = self._queue.get()
        while asked is not None:
            jobs += asked
            if len(jobs) >= MAX_BATCH:
                return jobs, True
            try:
                asked = self._queue.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _serve(self, jobs: list[Job]) -> None:
        for attempt in range(_TRIES):
            if not jobs:
                return
            try:
                jobs = self._admit(jobs)
                results = self._transaction(jobs, apart=attempt > 0)
            except Exception as error:
                if not self._worth_another(error, attempt):
                    self._fail(jobs, error)
                    return
            else:
                self._answer(jobs, results)
                return

    def _worth_another(self, error: Exception, attempt: int) -> bool:
        if attempt == _TRIES - 1:
            return False
        if no_room(error):
            return self._make_room()
        return attempt == 0 and not shared(error)

    def _admit(self, jobs: list[Job]) -> list[Job]:
        """Refuse the growing jobs for which there is no room; nothing else ever waits for room."""
        if not any(job.operation.grows for job in jobs):
            return jobs
        self._space.refresh(self._connection())
        refused = [job for job in jobs if job.operation.grows and not self._space.admit(job.size)]
        self._answer(refused, [SpoolFull(NO_ROOM) for _ in refused])
        return [job for job in jobs if job not in refused] if refused else jobs

    def _transaction(self, jobs: list[Job], apart: bool) -> list[Any]:
        if not jobs:
            return []
        db = self._connection()
        durable = any(job.operation.durable for job in jobs)
        self._synchronous(db, durable)
        db.execute("BEGIN IMMEDIATE")
        try:
            results = _run_apart(db, jobs) if apart else _run_together(db, jobs)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self._count(len(jobs), durable)
        return results

    def _synchronous(self, db: sqlite3.Connection, durable: bool) -> None:
        """A batch with nothing durable in it (history only) is committed without fsync."""
        if durable != self._durable:
            db.execute("PRAGMA synchronous = FULL" if durable else "PRAGMA synchronous = NORMAL")
            self._durable = durable

    def _make_room(self) -> bool:
        """Give the reserve back, so that from now on `_admit` refuses what grows, and empty the WAL into the database."""
        if not self._space.full:
            self._space.give_back()
        try:
            self._connection().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            log.warning("spool.error", where="checkpoint", error=str(error))
        return True

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        log.error("spool.error", error=str(as_spool_error(error)), jobs=len(jobs))
        full = no_room(error) or read_only(error)
        self._answer(
            jobs, [SpoolFull(NO_ROOM) if full and job.operation.grows else as_spool_error(error) for job in jobs]
        )
        self._drop_connection()

    def _count(self, jobs: int, durable: bool) -> None:
        metrics.commit_batch.observe(jobs)
        if durable:
            self.commits += 1
        else:
            self.relaxed_commits += 1
        bucket = 1 << (jobs - 1).bit_length()
        self.batch_sizes[bucket] = self.batch_sizes.get(bucket, 0) + 1

    def _answer(self, jobs: Sequence[Job], results: Sequence[Any]) -> None:
        if not jobs:
            return
        try:
            self._loop.call_soon_threadsafe(_resolve, list(zip(jobs, results, strict=True)))
        except RuntimeError:  # the loop is closed: nobody is left to be told
            pass

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = self._connect()
            self._durable = True
        return self._db

    def _drop_connection(self) -> None:
        if self._db is not None:
            try:
                self._db.close()
            except sqlite3.Error:
                pass
            self._db = None


def _batches(jobs: list[Job]) -> Iterable[list[Job]]:
    """Cut by bytes, a job larger than that alone."""
    batch: list[Job] = []
    size = 0
    for job in jobs:
        if batch and size + job.size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += job.size
    if batch:
        yield batch


def _run_together(db: sqlite3.Connection, jobs: list[Job]) -> list[Any]:
    results: list[Any] = [None] * len(jobs)
    for operation, places in _by_operation(jobs):
        for place, result in zip(places, operation.run(db, [jobs[p].arg for p in places]), strict=True):
            results[place] = result
    return results


def _by_operation(jobs: list[Job]) -> Iterable[tuple[Operation, list[int]]]:
    """Puts before records: what is in one batch was asked for at the same time, so any order is right."""
    groups: dict[Operation, list[int]] = {}
    for place, job in enumerate(jobs):
        groups.setdefault(job.operation, []).append(place)
    return sorted(groups.items(), key=lambda group: group[0].rank)


def _run_apart(db: sqlite3.Connection, jobs: list[Job]) -> list[Any]:
    results: list[Any] = [None] * len(jobs)
    for operation, places in _by_operation(jobs):
        for place in places:
            results[place] = _run_alone(db, operation, jobs[place].arg)
    return results


def _run_alone(db: sqlite3.Connection, operation: Operation, arg: Any) -> Any:
    db.execute("SAVEPOINT job")
    try:
        (result,) = operation.run(db, [arg])
    except Exception as error:
        if no_room(error) or shared(error) or not db.in_transaction:
            raise
        db.execute("ROLLBACK TO job")
        result = as_spool_error(error)
    db.execute("RELEASE job")
    return result


def _resolve(answers: list[tuple[Job, Any]]) -> None:
    """On the loop's thread, once per batch."""
    for job, result in answers:
        if job.future.done():  # cancelled by its waiter
            continue
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
