"""Claims, leases and results. The attempt is written before it is made; only the lease's holder records its result."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.model import UNRESOLVED
from bridge.spool.base import Lease, Result
from bridge.spool.intake import EVENT, Retention, clean, event_row, fault_column, reply_columns, written_status
from bridge.spool.retention import Resolved, resolve
from bridge.spool.values import Row, insert, parts, placeholders

# Bounds the memory of one claim, whatever the limit in messages; the first message is always taken.
CLAIM_BYTES = 16 << 20

# One statement: the due rows in order, their messages up to the limits, then all due recipients of these. `+` keeps the
# outer search on the primary key. What was begun and not recorded keeps its group, or gets its lost lease's epoch as one.
CLAIM = """
UPDATE recipient SET
    attempts = attempts + 1,
    begun = 1 + (begun > 0),
    unknowns = unknowns + (begun > 0),
    unknown_group = CASE WHEN begun > 0 THEN COALESCE(unknown_group, epoch) ELSE unknown_group END,
    due_at = next_attempt_at,
    lease_owner = :owner, epoch = :epoch, leased_until = :until, next_attempt_at = :until
WHERE +status IN ('queued', 'deferred') AND +next_attempt_at <= :now AND queue_id IN (
    SELECT queue_id FROM (
        SELECT due.queue_id, sum(message.size) OVER (ORDER BY due.n ROWS UNBOUNDED PRECEDING) - message.size AS ahead
        FROM (
            SELECT queue_id, row_number() OVER () AS n FROM (
                SELECT DISTINCT queue_id FROM (
                    SELECT queue_id FROM recipient INDEXED BY recipient_due
                    WHERE status IN ('queued', 'deferred') AND next_attempt_at <= :now
                    ORDER BY next_attempt_at LIMIT -1
                ) LIMIT :limit
            )
        ) AS due CROSS JOIN message ON message.queue_id = due.queue_id
    ) WHERE ahead < :bytes
)
"""


@dataclass(frozen=True, slots=True)
class Claim:
    lease: Lease
    now: float
    limit: int


@dataclass(frozen=True, slots=True)
class Unclaim:
    owner: str
    now: float
    epoch: int
    queue_id: str = ""  # "": all messages of the claim


@dataclass(frozen=True, slots=True)
class Renewal:
    queue_id: str
    lease: Lease
    until: float


@dataclass(frozen=True, slots=True)
class Record:
    queue_id: str
    lease: Lease
    results: Mapping[str, Result]
    now: float


@dataclass(frozen=True, slots=True)
class Recorded:
    written: frozenset[str]
    files: tuple[str, ...] = ()  # queue ids whose body files are to be removed


def claim(db: sqlite3.Connection, claims: Sequence[Claim]) -> list[int]:
    """How many recipients each took; they are read afterwards by their lease (messages.py), off the writer's thread."""
    return [_claim(db, one) for one in claims]


def _claim(db: sqlite3.Connection, one: Claim) -> int:
    values = {
        "owner": one.lease.owner,
        "epoch": one.lease.epoch,
        "until": one.lease.until,
        "now": one.now,
        "limit": one.limit,
        "bytes": CLAIM_BYTES,
    }
    return db.execute(CLAIM, values).rowcount


def renew(db: sqlite3.Connection, renewals: Sequence[Renewal]) -> list[bool]:
    return [_renew(db, one) for one in renewals]


def _renew(db: sqlite3.Connection, one: Renewal) -> bool:
    changed = db.execute(
        "UPDATE recipient SET leased_until = :until, next_attempt_at = :until"
        " WHERE queue_id = :queue_id AND lease_owner = :owner AND epoch = :epoch AND status IN ('queued', 'deferred')",
        {"queue_id": one.queue_id, "until": one.until, "owner": one.lease.owner, "epoch": one.lease.epoch},
    )
    return changed.rowcount > 0


def give_back(db: sqlite3.Connection, args: Sequence[Unclaim]) -> list[int]:
    return [_give_back(db, one) for one in args]


def _give_back(db: sqlite3.Connection, one: Unclaim) -> int:
    """As if never claimed; one that was interrupted before stays so."""
    return db.execute(
        "UPDATE recipient SET attempts = attempts - 1, unknowns = unknowns - (begun > 1), begun = begun - 1,"
        " lease_owner = NULL, leased_until = NULL, next_attempt_at = :now"
        " WHERE lease_owner IS NOT NULL AND lease_owner = :owner AND epoch = :epoch"
        " AND (:queue_id = '' OR queue_id = :queue_id) AND +status IN ('queued', 'deferred')",
        {"now": one.now, "owner": one.owner, "epoch": one.epoch, "queue_id": one.queue_id},
    ).rowcount


def void_leases(db: sqlite3.Connection, now: float) -> int:
    """At a daemon's start: whoever held these is gone. They are due now, begun and not recorded."""
    return db.execute(
        "UPDATE recipient SET lease_owner = NULL, leased_until = NULL, next_attempt_at = ? WHERE lease_owner IS NOT NULL",
        (now,),
    ).rowcount


_HELD_BY = """
SELECT json_group_array(given.n) FROM (SELECT column1 AS n, column2 AS queue_id, column3 AS address, column4 AS owner,
    column5 AS epoch FROM (VALUES {rows})) AS given
CROSS JOIN recipient USING (queue_id, address)
WHERE recipient.lease_owner = given.owner AND recipient.epoch = given.epoch
    AND recipient.status IN ('queued', 'deferred')
"""

# The order of _result_row. The time blocked or held is added to the lifetime at the first result that is not blocked.
_WRITE = """
UPDATE recipient SET
    status = given.column3,
    next_attempt_at = given.column4,
    provider = COALESCE(NULLIF(given.column5, ''), recipient.provider),
    provider_message_id = given.column6,
    code = given.column7, enhanced = given.column8, text = given.column9, fault = given.column10,
    unknown_group = CASE
        WHEN given.column11 THEN COALESCE(recipient.unknown_group, recipient.epoch)
        WHEN given.column3 = 'held' THEN recipient.unknown_group END,
    unknowns = recipient.unknowns + given.column11,
    expires_at = recipient.expires_at
        + CASE WHEN given.column12 THEN 0 ELSE COALESCE(given.column13 - recipient.blocked_at, 0) END,
    blocked_at = CASE WHEN given.column12 THEN COALESCE(recipient.blocked_at, given.column13) END,
    begun = 0, leased_until = NULL, lease_owner = NULL
FROM (VALUES {rows}) AS given
WHERE recipient.queue_id = given.column1 AND recipient.address = given.column2
"""


def record(db: sqlite3.Connection, records: Sequence[Record], *, retention: Retention) -> list[Recorded]:
    asked = [(one, address) for one in records for address in one.results]
    held = _held(db, asked)
    _write(db, [_result_row(one, address) for one, address in held])
    insert(db, "event", EVENT, [event_row(one.queue_id, one.now, a, one.results[a]) for one, a in held])
    finished = {one.queue_id: one.now for one, a in held if written_status(one.results[a]) not in UNRESOLVED}
    resolved = resolve(db, finished, retention)
    return _recorded(records, held, resolved)


def _recorded(records: Sequence[Record], held: list[tuple[Record, str]], resolved: Resolved) -> list[Recorded]:
    written: dict[int, set[str]] = {id(one): set() for one in records}
    for one, address in held:
        written[id(one)].add(address)
    files = set(resolved.files)
    return [Recorded(frozenset(written[id(one)]), tuple({one.queue_id} & files)) for one in records]


def _held(db: sqlite3.Connection, asked: list[tuple[Record, str]]) -> list[tuple[Record, str]]:
    """Those still under the lease they come with. A recipient recorded twice in one batch is written once."""
    rows: list[Row] = [
        (n, one.queue_id, address, one.lease.owner, one.lease.epoch) for n, (one, address) in enumerate(asked)
    ]
    held: dict[tuple[str, str], tuple[Record, str]] = {}
    for part in parts(rows):
        sql = _HELD_BY.format(rows=placeholders(5, len(part)))
        (numbers,) = db.execute(sql, [value for row in part for value in row]).fetchone()
        for n in sorted(json.loads(numbers)):
            one, address = asked[n]
            held.setdefault((one.queue_id, address), (one, address))
    return list(held.values())


def _write(db: sqlite3.Connection, rows: list[Row]) -> None:
    for part in parts(rows):
        sql = _WRITE.format(rows=placeholders(13, len(part)))
        db.execute(sql, [value for row in part for value in row])


def _result_row(one: Record, address: str) -> Row:
    result = one.results[address]
    status = written_status(result)
    due = None
    if status in ("queued", "deferred"):
        due = one.now if result.at is None else result.at
    code, enhanced, text = reply_columns(result.reply)
    paused = status == "held" or (result.blocked and status in UNRESOLVED)
    return (
        one.queue_id, address, status, due, result.provider, clean(result.provider_message_id),
        code, enhanced, text, fault_column(result), int(result.unknown), int(paused), one.now,
    )  # fmt: skip
