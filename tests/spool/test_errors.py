"""What SQLite's errors mean, with errors that SQLite itself made."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from bridge.spool.errors import no_room, read_only, shared


def test_a_database_that_takes_no_writes_is_read_only_and_not_full(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "x.db")
    db.execute("CREATE TABLE t (x)")
    db.execute("PRAGMA query_only = ON")

    with pytest.raises(sqlite3.OperationalError) as caught:
        db.execute("INSERT INTO t VALUES (1)")

    db.close()
    assert read_only(caught.value)
    assert not no_room(caught.value)
    assert shared(caught.value)


def test_a_database_at_its_largest_has_no_room(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "x.db")
    db.execute("CREATE TABLE t (x)")
    db.execute("PRAGMA max_page_count = 3")

    with pytest.raises(sqlite3.OperationalError) as caught:
        db.execute("INSERT INTO t VALUES (zeroblob(100000))")

    db.close()
    assert no_room(caught.value)
    assert not read_only(caught.value)
