"""Summaries of the history, so that a search need not read all of it.

What some hundred messages in a row can be found by stands in a Bloom filter of a few kB. A search reads the filters, newest
first, and then only messages of which the filter says that they may be it. They are made beside the mail, by a reader, so
putting a message costs nothing; what is not summarized yet is read. A filter never says no to what is there: whoever puts
a message with an id in between deletes the row, and a row is written only if nothing came in between meanwhile.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

BLOCK = 256  # messages
_BITS = 12  # for each word: about one word in 250 is found that is not there
_HASHES = 5
_PREFIXES = (3, 4, 6, 8, 10, 12)  # of a word, by which it is found
_WHOLE = "."  # after a word that ends there
_LOCAL, _DOMAIN = 65, 4  # characters around an @ by which an address is found

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Summary:
    """Of `messages` messages after `after_id`, up to `last_id`."""

    after_id: str
    last_id: str
    messages: int
    words: bytes


def hash_of(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def make_filter(keys: Iterable[str]) -> bytes:
    hashes = {hash_of(key) for key in keys}
    size = max(8, len(hashes) * _BITS // 8 + 1)
    bits = bytearray(size)
    for one in hashes:
        for bit in _places(one, size * 8):
            bits[bit >> 3] |= 1 << (bit & 7)
    return bytes(bits)


def may_hold(words: bytes, hashed: int) -> bool:
    first, step, bits = hashed & 0xFFFFFFFF, hashed >> 32 | 1, len(words) * 8
    for n in range(_HASHES):  # as _places, which is slower: this is asked thousands of times in a search
        bit = (first + n * step) % bits
        if not words[bit >> 3] & 1 << (bit & 7):
            return False
    return True


def _places(hashed: int, bits: int) -> Iterator[int]:
    first, step = hashed & 0xFFFFFFFF, hashed >> 32 | 1
    return ((first + n * step) % bits for n in range(_HASHES))


def keys_of(text: str) -> Iterator[str]:
    """Everything by which this is found (in lower case); what stands for a search is in `keys_for`."""
    for word in _WORD.findall(text):
        yield word + _WHOLE
        for length in _PREFIXES:
            if len(word) < length:
                break
            yield word[:length]
    for at in re.finditer("@", text):
        end = at.start()
        local = text[max(0, end - _LOCAL) : end].rpartition(" ")[2]
        domain = text[end : end + 1 + _DOMAIN]
        yield from (local[word.start() :] + domain for word in _WORD.finditer(local))


def keys_for(term: str) -> list[str]:
    """All of these are in the filter of a message in which `term`, without a space in it, begins a word; none when it could
    be any."""
    keys = []
    for word in _WORD.finditer(term):
        if word.end() < len(term):
            keys.append(word[0] + _WHOLE)
        elif lengths := [length for length in _PREFIXES if length <= len(word[0])]:
            keys.append(word[0][: lengths[-1]])
    local, at, domain = term.rpartition("@")
    if at and len(domain) >= _DOMAIN and len(local) < _LOCAL and _WORD.match(local):
        keys.append(f"{local}@{domain[:_DOMAIN]}")
    return keys


def key_of_id(message_id: str) -> str:
    return f"<{message_id}>"


_LAST = "SELECT last_id FROM summary ORDER BY last_id DESC LIMIT 1"
_NEXT = "SELECT queue_id, reverse_path, subject, message_id FROM message WHERE queue_id > ? ORDER BY queue_id LIMIT ?"
_ADDRESSES = "SELECT DISTINCT address FROM recipient WHERE queue_id > ? AND queue_id <= ?"


def next_summary(db: sqlite3.Connection, upto: str) -> Summary | None:
    """Of the first messages without one, all of them less than `upto`; None while they are not enough."""
    row = db.execute(_LAST).fetchone()
    after = row[0] if row else ""
    rows = db.execute(_NEXT, (after, BLOCK)).fetchall()
    if len(rows) < BLOCK or rows[-1][0] >= upto:
        return None
    last = rows[-1][0]
    addresses = {row[0].lower() for row in db.execute(_ADDRESSES, (after, last))}
    keys: set[str] = set()
    for text in addresses.union(*((row[1].lower(), row[2].lower()) for row in rows)):
        keys.update(keys_of(text))
    keys.update(key_of_id(bare_id(row[3])) for row in rows)
    return Summary(after, last, len(rows), make_filter(keys))


def bare_id(message_id: str) -> str:
    return message_id.strip().strip("<>").lower()


# Only if it follows the last one, and holds all that is there now.
_WRITE = """
INSERT INTO summary (last_id, after_id, words) SELECT :last, :after, :words
WHERE :after = COALESCE((SELECT max(last_id) FROM summary), '')
    AND :messages = (SELECT count(*) FROM message WHERE queue_id > :after AND queue_id <= :last)
"""
_PRUNE = "DELETE FROM summary WHERE last_id < (SELECT min(queue_id) FROM message)"


def write(db: sqlite3.Connection, args: Sequence[Summary]) -> list[bool]:
    db.execute(_PRUNE)
    return [_write(db, one) for one in args]


def _write(db: sqlite3.Connection, one: Summary) -> bool:
    values = {"last": one.last_id, "after": one.after_id, "words": one.words, "messages": one.messages}
    return db.execute(_WRITE, values).rowcount > 0


def outdate(db: sqlite3.Connection, first_id: str) -> None:
    """A message was put with this id: what was said of those from there on may no longer be all."""
    db.execute("DELETE FROM summary WHERE last_id >= ?", (first_id,))
