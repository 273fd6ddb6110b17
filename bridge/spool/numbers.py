"""The side of the spool that counts what this daemon did (`tally.Tally`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from bridge.model import FAILED
from bridge.spool.base import Result, SpoolError
from bridge.spool.engine import Parts
from bridge.spool.ids import time_of
from bridge.spool.intake import Intake
from bridge.spool.remembrance import Remembrance
from bridge.spool.tally import KEY, Tally

REFUSED = (*FAILED, "dropped")


class Numbers(Remembrance):
    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._tally = Tally()
        self._saved = ""

    async def numbers(self, *, now: float) -> Mapping[str, Any]:
        """As `Tally.numbers`, for what this daemon did."""
        return self._tally.numbers(now)

    def _count(self, entry: Intake) -> None:
        queue_id, results = entry.head[0], entry.results
        if entry.queue or any(result.status not in REFUSED for result in results.values()):
            self._tally.accepted(entry.now)
        self._count_results(queue_id, results, entry.now)

    def _count_results(self, queue_id: str, results: Mapping[str, Result], now: float) -> None:
        if results:
            came = time_of(queue_id)
            took_s = None if came is None else time.time() - came
            for address, result in results.items():
                self._tally.result(queue_id, address, result, at=now, took_s=took_s)

    # Over a restart

    async def save_numbers(self, *, now: float) -> None:
        if (text := self._tally.text()) != self._saved:
            await self.remember({KEY: text}, now=now)
            self._saved = text

    async def restore_numbers(self) -> None:
        with suppress(SpoolError):
            if text := (await self.recall(KEY)).get(KEY):
                self._tally.restore(text)
        self._saved = self._tally.text()
