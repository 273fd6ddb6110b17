"""The operator's side of a spool (`base.Operator`): the CLI while the daemon runs, and the API in the daemon itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from bridge.spool import brief, changes, listing, summaries
from bridge.spool.base import Action, Forecast, Page, Search
from bridge.spool.bodies import BodyLost, Stored
from bridge.spool.engine import Engine, Parts
from bridge.spool.ids import id_at
from bridge.spool.writer import Operation

CHUNK = 500  # queue ids per transaction: the daemon's own writes come in between
EXPORT_PAGE = 50
SUMMARIZED_AFTER_S = 30.0  # what is put later, with an older id, has a summary made again
SUMMARIES = 4


class SqliteOperator(Engine):
    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._retry = Operation("retry", changes.in_turn(changes.retry))
        self._hold = Operation("hold", changes.in_turn(changes.hold))
        self._release = Operation("release", changes.in_turn(changes.release))
        self._reroute = Operation("reroute", changes.in_turn(changes.reroute))
        self._summarize = Operation("summarize", summaries.write, durable=False, grows=True, rank=2)
        self._drop = Operation("drop", changes.in_turn(partial(changes.drop, retention=parts.keep)))

    async def list_messages(
        self, *, status: str = "", limit: int = 100, before: str = ""
    ) -> Sequence[Mapping[str, Any]]:
        """Newest first; `before` is the last queue id of the page before. `status`: a ListStatus, "" for all."""
        await self._history.settle()
        return await self._searcher.run(listing.list_messages, status, limit, before)

    async def search(
        self, wanted: Search, *, limit: int = 50, before: str = "", after: str = "", recipients: int | None = None
    ) -> Page:
        """Newest first, less than `before` and more than `after`. After a moment it stops and says how far it came.
        `recipients`: None for all; so many of each message (`brief.rows`); with 0 its queue id alone."""
        await self._history.settle()
        return await self._searcher.run(brief.search_page, wanted, limit, before, after, recipients)

    async def messages(self, queue_ids: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """Those of these that are there, as in the list, newest first."""
        return await self._searcher.run(listing.summary_rows, queue_ids)

    async def mailed_to(self, queue_ids: Sequence[str], words: Sequence[str]) -> Collection[str]:
        """Those of these that have each of the words in some recipient's address, without case."""
        return await self._searcher.run(brief.mailed_to, queue_ids, words)

    async def summarize(self, *, now: float) -> bool:
        """A few blocks of those that came some time before; True when there may be more. `now`: by this machine's clock."""
        upto = id_at(now - SUMMARIZED_AFTER_S)
        for _ in range(SUMMARIES):
            summary = await self._searcher.run(summaries.next_summary, upto)
            if summary is None or not await self._writer.submit(self._summarize, summary, len(summary.words)):
                return False
        return True

    async def depth(self) -> Mapping[str, int]:
        """Recipients that wait, by lane."""
        return await self._searcher.run(listing.depth)

    async def ages(self, *, now: float, bounds: Sequence[float]) -> Sequence[int]:
        """How many messages wait since how long: one number for each bound in seconds, and one for what is older."""
        return await self._searcher.run(listing.ages, now, bounds)

    async def last_failures(self, *, limit: int = 10) -> Sequence[Mapping[str, Any]]:
        """Recipients that failed or are held, newest message first."""
        return await self._searcher.run(listing.last_failures, limit)

    async def show(self, queue_id: str) -> Mapping[str, Any] | None:
        """One message as in the list, with its events."""
        await self._history.settle()
        return await self._searcher.run(listing.show, queue_id)

    async def show_part(self, queue_id: str, *, limit: int, skip: int = 0) -> Mapping[str, Any] | None:
        """As `show`, with `limit` recipients after the first `skip` and their events (`brief.show_part`)."""
        await self._history.settle()
        return await self._searcher.run(brief.show_part, queue_id, limit, skip)

    async def body(self, queue_id: str) -> bytes | None:
        """None when it is not kept (any more), or lost."""
        row = await self._reader.run(listing.find_body, queue_id)
        if row is None or row["body"] != "file":
            return None if row is None else row["raw"]
        try:
            return await self._pool.run(self._bodies.read, queue_id, row["size"], row["crc"])
        except BodyLost:
            return None

    async def open_body(self, queue_id: str) -> Stored | None:
        """As `body`, to be read piece by piece and closed."""
        row = await self._reader.run(listing.find_body, queue_id)
        if row is None or row["body"] != "file":
            return None if row is None or row["raw"] is None else Stored(row["raw"], len(row["raw"]))
        try:
            return await self._pool.run(self._bodies.open, queue_id, row["size"], row["crc"])
        except BodyLost:
            return None

    async def export(self, *, status: str = "") -> AsyncIterator[tuple[Mapping[str, Any], bytes | None]]:
        """Every message of a list with its body, newest first, a page at a time."""
        before = ""
        while page := await self.list_messages(status=status, limit=EXPORT_PAGE, before=before):
            for row in page:
                yield row, await self.body(row["queue_id"])
            before = page[-1]["queue_id"]

    async def retry(self, queue_ids: Sequence[str], *, now: float) -> int:
        """Everything not delivered is due now; failed recipients begin a new lifetime, if the body is still kept."""
        return await self._change(self._retry, queue_ids, lambda part: changes.Change(part, now))

    async def reroute(
        self, queue_ids: Sequence[str], *, provider: str, lane: str, force: bool = False, now: float
    ) -> int:
        """As `retry`, through this provider. What another one may have mailed already is left alone, unless forced."""
        return await self._change(
            self._reroute, queue_ids, lambda part: changes.Reroute(part, now, provider, lane, force)
        )

    async def forecast(
        self, action: Action, queue_ids: Sequence[str], *, now: float, provider: str = "", force: bool = False
    ) -> Forecast:
        """What an action would do; `provider`: for `reroute`."""
        await self._history.settle()
        parts = [
            await self._searcher.run(changes.forecast, action, queue_ids[start : start + CHUNK], now, provider, force)
            for start in range(0, len(queue_ids), CHUNK)
        ]
        return Forecast(
            messages=sum(part.messages for part in parts),
            before=_sum(part.before for part in parts),
            changed=_sum(part.changed for part in parts),
            left=_sum(part.left for part in parts),
            unknown=sum(part.unknown for part in parts),
        )

    async def hold(self, queue_ids: Sequence[str], *, now: float) -> int:
        """Stop attempts; the time on hold does not count towards expiry."""
        return await self._change(self._hold, queue_ids, lambda part: changes.Change(part, now))

    async def release(self, queue_ids: Sequence[str], *, now: float) -> int:
        """End a hold: due now."""
        return await self._change(self._release, queue_ids, lambda part: changes.Change(part, now))

    async def drop(self, queue_ids: Sequence[str], *, now: float) -> int:
        """Give up without a notice to anybody."""
        return await self._change(self._drop, queue_ids, lambda part: changes.Change(part, now))

    async def _change(
        self, operation: Operation, queue_ids: Sequence[str], change: Callable[[Sequence[str]], Any]
    ) -> int:
        """How many recipients were changed; those in a running attempt are left alone and not counted."""
        total = 0
        for start in range(0, len(queue_ids), CHUNK):
            part = queue_ids[start : start + CHUNK]
            changed: changes.Changed = await self._writer.submit(operation, change(part))
            total += changed.recipients
            self._discard(changed.files)
        if total:
            self._bell.ring()
        return total


def _sum(counts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)
