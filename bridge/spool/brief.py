"""Messages as a page and the API show them: of many recipients the first, or a part of them, and of all what numbers say.

A message may have as many recipients as it was given; what is read of it here has a bound. Read only, on a reader's connection.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from bridge.spool.base import Page, Search
from bridge.spool.listing import EVENTS, STATUSES, facts, recipient, status_of, timelines
from bridge.spool.search import search

# In the order of the table, so that nothing is sorted; what is not indexed by its status is sent or delivered.
_TOTALS = """
SELECT queue_id, count(*) AS total, sum(status = 'sent') AS sent FROM recipient
WHERE queue_id IN (SELECT value FROM json_each(?)) GROUP BY queue_id
"""
_OPEN = """
SELECT queue_id, status, count(*) FROM recipient INDEXED BY recipient_open
WHERE status IN ('queued', 'deferred', 'held', 'bounced', 'expired', 'dropped')
    AND queue_id IN (SELECT value FROM json_each(?)) GROUP BY status, queue_id
"""
_TROUBLED = {"deferred", "bounced", "expired", "held"}
_MESSAGES = "SELECT * FROM message WHERE queue_id IN (SELECT value FROM json_each(?)) ORDER BY queue_id DESC"
_PART = """
SELECT * FROM recipient WHERE queue_id = :queue_id AND address IN (
    SELECT address FROM recipient WHERE queue_id = :queue_id ORDER BY position LIMIT :most OFFSET :skip
) ORDER BY position
"""
_TROUBLE = """
SELECT * FROM recipient WHERE queue_id = ? AND status IN ('deferred', 'bounced', 'expired', 'held') AND (text <> '' OR code)
ORDER BY position LIMIT 1
"""
_EVENTS = f"{EVENTS} AND (address = '' OR address IN (SELECT value FROM json_each(?))) ORDER BY seq"  # noqa: S608 our names
_MAILED_TO = """
SELECT DISTINCT queue_id FROM recipient WHERE queue_id IN (SELECT value FROM json_each(?))
    AND (instr(lower(address), ?) OR instr(address, ?))
"""


def rows(db: sqlite3.Connection, ids: Sequence[str], most: int) -> list[dict[str, Any]]:
    """Newest first, as in the list, with the first `most` recipients of each, `recipients_total`, `recipients_by_status`, and
    `trouble`: the first of all of whom no good news was told, else None."""
    counts = _counts(db, ids)
    found = db.execute(_MESSAGES, (json.dumps(ids),)).fetchall()
    return [_row(db, row, counts.get(row["queue_id"], {}), most, 0) for row in found]


def _counts(db: sqlite3.Connection, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """By queue id how many recipients are what."""
    wanted, found = json.dumps(ids), dict[str, dict[str, int]]()
    opened = db.execute(_OPEN, (wanted,)).fetchall()
    for queue_id, total, sent in db.execute(_TOTALS, (wanted,)):
        found[queue_id] = {"sent": sent, "delivered": total - sent}
    for queue_id, status, count in opened:
        if one := found.get(queue_id):
            one[status] = count
            one["delivered"] -= count
    return found


def _row(
    db: sqlite3.Connection, message: sqlite3.Row, counts: Mapping[str, int], most: int, skip: int
) -> dict[str, Any]:
    queue_id = message["queue_id"]
    by_status = {one: counts[one] for one in STATUSES if counts.get(one)}
    some = db.execute(_PART, {"queue_id": queue_id, "most": most, "skip": skip}) if most else ()
    trouble = db.execute(_TROUBLE, (queue_id,)).fetchone() if _TROUBLED & by_status.keys() else None
    return {
        **facts(message),
        "status": status_of(by_status),
        "recipients": [recipient(one) for one in some],
        "recipients_total": sum(by_status.values()),
        "recipients_by_status": by_status,
        "trouble": recipient(trouble) if trouble else None,
    }


def show_part(db: sqlite3.Connection, queue_id: str, most: int, skip: int) -> dict[str, Any] | None:
    """As in `rows`, but the recipients after the first `skip`; with the `events` that concern them or the whole message, and
    `timelines` by address, as in `listing.show`."""
    with _at_one_moment(db):
        return _show_part(db, queue_id, most, skip)


def _show_part(db: sqlite3.Connection, queue_id: str, most: int, skip: int) -> dict[str, Any] | None:
    message = db.execute(_MESSAGES, (json.dumps([queue_id]),)).fetchone()
    if message is None:
        return None
    row = _row(db, message, _counts(db, [queue_id]).get(queue_id, {}), most, skip)
    addresses = [one["address"] for one in row["recipients"]]
    told = [dict(event) for event in db.execute(_EVENTS, (queue_id, json.dumps(addresses)))]
    return {**row, "events": told, "timelines": timelines(told, addresses)}


def search_page(
    db: sqlite3.Connection, wanted: Search, limit: int, before: str, after: str, recipients: int | None
) -> Page:
    """See `Operator.search`. Raises SpoolError."""
    if recipients is None:
        return search(db, wanted, limit, before, after)
    make = partial(rows, most=recipients) if recipients else _ids
    with _at_one_moment(db):
        return search(db, wanted, limit, before, after, make=make)


def _ids(db: sqlite3.Connection, ids: Sequence[str]) -> list[dict[str, Any]]:
    return [{"queue_id": one} for one in ids]


@contextmanager
def _at_one_moment(db: sqlite3.Connection) -> Iterator[None]:
    """Else what is sent between two statements would be counted twice, or not at all."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def mailed_to(db: sqlite3.Connection, ids: Sequence[str], words: Sequence[str]) -> set[str]:
    """Those of these messages that have each of the words in some recipient's address."""
    found = set(ids)
    for word in words:
        found &= {row[0] for row in db.execute(_MAILED_TO, (json.dumps(sorted(found)), word.lower(), word))}
    return found
