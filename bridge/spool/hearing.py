"""What providers tell of the mail they took: kept, joined to its recipient, and shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from bridge.model import Event
from bridge.spool import events as event_rows
from bridge.spool.base import Heard, NotedEvent, Result, SpoolError, SpoolFull
from bridge.spool.engine import ROW_BYTES, Parts
from bridge.spool.numbers import Numbers
from bridge.spool.writer import Operation


class Hearing(Numbers):
    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._take_events = Operation("take_events", partial(event_rows.take, retention=parts.keep), grows=True)
        self._index_events = Operation("expect_events", event_rows.index)
        self._rejoin = Operation("rejoin_events", partial(event_rows.rejoin, retention=parts.keep))
        self._prune_events = Operation("prune_events", event_rows.prune, rank=2)

    async def expect_events(self, wanted: bool) -> None:
        await self._writer.submit(self._index_events, wanted)

    async def take_events(
        self,
        provider: str,
        events: Sequence[NotedEvent],
        *,
        now: float,
        posts: event_rows.MakePosts = lambda heard: (),
    ) -> Sequence[Heard]:
        await self._history.settle()  # what was sent a moment ago can be told of already
        size = sum(len(noted.event.raw) + ROW_BYTES for noted in events)
        return await self._heard(self._take_events, event_rows.Take(provider, events, now, posts), size)

    async def rejoin_events(
        self,
        *,
        since: float,
        now: float,
        note: Callable[[Event], NotedEvent],
        limit: int = 500,
        posts: event_rows.MakePosts = lambda heard: (),
    ) -> Sequence[Heard]:
        await self._history.settle()
        heard: list[Heard] = []
        place: event_rows.Place | None = (since, -1)
        while place:
            ids, place = await self._reader.run(event_rows.joinable, place, limit)
            if not ids:
                continue
            try:
                heard += await self._heard(self._rejoin, event_rows.Rejoin(ids, now, note, posts))
            except (SpoolError, SpoolFull):
                if not heard:
                    raise
                break  # what is written has to be followed; the rest is looked at the next time
        return heard

    async def _heard(self, operation: Operation, arg: Any, size: int = 0) -> Sequence[Heard]:
        taken: event_rows.Taken = await self._writer.submit(operation, arg, size)
        self._discard(taken.files)
        for one in taken.heard:
            if one.status == "bounced":
                late = Result(status="bounced", reply=one.reply, provider=one.provider)
                self._tally.result(one.queue_id, one.address, late, at=arg.now, took_s=None)
        return taken.heard

    async def prune_events(self, *, now: float, limit: int = 500) -> int:
        before = now - max(self._keep.history_s, event_rows.KEPT_S)
        pruned: int = await self._writer.submit(self._prune_events, event_rows.PruneEvents(before, limit))
        return pruned

    # To be shown

    async def provider_events(self, queue_id: str, *, limit: int = 500) -> Sequence[Mapping[str, Any]]:
        """What providers told of a message, as it came (`raw`), in the order in which it came."""
        return await self._reader.run(event_rows.of_message, queue_id, limit)

    async def unjoined_events(self, *, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        """What providers told of messages that are not known, the latest first."""
        return await self._reader.run(event_rows.unjoined, limit)

    async def count_unjoined(self) -> int:
        return await self._reader.run(event_rows.count_unjoined)
