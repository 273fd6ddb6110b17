"""Group commit: what waits is one transaction, and no job's trouble is another's."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest

from bridge.spool.base import SpoolError
from bridge.spool.history import BACKLOG
from bridge.spool.sqlite import SqliteSpool
from bridge.spool.writer import Operation

from .support import ANN, NOW, SENT, OpenSpool, claim, message, statuses


async def test_puts_that_wait_are_one_commit(spool: SqliteSpool) -> None:
    before = spool.commits
    await asyncio.gather(*(spool.put(message()) for _ in range(100)))

    assert spool.commits == before + 1
    assert spool.batch_sizes == {128: 1}


async def test_what_arrives_during_a_commit_is_the_next_one(spool: SqliteSpool) -> None:
    async def putter() -> None:
        for _ in range(20):
            await spool.put(message())

    await asyncio.gather(*(putter() for _ in range(20)))

    assert spool.commits < 200
    assert len(await claim(spool, limit=1000)) == 400


async def test_different_jobs_share_a_commit(spool: SqliteSpool) -> None:
    await spool.put(message())
    (item,) = await claim(spool)
    before = spool.commits
    await asyncio.gather(
        spool.record(item.message.queue_id, item.lease, {ANN: SENT}, now=NOW),
        spool.put(message()),
        spool.renew(item.message.queue_id, item.lease, NOW + 99),
        spool.prune(now=NOW),
    )

    assert spool.commits == before + 1


async def test_history_alone_is_committed_without_fsync_and_in_blocks(spool: SqliteSpool) -> None:
    for _ in range(640):
        await spool.put_history(message(), {ANN: SENT})
    assert len(await spool.list_messages(limit=1000)) == 640

    assert spool.commits == 0
    assert 0 < spool.relaxed_commits <= 11


async def test_durable_commits_are_synchronous_again_after_history(spool: SqliteSpool) -> None:
    """PRAGMA synchronous: 1 NORMAL, 2 FULL."""
    levels: list[int] = []

    def look(db: sqlite3.Connection, args: Sequence[Any]) -> list[None]:
        levels.append(db.execute("PRAGMA synchronous").fetchone()[0])
        return [None] * len(args)

    for durable in (True, False, True, False, False, True):
        await spool._writer.submit(Operation("look", look, durable=durable), None)

    assert levels == [2, 1, 2, 1, 1, 2]


async def test_history_far_behind_makes_its_writers_wait(spool: SqliteSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.spool.history.BACKLOG", 100)
    worst = 0
    for _ in range(1000):
        await spool.put_history(message(), {ANN: SENT})
        worst = max(worst, spool._history.backlog)

    assert worst <= 100 < BACKLOG
    assert len(await spool.list_messages(limit=2000)) == 1000


async def test_history_that_cannot_be_written_is_only_logged(spool: SqliteSpool) -> None:
    mail = message()
    await spool.put(mail)
    await spool.put_history(message(queue_id=mail.queue_id), {ANN: SENT})

    assert await statuses(spool, mail.queue_id) == {ANN: "queued"}


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("odd"), MemoryError(), SystemExit(3), RecursionError()])
async def test_the_writer_survives_any_exception(spool: SqliteSpool, error: BaseException) -> None:
    def fail(db: sqlite3.Connection, args: Sequence[Any]) -> list[None]:
        raise error

    job = spool._writer.submit(Operation("fail", fail), None)
    with pytest.raises(SpoolError, match=type(error).__name__):
        await job

    await spool.put(message())
    assert len(await claim(spool)) == 1


async def test_a_job_that_fails_takes_nothing_else_with_it(spool: SqliteSpool) -> None:
    def half_done(db: sqlite3.Connection, args: Sequence[Any]) -> list[None]:
        db.execute("DELETE FROM message")
        raise ValueError("after half of it")

    job = spool._writer.submit(Operation("half", half_done, rank=2), None)
    mails = [message() for _ in range(3)]
    outcomes = await asyncio.gather(job, *(spool.put(mail) for mail in mails), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [SpoolError, *[type(None)] * 3]
    assert len(await claim(spool)) == 3


async def test_a_cancelled_waiter_changes_nothing_about_the_commit(spool: SqliteSpool) -> None:
    cancelled, other = message(), message()
    task = asyncio.ensure_future(spool.put(cancelled))
    await asyncio.sleep(0)
    task.cancel()
    await spool.put(other)

    assert {item.message.queue_id for item in await claim(spool)} == {cancelled.queue_id, other.queue_id}


async def test_a_lost_connection_is_made_anew(spool: SqliteSpool) -> None:
    def lose(db: sqlite3.Connection, args: Sequence[Any]) -> list[None]:
        raise _with_code(sqlite3.OperationalError("disk I/O error"), sqlite3.SQLITE_IOERR_READ)

    first = spool._writer._db
    with pytest.raises(SpoolError, match="disk I/O error"):
        await spool._writer.submit(Operation("lose", lose), None)
    await spool.put(message())

    assert spool._writer._db is not first


def _with_code(error: sqlite3.Error, code: int) -> sqlite3.Error:
    error.sqlite_errorcode = code
    return error


async def test_a_writer_of_another_process_is_waited_for(spool: SqliteSpool, opened: OpenSpool) -> None:
    other = await opened(daemon=False)
    mails = [message() for _ in range(200)]
    holding = asyncio.ensure_future(_hold_one_by_one(other, [mail.queue_id for mail in mails]))
    await asyncio.gather(*(spool.put(mail) for mail in mails))
    await holding

    assert (await spool.stats()).by_status.keys() <= {"held", "queued"}
    assert sum((await spool.stats()).by_status.values()) == 200


async def _hold_one_by_one(spool: SqliteSpool, ids: list[str]) -> None:
    for queue_id in ids:
        await spool.hold([queue_id], now=NOW)
