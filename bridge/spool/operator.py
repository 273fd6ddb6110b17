"""The operator's side of a spool (`base.Operator`): the CLI while the daemon runs, and the API in the daemon itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

from bridge.spool import changes, events, listing, memory
from bridge.spool.bodies import Bodies, BodyLost
from bridge.spool.history import History
from bridge.spool.intake import Retention
from bridge.spool.ownership import Bell
from bridge.spool.reader import Pool, Reader
from bridge.spool.writer import Operation, Writer

CHUNK = 500  # queue ids per transaction: the daemon's own writes come in between
EXPORT_PAGE = 50


class SqliteOperator:
    def __init__(
        self,
        *,
        writer: Writer,
        reader: Reader,
        history: History,
        bodies: Bodies,
        pool: Pool,
        bell: Bell,
        keep: Retention,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._history = history
        self._bodies = bodies
        self._pool = pool
        self._bell = bell
        self._retry = Operation("retry", changes.in_turn(changes.retry))
        self._hold = Operation("hold", changes.in_turn(changes.hold))
        self._release = Operation("release", changes.in_turn(changes.release))
        self._suppress = Operation("suppress", memory.suppress, rank=0)
        self._unsuppress = Operation("unsuppress", memory.unsuppress, rank=0)
        self._drop = Operation("drop", changes.in_turn(partial(changes.drop, retention=keep)))

    async def list_messages(
        self, *, status: str = "", limit: int = 100, before: str = ""
    ) -> Sequence[Mapping[str, Any]]:
        """Newest first; `before` is the last queue id of the page before. `status`: a ListStatus, "" for all."""
        await self._history.settle()
        return await self._reader.run(listing.list_messages, status, limit, before)

    async def depth(self) -> Mapping[str, int]:
        """Recipients that wait, by lane."""
        return await self._reader.run(listing.depth)

    async def ages(self, *, now: float, bounds: Sequence[float]) -> Sequence[int]:
        """How many messages wait since how long: one number for each bound in seconds, and one for what is older."""
        return await self._reader.run(listing.ages, now, bounds)

    async def last_failures(self, *, limit: int = 10) -> Sequence[Mapping[str, Any]]:
        """Recipients that failed or are held, newest message first."""
        return await self._reader.run(listing.last_failures, limit)

    # Addresses that are not mailed

    async def list_suppressions(self, *, limit: int = 1000, after: str = "") -> Sequence[Mapping[str, Any]]:
        """By address; `after` is the last one of the page before."""
        return await self._reader.run(memory.list_suppressions, limit, after)

    async def suppressions(self) -> Mapping[str, str]:
        return await self._reader.run(memory.suppressions)

    async def suppress(self, address: str, reason: str, *, provider: str = "", now: float) -> bool:
        added: bool = await self._writer.submit(self._suppress, memory.Suppress(address, reason, provider, now))
        if not self._bell.ours:  # the daemon knows what it did itself
            self._bell.ring()
        return added

    async def unsuppress(self, address: str) -> bool:
        """False when it was not suppressed."""
        removed: bool = await self._writer.submit(self._unsuppress, address)
        self._bell.ring()
        return removed

    async def recall(self, prefix: str = "") -> Mapping[str, str]:
        """What is remembered under names that begin so."""
        return await self._reader.run(memory.recall, prefix)

    async def show(self, queue_id: str) -> Mapping[str, Any] | None:
        """One message as in the list, with its events."""
        await self._history.settle()
        return await self._reader.run(listing.show, queue_id)

    async def provider_events(self, queue_id: str, *, limit: int = 500) -> Sequence[Mapping[str, Any]]:
        """What providers told of a message, as it came (`raw`), in the order in which it came."""
        return await self._reader.run(events.of_message, queue_id, limit)

    async def unjoined_events(self, *, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        """What providers told of messages that are not known, the latest first."""
        return await self._reader.run(events.unjoined, limit)

    async def count_unjoined(self) -> int:
        return await self._reader.run(events.count_unjoined)

    async def body(self, queue_id: str) -> bytes | None:
        """None when it is not kept (any more), or lost."""
        row = await self._reader.run(listing.find_body, queue_id)
        if row is None or row["body"] != "file":
            return None if row is None else row["raw"]
        try:
            return await self._pool.run(self._bodies.read, queue_id, row["size"], row["crc"])
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
        return await self._change(self._retry, queue_ids, now)

    async def hold(self, queue_ids: Sequence[str], *, now: float) -> int:
        """Stop attempts; the time on hold does not count towards expiry."""
        return await self._change(self._hold, queue_ids, now)

    async def release(self, queue_ids: Sequence[str], *, now: float) -> int:
        """End a hold: due now."""
        return await self._change(self._release, queue_ids, now)

    async def drop(self, queue_ids: Sequence[str], *, now: float) -> int:
        """Give up without a notice to anybody."""
        return await self._change(self._drop, queue_ids, now)

    async def _change(self, operation: Operation, queue_ids: Sequence[str], now: float) -> int:
        """How many recipients were changed; those in a running attempt are left alone and not counted."""
        total = 0
        for start in range(0, len(queue_ids), CHUNK):
            change = changes.Change(queue_ids[start : start + CHUNK], now)
            changed: changes.Changed = await self._writer.submit(operation, change)
            total += changed.recipients
            self._discard(changed.files)
        if total:
            self._bell.ring()
        return total

    def _discard(self, files: Sequence[str]) -> None:
        """Body files whose rows are gone. If we die first, the next start finds them."""
        if files:
            self._pool.post(self._bodies.remove, files)
