"""What becomes of finished messages: bodies go at once unless somebody may want them, rows go in time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.spool.intake import Retention

PRUNE_BATCH = 100
IMPORTED_S = 365 * 86400.0  # an import may be repeated so long, whatever the history keeps

# A message is not over while its sender is still to be told something of it.
# Bodies stay with a message that failed (to be retried by hand) and with one that a provider keeps (capture).
_FINISH = """
UPDATE message SET
    resolved_at = :now,
    failed = :keep_failed AND EXISTS (
        SELECT 1 FROM recipient WHERE recipient.queue_id = message.queue_id AND status IN ('bounced', 'expired'))
WHERE queue_id IN (SELECT value FROM json_each(:ids)) AND resolved_at IS NULL AND NOT EXISTS (
    SELECT 1 FROM recipient
    WHERE recipient.queue_id = message.queue_id
        AND (status IN ('queued', 'deferred', 'held') OR notice IN ('failure', 'delay', 'success')))
"""
# Done with: finished, and nobody wants the body.
_FILES = """
SELECT json_group_array(queue_id) FROM message WHERE queue_id IN (SELECT value FROM json_each(?))
    AND resolved_at IS NOT NULL AND NOT failed AND NOT keep_body AND body = 'file'
"""
_DELETE_BODIES = """
DELETE FROM body WHERE queue_id IN (
    SELECT queue_id FROM message WHERE queue_id IN (SELECT value FROM json_each(?))
        AND resolved_at IS NOT NULL AND NOT failed AND NOT keep_body)
"""
_NOTE_NO_BODY = """
UPDATE message SET body = '' WHERE queue_id IN (SELECT value FROM json_each(?))
    AND resolved_at IS NOT NULL AND NOT failed AND NOT keep_body AND body <> ''
"""
_NOT_KEPT = """
SELECT json_group_array(queue_id) FROM message WHERE queue_id IN (SELECT value FROM json_each(?))
    AND resolved_at IS NOT NULL AND NOT failed AND NOT keep_body
"""
_FORGET_IMPORTS = """
DELETE FROM imported WHERE queue_id IN (SELECT queue_id FROM imported WHERE at <= ? ORDER BY at LIMIT ?)
"""


@dataclass(frozen=True, slots=True)
class Resolved:
    files: tuple[str, ...] = ()


def resolve(db: sqlite3.Connection, finished: Mapping[str, float], retention: Retention) -> Resolved:
    """Close the messages among `finished` (queue id -> now) that have no open recipient left."""
    if not finished:
        return Resolved()
    ids = json.dumps(list(finished))
    values = {"now": max(finished.values()), "keep_failed": retention.failed_s > 0, "ids": ids}
    db.execute(_FINISH, values)
    files = _drop_bodies(db, ids)
    if retention.history_s <= 0:
        _delete_finished(db, ids)
    return Resolved(files)


def _drop_bodies(db: sqlite3.Connection, ids: str) -> tuple[str, ...]:
    """Bodies of the messages among `ids` that are done with; returns those whose body is a file."""
    (files,) = db.execute(_FILES, (ids,)).fetchone()
    db.execute(_DELETE_BODIES, (ids,))
    db.execute(_NOTE_NO_BODY, (ids,))
    return tuple(json.loads(files))


def _delete_finished(db: sqlite3.Connection, ids: str) -> None:
    (done,) = db.execute(_NOT_KEPT, (ids,)).fetchone()
    _delete(db, done)


def _delete(db: sqlite3.Connection, ids: str) -> None:
    for table in ("body", "event", "recipient", "message"):
        db.execute(f"DELETE FROM {table} WHERE queue_id IN (SELECT value FROM json_each(?))", (ids,))  # noqa: S608


@dataclass(frozen=True, slots=True)
class Prune:
    now: float
    limit: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """`more`: the limit was reached, so there may be more."""

    deleted: int
    files: tuple[str, ...]
    more: bool


def prune(db: sqlite3.Connection, args: Sequence[Prune], *, retention: Retention) -> list[Pruned]:
    return [_prune(db, one, retention) for one in args]


def _prune(db: sqlite3.Connection, one: Prune, retention: Retention) -> Pruned:
    if retention.history_s > retention.failed_s:
        forgotten, files = _forget_failed(db, one, retention)
        rows = _past(db, 0, one.now - retention.history_s, one.limit)
    else:
        forgotten, files = 0, ()
        rows = _past(db, 0, one.now - retention.history_s, one.limit)
        rows += _past(db, 1, one.now - retention.failed_s, one.limit - len(rows))
    files += tuple(queue_id for queue_id, body in rows if body == "file")
    _delete(db, json.dumps([queue_id for queue_id, _ in rows]))
    imports = db.execute(_FORGET_IMPORTS, (one.now - IMPORTED_S, one.limit)).rowcount
    return Pruned(len(rows), files, max(len(rows), forgotten, imports) >= one.limit)


def _past(db: sqlite3.Connection, failed: int, before: float, limit: int) -> list[tuple[str, str]]:
    return db.execute(
        "SELECT queue_id, body FROM message WHERE failed = ? AND resolved_at <= ? ORDER BY resolved_at LIMIT ?",
        (failed, before, limit),
    ).fetchall()


def _forget_failed(db: sqlite3.Connection, one: Prune, retention: Retention) -> tuple[int, tuple[str, ...]]:
    """With a history longer than `failed`, a failed message stays on as history, without its body; how many, and their files."""
    rows = _past(db, 1, one.now - retention.failed_s, one.limit)
    ids = json.dumps([queue_id for queue_id, _ in rows])
    db.execute("UPDATE message SET failed = 0 WHERE queue_id IN (SELECT value FROM json_each(?))", (ids,))
    return len(rows), _drop_bodies(db, ids)
