"""Mail whose providers are left alone: looked at, made due when they are back, ended when its time is over."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bridge.model import UNRESOLVED, Fault
from bridge.reply import Reply
from bridge.spool.base import Depth, Result
from bridge.spool.intake import EVENT, Retention, event_row
from bridge.spool.leases import FIRST_LANE, NEXT_LANE
from bridge.spool.retention import resolve
from bridge.spool.space import used_bytes
from bridge.spool.values import insert

# Each lane costs a step, however many wait in it. Those that wait for a moment are in no order of lanes.
_DUE = """
SELECT next_attempt_at FROM recipient INDEXED BY recipient_due
WHERE ready = 0 AND status IN ('queued', 'deferred') ORDER BY next_attempt_at LIMIT 1
"""
_READY = "SELECT 1 FROM recipient INDEXED BY recipient_ready WHERE ready = 1 AND lane = ? LIMIT 1"
_ANY_READY = "SELECT 1 FROM recipient INDEXED BY recipient_ready WHERE ready = 1 LIMIT 1"
_WAITING_LANES = "SELECT DISTINCT lane FROM recipient WHERE ready = 0 AND status IN ('queued', 'deferred')"

# In the order of the index, on from where the last page ended: each row is looked at once.
_PAGE = """
SELECT DISTINCT next_attempt_at, queue_id FROM recipient INDEXED BY recipient_due
WHERE ready = 0 AND status IN ('queued', 'deferred') AND (next_attempt_at, queue_id) > (:at, :queue_id)
    AND lease_owner IS NULL AND lane IN (SELECT value FROM json_each(:lanes)) AND fault IN ('provider', 'account')
ORDER BY next_attempt_at, queue_id LIMIT :limit
"""
# Of what was begun and not recorded it is known who may have mailed it (leases.PROMOTE).
_RESUME = """
UPDATE recipient SET ready = 1, next_attempt_at = :now,
    lane = CASE WHEN begun > 0 AND provider <> '' THEN '=' || provider ELSE lane END
WHERE queue_id IN (SELECT value FROM json_each(:ids)) AND lane IN (SELECT value FROM json_each(:lanes))
    AND +ready = 0 AND status IN ('queued', 'deferred') AND lease_owner IS NULL
"""
# Who had a refusal of the account itself has its own count of the time (leases._WRITE).
_LENGTHEN = """
UPDATE recipient SET expires_at = expires_at + MIN(:blocked, MAX(0, :now - (
    SELECT created_at FROM message WHERE message.queue_id = recipient.queue_id)))
WHERE queue_id IN (SELECT value FROM json_each(:ids)) AND lane IN (SELECT value FROM json_each(:lanes))
    AND +ready = 1 AND status IN ('queued', 'deferred') AND blocked_at IS NULL
"""
_READY_PAGE = """
SELECT DISTINCT queue_id FROM recipient INDEXED BY recipient_ready
WHERE ready = 1 AND lane = :lane AND (source, queue_id) > (:source, :after) ORDER BY source, queue_id LIMIT :limit
"""
_OVER = """
SELECT queue_id, address, code, enhanced, text, provider FROM recipient INDEXED BY recipient_ready
WHERE ready = 1 AND lane = ? AND expires_at <= ? AND blocked_at IS NULL LIMIT ?
"""
_EXPIRE = """
UPDATE recipient SET status = 'expired', ready = 0, next_attempt_at = NULL,
    notice = CASE WHEN notice = 'done' THEN notice ELSE 'failure' END
WHERE queue_id = :queue_id AND address = :address AND ready = 1 AND status IN ('queued', 'deferred')
"""


def lanes(db: sqlite3.Connection, ready_only: bool) -> list[str]:
    """Of what is due, a step for each; and, unless `ready_only`, of what waits for a moment, row by row."""
    found = {} if ready_only else dict.fromkeys(row[0] for row in db.execute(_WAITING_LANES))
    row = db.execute(FIRST_LANE).fetchone()
    while row:
        found[row[0]] = None
        row = db.execute(NEXT_LANE, (row[0],)).fetchone()
    return list(found)


def next_due(db: sqlite3.Connection, among: Sequence[str] | None) -> float | None:
    """0 when somebody is due now."""
    if among is None:
        ready = db.execute(_ANY_READY).fetchone() is not None
    else:
        ready = any(db.execute(_READY, (lane,)).fetchone() for lane in among)
    if ready:
        return 0.0
    row = db.execute(_DUE).fetchone()
    return None if row is None else float(row[0])


_OLDEST_WAITING = """
SELECT created_at FROM message WHERE failed = 0 AND resolved_at IS NULL AND EXISTS (
    SELECT 1 FROM recipient WHERE recipient.queue_id = message.queue_id AND status IN ('queued', 'deferred'))
ORDER BY created_at LIMIT 1
"""


def oldest(db: sqlite3.Connection) -> float | None:
    row = db.execute(_OLDEST_WAITING).fetchone()
    return None if row is None else float(row[0])


COUNTED = 1_000_000  # recipients of a status at most, which take some 80 ms
# The list as it stands in the index, which SQLite would not use otherwise.
_OPEN = """recipient INDEXED BY recipient_open
WHERE status IN ('queued', 'deferred', 'held', 'bounced', 'expired', 'dropped') AND status = ?"""
_COUNT = f"SELECT count(*) FROM (SELECT 1 FROM {_OPEN} LIMIT ?)"  # noqa: S608 ours
# Queue ids are in the order in which messages came, and the index holds them in order.
_FIRST = f"SELECT created_at FROM message WHERE queue_id = (SELECT min(queue_id) FROM {_OPEN})"  # noqa: S608 ours


def depth(db: sqlite3.Connection, *, limit: int = COUNTED) -> Depth:
    recipients, oldest = {}, {}
    for status in sorted(UNRESOLVED):
        (recipients[status],) = db.execute(_COUNT, (status, limit)).fetchone()
        if row := db.execute(_FIRST, (status,)).fetchone():
            oldest[status] = float(row[0])
    return Depth(recipients=recipients, oldest=oldest, bytes=used_bytes(db))


def deferred_page(
    db: sqlite3.Connection, among: Sequence[str], limit: int, after: tuple[float, str]
) -> list[tuple[float, str]]:
    """(due, queue id) of what waits in these lanes because of its provider, beyond `after`."""
    values = {"lanes": json.dumps(among), "limit": limit, "at": after[0], "queue_id": after[1]}
    return [(row[0], row[1]) for row in db.execute(_PAGE, values)]


@dataclass(frozen=True, slots=True)
class Resume:
    """`ids`: a page of `deferred_page`."""

    ids: Sequence[str]
    lanes: tuple[str, ...]
    now: float


def resume(db: sqlite3.Connection, args: Sequence[Resume]) -> list[int]:
    """How many recipients are due now that were not."""
    return [_resume(db, one) for one in args]


def _resume(db: sqlite3.Connection, one: Resume) -> int:
    return db.execute(_RESUME, {"ids": json.dumps(one.ids), "lanes": json.dumps(one.lanes), "now": one.now}).rowcount


@dataclass(frozen=True, slots=True)
class Lengthen:
    """`ids`: a page of what is due in these lanes."""

    ids: Sequence[str]
    lanes: tuple[str, ...]
    blocked_s: float
    now: float


def lengthen(db: sqlite3.Connection, args: Sequence[Lengthen]) -> list[None]:
    for one in args:
        values = {"ids": json.dumps(one.ids), "lanes": json.dumps(one.lanes), "blocked": one.blocked_s, "now": one.now}
        db.execute(_LENGTHEN, values)
    return [None] * len(args)


def ready_page(db: sqlite3.Connection, lane: str, limit: int, after: tuple[str, str]) -> list[tuple[str, str]]:
    """(source, queue id) of what is due in a lane, beyond `after`."""
    rows = db.execute(
        _READY_PAGE.replace("SELECT DISTINCT queue_id", "SELECT DISTINCT source, queue_id"),
        {"lane": lane, "source": after[0], "after": after[1], "limit": limit},
    )
    return [(row[0], row[1]) for row in rows]


@dataclass(frozen=True, slots=True)
class Over:
    """A recipient whose time is over, with its last reply."""

    queue_id: str
    address: str
    result: Result


def find_over(db: sqlite3.Connection, among: Sequence[str], now: float, limit: int) -> list[Over]:
    found: list[Over] = []
    for lane in among:
        for row in db.execute(_OVER, (lane, now, limit - len(found))):
            reply = None if row["code"] is None else Reply.safe(row["code"], row["enhanced"], row["text"])
            result = Result(status="expired", reply=reply, fault=Fault.PROVIDER, provider=row["provider"])
            found.append(Over(row["queue_id"], row["address"], result))
    return found


@dataclass(frozen=True, slots=True)
class Expire:
    over: Sequence[Over]
    now: float


@dataclass(frozen=True, slots=True)
class Expired:
    results: Mapping[str, Mapping[str, Result]] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def expire(db: sqlite3.Connection, args: Sequence[Expire], *, retention: Retention) -> list[Expired]:
    return [_expire(db, one, retention) for one in args]


def _expire(db: sqlite3.Connection, one: Expire, retention: Retention) -> Expired:
    done: dict[str, dict[str, Result]] = {}
    for over in one.over:
        if db.execute(
            _EXPIRE, {"queue_id": over.queue_id, "address": over.address}
        ).rowcount:  # nobody took it meanwhile
            done.setdefault(over.queue_id, {})[over.address] = over.result
    rows = [
        event_row(q, one.now, address, result) for q, results in done.items() for address, result in results.items()
    ]
    insert(db, "event", EVENT, rows)
    return Expired(done, resolve(db, dict.fromkeys(done, one.now), retention).files)
