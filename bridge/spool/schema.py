"""Connections to the spool's database, and its schema: numbered, forward-only migrations under PRAGMA user_version."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from bridge.spool.base import SpoolError

BUSY_MS = 10_000
# Small checkpoints: on a full disk the reserve must hold what the WAL has not yet brought home (see space.py).
CHECKPOINT_PAGES = 512
WAL_KEPT_BYTES = CHECKPOINT_PAGES * 4096
_OLDEST_SQLITE = (3, 35, 0)  # RETURNING, UPDATE FROM


def migrations() -> list[tuple[int, str]]:
    """(number, SQL) in order, from migrations/NNNN_name.sql."""
    entries = resources.files("bridge.spool.migrations").iterdir()
    named = [(re.fullmatch(r"(\d{4})_\w+\.sql", entry.name), entry) for entry in entries]
    return sorted((int(match[1]), entry.read_text("utf-8")) for match, entry in named if match)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """An autocommit connection to an existing file. Raises sqlite3.Error."""
    db = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_MS / 1000,
        cached_statements=256,
    )
    try:
        _configure(db, read_only)
    except BaseException:
        db.close()
        raise
    return db


def _configure(db: sqlite3.Connection, read_only: bool) -> None:
    if read_only:
        db.execute("PRAGMA query_only = ON")
        return
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    # Debian builds SQLite to overwrite what is deleted, page by page; FAST does it where it costs no further write.
    db.execute("PRAGMA secure_delete = FAST")
    db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    db.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")


def version(db: sqlite3.Connection) -> int:
    (number,) = db.execute("PRAGMA user_version").fetchone()
    return int(number)


def version_of(path: Path) -> int:
    """Of a file that is only looked at. Raises sqlite3.Error."""
    db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
    try:
        return version(db)
    finally:
        db.close()


def check_library() -> None:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise SpoolError(f"SQLite {sqlite3.sqlite_version} is too old, 3.35 or later is needed")


def create_file(path: Path) -> None:
    """An empty database that nobody else may read: mail is private. SQLite gives the WAL the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


class MigrationError(sqlite3.OperationalError):
    """The schema is as it was; the text says why. It has the code of what SQLite said."""


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to this program's, in one transaction; a newer one is refused.

    Raises MigrationError, SpoolError. Whatever ends it in the middle leaves the version before, whole.
    """
    check_version(db, path, allow_older=True)
    have, want = version(db), migrations()[-1][0]
    if have == want:
        return
    try:
        _apply(db, have)
    except sqlite3.Error as error:
        raise _not_migrated(error, have, want) from error


def check_version(db: sqlite3.Connection, path: Path, *, allow_older: bool = False) -> None:
    if problem := version_problem(version(db), allow_older=allow_older):
        raise SpoolError(f"{path} {problem}")


def version_problem(have: int, *, allow_older: bool = False) -> str:
    """Why this program does not work with a spool of that schema; "" when it does."""
    want = migrations()[-1][0]
    if have > want:
        return (
            f"has schema {have}, written by a newer version; this one knows {want}: "
            "run the newer one, or restore a copy made before it"
        )
    if have < want and not allow_older:
        return f"has schema {have}, this version needs {want}: start the daemon once to migrate it"
    return ""


def _apply(db: sqlite3.Connection, have: int) -> None:
    try:
        db.execute("BEGIN IMMEDIATE")
        for number, sql in migrations():
            if number > have:
                for statement in statements(sql):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {number}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def statements(sql: str) -> Iterator[str]:
    """Each ends with its line. `executescript` would commit what is open."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


def _not_migrated(error: sqlite3.Error, have: int, want: int) -> MigrationError:
    made = MigrationError(f"its schema could not be brought from {have} to {want} and is as it was: {error}")
    for name in ("sqlite_errorcode", "sqlite_errorname"):
        if hasattr(error, name):
            setattr(made, name, getattr(error, name))
    return made
