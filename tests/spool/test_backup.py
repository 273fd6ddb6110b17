"""A copy of a spool under load: whole, openable, and with all that had been acknowledged when it was begun."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bridge.spool import backup as backup_module
from bridge.spool import schema
from bridge.spool.backup import back_up
from bridge.spool.base import Claimed, SpoolError
from bridge.spool.sqlite import SqliteSpool

from .support import ANN, NOW, SENT, OpenSpool, claim, claim_one, message, record, statuses
from .test_full_disk import mount

LARGE = b"x" * 20_000  # a file


class Load:
    """loader.py as a process, and what it has said so far."""

    def __init__(self, path: Path) -> None:
        self.said: list[list[str]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.spool.loader", str(path)], stdout=subprocess.PIPE, text=True
        )
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line.split())

    def put(self) -> set[str]:
        return {queue_id for word, *rest in list(self.said) if word == "put" for queue_id in rest}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        assert self.process.stdout
        self.process.stdout.close()


def test_a_copy_under_load_has_all_that_was_acknowledged(path: Path, tmp_path: Path) -> None:
    load = Load(path)
    try:
        for number in range(3):
            deadline = time.monotonic() + 20
            while len(load.put()) < 200 * (number + 1) and time.monotonic() < deadline:
                time.sleep(0.01)
            acknowledged = load.put()
            copied = back_up(path, tmp_path / f"copy{number}")
            after = len(load.put())
            assert after > len(acknowledged) >= 200 * (number + 1)
            assert copied.lost == ()
            check_copy(tmp_path / f"copy{number}", acknowledged)
    finally:
        load.kill()


def check_copy(copy: Path, acknowledged: set[str]) -> None:
    """Each is there, and whose body is to be there has it."""
    assert {place.name for place in copy.iterdir()} <= {"spool.db", "spool.db.d"}
    files = {file.name: file for file in (copy / "spool.db.d").glob("*/*")}
    with closing(sqlite3.connect(copy / "spool.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = {
            queue_id: (body, size) for queue_id, body, size in db.execute("SELECT queue_id, body, size FROM message")
        }
        rows = {queue_id for (queue_id,) in db.execute("SELECT queue_id FROM body")}
    assert acknowledged <= set(found)
    assert rows == {queue_id for queue_id, (body, _) in found.items() if body == "row"}
    in_files = {queue_id: size for queue_id, (body, size) in found.items() if body == "file"}
    assert {name: file.stat().st_size for name, file in files.items()} == in_files
    assert in_files


async def test_a_copy_opens_and_goes_on_where_the_spool_was(
    spool: SqliteSpool, opened: OpenSpool, tmp_path: Path
) -> None:
    mails = [message(raw=raw) for raw in (b"one", LARGE, b"two", LARGE * 2)]
    for mail in mails:
        await spool.put(mail)
    await spool.suppress("gone@example.com", "bounced", now=NOW)
    path = spool._bodies.root.with_suffix("")
    await record(spool, await first(spool), SENT)
    copied = await asyncio.to_thread(back_up, path, tmp_path / "copy")

    assert copied.messages == 3
    copy = await opened(path=tmp_path / "copy" / "spool.db")
    assert [item.message.raw for item in await claim(copy)] == [LARGE, b"two", LARGE * 2]
    assert await statuses(copy, mails[0].queue_id) == {ANN: "sent"}
    assert list(await copy.suppressions()) == ["gone@example.com"]
    assert [item.message.raw for item in await claim(spool)] == [LARGE, b"two", LARGE * 2]


async def first(spool: SqliteSpool) -> Claimed:
    (item,) = await claim(spool, limit=1)
    return item


@pytest.mark.parametrize("held", [False, True])
async def test_who_was_being_tried_is_due_in_the_copy_and_in_doubt(
    spool: SqliteSpool, opened: OpenSpool, tmp_path: Path, held: bool
) -> None:
    mail = message()
    await spool.put(mail)
    await spool.claim(owner="me", now=NOW, lease_s=1e9, limit=1, provider="main")
    await asyncio.to_thread(back_up, spool._bodies.root.with_suffix(""), tmp_path / "copy")
    copy = await opened(path=tmp_path / "copy" / "spool.db", now=time.time(), daemon=not held)
    if held:
        assert await copy.hold([mail.queue_id], now=time.time()) == 1
        await copy.close()
        copy = await opened(path=tmp_path / "copy" / "spool.db", now=time.time())
        assert await claim(copy, time.time() + 9) == []
        assert await copy.release([mail.queue_id], now=time.time()) == 1

    (recipient,) = (await claim_one(copy, time.time() + 9)).recipients
    assert (recipient.interrupted, recipient.lane, recipient.attempts) == (True, "=main", 2)


async def test_a_copy_is_private_and_shares_nothing(spool: SqliteSpool, tmp_path: Path) -> None:
    mail = message(raw=LARGE)
    await spool.put(mail)
    await asyncio.to_thread(back_up, spool._bodies.root.with_suffix(""), tmp_path / "copy")

    places = [tmp_path / "copy", *(tmp_path / "copy").rglob("*")]
    assert {place.stat().st_mode & 0o077 for place in places} == {0}
    (file,) = (tmp_path / "copy").glob("*/*/*")
    assert (file.name, file.stat().st_nlink) == (mail.queue_id, 1)


async def test_a_body_that_goes_while_it_is_copied_has_the_snapshot_taken_anew(
    spool: SqliteSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spool.put(message(raw=LARGE))
    item = await claim_one(spool)
    path = spool._bodies.root.with_suffix("")
    given, loop, taken = backup_module._snapshot, asyncio.get_running_loop(), []

    def snapshot(source: Path, target: Path) -> frozenset[str]:
        """The first: a message comes before it, and is sent after it."""
        if not taken:
            asyncio.run_coroutine_threadsafe(spool.put(mail), loop).result()
        named = given(source, target)
        if not taken:
            asyncio.run_coroutine_threadsafe(finish(), loop).result()
        taken.append(named)
        return named

    mail = message(raw=LARGE, at=NOW)

    async def finish() -> None:
        await record(spool, await claim_one(spool), SENT)
        while spool._bodies._path(mail.queue_id).exists():
            await asyncio.sleep(0.001)

    monkeypatch.setattr(backup_module, "_snapshot", snapshot)
    copied = await asyncio.to_thread(back_up, path, tmp_path / "copy")

    assert [mail.queue_id in named for named in taken] == [True, False]
    assert (copied.lost, copied.messages) == ((), 1)
    assert [file.name for file in (tmp_path / "copy").glob("*/*/*")] == [item.message.queue_id]


async def test_a_body_that_was_lost_is_named(spool: SqliteSpool, tmp_path: Path) -> None:
    mail = message(raw=LARGE)
    await spool.put(mail)
    shutil.rmtree(spool._bodies.root)

    copied = await asyncio.to_thread(back_up, spool._bodies.root.with_suffix(""), tmp_path / "copy")
    assert copied.lost == (mail.queue_id,)


async def test_nothing_is_written_over_and_nothing_is_left_of_what_failed(
    spool: SqliteSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spool._bodies.root.with_suffix("")
    (tmp_path / "there").mkdir()
    back_up(path, tmp_path / "there")
    with pytest.raises(SpoolError, match="there is not empty"):
        back_up(path, tmp_path / "there")
    monkeypatch.setattr(backup_module, "_sync_all", lambda place: os.stat(place / "none"))
    with pytest.raises(OSError, match="none"):
        back_up(path, tmp_path / "another")

    assert {place.name for place in tmp_path.iterdir() if place.is_dir()} <= {"there", "spool.db.d"}


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "volume"
    place.mkdir()
    mount("tmpfs", tmp_path / "image", place)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_copy_into_an_empty_mount_point(spool: SqliteSpool, opened: OpenSpool, mounted: Path) -> None:
    mails = [message(raw=raw) for raw in (b"one", LARGE)]
    for mail in mails:
        await spool.put(mail)
    (mounted / "lost+found").mkdir()
    copied = await asyncio.to_thread(back_up, spool._bodies.root.with_suffix(""), mounted)

    assert copied.messages == 2
    assert {place.name for place in mounted.iterdir()} == {"lost+found", "spool.db", "spool.db.d"}
    copy = await opened(path=mounted / "spool.db")
    assert [item.message.raw for item in await claim(copy)] == [b"one", LARGE]
    await copy.close()


@pytest.mark.parametrize("given", [".", "../here", "link"])
async def test_a_copy_into_the_directory_where_one_is(
    spool: SqliteSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    await spool.put(message(raw=LARGE))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    if given == "link":
        monkeypatch.chdir(tmp_path)
        Path(given).symlink_to(here)
    await asyncio.to_thread(back_up, spool._bodies.root.with_suffix(""), Path(given))

    assert {place.name for place in here.iterdir()} == {"spool.db", "spool.db.d"}
    assert {place.stat().st_mode & 0o077 for place in here.iterdir()} == {0}
    assert schema.version_of(here / "spool.db") == schema.migrations()[-1][0]


async def test_nothing_is_left_in_a_directory_that_was_there(
    spool: SqliteSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spool.put(message(raw=LARGE))
    here, given = tmp_path / "here", Path.rename
    here.mkdir()

    def rename(place: Path, target: Path) -> Path:
        if target == here / "spool.db":
            assert (here / "spool.db.d").is_dir()  # before the database
            raise OSError(errno.EIO, "cannot")
        return given(place, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="cannot"):
        await asyncio.to_thread(back_up, spool._bodies.root.with_suffix(""), here)

    assert list(here.iterdir()) == []


def test_an_older_spool_can_be_copied_before_it_is_migrated(path: Path, tmp_path: Path) -> None:
    schema.create_file(path)
    with closing(schema.connect(path)) as db:
        db.executescript(f"{schema.migrations()[0][1]}\nPRAGMA user_version = 1;")
    back_up(path, tmp_path / "copy")

    assert schema.version_of(tmp_path / "copy" / "spool.db") == 1


def test_a_spool_that_is_not_there_is_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="there is no spool at"):
        back_up(path, tmp_path / "copy")
