"""From outcomes to the spool: what came of an attempt is written, however long the disk needs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from bridge import metrics
from bridge.clock import Clock
from bridge.delivery.attempt import NO_SLOT, Attempt
from bridge.delivery.breaker import goes_on
from bridge.delivery.lanes import Lane
from bridge.delivery.retry import RetryPolicy, Tried, dispose
from bridge.model import Outcome
from bridge.spool.base import Claimed, Lease, Result, Spool, SpoolError, SpoolFull

log: Any = structlog.get_logger()

LEASE_MARGIN_S = 60.0
_FINAL = {"bounced": metrics.bounced, "expired": metrics.expired, "held": metrics.held}
Onward = Callable[[Lane, str, float], Lane | None]


class Recorder:
    """Turns outcomes into results and writes them, however long the disk needs. `timeout`: of the slowest call, in seconds.

    `onward`: where a recipient goes that a provider did not take. `on_failure`: somebody is to be told of what was written.
    """

    def __init__(
        self,
        spool: Spool,
        retry: RetryPolicy,
        clock: Clock,
        *,
        timeout: float,
        onward: Onward = lambda lane, name, now: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._onward = onward
        self._on_failure = on_failure
        self._stuck = 0
        self.retry = retry
        self.timeout = timeout

    @property
    def stuck(self) -> bool:
        """Results wait for a disk that refuses them: what cannot be recorded must not be attempted, least of all again."""
        return self._stuck > 0

    def results(
        self, attempt: Attempt, tried: Callable[[str], Tried], lane: Callable[[str], Lane | None] = lambda _: None
    ) -> dict[str, Result]:
        """For each recipient of whom a call was made, or may have been."""
        provider, now = attempt.provider, self._clock.now()
        # One draw for the whole attempt: recipients of one lost call must come due together, to be one call again.
        chance = random.random()  # noqa: S311 no secret
        return {
            recipient: self._in_lane(
                dispose(
                    tried(recipient),
                    outcome,
                    now=now,
                    retry=self.retry,
                    provider=provider.name,
                    policy=provider.policy,
                    idempotent=provider.idempotent,
                    chance=lambda: chance,
                ),
                outcome,
                lane(recipient),
                attempt,
            )
            for recipient, outcome in attempt.outcomes.items()
            if outcome is not NO_SLOT
        }

    def _in_lane(self, result: Result, outcome: Outcome, lane: Lane | None, attempt: Attempt) -> Result:
        """What is still open goes on to the next provider where that may be, else begins again with the first."""
        if result.status == "sent" and attempt.provider.keeps_bodies:
            return replace(result, keep_body=True)
        if result.status not in ("deferred", "held", "bounced") or lane is None:
            return result
        if goes_on(outcome, risky=lane.risky):
            name, now = attempt.provider.name, self._clock.now()
            if following := self._onward(lane, name, now):
                return replace(result, status="deferred", at=now, blocked=False, unknown=False, lane=str(following))
        if lane.start and not result.unknown and result.status != "bounced":
            return replace(result, lane=str(lane.afresh()))
        return result

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
        return self.timeout + LEASE_MARGIN_S

    async def record(self, queue_id: str, lease: Lease, results: Mapping[str, Result], *, wished: bool = False) -> None:
        """Write results; `wished`: the sender wants to be told of success too.

        While the disk refuses them, again and again: nothing else may touch these recipients meanwhile.
        """
        if not results:
            return
        written = await self._try_to_record(queue_id, lease, results)
        if written is None:
            self._stuck += 1
            try:
                written = await self._record_at_last(queue_id, lease, results)
            finally:
                self._stuck -= 1
        self.tell(queue_id, {a: r for a, r in results.items() if a in written}, wished=wished)

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

    async def give_back(self, item: Claimed, lanes: Mapping[str, str] | None = None, *, sorted_: bool = False) -> None:
        """No call was made: due again at once, not found as interrupted. If that fails, it is only taken for a lost answer."""
        try:
            now, queue_id = self._clock.now(), item.message.queue_id
            await self._spool.give_back(queue_id, item.lease, now=now, lanes=lanes, sorting=sorted_)
        except (SpoolError, SpoolFull) as error:
            log.error("spool.give_back_failed", queue_id=item.message.queue_id, error=str(error))

    def failed(self) -> None:
        """Somebody is to be told of what has just been written."""
        self._on_failure()

    def tell(self, queue_id: str, results: Mapping[str, Result], *, wished: bool = False) -> None:
        """An error line for each recipient that got its 250 and will not be sent without the operator."""
        if wished or any(result.status in ("bounced", "expired") for result in results.values()):
            self.failed()
        for address, result in results.items():
            reply = result.reply
            if counter := _FINAL.get(result.status):
                counter.add(result.provider or metrics.NOBODY)
                log.error(
                    f"message.{result.status}",
                    queue_id=queue_id,
                    recipient=address,
                    provider=result.provider,
                    code=reply.code if reply else 0,
                    enhanced=reply.enhanced if reply else "",
                    text=reply.text if reply else "",
                )
