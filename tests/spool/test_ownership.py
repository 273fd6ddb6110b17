"""One daemon owns a spool; the CLI works beside it and wakes it."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import pytest
import uvloop

from bridge.spool.base import SpoolBusy, SpoolError
from bridge.spool.ids import new_queue_id
from bridge.spool.opening import open_spool
from bridge.spool.sqlite import SqliteSpool

from .conftest import OPTIONS
from .support import ANN, NOW, OpenSpool, claim, message, statuses


async def test_a_second_daemon_is_refused_and_changes_nothing(spool: SqliteSpool, opened: OpenSpool) -> None:
    await spool.put(message())
    await claim(spool)
    with pytest.raises(SpoolBusy, match="belongs to another running daemon"):
        await opened()

    assert await claim(spool) == []


async def test_a_closed_spool_can_be_opened_again(spool: SqliteSpool, opened: OpenSpool) -> None:
    await spool.close()

    await (await opened()).put(message())


async def test_the_cli_creates_nothing(opened: OpenSpool, path: Path) -> None:
    with pytest.raises(SpoolError, match=f"there is no spool at {re.escape(str(path))}"):
        await opened(daemon=False)

    assert list(path.parent.iterdir()) == []


async def test_the_cli_does_not_void_leases(spool: SqliteSpool, opened: OpenSpool) -> None:
    await spool.put(message())
    (item,) = await claim(spool)
    await (await opened(daemon=False)).list_messages()

    assert await spool.record(item.message.queue_id, item.lease, {}, now=NOW) == frozenset()
    assert await spool.renew(item.message.queue_id, item.lease, NOW + 99)


async def test_a_change_of_the_cli_is_seen_by_the_daemon_and_wakes_it(spool: SqliteSpool, opened: OpenSpool) -> None:
    woken = asyncio.Event()
    spool.on_wake(woken.set)
    mail = message()
    await spool.put(mail)
    cli = await opened(daemon=False)
    assert await cli.hold([mail.queue_id], now=NOW) == 1
    await asyncio.wait_for(woken.wait(), 5)

    assert await statuses(spool, mail.queue_id) == {ANN: "held"}
    woken.clear()
    assert await cli.release([mail.queue_id], now=NOW) == 1
    await asyncio.wait_for(woken.wait(), 5)
    assert len(await claim(spool)) == 1


async def test_a_change_without_a_daemon_is_no_error(opened: OpenSpool) -> None:
    spool = await opened()
    mail = message()
    await spool.put(mail)
    await spool.close()

    assert await (await opened(daemon=False)).drop([mail.queue_id], now=NOW) == 1


async def test_ringing_often_never_blocks(spool: SqliteSpool) -> None:
    for _ in range(2000):
        spool._bell.ring()

    heard: list[int] = []
    woken = asyncio.Event()

    def hear() -> None:
        heard.append(1)
        woken.set()

    spool.on_wake(hear)
    await asyncio.wait_for(woken.wait(), 5)
    await asyncio.sleep(0)
    assert len(heard) == 1


async def test_a_long_path_can_be_rung_too(opened: OpenSpool, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / "spool.db"
    spool = await opened(path=deep)
    woken = asyncio.Event()
    spool.on_wake(woken.set)
    (await opened(path=deep, daemon=False))._bell.ring()

    await asyncio.wait_for(woken.wait(), 5)


def test_waking_works_under_uvloop(path: Path) -> None:
    async def main() -> None:
        spool = await open_spool(path, **OPTIONS)
        woken = asyncio.Event()
        spool.on_wake(woken.set)
        threading.Thread(target=spool._bell.ring).start()
        await asyncio.wait_for(woken.wait(), 5)
        await spool.put(message())
        assert len(await claim(spool)) == 1
        await spool.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_a_spool_that_nobody_may_write_is_named(opened: OpenSpool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(SpoolError, match=r"cannot open .*spool\.db: File exists"):
        await opened(path=tmp_path / "file" / "spool.db")


def test_queue_ids_are_unique_and_sorted_by_time() -> None:
    ids = [new_queue_id() for _ in range(20_000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9A-Z]{16}", queue_id) for queue_id in ids)


def test_queue_ids_of_many_threads_are_unique() -> None:
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.extend([new_queue_id() for _ in range(2000)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(ids)) == 16_000
