"""From outcomes to the spool: what came of an attempt is written, however long the disk needs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from bridge.clock import Clock
from bridge.delivery.attempt import Attempt
from bridge.delivery.retry import RetryPolicy, Tried, dispose
from bridge.spool.base import Claimed, Lease, Result, Spool, SpoolError, SpoolFull

log: Any = structlog.get_logger()

LEASE_MARGIN_S = 60.0


class Recorder:
    """Turns outcomes into results and writes them, however long the disk needs. `timeout`: of the slowest call, in seconds."""

    def __init__(self, spool: Spool, retry: RetryPolicy, clock: Clock, *, timeout: float) -> None:
        self._spool = spool
        self._retry = retry
        self._clock = clock
        self._timeout = timeout
        self._stuck = 0

    @property
    def stuck(self) -> bool:
        """Results wait for a disk that refuses them: what cannot be recorded must not be attempted, least of all again."""
        return self._stuck > 0

    def results(self, attempt: Attempt, tried: Callable[[str], Tried]) -> dict[str, Result]:
        provider, now = attempt.provider, self._clock.now()
        # One draw for the whole attempt: recipients of one lost call must come due together, to be one call again.
        chance = random.random()  # noqa: S311 no secret
        return {
            recipient: dispose(
                tried(recipient),
                outcome,
                now=now,
                retry=self._retry,
                provider=provider.name,
                policy=provider.policy,
                idempotent=provider.idempotent,
                chance=lambda: chance,
            )
            for recipient, outcome in attempt.outcomes.items()
        }

    async def follow(self, queue_id: str, lease: Lease, attempt: Attempt) -> None:
        """Wait for an attempt and renew its lease meanwhile."""
        span = self.lease_s
        while True:
            done, _ = await asyncio.wait({attempt.task}, timeout=span / 3)
            if done:
                return
            try:
                await self._spool.renew(queue_id, lease, self._clock.now() + span)
            except (SpoolError, SpoolFull) as error:  # the attempt goes on; the next renewal may do
                log.error("spool.renew_failed", queue_id=queue_id, error=str(error))

    @property
    def lease_s(self) -> float:
        return self._timeout + LEASE_MARGIN_S

    async def record(self, queue_id: str, lease: Lease, results: Mapping[str, Result]) -> None:
        """Write results; while the disk refuses them, again and again: nothing else may touch these recipients meanwhile."""
        if not results:
            return
        written = await self._try_to_record(queue_id, lease, results)
        if written is None:
            self._stuck += 1
            try:
                written = await self._record_at_last(queue_id, lease, results)
            finally:
                self._stuck -= 1
        self.tell(queue_id, {a: r for a, r in results.items() if a in written})

    async def _record_at_last(self, queue_id: str, lease: Lease, results: Mapping[str, Result]) -> frozenset[str]:
        pause = 0.1
        while True:
            await self._clock.wait(asyncio.Event(), pause)
            pause = min(pause * 2, 5.0)
            written = await self._try_to_record(queue_id, lease, results)
            if written is not None:
                return written

    async def _try_to_record(self, queue_id: str, lease: Lease, results: Mapping[str, Result]) -> frozenset[str] | None:
        try:
            return await self._spool.record(queue_id, lease, results, now=self._clock.now())
        except (SpoolError, SpoolFull) as error:
            log.error("spool.record_failed", queue_id=queue_id, error=str(error))
            return None

    async def give_back(self, item: Claimed) -> None:
        """No call was made: due again at once, not found as interrupted. If that fails, it is only taken for a lost answer."""
        try:
            await self._spool.give_back(item.message.queue_id, item.lease, now=self._clock.now())
        except (SpoolError, SpoolFull) as error:
            log.error("spool.give_back_failed", queue_id=item.message.queue_id, error=str(error))

    def tell(self, queue_id: str, results: Mapping[str, Result]) -> None:
        """An error line for each recipient that got its 250 and will not be sent without the operator."""
        for address, result in results.items():
            reply = result.reply
            if result.status in ("bounced", "expired", "held"):
                log.error(
                    f"message.{result.status}",
                    queue_id=queue_id,
                    recipient=address,
                    provider=result.provider,
                    code=reply.code if reply else 0,
                    enhanced=reply.enhanced if reply else "",
                    text=reply.text if reply else "",
                )
