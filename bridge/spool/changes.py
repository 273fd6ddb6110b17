"""What the operator does: retry (also through another provider), hold, release, drop, and what each of them would do.

Recipients whose attempt is running are left alone.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.model import FAILED
from bridge.spool.base import Action, Forecast
from bridge.spool.intake import EVENT, Retention, plain_event
from bridge.spool.retention import resolve
from bridge.spool.values import insert


@dataclass(frozen=True, slots=True)
class Change:
    queue_ids: Sequence[str]
    now: float


@dataclass(frozen=True, slots=True)
class Changed:
    recipients: int
    files: tuple[str, ...] = ()


# A recipient whose attempt is running is never touched: its result is still to be recorded.
_RETRY_WAITING = """
UPDATE recipient SET next_attempt_at = :now, lease_owner = NULL, leased_until = NULL, ready = 1,
    lane = CASE WHEN begun > 0 AND provider <> '' THEN '=' || provider ELSE lane END
WHERE queue_id IN (SELECT value FROM json_each(:ids)) AND status IN ('queued', 'deferred')
    AND (lease_owner IS NULL OR leased_until <= :now)
RETURNING queue_id
"""
# Failed ones begin a new lifetime, as long as the first one was; only a message that still has its body can be sent.
_RETRY_FAILED = """
UPDATE recipient SET unknowns = 0,
    status = CASE WHEN attempts > 0 THEN 'deferred' ELSE 'queued' END, next_attempt_at = :now, blocked_at = NULL,
    ready = 1, lane = '', notice = CASE WHEN notice = 'done' THEN notice ELSE '' END,
    expires_at = :now + (
        SELECT message.expires_at - message.created_at FROM message WHERE message.queue_id = recipient.queue_id)
WHERE queue_id IN (SELECT value FROM json_each(:ids)) AND status IN ('bounced', 'expired')
    AND EXISTS (SELECT 1 FROM message WHERE message.queue_id = recipient.queue_id AND message.body <> '')
RETURNING queue_id
"""
_HOLD = """
UPDATE recipient SET
    status = 'held', next_attempt_at = NULL, ready = 0, blocked_at = COALESCE(blocked_at, :now),
    lease_owner = NULL, leased_until = NULL,
    lane = CASE WHEN begun > 0 AND provider <> '' THEN '=' || provider ELSE lane END
WHERE queue_id IN (SELECT value FROM json_each(:ids)) AND status IN ('queued', 'deferred')
    AND (lease_owner IS NULL OR leased_until <= :now)
RETURNING queue_id
"""
# The time on hold does not count towards expiry. Lost answers are counted anew; who may have mailed it still may not be left.
_RELEASE = """
UPDATE recipient SET unknowns = 0,
    status = CASE WHEN attempts > 0 THEN 'deferred' ELSE 'queued' END, next_attempt_at = :now,
    ready = 1, lane = CASE WHEN lane LIKE '=%' THEN lane ELSE '' END,
    expires_at = expires_at + COALESCE(:now - blocked_at, 0), blocked_at = NULL
WHERE queue_id IN (SELECT value FROM json_each(:ids)) AND status = 'held'
RETURNING queue_id
"""
_DROP = """
UPDATE recipient SET
    status = 'dropped', next_attempt_at = NULL, ready = 0, begun = 0, lease_owner = NULL, leased_until = NULL,
    notice = CASE WHEN notice = 'done' THEN notice ELSE '' END
WHERE queue_id IN (SELECT value FROM json_each(:ids))
    AND status IN ('queued', 'deferred', 'held', 'bounced', 'expired')
    AND (lease_owner IS NULL OR leased_until <= :now)
RETURNING queue_id
"""
# Who may have mailed it already is not left, unless it is asked for; then that is forgotten.
_BOUND = "(begun > 0 OR unknowns > 0 OR lane LIKE '=%')"
_OWNER = "CASE WHEN lane LIKE '=%' THEN substr(lane, 2) ELSE provider END"
_STAYS = f"({_BOUND} AND {_OWNER} = :provider)"
_REROUTE = f"""
UPDATE recipient SET
    status = CASE WHEN status IN ('queued', 'deferred') THEN status WHEN attempts > 0 THEN 'deferred' ELSE 'queued' END,
    next_attempt_at = :now, ready = 1, lease_owner = NULL, leased_until = NULL,
    lane = CASE WHEN {_STAYS} THEN '=' || :provider ELSE :lane END,
    unknown_group = CASE WHEN {_STAYS} THEN unknown_group END,
    begun = CASE WHEN {_STAYS} THEN begun ELSE 0 END,
    unknowns = CASE WHEN {_STAYS} AND status IN ('queued', 'deferred') THEN unknowns ELSE 0 END,
    expires_at = CASE
        WHEN status = 'held' THEN expires_at + COALESCE(:now - blocked_at, 0)
        WHEN status IN ('bounced', 'expired') THEN :now + (
            SELECT message.expires_at - message.created_at FROM message WHERE message.queue_id = recipient.queue_id)
        ELSE expires_at END,
    blocked_at = CASE WHEN status IN ('queued', 'deferred') THEN blocked_at END,
    notice = CASE WHEN status IN ('bounced', 'expired') AND notice <> 'done' THEN '' ELSE notice END
WHERE queue_id IN (SELECT value FROM json_each(:ids))
    AND (:force OR NOT {_BOUND} OR {_STAYS})
    AND (status = 'held'
        OR status IN ('queued', 'deferred') AND (lease_owner IS NULL OR leased_until <= :now)
        OR status IN ('bounced', 'expired') AND EXISTS (
            SELECT 1 FROM message WHERE message.queue_id = recipient.queue_id AND message.body <> ''))
RETURNING queue_id
"""  # noqa: S608
_FORECAST = f"""
SELECT queue_id, status, lease_owner IS NOT NULL AND leased_until > :now AS running, body <> '' AS kept,
    CASE WHEN {_BOUND} THEN {_OWNER} ELSE '' END AS owner
FROM recipient JOIN message USING (queue_id) WHERE queue_id IN (SELECT value FROM json_each(:ids))
"""  # noqa: S608
_UNFINISH = "UPDATE message SET resolved_at = NULL, failed = 0 WHERE queue_id IN (SELECT value FROM json_each(?))"
_REOPEN = """
UPDATE message SET resolved_at = NULL, failed = 0
WHERE queue_id IN (SELECT value FROM json_each(?)) AND EXISTS (
    SELECT 1 FROM recipient
    WHERE recipient.queue_id = message.queue_id AND status IN ('queued', 'deferred', 'held'))
"""

Step = Callable[[sqlite3.Connection, Any], Changed]


def retry(db: sqlite3.Connection, change: Change) -> Changed:
    steps = (_RETRY_WAITING, _RELEASE, _RETRY_FAILED)
    changed = [queue_id for sql in steps for queue_id in _update(db, sql, change)]
    db.execute(_REOPEN, (json.dumps(changed),))
    return _noted(db, changed, "retried", change.now)


@dataclass(frozen=True, slots=True)
class Reroute:
    """`lane`: of `provider` alone. `force`: also what another provider may have mailed already."""

    queue_ids: Sequence[str]
    now: float
    provider: str
    lane: str
    force: bool


def reroute(db: sqlite3.Connection, change: Reroute) -> Changed:
    values = {
        "ids": json.dumps(list(change.queue_ids)),
        "now": change.now,
        "provider": change.provider,
        "lane": change.lane,
        "force": change.force,
    }
    changed = [row[0] for row in db.execute(_REROUTE, values).fetchall()]
    db.execute(_REOPEN, (json.dumps(changed),))
    return _noted(db, changed, "rerouted", change.now, change.provider)


RUNNING = "an attempt is running"
NO_BODY = "the body is not kept any more"
OVER = "it is over"
NOT_HELD = "it is not on hold"
ON_HOLD = "it is on hold already"


def forecast(
    db: sqlite3.Connection, action: Action, queue_ids: Sequence[str], now: float, provider: str, force: bool
) -> Forecast:
    """What the action would do now. `provider`: of `retry`, through this one."""
    before: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    left: Counter[str] = Counter()
    there: set[str] = set()
    for row in db.execute(_FORECAST, {"ids": json.dumps(list(queue_ids)), "now": now}):
        there.add(row["queue_id"])
        before[row["status"]] += 1
        if why := _left(action, row, provider, force):
            left[why] += 1
        else:
            changed[row["status"]] += 1
    unknown = len(set(queue_ids) - there)
    return Forecast(messages=len(there), before=before, changed=changed, left=left, unknown=unknown)


def _left(action: Action, row: sqlite3.Row, provider: str, force: bool) -> str:
    """Why this recipient would be left as it is; "" when it would be changed. As the statements above have it."""
    status = row["status"]
    if action == "release":
        return "" if status == "held" else NOT_HELD
    if status in ("sent", "delivered", "dropped") or (action == "hold" and status in FAILED):
        return OVER
    if action == "hold" and status == "held":
        return ON_HOLD
    if row["running"]:
        return RUNNING
    if action == "retry" and status in FAILED and not row["kept"]:
        return NO_BODY
    if provider and not force and row["owner"] not in ("", provider):
        return f"it is bound to {row['owner']}, which may have sent it already"
    return ""


def hold(db: sqlite3.Connection, change: Change) -> Changed:
    return _noted(db, _update(db, _HOLD, change), "held", change.now)


def release(db: sqlite3.Connection, change: Change) -> Changed:
    return _noted(db, _update(db, _RELEASE, change), "released", change.now)


def drop(db: sqlite3.Connection, change: Change, retention: Retention) -> Changed:
    """Failed ones too, whose bodies go with that."""
    changed = _update(db, _DROP, change)
    db.execute(_UNFINISH, (json.dumps(changed),))
    noted = _noted(db, changed, "dropped", change.now)
    resolved = resolve(db, dict.fromkeys(changed, change.now), retention)
    return Changed(noted.recipients, resolved.files)


def _update(db: sqlite3.Connection, sql: str, change: Change) -> list[str]:
    """The queue id of every recipient changed."""
    values = {"ids": json.dumps(list(change.queue_ids)), "now": change.now}
    return [row[0] for row in db.execute(sql, values).fetchall()]


def _noted(db: sqlite3.Connection, changed: list[str], word: str, now: float, text: str = "") -> Changed:
    insert(db, "event", EVENT, [plain_event(queue_id, now, word, text) for queue_id in dict.fromkeys(changed)])
    return Changed(len(changed))


def in_turn(step: Step) -> Callable[[sqlite3.Connection, Sequence[Any]], list[Changed]]:
    """The writer's form of a step: one change after the other."""
    return lambda db, changes: [step(db, change) for change in changes]
