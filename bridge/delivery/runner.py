"""The runner: takes due messages from the spool, attempts them, records what came of it.

It never holds more of the queue than the provider has slots for. It is woken by event (something was spooled, a slot is free, the
operator changed something) and polls as a safety net.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog

from bridge.clock import Clock
from bridge.delivery.attempt import Attempt, Dispatcher
from bridge.delivery.retry import RetryPolicy, Tried, dispose, may_try_again
from bridge.model import Email, Fault
from bridge.reply import Reply
from bridge.spool.base import Claimed, ClaimedRecipient, Lease, Result, Spool, SpoolError, SpoolFull

log: Any = structlog.get_logger()

POLL_S = 5.0
REFUSED_S = 1.0  # until the next look at a spool that refuses to be written
LEASE_MARGIN_S = 60.0
PARSE_OFF_LOOP = 64 * 1024
INTERRUPTED = Reply(451, "4.4.2", "The attempt was interrupted, whether it was sent is not known")

Parse = Callable[[bytes], Email]


class Recorder:
    """Turns outcomes into results and writes them, however long the disk needs."""

    def __init__(self, spool: Spool, dispatcher: Dispatcher, retry: RetryPolicy, clock: Clock) -> None:
        self._spool = spool
        self._provider = dispatcher.provider
        self._retry = retry
        self._clock = clock
        self._stuck = 0

    @property
    def stuck(self) -> bool:
        """Results wait for a disk that refuses them: what cannot be recorded must not be attempted, least of all again."""
        return self._stuck > 0

    def results(self, attempt: Attempt, tried: Callable[[str], Tried]) -> dict[str, Result]:
        now = self._clock.now()
        # One draw for the whole attempt: recipients of one lost call must come due together, to be one call again.
        chance = random.random()  # noqa: S311 no secret
        return {
            recipient: dispose(
                tried(recipient),
                outcome,
                now=now,
                retry=self._retry,
                provider=self._provider.name,
                policy=self._provider.policy,
                idempotent=self._provider.idempotent,
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
        return self._provider.policy.timeout + LEASE_MARGIN_S

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


class Runner:
    """`run` until `stop`. `wake` may be called at any time from the loop's thread."""

    def __init__(
        self, *, spool: Spool, dispatcher: Dispatcher, recorder: Recorder, parse: Parse, clock: Clock, owner: str
    ) -> None:
        self._spool = spool
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._parse = parse
        self._clock = clock
        self._owner = owner
        self._window = dispatcher.provider.policy.concurrency
        self._works: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        """Claim no more; `drain` then waits for what runs."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            claimed = await self._claim()
            for item in claimed or ():
                self._start(item)
            if claimed is None:
                await self._clock.wait(asyncio.Event(), REFUSED_S)
            elif not claimed:
                await self._clock.wait(self._wake, await self._pause())

    async def drain(self, timeout: float) -> None:
        """Wait for running works; those that are late are cancelled and stay leased, so that the next start finds them."""
        if self._works:
            _, late = await asyncio.wait(set(self._works), timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _claim(self) -> Sequence[Claimed] | None:
        """None when the spool refuses: the next look must not come at once, however much is due."""
        if self._recorder.stuck:
            return None
        room = self._window - len(self._works)
        if room <= 0:
            return ()
        try:
            return await self._spool.claim(
                owner=self._owner, now=self._clock.now(), lease_s=self._recorder.lease_s, limit=room
            )
        except (SpoolError, SpoolFull) as error:  # what cannot be written is not attempted
            log.error("spool.claim_failed", error=str(error))
            return None

    async def _pause(self) -> float:
        """Seconds until something is due; a full window waits for a work to end, which wakes us."""
        if len(self._works) >= self._window:
            return POLL_S
        try:
            due = await self._spool.next_due()
        except SpoolError:
            return POLL_S
        return POLL_S if due is None else min(max(due - self._clock.now(), 0.0), POLL_S)

    def _start(self, item: Claimed) -> None:
        task = asyncio.create_task(self._work(item))
        self._works.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._works.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            # Its lease runs out and it is found as interrupted; the others are not held up by it.
            log.error("runner.error", exc_info=error)

    async def _work(self, item: Claimed) -> None:
        held, groups = self._sort_out(item)
        await self._recorder.record(item.message.queue_id, item.lease, held)
        if not groups:
            return
        raw = item.message.raw
        email = await asyncio.to_thread(self._parse, raw) if len(raw) > PARSE_OFF_LOOP else self._parse(raw)
        by_address = {r.address: r for r in item.recipients}
        if refusal := self._dispatcher.refusal(item.message.queue_id, email, item.message.envelope):
            # It was spooled under other settings; what would be lost is refused as it would have been at DATA.
            await self._recorder.record(item.message.queue_id, item.lease, self._refused(refusal, groups))
            return
        number = max(by_address[a].attempts for group in groups for a in group)
        attempt = self._dispatcher.begin(item.message, email, groups, number=number)
        try:
            await self._recorder.follow(item.message.queue_id, item.lease, attempt)
        except asyncio.CancelledError:
            if attempt.withdraw():
                await self._recorder.give_back(item)
            attempt.task.cancel()
            raise
        results = self._recorder.results(attempt, lambda a: _tried(by_address[a]))
        await self._recorder.record(item.message.queue_id, item.lease, results)

    def _refused(self, reply: Reply, groups: Iterable[tuple[str, ...]]) -> dict[str, Result]:
        result = Result(status="bounced", reply=reply, fault=Fault.MESSAGE, provider=self._dispatcher.provider.name)
        return {address: result for group in groups for address in group}

    def _sort_out(self, item: Claimed) -> tuple[dict[str, Result], list[tuple[str, ...]]]:
        """Recipients that may not be tried again without the operator, and the groups of the others."""
        provider = self._dispatcher.provider
        held: dict[str, Result] = {}
        groups: dict[int | None, list[str]] = {}
        for recipient in item.recipients:
            lost = recipient.interrupted
            if lost and not may_try_again(recipient.unknowns, provider.policy, idempotent=provider.idempotent):
                # Its loss was counted when it was claimed.
                reply = recipient.last_reply or INTERRUPTED
                held[recipient.address] = Result(status="held", reply=reply, provider=recipient.provider)
            else:
                groups.setdefault(recipient.group, []).append(recipient.address)
        return held, [tuple(group) for group in groups.values()]


def _tried(recipient: ClaimedRecipient) -> Tried:
    return Tried(attempts=recipient.attempts, unknowns=recipient.unknowns, expires_at=recipient.expires_at)
