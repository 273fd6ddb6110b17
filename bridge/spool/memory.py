"""What the daemon remembers beside the mail: values by name, messages it has seen, addresses not to mail, posts to make."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.model import mailbox_key
from bridge.spool.base import Post
from bridge.spool.search import TIME_S
from bridge.spool.values import insert

POST = ("id", "target", "body", "attempts", "next_attempt_at", "created_at")
_STEP_LENGTH = 4096  # addresses looked at between two looks at the clock


@dataclass(frozen=True, slots=True)
class Remember:
    values: Mapping[str, str]
    now: float
    posts: tuple[Post, ...] = ()


def remember(db: sqlite3.Connection, args: Sequence[Remember]) -> list[None]:
    """An empty value is forgotten."""
    for one in args:
        kept = [(name, value, one.now) for name, value in one.values.items() if value]
        db.executemany("INSERT OR REPLACE INTO state (name, value, at) VALUES (?, ?, ?)", kept)
        db.executemany("DELETE FROM state WHERE name = ?", [(n,) for n, value in one.values.items() if not value])
        insert_posts(db, one.posts)
    return [None] * len(args)


def recall(db: sqlite3.Connection, prefix: str) -> dict[str, str]:
    rows = db.execute("SELECT name, value FROM state WHERE name >= ? AND name < ?", (prefix, prefix + "\U0010ffff"))
    return {row[0]: row[1] for row in rows}


@dataclass(frozen=True, slots=True)
class Seen:
    fingerprint: bytes
    reply: str
    now: float


def note_seen(db: sqlite3.Connection, args: Sequence[Seen]) -> list[None]:
    rows = [(one.fingerprint, one.reply, one.now) for one in args]
    db.executemany("INSERT OR REPLACE INTO seen (fingerprint, reply, at) VALUES (?, ?, ?)", rows)
    return [None] * len(args)


def find_seen(db: sqlite3.Connection, fingerprint: bytes, since: float) -> str | None:
    row = db.execute("SELECT reply FROM seen WHERE fingerprint = ? AND at >= ?", (fingerprint, since)).fetchone()
    return row[0] if row else None


@dataclass(frozen=True, slots=True)
class Forget:
    before: float
    limit: int


def forget(db: sqlite3.Connection, args: Sequence[Forget]) -> list[int]:
    sql = "DELETE FROM seen WHERE fingerprint IN (SELECT fingerprint FROM seen WHERE at < ? ORDER BY at LIMIT ?)"
    return [db.execute(sql, (one.before, one.limit)).rowcount for one in args]


def insert_posts(db: sqlite3.Connection, posts: Sequence[Post]) -> None:
    rows = [(one.id, one.target, one.body, one.attempts, one.created_at, one.created_at) for one in posts]
    insert(db, "post", POST, rows)


def due_posts(db: sqlite3.Connection, now: float, limit: int, target: str) -> list[Post]:
    sql = "SELECT * FROM post WHERE next_attempt_at <= ? AND (? = '' OR target = ?) ORDER BY next_attempt_at LIMIT ?"
    rows = db.execute(sql, (now, target, target, limit))
    return [
        Post(
            id=row["id"], target=row["target"], body=row["body"], attempts=row["attempts"], created_at=row["created_at"]
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class PostDone:
    id: str
    next_attempt_at: float | None


def settle_posts(db: sqlite3.Connection, args: Sequence[PostDone]) -> list[None]:
    for one in args:
        if one.next_attempt_at is None:
            db.execute("DELETE FROM post WHERE id = ?", (one.id,))
        else:
            db.execute(
                "UPDATE post SET attempts = attempts + 1, next_attempt_at = ? WHERE id = ?",
                (one.next_attempt_at, one.id),
            )
    return [None] * len(args)


@dataclass(frozen=True, slots=True)
class Suppress:
    address: str
    reason: str
    provider: str
    now: float


def suppress(db: sqlite3.Connection, args: Sequence[Suppress]) -> list[bool]:
    sql = "INSERT OR IGNORE INTO suppression (address, reason, provider, created_at) VALUES (?, ?, ?, ?)"
    return [db.execute(sql, (mailbox_key(one.address), one.reason, one.provider, one.now)).rowcount > 0 for one in args]


def unsuppress(db: sqlite3.Connection, args: Sequence[str]) -> list[bool]:
    sql = "DELETE FROM suppression WHERE address = ?"
    return [db.execute(sql, (mailbox_key(address),)).rowcount > 0 for address in args]


def suppressions(db: sqlite3.Connection) -> dict[str, str]:
    return {row[0]: row[1] for row in db.execute("SELECT address, reason FROM suppression")}


def list_suppressions(db: sqlite3.Connection, limit: int, after: str) -> list[dict[str, object]]:
    """By address, a page at a time."""
    rows = db.execute("SELECT * FROM suppression WHERE address > ? ORDER BY address LIMIT ?", (after, limit))
    return [dict(row) for row in rows]


# `typed` finds what SQLite's lower() leaves alone: other letters than ASCII.
_FIND = """
SELECT * FROM suppression WHERE address > :after AND address <= :upto
    AND (instr(address, :wanted) OR instr(lower(reason), :wanted) OR instr(reason, :typed)) ORDER BY address LIMIT :limit
"""
_STEP = (
    "SELECT max(address), count(*) FROM (SELECT address FROM suppression WHERE address > ? ORDER BY address LIMIT ?)"
)


def find_suppressions(
    db: sqlite3.Connection, typed: str, limit: int, after: str, time_s: float = TIME_S
) -> tuple[list[dict[str, object]], str]:
    """Those with `typed` in the address or the reason, by address; and after which one to go on, "" at the end. It stops after a
    time, then with less than `limit`."""
    found: list[dict[str, object]] = []
    deadline = time.monotonic() + time_s
    while True:
        upto, count = db.execute(_STEP, (after, _STEP_LENGTH)).fetchone()
        values = {
            "after": after,
            "upto": upto,
            "wanted": typed.lower(),
            "typed": typed,
            "limit": limit + 1 - len(found),
        }
        found += map(dict, db.execute(_FIND, values))
        if len(found) > limit:
            return found[:limit], str(found[limit - 1]["address"])
        if count < _STEP_LENGTH:
            return found, ""
        after = upto
        if time.monotonic() > deadline:
            return found, after
