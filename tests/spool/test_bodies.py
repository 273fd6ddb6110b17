"""Large bodies are files, and whatever happens to a file never stops the queue."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bridge.spool.base import SpoolError
from bridge.spool.bodies import Bodies, BodyLost
from bridge.spool.sqlite import BODY_LOST, SqliteSpool
from bridge.spool.writer import Operation

from .support import ANN, BOB, BOUNCED, NOW, SENT, OpenSpool, claim, claim_one, message, record, statuses, tell_senders

BIG = os.urandom(20_000)


def files(path: Path) -> set[str]:
    return {found.name for found in path.with_name("spool.db.d").rglob("*") if found.is_file()}


def body_file(path: Path, queue_id: str) -> Path:
    return path.with_name("spool.db.d") / queue_id[-2:] / queue_id


async def test_a_body_above_the_threshold_is_a_file(spool: SqliteSpool, path: Path) -> None:
    small, big = message(raw=BIG[:10_000]), message(raw=BIG[:10_001])
    for mail in (small, big):
        await spool.put(mail)

    assert files(path) == {big.queue_id}
    assert {item.message.raw for item in await claim(spool)} == {small.raw, big.raw}
    assert await spool.body(big.queue_id) == big.raw


async def test_a_body_is_on_disk_with_its_name_before_its_row_is_written(
    spool: SqliteSpool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 5321 6.1: what was said 250 to outlives a loss of power, with the entries of the directories it is in."""
    mail, steps, sync = message(raw=BIG), [], os.fsync

    def noted(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        with contextlib.closing(sqlite3.connect(path)) as db:
            rows = db.execute("SELECT count(*) FROM message").fetchone()[0]
        steps.append((name, body_file(path, mail.queue_id).exists(), rows))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    await spool.put(mail)

    assert steps == [
        (path.parent.name, False, 0),
        ("spool.db.d", False, 0),
        (mail.queue_id + ".tmp", False, 0),
        (mail.queue_id[-2:], True, 0),
    ]
    assert await spool.body(mail.queue_id) == BIG


async def test_the_file_goes_with_the_last_recipient(spool: SqliteSpool, path: Path) -> None:
    mail = message(ANN, BOB, raw=BIG)
    await spool.put(mail)
    item = await claim_one(spool)
    await record(spool, item, {ANN: SENT})
    assert files(path) == {mail.queue_id}
    await record(spool, item, {BOB: SENT})
    await spool.close()

    assert files(path) == set()


async def test_a_message_that_needs_no_body_makes_no_file(spool: SqliteSpool, path: Path) -> None:
    await spool.put(message(raw=BIG), results={ANN: SENT})
    await spool.put_history(message(raw=BIG), {ANN: BOUNCED})
    await spool.stats()

    assert files(path) == set()


async def test_pruning_and_dropping_remove_files(spool: SqliteSpool, path: Path) -> None:
    dropped, failed = message(raw=BIG), message(raw=BIG)
    await spool.put(dropped)
    await spool.put(failed, results={ANN: BOUNCED})
    await spool.drop([dropped.queue_id], now=NOW)
    await tell_senders(spool)
    assert await spool.prune(now=NOW + 300) == 2
    await spool.close()

    assert files(path) == set()


async def test_the_size_of_files_counts(spool: SqliteSpool) -> None:
    empty = (await spool.stats()).bytes
    mail = message(raw=os.urandom(500_000))
    await spool.put(mail)
    assert (await spool.stats()).bytes - empty >= 500_000
    await record(spool, await claim_one(spool), SENT)

    assert (await spool.stats()).bytes - empty < 100_000


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "unreadable"])
async def test_a_lost_body_is_held_and_the_others_go_on(spool: SqliteSpool, path: Path, damage: str) -> None:
    lost, good = message(raw=BIG), message(raw=BIG)
    await spool.put(lost)
    await spool.put(good)
    spoil(body_file(path, lost.queue_id), damage)

    assert [item.message.queue_id for item in await claim(spool)] == [good.queue_id]
    row = await spool.show(lost.queue_id)
    assert row
    assert row["status"] == "held"
    assert row["recipients"][0]["text"] == BODY_LOST.text
    assert await spool.body(lost.queue_id) is None


def spoil(file: Path, damage: str) -> None:
    raw = file.read_bytes()
    if damage == "cut":
        file.write_bytes(raw[:-1])
    elif damage == "changed":
        file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    else:
        file.unlink()
        if damage == "unreadable":
            file.mkdir()


async def test_a_lost_body_row_is_held_too(spool: SqliteSpool) -> None:
    mail = message()
    await spool.put(mail)

    def lose(db: sqlite3.Connection, args: Sequence[Any]) -> list[None]:
        db.execute("DELETE FROM body")
        return [None]

    await spool._writer.submit(Operation("lose", lose), None)

    assert await claim(spool) == []
    assert await statuses(spool, mail.queue_id) == {ANN: "held"}


async def test_what_a_crash_left_over_is_removed_at_the_start(opened: OpenSpool, path: Path) -> None:
    spool = await opened()
    mail = message(raw=BIG)
    await spool.put(mail)
    await spool.close()
    place = body_file(path, mail.queue_id).parent
    (place / "ORPHAN").write_bytes(BIG)
    (place / f"{mail.queue_id}.tmp").write_bytes(BIG[:100])
    spool = await opened()

    assert files(path) == {mail.queue_id}
    assert (await claim_one(spool)).message.raw == BIG


def test_a_file_newer_than_the_start_is_not_swept(tmp_path: Path) -> None:
    bodies = Bodies(tmp_path / "d")
    bodies.write("NEW", b"x")

    written = (tmp_path / "d" / "EW" / "NEW").stat().st_mtime
    assert bodies.sweep(frozenset(), written - 1) == 0
    assert bodies.sweep(frozenset(), written) == 1
    with pytest.raises(BodyLost):
        bodies.read("NEW", 1, 0)


async def test_a_second_message_under_the_same_id_leaves_the_first_ones_file_alone(spool: SqliteSpool) -> None:
    mail = message(raw=BIG)
    await spool.put(mail)
    with pytest.raises(SpoolError, match="already"):
        await spool.put(message(raw=BIG[::-1], queue_id=mail.queue_id))

    assert await spool.body(mail.queue_id) == BIG


@pytest.mark.parametrize("queue_id", ["../../x", "a/b", "", ".", "a\0b", "x" * 65])
def test_a_queue_id_is_never_a_path(tmp_path: Path, queue_id: str) -> None:
    with pytest.raises(SpoolError, match="letters and digits"):
        Bodies(tmp_path / "d").write(queue_id, b"x")

    assert list(tmp_path.iterdir()) == []


async def test_a_directory_that_cannot_be_written_is_a_spool_error(spool: SqliteSpool, path: Path) -> None:
    path.with_name("spool.db.d").write_bytes(b"a file where the directory should be")

    with pytest.raises(SpoolError, match="cannot write a body file"):
        await spool.put(message(raw=BIG))
