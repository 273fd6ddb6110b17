"""A spool that an earlier release left (fixtures/, see make_fixture.py) is opened by this one, and a newer one is not."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.spool import schema
from bridge.spool.base import SpoolError
from bridge.spool.opening import open_spool

from .conftest import OPTIONS
from .make_fixture import FIXTURES
from .support import SENT, OpenSpool, claim, message, record
from .test_full_disk import ballast, mount

RELEASES = sorted(path.name for path in FIXTURES.iterdir())
OLDEST, NEWEST = RELEASES[0], RELEASES[-1]
LATEST = schema.migrations()[-1][0]
LATER = 1_900_000_000.0  # when all that waited in a fixture is due, and its history still kept


def restored(name: str, path: Path) -> dict[str, Any]:
    """Put the spool of a release at `path`; returns what that release said of it."""
    place = FIXTURES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    schema.create_file(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript((place / "spool.sql").read_text())
    if (place / "bodies").exists():
        shutil.copytree(place / "bodies", path.with_name(path.name + ".d"))
    said: dict[str, Any] = json.loads((place / "expected.json").read_text())
    return said


def state(path: Path) -> tuple[list[str], list[Any]]:
    """All that is in a database, and what SQLite thinks of it."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        return [*db.iterdump(), version], db.execute("PRAGMA integrity_check").fetchall()


def description(path: Path) -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()


def test_the_fixtures_are_of_earlier_schemas_and_one_is_of_the_last(tmp_path: Path) -> None:
    for name in RELEASES:
        restored(name, tmp_path / name)

    kept = {schema.version_of(tmp_path / name) for name in RELEASES}
    assert kept < set(range(1, LATEST))
    assert LATEST - 1 in kept, (
        f"no fixture has schema {LATEST - 1}: make one with the code before {LATEST} was added, "
        f"python -m tests.spool.make_fixture TREE schema-{LATEST - 1:02} (tests/spool/make_fixture.py)"
    )


@pytest.mark.parametrize("name", RELEASES)
async def test_everything_an_earlier_release_left_is_there(opened: OpenSpool, path: Path, name: str) -> None:
    said = restored(name, path)
    spool = await opened(now=LATER, history_s=1e9, failed_s=1e9)

    for old in said["messages"]:
        row, body = await spool.show(old["queue_id"]), await spool.body(old["queue_id"])
        assert row
        assert (row["sender"], row["subject"]) == (old["sender"], old["subject"])
        found = {one["address"]: [one["status"], one["attempts"]] for one in row["recipients"]}
        assert found == old["recipients"]
        assert (hashlib.sha256(body).hexdigest() if body else "") == old["sha256"]
    assert sorted(await spool.suppressions()) == said["suppressed"]
    assert len(said["messages"]) == 12


@pytest.mark.parametrize("name", RELEASES)
async def test_what_waited_is_delivered_to_each_once(opened: OpenSpool, path: Path, name: str) -> None:
    said = restored(name, path)
    spool = await opened(now=LATER, history_s=1e9, failed_s=1e9)
    claimed = await claim(spool, LATER)
    interrupted = {one.address for item in claimed for one in item.recipients if one.interrupted}
    for item in claimed:
        await record(spool, item, SENT, LATER)

    waited = {
        (old["queue_id"], address)
        for old in said["messages"]
        for address, (status, _) in old["recipients"].items()
        if status in ("queued", "deferred")
    }
    assert {(item.message.queue_id, one.address) for item in claimed for one in item.recipients} == waited
    assert interrupted == {"slow@example.com"}
    assert await claim(spool, LATER + 1e6) == []
    (wishes,) = [item.message.envelope for item in claimed if item.message.subject == "it has wishes"]
    assert (wishes.ret, wishes.envid) == ("HDRS", "order+2B7")
    assert wishes.wish("later@example.com").orcpt == "rfc822;later+2Bme@example.com"


@pytest.mark.parametrize("name", RELEASES)
async def test_afterwards_the_schema_is_that_of_a_new_spool(opened: OpenSpool, tmp_path: Path, name: str) -> None:
    restored(name, tmp_path / "old.db")
    for path in (tmp_path / "old.db", tmp_path / "new.db"):
        await (await opened(path=path)).close()

    assert description(tmp_path / "old.db") == description(tmp_path / "new.db")
    assert schema.version_of(tmp_path / "old.db") == LATEST


# --- in the middle of it

DIES = """
import os, signal, sys
from pathlib import Path
from bridge.spool import schema

path, after = Path(sys.argv[1]), int(sys.argv[2])
given = schema.statements
count = 0

def statements(sql):
    global count
    for statement in given(sql):
        if count == after:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        yield statement

schema.statements = statements
db = schema.connect(path)
db.execute("PRAGMA cache_size = 1")  # what is changed is in the WAL at once, not in memory only
schema.migrate(db, path)
"""


@pytest.mark.parametrize("after", [1, 4, 7])
async def test_a_crash_in_the_middle_leaves_the_version_before(opened: OpenSpool, path: Path, after: int) -> None:
    said = restored(OLDEST, path)
    before = state(path)
    died = subprocess.run([sys.executable, "-c", DIES, str(path), str(after)])

    assert died.returncode == -signal.SIGKILL
    assert state(path) == before
    await (await opened()).close()
    assert schema.version_of(path) == LATEST
    assert len(said["messages"]) == 12


async def test_a_migration_that_fails_leaves_the_version_before(
    opened: OpenSpool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored(OLDEST, path)
    before = state(path)
    one_more = [*schema.migrations(), (LATEST + 1, "CREATE TABLE another (a);\nCREATE TABLE message (b);\n")]
    monkeypatch.setattr(schema, "migrations", lambda: one_more)
    words = (
        rf"cannot open .*spool\.db: its schema could not be brought from 3 to {LATEST + 1} and is as it was: table mess"
    )
    with pytest.raises(SpoolError, match=words):
        await opened()

    assert state(path) == before


def test_a_spool_of_this_version_is_not_touched(path: Path) -> None:
    schema.create_file(path)
    db = schema.connect(path)
    schema.migrate(db, path)
    db.close()
    octets = path.read_bytes()

    db = schema.connect(path)
    schema.migrate(db, path)
    assert db.total_changes == 0
    db.close()
    assert path.read_bytes() == octets


def test_statements_are_cut_at_their_ends_only() -> None:
    for _, sql in schema.migrations():
        cut = list(schema.statements(sql))
        assert "".join(cut) == sql
        assert all(sqlite3.complete_statement(one) for one in cut)
    triggers = [one for _, sql in schema.migrations() for one in schema.statements(sql) if "CREATE TRIGGER" in one]
    assert len(triggers) == 3


async def test_two_daemons_that_start_at_once_migrate_once(path: Path) -> None:
    restored(NEWEST, path)
    both = await asyncio.gather(*(open_spool(path, **OPTIONS) for _ in range(2)), return_exceptions=True)

    refused = [one for one in both if isinstance(one, BaseException)]
    assert [str(one) for one in refused] == [f"{path} belongs to another running daemon"]
    for one in both:
        if not isinstance(one, BaseException):
            await one.put(message())
            await one.close()
    assert schema.version_of(path) == LATEST


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("needs root to mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    mount("tmpfs", tmp_path / "image", place)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_disk_that_is_full_leaves_the_version_before(opened: OpenSpool, small_disk: Path) -> None:
    path = small_disk / "spool.db"
    restored(OLDEST, path)
    before = state(path)
    filler = ballast(small_disk)
    os.truncate(filler, filler.stat().st_size - (48 << 10))  # enough to begin
    words = rf"could not be brought from 3 to {LATEST} and is as it was: database or disk is full"
    with pytest.raises(SpoolError, match=words):
        await opened(path=path, reserve_bytes=0)

    filler.unlink()
    assert state(path) == before
    await opened(path=path, reserve_bytes=0)
    assert schema.version_of(path) == LATEST


# --- a newer one


def newer(path: Path) -> None:
    schema.create_file(path)
    db = schema.connect(path)
    schema.migrate(db, path)
    db.execute("ALTER TABLE message ADD COLUMN of_tomorrow TEXT")
    db.execute(f"PRAGMA user_version = {LATEST + 1}")
    db.close()


@pytest.mark.parametrize("daemon", [True, False])
async def test_a_newer_spool_is_refused_and_left_alone(opened: OpenSpool, path: Path, daemon: bool) -> None:
    newer(path)
    octets = path.read_bytes()
    words = (
        f"has schema {LATEST + 1}, written by a newer version; this one knows {LATEST}: run the newer one, or restore"
    )
    with pytest.raises(SpoolError, match=words):
        await opened(daemon=daemon)

    assert path.read_bytes() == octets
