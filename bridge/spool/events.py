"""What providers tell later of the mail they took: kept, joined to its recipient, and what follows from it, in one transaction.

The same event again changes nothing. An order that makes no sense (delivered after bounced) changes nothing either: a
recipient only goes from sent to delivered, and from both to bounced.

LATER: a recipient whose answer was lost could be taken as sent when the provider tells of it by our queue id. It is tried
again instead, as the others of its call have to be, under the same key.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.model import Event, mailbox_key
from bridge.spool import memory
from bridge.spool.base import Heard, NotedEvent, Post
from bridge.spool.intake import EVENT, Retention, clean, reply_columns, told_row
from bridge.spool.retention import resolve
from bridge.spool.values import insert

KEPT_S = 2 * 86400.0  # at least: providers tell again what was not taken for a day
MAX_LOOKS = 100  # opened and clicked, of one message: some readers open a mail without end
MAX_SAME_ID = 2000  # recipients of one id that are looked through where the event spells the address otherwise
MAX_SAME_MESSAGES = 20  # and messages of one id where it is spelled so

_COLUMNS = (
    "provider", "event_id", "received_at", "at", "event", "final", "permanent", "queue_id", "told_queue_id", "address",
    "provider_message_id", "code", "enhanced", "text", "raw",
)  # fmt: skip
_NOTE = f"INSERT OR IGNORE INTO provider_event ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 our names
_FOUND = "queue_id, address, provider, lease_owner IS NOT NULL OR status IN ('queued', 'deferred', 'held')"
_BY_QUEUE_ID = f"SELECT {_FOUND} FROM recipient WHERE queue_id = ? AND address = ?"  # noqa: S608 our names
_ALL_BY_QUEUE_ID = f"SELECT {_FOUND} FROM recipient WHERE queue_id = ? LIMIT ?"  # noqa: S608
# The key stands in the index too: the messages of an id are found without the recipients of each.
_LATEST = """
SELECT max(queue_id) FROM recipient INDEXED BY recipient_provider_id
WHERE provider_message_id = ? AND provider_message_id <> '' AND queue_id < ?
"""
_BY_PROVIDER_ID = f"{_BY_QUEUE_ID} AND provider_message_id = ? AND provider = ?"
_ALL_BY_PROVIDER_ID = f"""
SELECT {_FOUND} FROM recipient INDEXED BY recipient_provider_id
WHERE provider_message_id = ? AND provider_message_id <> '' AND provider = ? ORDER BY queue_id DESC LIMIT ?
"""  # noqa: S608
_JOIN = "UPDATE provider_event SET queue_id = ?, address = ? WHERE provider = ? AND event_id = ?"
_DELIVERED = "UPDATE recipient SET status = 'delivered' WHERE queue_id = ? AND address = ? AND status = 'sent'"
_BOUNCED = """
UPDATE recipient SET status = 'bounced', code = ?, enhanced = ?, text = ?, fault = 'recipient',
    notice = CASE WHEN notice = 'done' THEN notice ELSE 'failure' END
WHERE queue_id = ? AND address = ? AND status IN ('sent', 'delivered')
"""
_REOPEN = "UPDATE message SET resolved_at = NULL, failed = 0 WHERE queue_id = ?"
_LOOKS = "SELECT count(*) FROM provider_event WHERE queue_id = ? AND event IN ('opened', 'clicked')"

# Random keys: each costs a message that is sent some 60 us of the writer (measured 2026-11, 120 000 rows), so the index is
# there only while a provider is to tell of its mail.
_INDEX = """
CREATE INDEX IF NOT EXISTS recipient_provider_id ON recipient (provider_message_id) WHERE provider_message_id <> ''
"""
_NO_INDEX = "DROP INDEX IF EXISTS recipient_provider_id"

MakePosts = Callable[[Sequence[Heard]], Sequence[Post]]


def index(db: sqlite3.Connection, args: Sequence[bool]) -> list[None]:
    for wanted in args:
        db.execute(_INDEX if wanted else _NO_INDEX)
    return [None] * len(args)


@dataclass(frozen=True, slots=True)
class Take:
    """`posts`: made of what is new, in the same transaction."""

    provider: str
    events: Sequence[NotedEvent]
    now: float
    posts: MakePosts


@dataclass(frozen=True, slots=True)
class Taken:
    heard: tuple[Heard, ...]
    files: tuple[str, ...] = ()


def take(db: sqlite3.Connection, args: Sequence[Take], *, retention: Retention) -> list[Taken]:
    return [_take(db, one, retention) for one in args]


def _take(db: sqlite3.Connection, one: Take, retention: Retention) -> Taken:
    finder = _Finder(db)
    heard = tuple(_hear(db, noted, one, finder) for noted in one.events)
    memory.insert_posts(db, one.posts([h for h in heard if not h.known]))
    return Taken(heard, _settle(db, heard, one.now, retention))


def _hear(db: sqlite3.Connection, noted: NotedEvent, one: Take, finder: _Finder) -> Heard:
    event = noted.event
    if not db.execute(_NOTE, _row(one.provider, event, one.now)).rowcount:
        return Heard(event=event, provider=one.provider, known=True)
    found = finder.find(one.provider, event)
    if found is None or found.running:  # looked at again by `rejoin`
        return Heard(event=event, provider=one.provider)
    return _join(db, noted, one.provider, found, one.now)


def _row(provider: str, event: Event, now: float) -> tuple[object, ...]:
    texts = map(clean, (event.queue_id, event.recipient, event.provider_message_id))
    return (
        provider, clean(event.event_id), now, event.at, event.kind, int(event.final), int(event.permanent), "", *texts,
        event.code, event.enhanced, clean(event.text), clean(event.raw),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Found:
    """`theirs`: the provider that tells it is the one that took the mail last; another one's word changes nothing. `running`:
    an attempt is, or another will be, as where the answer was lost: what came of it is still to be recorded."""

    queue_id: str
    address: str
    theirs: bool
    running: bool


_Row = tuple[str, str, str, int]
_LAST = "\U0010ffff"  # after every queue id


class _Finder:
    """Whom an event is about, for one transaction: what it asks for does not change in it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._scanned: dict[tuple[str, str], tuple[Sequence[_Row], Mapping[str, _Row]]] = {}

    def find(self, provider: str, event: Event) -> _Found | None:
        """By our own id where it came back, else by the provider's."""
        queue_id, theirs = clean(event.queue_id), clean(event.provider_message_id)
        row = self._by_queue_id(queue_id, event.recipient) if queue_id else None
        if row is None and theirs:
            row = self._by_provider_id(theirs, provider, event.recipient)
        return _Found(row[0], row[1], row[2] == provider, bool(row[3])) if row else None

    def _by_queue_id(self, queue_id: str, recipient: str) -> _Row | None:
        row: _Row | None = self._db.execute(_BY_QUEUE_ID, (queue_id, clean(recipient))).fetchone()
        return row or self._otherwise(recipient, (queue_id, ""), _ALL_BY_QUEUE_ID, (queue_id,))

    def _by_provider_id(self, theirs: str, provider: str, recipient: str) -> _Row | None:
        """Of several messages with one id (a mail sent again, where the id is the Message-ID) it is the latest."""
        latest = _LAST
        for _ in range(MAX_SAME_MESSAGES if recipient else 0):
            (latest,) = self._db.execute(_LATEST, (theirs, latest)).fetchone()
            if latest is None:
                break
            row: _Row | None = self._db.execute(
                _BY_PROVIDER_ID, (latest, clean(recipient), theirs, provider)
            ).fetchone()
            if row:
                return row
        return self._otherwise(recipient, (theirs, provider), _ALL_BY_PROVIDER_ID, (theirs, provider))

    def _otherwise(self, recipient: str, place: tuple[str, str], sql: str, args: tuple[str, ...]) -> _Row | None:
        """By the mailbox, however it is spelled; the only one where the event names none."""
        if place not in self._scanned:
            rows = self._db.execute(sql, (*args, MAX_SAME_ID)).fetchall()
            self._scanned[place] = rows, {mailbox_key(row[1]): row for row in reversed(rows)}
        known, by_mailbox = self._scanned[place]
        if not recipient:
            return known[0] if len(known) == 1 else None
        return by_mailbox.get(mailbox_key(recipient))


def _join(db: sqlite3.Connection, noted: NotedEvent, provider: str, found: _Found, now: float) -> Heard:
    event = noted.event
    if event.kind in ("opened", "clicked") and db.execute(_LOOKS, (found.queue_id,)).fetchone()[0] >= MAX_LOOKS:
        db.execute("DELETE FROM provider_event WHERE provider = ? AND event_id = ?", (provider, clean(event.event_id)))
        return Heard(event=event, provider=provider, known=True)
    db.execute(_JOIN, (found.queue_id, found.address, provider, clean(event.event_id)))
    insert(db, "event", EVENT, [told_row(found.queue_id, min(event.at or now, now), found.address, event, provider)])
    status = _change(db, noted, found) if found.theirs else ""
    suppressed = False
    if noted.suppression and found.theirs:
        (suppressed,) = memory.suppress(db, [memory.Suppress(found.address, noted.suppression, provider, now)])
    return Heard(
        event=event,
        provider=provider,
        queue_id=found.queue_id,
        address=found.address,
        status=status,
        reply=noted.reply if status == "bounced" else None,
        suppressed=suppressed,
    )


def _change(db: sqlite3.Connection, noted: NotedEvent, found: _Found) -> str:
    """The recipient's new status; "" when it stays as it is."""
    place = (found.queue_id, found.address)
    if noted.event.kind == "delivered":
        return "delivered" if db.execute(_DELIVERED, place).rowcount else ""
    if noted.reply is None:
        return ""
    return "bounced" if db.execute(_BOUNCED, (*reply_columns(noted.reply), *place)).rowcount else ""


def _settle(db: sqlite3.Connection, heard: Sequence[Heard], now: float, retention: Retention) -> tuple[str, ...]:
    """A message one of whose recipients bounced is open until its sender was told, and then among the failed ones."""
    bounced = dict.fromkeys((h.queue_id for h in heard if h.status == "bounced"), now)
    db.executemany(_REOPEN, [(queue_id,) for queue_id in bounced])
    return resolve(db, bounced, retention).files


@dataclass(frozen=True, slots=True)
class Rejoin:
    """Those with these ids (see `joinable`), if they belong to no message yet: the answer to our call may come after the
    event."""

    ids: Sequence[int]
    now: float
    note: Callable[[Event], NotedEvent]
    posts: MakePosts


# What a provider tells of mail that is not ours stays for days: it is passed by with two looks into indexes.
_JOINABLE = """
SELECT received_at, id,
    (told_queue_id <> '' AND EXISTS (SELECT 1 FROM recipient WHERE queue_id = told_queue_id))
    OR (e.provider_message_id <> '' AND EXISTS (
        SELECT 1 FROM recipient INDEXED BY recipient_provider_id
        WHERE provider_message_id = e.provider_message_id AND provider_message_id <> ''
    ))
FROM provider_event AS e INDEXED BY provider_event_unjoined
WHERE queue_id = '' AND (received_at, id) > (?, ?) ORDER BY received_at, id LIMIT ?
"""
_UNJOINED = """
SELECT provider, event, event_id, address, provider_message_id, told_queue_id, at, final, permanent, code, enhanced, text, raw
FROM provider_event WHERE queue_id = '' AND id IN (SELECT value FROM json_each(?)) ORDER BY received_at, id
"""
Place = tuple[float, int]  # when it came, and its id


def joinable(db: sqlite3.Connection, after: Place, limit: int) -> tuple[list[int], Place | None]:
    """Of the next `limit` that belong to no message those whose message may be known by now; with where to go on, None at the
    end."""
    rows = db.execute(_JOINABLE, (*after, limit)).fetchall()
    place = (rows[-1][0], rows[-1][1]) if len(rows) == limit else None
    return [row[1] for row in rows if row[2]], place


def rejoin(db: sqlite3.Connection, args: Sequence[Rejoin], *, retention: Retention) -> list[Taken]:
    return [_rejoin(db, one, retention) for one in args]


def _rejoin(db: sqlite3.Connection, one: Rejoin, retention: Retention) -> Taken:
    heard, finder = [], _Finder(db)
    for provider, *told in db.execute(_UNJOINED, (json.dumps(one.ids),)).fetchall():
        event = _as_event(*told)
        found = finder.find(provider, event)
        if found and not found.running:
            heard.append(_join(db, one.note(event), provider, found, one.now))
    memory.insert_posts(db, one.posts([h for h in heard if not h.known]))
    return Taken(tuple(heard), _settle(db, heard, one.now, retention))


def _as_event(
    kind: Any, event_id: str, recipient: str, message_id: str, queue_id: str, at: float | None, *rest: Any
) -> Event:
    final, permanent, code, enhanced, text, raw = rest
    return Event(
        kind=kind,
        event_id=event_id,
        recipient=recipient,
        provider_message_id=message_id,
        queue_id=queue_id,
        at=at,
        final=bool(final),
        permanent=bool(permanent),
        code=code,
        enhanced=enhanced,
        text=text,
        raw=raw,
    )


@dataclass(frozen=True, slots=True)
class PruneEvents:
    before: float
    limit: int


def prune(db: sqlite3.Connection, args: Sequence[PruneEvents]) -> list[int]:
    sql = """DELETE FROM provider_event WHERE id IN (
        SELECT id FROM provider_event WHERE received_at < ? ORDER BY received_at LIMIT ?)"""
    return [db.execute(sql, (one.before, one.limit)).rowcount for one in args]


# --- to be shown


def of_message(db: sqlite3.Connection, queue_id: str, limit: int) -> list[dict[str, object]]:
    sql = "SELECT * FROM provider_event WHERE queue_id = ? AND queue_id <> '' ORDER BY id LIMIT ?"
    return [dict(row) for row in db.execute(sql, (queue_id, limit))]


def unjoined(db: sqlite3.Connection, limit: int) -> list[dict[str, object]]:
    """The latest first."""
    sql = "SELECT * FROM provider_event WHERE queue_id = '' ORDER BY received_at DESC, id DESC LIMIT ?"
    return [dict(row) for row in db.execute(sql, (limit,))]


def count_unjoined(db: sqlite3.Connection) -> int:
    (count,) = db.execute("SELECT count(*) FROM provider_event WHERE queue_id = ''").fetchone()
    return int(count)
