"""The history of mail that never needed the queue: gathered on the loop, handed to the writer in blocks, never fsynced.

This is on the path of every message that is sent at once, so a call costs a tuple and an append. The delay loses nothing
that was promised: history is not durable, and `settle` lets readers of the same process see all of it.
"""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from bridge.spool.base import SpoolError
from bridge.spool.intake import Intake
from bridge.spool.writer import Operation, Writer

DELAY_S = 0.05
BLOCK = 64
BACKLOG = 20_000
_ROW_BYTES = 512

log = structlog.get_logger()


class History:
    def __init__(self, writer: Writer, operation: Operation, loop: asyncio.AbstractEventLoop) -> None:
        self._writer = writer
        self._operation = operation
        self._loop = loop
        self._gathered: list[Intake] = []
        self._timer: asyncio.TimerHandle | None = None
        self._under_way: deque[asyncio.Future[None]] = deque()
        self.backlog = 0

    async def add(self, entry: Intake) -> None:
        """Returns at once, unless the writer is far behind."""
        while self.backlog >= BACKLOG:
            self._flush()
            await asyncio.wait([self._under_way[0]])
        self.backlog += 1
        self._gathered.append(entry)
        if len(self._gathered) >= BLOCK:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(DELAY_S, self._flush)

    async def settle(self) -> None:
        """Wait until all that was added is committed (or lost, and logged)."""
        self._flush()
        if self._under_way:
            await asyncio.wait(list(self._under_way))

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._gathered:
            return
        entries, self._gathered = self._gathered, []
        try:
            future = self._writer.submit(self._operation, entries, size=_ROW_BYTES * len(entries))
        except SpoolError as error:  # closed
            self._lost(len(entries), error)
            return
        self._under_way.append(future)
        future.add_done_callback(lambda done: self._done(done, len(entries)))

    def _done(self, future: asyncio.Future[None], count: int) -> None:
        self._under_way.remove(future)
        error = None if future.cancelled() else future.exception()
        if error is None:
            self.backlog -= count
        else:
            self._lost(count, error)

    def _lost(self, count: int, error: BaseException) -> None:
        self.backlog -= count
        log.warning("spool.history_lost", messages=count, error=str(error))
