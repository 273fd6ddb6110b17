"""Claims, leases and results. The attempt is written before it is made; only the lease's holder records its result."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bridge.model import UNRESOLVED
from bridge.spool.base import Lease, Result
from bridge.spool.intake import (
    EVENT,
    Retention,
    clean,
    event_row,
    fault_column,
    lane_after,
    reply_columns,
    written_status,
)
from bridge.spool.retention import Resolved, resolve
from bridge.spool.values import Row, insert, parts, placeholders

# Bounds the memory of one claim, whatever the limit in messages; the first message is always taken.
CLAIM_BYTES = 16 << 20

# What waited for a moment that has come, a message as a whole. Of what was begun and not recorded it is known who may have
# mailed it, and nobody else may. Whoever still holds it, late, may record it until it is claimed again. The rows are found by
# their index; `+` keeps the outer search on the primary key.
PROMOTE = """
UPDATE recipient SET ready = 1,
    lane = CASE WHEN begun > 0 AND provider <> '' THEN '=' || provider ELSE lane END
WHERE +ready = 0 AND +status IN ('queued', 'deferred') AND +next_attempt_at <= :now AND queue_id IN (
    SELECT DISTINCT queue_id FROM (
        SELECT queue_id FROM recipient INDEXED BY recipient_due
        WHERE ready = 0 AND status IN ('queued', 'deferred') AND next_attempt_at <= :now
        ORDER BY next_attempt_at LIMIT -1
    ) LIMIT :limit
)
"""
PROMOTED_AT_ONCE = 1000
MAX_REMEMBERED = 1000  # combinations of lanes whose last turn is remembered

# The next (lane, source) after another in the index: a step costs the same however many wait in each.
NEXT_SOURCE = """
SELECT source FROM recipient INDEXED BY recipient_ready
WHERE ready = 1 AND lane = ? AND source > ? ORDER BY source LIMIT 1
"""
FIRST_SOURCE = """
SELECT source FROM recipient INDEXED BY recipient_ready WHERE ready = 1 AND lane = ? ORDER BY source LIMIT 1
"""
NEXT_LANE = "SELECT lane FROM recipient INDEXED BY recipient_ready WHERE ready = 1 AND lane > ? ORDER BY lane LIMIT 1"
FIRST_LANE = "SELECT lane FROM recipient INDEXED BY recipient_ready WHERE ready = 1 ORDER BY lane LIMIT 1"
OLDEST = """
SELECT DISTINCT queue_id FROM recipient INDEXED BY recipient_ready
WHERE ready = 1 AND lane = ? AND source = ? AND queue_id > ? ORDER BY queue_id LIMIT ?
"""
SIZES = "SELECT queue_id, size FROM message WHERE queue_id IN (SELECT value FROM json_each(?))"

# What was begun and not recorded keeps its group, or gets its lost lease's epoch as one.
CLAIM = """
UPDATE recipient SET
    attempts = attempts + :tried,
    begun = CASE WHEN :tried THEN 1 + (begun > 0) ELSE begun END,
    unknowns = unknowns + (:tried AND begun > 0),
    unknown_group = CASE WHEN :tried AND begun > 0 THEN COALESCE(unknown_group, epoch) ELSE unknown_group END,
    provider = CASE WHEN :provider = '' THEN provider ELSE :provider END,
    due_at = next_attempt_at, ready = 0,
    lease_owner = :owner, epoch = :epoch, leased_until = :until, next_attempt_at = :until
WHERE +ready = 1 AND queue_id IN (SELECT value FROM json_each(:ids))
    AND (:lanes IS NULL OR lane IN (SELECT value FROM json_each(:lanes)))
"""


@dataclass(frozen=True, slots=True)
class Claim:
    lease: Lease
    now: float
    limit: int
    lanes: tuple[str, ...] | None = None
    provider: str = ""
    sorting: bool = False


@dataclass(frozen=True, slots=True)
class Unclaim:
    owner: str
    now: float
    epoch: int
    queue_id: str = ""  # "": all messages of the claim
    lanes: Mapping[str, str] = field(default_factory=dict)  # address -> where it waits from now on
    sorting: bool = False


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


class Turns:
    """Whose turn it is: the sources that wait in some lanes, one after the other, beginning after the one served last."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, ...] | None, tuple[str, str]] = {}

    def claim(self, db: sqlite3.Connection, claims: Sequence[Claim]) -> list[int]:
        """How many recipients each took; they are read afterwards by their lease (messages.py), off the writer's thread."""
        return [self._claim(db, one) for one in claims]

    def _claim(self, db: sqlite3.Connection, one: Claim) -> int:
        db.execute(PROMOTE, {"now": one.now, "limit": max(PROMOTED_AT_ONCE, one.limit)})
        chosen = self._choose(db, one)
        ids = within_bytes(db, list(chosen))
        if not ids:
            return 0
        self._last[one.lanes] = chosen[ids[-1]]
        if len(self._last) > MAX_REMEMBERED:
            self._last.clear()
        values = {
            "owner": one.lease.owner,
            "epoch": one.lease.epoch,
            "until": one.lease.until,
            "provider": one.provider,
            "tried": int(not one.sorting),
            "lanes": None if one.lanes is None else json.dumps(one.lanes),
            "ids": json.dumps(ids),
        }
        return db.execute(CLAIM, values).rowcount

    def _choose(self, db: sqlite3.Connection, one: Claim) -> dict[str, tuple[str, str]]:
        """Messages with the (lane, source) each is taken for: one of each source, then the next of each, up to the limit."""
        found: dict[tuple[str, str], list[str]] = {}
        left, pairs = one.limit, self._next_pairs(db, one.lanes, one.limit)
        while pairs and left > 0:
            again = []
            for place, pair in enumerate(pairs):
                share = -(-left // (len(pairs) - place))
                ids = found.setdefault(pair, [])
                more = [row[0] for row in db.execute(OLDEST, (*pair, ids[-1] if ids else "", share))] if share else []
                ids += more
                left -= len(more)
                if more and len(more) == share:
                    again.append(pair)
            pairs = again
        turns = itertools.chain.from_iterable(itertools.zip_longest(*found.values()))
        owners = {queue_id: pair for pair, ids in reversed(found.items()) for queue_id in ids}
        return {queue_id: owners[queue_id] for queue_id in turns if queue_id}

    def _next_pairs(self, db: sqlite3.Connection, lanes: tuple[str, ...] | None, limit: int) -> list[tuple[str, str]]:
        """At most `limit` of the (lane, source) that wait, cyclically from the one after the last."""
        names = tuple(_lanes(db)) if lanes is None else lanes
        last = self._last.get(lanes)
        start = names.index(last[0]) if last and last[0] in names else 0
        pairs: list[tuple[str, str]] = []
        for place in range(len(names) + 1):
            lane = names[(start + place) % len(names)] if names else ""
            after = last[1] if last and last[0] == lane and place == 0 else None
            for source in _sources(db, lane, after):
                if (lane, source) in pairs or len(pairs) >= limit:
                    break
                pairs.append((lane, source))
        return pairs


def _lanes(db: sqlite3.Connection) -> Iterator[str]:
    row = db.execute(FIRST_LANE).fetchone()
    while row:
        yield row[0]
        row = db.execute(NEXT_LANE, row).fetchone()


def _sources(db: sqlite3.Connection, lane: str, after: str | None) -> Iterator[str]:
    row = db.execute(
        FIRST_SOURCE if after is None else NEXT_SOURCE, (lane,) if after is None else (lane, after)
    ).fetchone()
    while row:
        yield row[0]
        row = db.execute(NEXT_SOURCE, (lane, row[0])).fetchone()


def within_bytes(db: sqlite3.Connection, ids: list[str]) -> list[str]:
    """The first of them, and further ones until all together have CLAIM_BYTES."""
    sizes = dict(db.execute(SIZES, (json.dumps(ids),))) if ids else {}
    taken: list[str] = []
    octets = 0
    for queue_id in ids:
        if taken and octets >= CLAIM_BYTES:
            break
        octets += sizes.get(queue_id, 0)
        taken.append(queue_id)
    return taken


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
        "UPDATE recipient SET attempts = attempts - :tried, unknowns = unknowns - (:tried AND begun > 1),"
        " begun = begun - :tried,"
        " lease_owner = NULL, leased_until = NULL, next_attempt_at = :now, ready = 1,"
        " lane = COALESCE((SELECT value FROM json_each(:lanes) WHERE key = recipient.address), lane)"
        " WHERE lease_owner IS NOT NULL AND lease_owner = :owner AND epoch = :epoch"
        " AND (:queue_id = '' OR queue_id = :queue_id) AND +status IN ('queued', 'deferred')",
        {
            "now": one.now,
            "owner": one.owner,
            "epoch": one.epoch,
            "queue_id": one.queue_id,
            "tried": int(not one.sorting),
            "lanes": json.dumps(dict(one.lanes)),
        },
    ).rowcount


def void_leases(db: sqlite3.Connection, now: float) -> int:
    """At a daemon's start: whoever held these is gone. They are due now, begun and not recorded (see PROMOTE)."""
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
    lane = COALESCE(NULLIF(given.column14, ''), recipient.lane),
    ready = given.column15,
    notice = CASE
        WHEN recipient.notice <> 'done' AND given.column3 IN ('bounced', 'expired') THEN 'failure'
        WHEN recipient.notice <> 'done' AND given.column3 = 'sent' AND NOT given.column16
            AND instr(recipient.notify, 'SUCCESS') THEN 'success'
        ELSE recipient.notice END,
    begun = 0, leased_until = NULL, lease_owner = NULL
FROM (VALUES {rows}) AS given
WHERE recipient.queue_id = given.column1 AND recipient.address = given.column2
"""


_KEEP_BODIES = "UPDATE message SET keep_body = 1 WHERE queue_id IN (SELECT value FROM json_each(?))"


def record(db: sqlite3.Connection, records: Sequence[Record], *, retention: Retention) -> list[Recorded]:
    asked = [(one, address) for one in records for address in one.results]
    held = _held(db, asked)
    _write(db, [_result_row(one, address) for one, address in held])
    insert(db, "event", EVENT, [event_row(one.queue_id, one.now, a, one.results[a]) for one, a in held])
    if kept := [one.queue_id for one, a in held if one.results[a].keep_body]:
        db.execute(_KEEP_BODIES, (json.dumps(kept),))
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
        sql = _WRITE.format(rows=placeholders(16, len(part)))
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
        lane_after(result, result.provider), int(due is not None and due <= one.now), int(result.passed_on),
    )  # fmt: skip
