"""Requests that came with an Idempotency-Key: what was asked and what was said, so that the same again is answered the same."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.spool.base import Asked


@dataclass(frozen=True, slots=True)
class Note:
    asked: Asked
    now: float


def note(db: sqlite3.Connection, args: Sequence[Note]) -> list[None]:
    rows = [(a.key, a.body, a.queue_id, a.status, a.answer, one.now) for one in args for a in (one.asked,)]
    db.executemany(
        "INSERT OR REPLACE INTO request (key, body, queue_id, status, answer, at) VALUES (?, ?, ?, ?, ?, ?)", rows
    )
    return [None] * len(args)


def find(db: sqlite3.Connection, key: bytes, since: float) -> Asked | None:
    sql = "SELECT key, body, queue_id, status, answer FROM request WHERE key = ? AND at >= ?"
    row = db.execute(sql, (key, since)).fetchone()
    return Asked(*row) if row else None


@dataclass(frozen=True, slots=True)
class Forget:
    before: float
    limit: int


def forget(db: sqlite3.Connection, args: Sequence[Forget]) -> list[int]:
    sql = "DELETE FROM request WHERE key IN (SELECT key FROM request WHERE at < ? ORDER BY at LIMIT ?)"
    return [db.execute(sql, (one.before, one.limit)).rowcount for one in args]
