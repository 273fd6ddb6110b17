from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from bridge.spool import schema
from bridge.spool.base import SpoolError

from .support import ANN, NOW, SENT, OpenSpool, claim, message, statuses

LATEST = schema.migrations()[-1][0]


def made_at(path: Path, number: int) -> sqlite3.Connection:
    """A database as the version with migration `number` left it."""
    schema.create_file(path)
    db = schema.connect(path)
    for one, sql in schema.migrations():
        if one <= number:
            db.executescript(f"{sql}\nPRAGMA user_version = {one};")
    return db


def description(db: sqlite3.Connection) -> list[tuple[str, ...]]:
    return db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").fetchall()


def test_migrations_are_numbered_without_gaps() -> None:
    assert [number for number, _ in schema.migrations()] == list(range(1, LATEST + 1))


@pytest.mark.parametrize("number", range(LATEST))
async def test_a_migrated_schema_equals_a_fresh_one(opened: OpenSpool, tmp_path: Path, number: int) -> None:
    old = tmp_path / "old.db"
    made_at(old, number).close()
    for path in (old, tmp_path / "fresh.db"):
        await (await opened(path=path)).close()

    migrated, fresh = (sqlite3.connect(path) for path in (old, tmp_path / "fresh.db"))
    assert description(migrated) == description(fresh)
    assert schema.version(migrated) == schema.version(fresh) == LATEST
    migrated.close()
    fresh.close()


async def test_mail_of_the_first_version_is_delivered_by_this_one(opened: OpenSpool, path: Path) -> None:
    db = made_at(path, 1)
    db.execute(
        "INSERT INTO message VALUES ('Q1','a@b',0,4,'mail',?,?,'','','','SMTP','','','row',NULL,0,0,NULL)",
        (NOW, NOW + 9),
    )
    db.execute("INSERT INTO body VALUES ('Q1', x'61626364')")
    db.execute(
        "INSERT INTO recipient VALUES ('Q1',?,0,'queued',0,?,NULL,NULL,NULL,0,NULL,0,'','',NULL,'','','',?,NULL,NULL)",
        (ANN, NOW, NOW + 9),
    )
    db.close()

    (item,) = await claim(await opened())
    assert item.message.raw == b"abcd"


async def test_the_cli_does_not_migrate(opened: OpenSpool, path: Path) -> None:
    made_at(path, 1).close()

    with pytest.raises(SpoolError, match="start the daemon once"):
        await opened(daemon=False)


async def test_something_else_than_a_database_is_named(opened: OpenSpool, path: Path) -> None:
    path.write_bytes(b"this is not a database, it is a text\n" * 100)

    with pytest.raises(SpoolError, match=r"cannot open .*spool\.db: file is not a database"):
        await opened()


async def test_mail_on_disk_is_private(opened: OpenSpool, path: Path) -> None:
    spool = await opened()
    await spool.put(message(raw=b"x" * 20_000))
    await spool.put(message())

    modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.rglob("*")}
    assert {mode & 0o077 for name, mode in modes.items() if len(name) > 2} == {0}
    assert {"spool.db", "spool.db-wal", "spool.db-shm", "spool.db.d", "spool.db.lock", "spool.db.wake"} <= set(modes)


async def test_deleted_pages_are_used_again(opened: OpenSpool, path: Path) -> None:
    spool = await opened(history_s=0)
    sizes = []
    for _ in range(4):
        for _ in range(100):
            await spool.put(message(raw=b"x" * 9000))
        for item in await claim(spool):
            await spool.record(item.message.queue_id, item.lease, {ANN: SENT}, now=NOW)
        sizes.append(path.stat().st_size)

    assert sizes[-1] <= sizes[1] * 1.1
    assert await statuses(spool, "none") == {}
