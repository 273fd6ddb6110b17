"""What every side of a SQLite spool works with: the thread that writes, those that read, the body files, the bell.

`sqlite.SqliteSpool` is made of sides, each in a module of its own: what comes in (entrance), what providers tell (hearing),
what senders are told (telling), what is remembered (remembrance), the numbers, what the operator
does (operator), and what moves to another spool (transfer, departure).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.spool.bodies import Bodies, BodyLost
from bridge.spool.history import History
from bridge.spool.intake import Retention
from bridge.spool.ownership import Bell
from bridge.spool.reader import Pool, Reader
from bridge.spool.space import Space
from bridge.spool.writer import Writer

ROW_BYTES = 512  # what a message takes beside its body, roughly


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """`reader`: for delivery; `loader`: of bodies; `searcher`: so that who looks keeps no delivery waiting.
    `file_threshold`: bodies above so many octets are files."""

    writer: Writer
    reader: Reader
    loader: Reader
    searcher: Reader
    history: History
    bodies: Bodies
    pool: Pool
    space: Space
    bell: Bell
    keep: Retention
    file_threshold: int


class Engine:
    def __init__(self, parts: Parts) -> None:
        self._writer = parts.writer
        self._reader = parts.reader
        self._loader = parts.loader
        self._searcher = parts.searcher
        self._history = parts.history
        self._bodies = parts.bodies
        self._pool = parts.pool
        self._space = parts.space
        self._bell = parts.bell
        self._keep = parts.keep
        self._threshold = parts.file_threshold

    async def _read(self, row: sqlite3.Row) -> bytes:
        """Raises BodyLost."""
        if row["body"] == "file":
            return await self._pool.run(self._bodies.read, row["queue_id"], row["size"], row["crc"])
        if row["raw"] is None or len(row["raw"]) != row["size"]:
            raise BodyLost("no body row")
        return bytes(row["raw"])

    def _discard(self, files: Sequence[str]) -> None:
        """Body files whose rows are gone. If we die first, the next start finds them."""
        if files:
            self._pool.post(self._bodies.remove, files)
