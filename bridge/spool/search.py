"""Finding messages: newest first, in small steps, for a bounded time. Read only, on a reader's connection.

What is asked of status and provider is asked in SQL, what is asked of text here. Statuses that `recipient_open` indexes are
walked through that index; where there are words, the summaries tell which messages to read at all.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bridge.spool import summaries
from bridge.spool.base import Page, Search, SpoolError
from bridge.spool.ids import LENGTH, id_at
from bridge.spool.listing import AFTER_ALL, GROUPS, UNINDEXED, summary_rows

STEP = 256  # messages read at once
TIME_S = 0.08  # for one page; what is found until then is shown

_IDS = "SELECT queue_id FROM message WHERE queue_id < ? AND queue_id > ? ORDER BY queue_id DESC LIMIT ?"
_IDS_OPEN = """
SELECT DISTINCT queue_id FROM recipient INDEXED BY recipient_open
WHERE status IN ('queued', 'deferred', 'held', 'bounced', 'expired', 'dropped') AND status = ?
    AND queue_id < ? AND queue_id > ?
ORDER BY queue_id DESC LIMIT ?
"""
# Down from the one that `high` is in, if it is in one.
_SUMMARIES = """
SELECT last_id, after_id, words FROM summary
WHERE last_id > :low AND last_id <= COALESCE((SELECT min(last_id) FROM summary WHERE last_id >= :high), :high)
ORDER BY last_id DESC
"""
_BY_PROVIDER_ID = "SELECT DISTINCT queue_id FROM recipient WHERE provider_message_id = ? AND provider_message_id <> ''"
# A row for each recipient that is what is asked for.
_STEP = """
SELECT m.queue_id, reverse_path, address, subject, message_id, provider_message_id
FROM message AS m JOIN recipient AS r USING (queue_id)
WHERE m.queue_id <= :newest AND m.queue_id >= :oldest
    AND (:provider = '' OR r.provider = :provider)
    AND (:any OR r.status IN (SELECT value FROM json_each(:statuses)))
ORDER BY m.queue_id DESC
"""
_STEP_APART = _STEP.replace(
    "m.queue_id <= :newest AND m.queue_id >= :oldest", "m.queue_id IN (SELECT value FROM json_each(:ids))"
)


# sender, address, subject, Message-ID, provider's id; in lower case
_Row = Sequence[str]
Test = Callable[[_Row], bool]


@dataclass(frozen=True, slots=True)
class _Term:
    """`word` is somewhere in every row that passes `test`. `keys`: alternatives; a filter that holds all of one of them may
    hold the message. Empty: any may."""

    word: str
    test: Test
    keys: tuple[tuple[int, ...], ...] = ()

    def may_be_in(self, words: bytes) -> bool:
        return not self.keys or any(all(summaries.may_hold(words, key) for key in keys) for keys in self.keys)


Make = Callable[[sqlite3.Connection, Sequence[str]], list[dict[str, Any]]]


def search(
    db: sqlite3.Connection,
    wanted: Search,
    limit: int,
    before: str,
    after: str,
    time_s: float = TIME_S,
    *,
    make: Make = summary_rows,
) -> Page:
    """`make`: rows of these messages, in this order. Raises SpoolError for a status that there is none of."""
    if wanted.status and wanted.status not in GROUPS:
        raise SpoolError(f"no such status: {wanted.status}; one of {', '.join(GROUPS)}")
    high = min(before or AFTER_ALL, id_at(wanted.until) if wanted.until else AFTER_ALL)
    low = max(after, _less(id_at(wanted.since)) if wanted.since else "")
    walk = _Walk(db, wanted, limit, time.monotonic() + time_s)
    if named := _named(db, wanted):
        rest = replace(wanted, id="") if wanted.id else replace(wanted, text="")
        walk = _Walk(db, rest, limit, time.monotonic() + time_s)
        walk.these([queue_id for queue_id in named if low < queue_id < high])
    else:
        walk.through(high, low)
    found = walk.found[:limit]
    cut = len(walk.found) > limit
    more = cut or not walk.over
    return Page(rows=make(db, found), more=more, before=(found[-1] if cut else walk.at) if more else "")


def _less(queue_id: str) -> str:
    """Sorts before it, and after all that are less."""
    return queue_id[:-1] + "/" if queue_id.endswith("0") else queue_id


def _named(db: sqlite3.Connection, wanted: Search) -> list[str]:
    """Messages whose queue id or provider's id this is, newest first."""
    words = wanted.id.split() or wanted.text.split()
    if len(words) != 1:
        return []
    (name,) = words
    if len(name) == LENGTH and db.execute("SELECT 1 FROM message WHERE queue_id = ?", (name.upper(),)).fetchone():
        return [name.upper()]
    if not _has_provider_ids(db):
        return []
    return sorted((row[0] for row in db.execute(_BY_PROVIDER_ID, (name,))), reverse=True)[: STEP * 4]


def _has_provider_ids(db: sqlite3.Connection) -> bool:
    """Whether they can be looked up."""
    return db.execute("PRAGMA index_info('recipient_provider_id')").fetchone() is not None


class _Walk:
    """`found`: queue ids, at least `limit` if there are so many. `at`: all that is not less was looked at. `over`: all was."""

    def __init__(self, db: sqlite3.Connection, wanted: Search, limit: int, deadline: float) -> None:
        self._db = db
        self._statuses = GROUPS.get(wanted.status, ())
        self._provider = wanted.provider
        self._limit = limit
        self._deadline = deadline
        self._terms = _terms(wanted, _has_provider_ids(db))
        self._words = [term.word for term in self._terms]
        self._apart = False  # the messages read need not be next to each other
        self._open = bool(self._statuses) and UNINDEXED.isdisjoint(self._statuses)
        self.found: list[str] = []
        self.at = self._low = ""
        self.over = False

    def these(self, ids: Sequence[str]) -> None:
        self._apart = True
        self.read(ids, all_=True)
        self.over = True

    def through(self, high: str, low: str) -> None:
        self._low = low
        for top, bottom in self._ranges(high, low):
            if not self._range(top, bottom):
                return
        self.over = True

    def _ranges(self, high: str, low: str) -> Iterator[tuple[str, str]]:
        """(less than, more than), newest first: everything but what the summaries say no to."""
        top = high
        if any(term.keys for term in self._terms):
            for last_id, after_id, words in self._db.execute(_SUMMARIES, {"low": low, "high": high}):
                if after_id + "!" >= high:
                    continue
                if all(term.may_be_in(words) for term in self._terms):
                    yield top, max(after_id, low)
                elif last_id + "!" < top:  # newer ones that are not summarized
                    yield top, max(last_id, low)
                top = self.at = min(top, after_id + "!")
                if time.monotonic() > self._deadline:
                    yield "", ""  # noticed by whoever reads
        if top > low:
            yield top, low

    def _range(self, high: str, low: str) -> bool:
        """False when the page is full or the time is up."""
        while high > low:
            ids = self._ids(high, low)
            if (came := self.read(ids)) and came != ids[-1]:  # many recipients: the time was up within them
                self.at = came
                return False
            high = self.at = ids[-1] if len(ids) == STEP else low + "!"
            if len(self.found) >= self._limit or time.monotonic() > self._deadline:
                return len(ids) < STEP and low == self._low
            if len(ids) < STEP:
                break
        return time.monotonic() <= self._deadline

    def _ids(self, high: str, low: str) -> list[str]:
        if not self._open:
            return [row[0] for row in self._db.execute(_IDS, (high, low, STEP))]
        found = {row[0] for s in self._statuses for row in self._db.execute(_IDS_OPEN, (s, high, low, STEP))}
        return sorted(found, reverse=True)[:STEP]

    def read(self, ids: Sequence[str], *, all_: bool = False) -> str:
        """Those of these messages that are what is asked for; down to which one they were looked at before the time was up.
        `all_`: whatever time it takes."""
        if not ids:
            return ""
        if not (self._terms or self._statuses or self._provider):
            self.found += ids
            return ids[-1]
        values = {
            "newest": ids[0],
            "oldest": ids[-1],
            "provider": self._provider,
            "any": not self._statuses,
            "statuses": json.dumps(self._statuses),
        }
        sql = _STEP
        if self._open or self._apart:
            sql, values["ids"] = _STEP_APART, json.dumps(ids)
        last, at = self.found[-1] if self.found else "", ""
        for queue_id, *texts in self._db.execute(sql, values):
            if queue_id != at:
                if at and not all_ and time.monotonic() > self._deadline:
                    return at
                at = queue_id
            if queue_id != last and self._is(texts):
                self.found.append(queue_id)
                last = queue_id
        return ids[-1]

    def _is(self, texts: list[str]) -> bool:
        if not self._terms:
            return True
        whole = "\n".join(texts).lower()
        return all(word in whole for word in self._words) and self._passes([text.lower() for text in texts])

    def _passes(self, row: _Row) -> bool:
        return all(term.test(row) for term in self._terms)


def _terms(wanted: Search, summarized: bool) -> list[_Term]:
    terms = [_anywhere(word) for word in wanted.text.lower().split()]
    terms += [_in_words(word, _ADDRESSES) for word in wanted.address.lower().split()]
    terms += [_in_words(word, _SUBJECT) for word in wanted.subject.lower().split()]
    if wanted.id.strip():
        terms.append(_by_id(wanted.id.strip().lower(), summarized))
    return terms


_ADDRESSES, _SUBJECT, _TEXTS = slice(0, 2), slice(2, 3), slice(0, 3)


def _in_words(word: str, places: slice) -> _Term:
    pattern, keys = _beginning(word), _hashes(word)
    return _Term(word, lambda row: any(map(pattern.search, row[places])), (keys,) if keys else ())


def _anywhere(word: str) -> _Term:
    """The provider's id is not in the summary: as the only word it is looked up (`_named`)."""
    pattern, keys, bare = _beginning(word), _hashes(word), summaries.bare_id(word)
    return _Term(
        bare,
        lambda row: any(map(pattern.search, row[_TEXTS])) or _has_id(row, bare),
        (keys, (_hash_of_id(bare),)) if keys else (),
    )


def _by_id(word: str, summarized: bool) -> _Term:
    """`summarized`: it is a Message-ID if it is any, since the provider's are looked up."""
    bare = summaries.bare_id(word)
    return _Term(bare, lambda row: _has_id(row, bare), ((_hash_of_id(bare),),) if summarized else ())


def _has_id(row: _Row, bare: str) -> bool:
    return bool(bare) and bare in (summaries.bare_id(row[3]), row[4])


def _hash_of_id(bare: str) -> int:
    return summaries.hash_of(summaries.key_of_id(bare))


def _hashes(word: str) -> tuple[int, ...]:
    return tuple(summaries.hash_of(key) for key in summaries.keys_for(word))


def _beginning(word: str) -> re.Pattern[str]:
    """Where this begins a word; what begins with a sign may stand anywhere."""
    return re.compile((r"(?<!\w)" if re.match(r"\w", word) else "") + re.escape(word))
