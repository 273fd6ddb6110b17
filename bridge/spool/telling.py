"""What senders are to be told: the notices that are due, and that they are settled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bridge.model import Message
from bridge.spool import notices as notice_rows
from bridge.spool import retention
from bridge.spool.base import Due, Post
from bridge.spool.bodies import BodyLost
from bridge.spool.engine import ROW_BYTES, Engine, Parts
from bridge.spool.intake import new_entry
from bridge.spool.writer import Operation

NOTICE_BYTES = 8 << 20  # of messages whose senders are to be told something, read at once, or one of any size


class Telling(Engine):
    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._late = Operation("note_late", notice_rows.note_late)
        self._settle = Operation("settle_notices", partial(notice_rows.settle, retention=parts.keep), grows=True)

    async def note_late(self, *, now: float, after: float, limit: int = 1000) -> int:
        looked: int = await self._writer.submit(self._late, notice_rows.Late(now, after, limit))
        return looked

    async def notices(self, *, limit: int = 50) -> Sequence[Due]:
        found: list[Due] = []
        octets = 0
        for one in await self._loader.run(notice_rows.find, limit):
            octets += one.row["size"]
            if found and octets > NOTICE_BYTES:
                break
            found.append(await self._as_due(one))
        return found

    async def _as_due(self, found: notice_rows.Found) -> Due:
        try:
            raw = await self._read(found.row)
        except BodyLost:
            raw = b""
        return notice_rows.as_due(found, raw)

    async def settle_notices(
        self, due: Due, *, messages: Sequence[tuple[Message, str]] = (), posts: Sequence[Post] = (), now: float
    ) -> None:
        entries = tuple(new_entry(m, dict.fromkeys(m.envelope.recipients, lane)) for m, lane in messages)
        settlement = notice_rows.Settlement(due, entries, tuple(posts), now)
        size = sum(len(message.raw) + ROW_BYTES for message, _ in messages)
        resolved: retention.Resolved = await self._writer.submit(self._settle, settlement, size)
        self._discard(resolved.files)
