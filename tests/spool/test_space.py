"""The floor and the size limit, without a full disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bridge.spool import space as space_module
from bridge.spool.base import SpoolError, SpoolFull
from bridge.spool.errors import as_spool_error, no_room, shared
from bridge.spool.sqlite import SqliteSpool
from bridge.spool.writer import BATCH_BYTES, Operation

from .support import ANN, NOW, SENT, OpenSpool, claim, fill, message, record

ALL_OF_IT = 1 << 60


@pytest.fixture(autouse=True)
def _always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_module, "CHECK_S", 0.0)


@pytest.mark.parametrize("size", [10, 50_000])
async def test_below_the_floor_nothing_is_accepted(opened: OpenSpool, size: int) -> None:
    spool = await opened(min_free=ALL_OF_IT)
    with pytest.raises(SpoolFull, match="no room"):
        await spool.put(message(raw=b"x" * size))

    assert not await spool.writable()
    assert await spool.list_messages() == []


async def test_below_the_floor_outcomes_are_recorded(opened: OpenSpool) -> None:
    spool = await opened()
    await spool.put(message())
    await spool.close()
    spool = await opened(min_free=ALL_OF_IT)
    (item,) = await claim(spool)

    assert await record(spool, item, SENT) == {ANN}
    assert await spool.prune(now=NOW + 200) == 1


@pytest.mark.parametrize("size", [5000, 200_000])
async def test_max_bytes_is_kept_and_draining_makes_room(opened: OpenSpool, size: int) -> None:
    spool = await opened(max_bytes=2_000_000, history_s=0)
    accepted = await fill(spool, b"x" * size)
    used = (await spool.stats()).bytes
    assert 1_500_000 < used <= 2_000_000
    assert size > 5000 or not await spool.writable()

    while items := await claim(spool):
        for item in items:
            await record(spool, item, SENT)
    await spool.put(message(raw=b"x" * size))
    assert len(accepted) >= 8


@pytest.mark.parametrize("file_threshold", [1_000_000, 1000], ids=["rows", "files"])
async def test_one_batch_does_not_overrun_the_limit(
    opened: OpenSpool, monkeypatch: pytest.MonkeyPatch, file_threshold: int
) -> None:
    spool = await opened(max_bytes=1_000_000, file_threshold=file_threshold)
    assert await spool.writable()
    monkeypatch.setattr(space_module, "CHECK_S", 1e9)  # one look for all of them
    puts = [spool.put(message(raw=b"x" * 9000)) for _ in range(500)]
    outcomes = [type(one) for one in await asyncio.gather(*puts, return_exceptions=True)]

    assert set(outcomes) == {type(None), SpoolFull}
    assert (await spool.stats()).bytes < 1_300_000


async def test_history_is_not_written_without_room(opened: OpenSpool) -> None:
    spool = await opened(min_free=ALL_OF_IT)
    await spool.put_history(message(), {ANN: SENT})
    with pytest.raises(SpoolFull):
        await spool.put_history(message(), {ANN: SENT}, keep_body=True, durable=True)

    assert await spool.list_messages() == []


async def test_the_reserve_stands_beside_the_spool(opened: OpenSpool, path: Path) -> None:
    reserve = path.with_name("spool.db.reserve")
    spool = await opened(reserve_bytes=100_000)
    assert reserve.stat().st_size == 100_000
    assert reserve.stat().st_blocks * 512 >= 100_000  # really allocated
    await spool.close()

    assert reserve.exists()


async def test_sqlite_running_out_of_pages_is_a_full_spool_that_recovers(spool: SqliteSpool, path: Path) -> None:
    """The same error as ENOSPC, from a limit of SQLite's own."""

    def limit(db: sqlite3.Connection, args: Sequence[Any]) -> list[None]:
        for pages in args:
            db.execute(f"PRAGMA max_page_count = {pages}")
        return [None] * len(args)

    await spool.put(message())
    await spool._writer.submit(Operation("limit", limit), 60)
    await fill(spool, b"x" * 9000)
    item = (await claim(spool))[0]
    assert await record(spool, item, SENT) == {ANN}

    await spool._writer.submit(Operation("limit", limit), 1_000_000)
    await spool.put(message(raw=b"x" * 9000))
    assert path.with_name("spool.db.reserve").exists()


async def test_a_batch_is_bounded_in_bytes(opened: OpenSpool) -> None:
    spool = await opened(file_threshold=1 << 20)
    await asyncio.gather(*(spool.put(message(raw=b"x" * (BATCH_BYTES // 4))) for _ in range(12)))

    assert spool.commits >= 4


def error_with(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "full", "common"),
    [
        (error_with(sqlite3.SQLITE_FULL), True, False),
        (error_with(sqlite3.SQLITE_IOERR_WRITE), True, True),
        (error_with(sqlite3.SQLITE_IOERR_FSYNC), False, True),
        (error_with(sqlite3.SQLITE_READONLY_DIRECTORY), False, True),
        (error_with(sqlite3.SQLITE_BUSY), False, True),
        (error_with(sqlite3.SQLITE_CORRUPT), False, True),
        (error_with(sqlite3.SQLITE_CONSTRAINT_UNIQUE), False, False),
        (ValueError("a body"), False, False),
        (SpoolError("ours"), False, False),
    ],
)
def test_errors_are_sorted_by_whose_they_are(error: Exception, full: bool, common: bool) -> None:
    assert (no_room(error), shared(error)) == (full, common)
    assert isinstance(as_spool_error(error), SpoolError)
    assert "a body" not in str(as_spool_error(error))
