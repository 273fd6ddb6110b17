"""The dispatcher of one provider: makes its attempts, `policy.concurrency` calls at once, as its breaker and limiter allow."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from bridge import metrics, tracing
from bridge.clock import Clock, SystemClock
from bridge.delivery.attempt import NO_SLOT, Attempt
from bridge.delivery.batch import Batches, Made
from bridge.delivery.breaker import LONG_WAIT_S, Breaker, BreakerPolicy, Change
from bridge.delivery.ratelimit import Limiter, LimitPolicy
from bridge.model import Email, Fault, Message, Outcome, idempotency_key
from bridge.providers.base import Call, Provider
from bridge.reply import LOCAL_ERROR

log: Any = structlog.get_logger()

OFF_LOOP_SIZE = 64 * 1024  # octets of a message from which its addresses are sorted out in a thread
PATIENCE_S = (
    2.0  # a call that would have to wait longer for the limiter is not begun, and its message waits in the queue
)
FIRST_AFTER_PAUSE = 2  # messages at once when a provider is back; each that goes well lets one more go
NO_OUTCOME = Outcome(status="unknown", reply=LOCAL_ERROR, fault=Fault.PROVIDER)
OURS = Outcome(status="deferred", reply=LOCAL_ERROR)
_CONGESTED = "4.4.5"


class Dispatcher:
    """Makes attempts with one provider and keeps their tasks. `on_change` is told when its breaker opens and closes."""

    def __init__(
        self,
        provider: Provider,
        *,
        breaker: BreakerPolicy | None = None,
        limits: LimitPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.provider = provider
        self.breaker = Breaker(breaker or BreakerPolicy())
        self.limiter = Limiter(limits or LimitPolicy())
        self.on_change: Callable[[Dispatcher, Change], None] = lambda dispatcher, change: None
        self.on_refused: Callable[[Dispatcher, str, Outcome], None] = lambda dispatcher, recipient, outcome: None
        self.resuming = False  # its breaker has closed, and what it deferred is still being made due
        self.sent = self.deferred = self.bounced = 0
        self._clock = clock or SystemClock()
        self._ramp = self._full = provider.policy.concurrency
        self._slots = asyncio.Semaphore(provider.policy.concurrency)
        self._batches = Batches(provider, self._slots, self._turn, self._take)
        self._tasks: set[asyncio.Task[None]] = set()

    # --- whether it may be used

    @property
    def window(self) -> int:
        """Messages from the spool worth holding at once: what its slots carry, or a batch under way and one that fills."""
        batch = self.provider.max_batch
        return max(self.provider.policy.concurrency, 2 * batch if batch > 1 else 0)

    @property
    def running(self) -> int:
        return len(self._tasks)

    @property
    def steady(self) -> bool:
        """Not just back, and not slowed down: its whole window may be used."""
        return self.breaker.closed and self._ramp >= self._full and not self.limiter.limits

    def available(self, now: float) -> bool:
        """Whether mail should wait for it, rather than go to the next one of its route."""
        return self.breaker.closed and self.limiter.wait(now) <= LONG_WAIT_S

    def ready(self, now: float) -> bool:
        """Whether an attempt may begin this moment, if only as a probe."""
        open_way = (self.breaker.closed and not self.resuming) or self.breaker.may_probe(now)
        return open_way and self.limiter.wait(now) <= 0

    def room(self, now: float, held: int) -> int:
        """Messages of the spool to take in at most, while `held` of them are here."""
        if self.resuming:
            return 0
        if not self.breaker.closed:
            return 1 if self.breaker.may_probe(now) and self.limiter.wait(now) <= 0 else 0
        window = self.window if self._ramp >= self._full else min(self.window, self._ramp)
        return max(0, min(window - held, self.limiter.room(now)))

    def waits_until(self, now: float) -> float | None:
        """When it may be used again; None when it may be now."""
        wait = self.limiter.wait(now)
        if self.breaker.state == "half-open":
            return None  # the end of the probe wakes whoever waits
        until = now + wait if self.breaker.closed else max(self.breaker.until, now + wait)
        return until if until > now else None

    # --- attempts

    def begin(
        self,
        message: Message,
        email: Email,
        groups: Sequence[tuple[str, ...]],
        *,
        number: int = 1,
        waited: bool = False,
        alone: bool = False,
    ) -> Attempt:
        """Start an attempt for disjoint groups of recipients; a group's calls depend on nothing but the group (see `Claimed`).

        While the breaker is open it is the probe.
        """
        probe = self.breaker.begin_probe() if self.breaker.may_probe(self._clock.now()) else 0
        attempt = Attempt(self.provider, message, email, groups, number=number, waited=waited, alone=alone, probe=probe)
        began = tracing.tracer.now()
        attempt.task = asyncio.create_task(self._run(attempt))
        self._tasks.add(attempt.task)
        attempt.task.add_done_callback(lambda task: self._ended(attempt, began))
        return attempt

    def _ended(self, attempt: Attempt, began: int) -> None:
        # Here and not in the task: one that is cancelled before its first step must give its probe back too.
        self._tasks.discard(attempt.task)
        self.breaker.end_probe(attempt.probe, self._clock.now())
        if began and attempt.begun:
            _trace(attempt, began)

    async def drain(self, timeout: float) -> bool:
        """Wait for the running attempts; False when some were still running and have been cancelled."""
        if not self._tasks:
            return True
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await self._batches.settle()
        return not late

    async def _run(self, attempt: Attempt) -> None:
        try:
            await self._calls(attempt)
        except asyncio.CancelledError:
            attempt.give_up()
            raise
        except Exception:
            # A defect of ours must neither lose these recipients nor repeat them at once: they are deferred like any other.
            log.exception("attempt.error", queue_id=attempt.message.queue_id, provider=self.provider.name)
            attempt.give_up(OURS)

    async def _calls(self, attempt: Attempt) -> None:
        large = len(attempt.message.raw) > OFF_LOOP_SIZE
        calls = await asyncio.to_thread(self._split, attempt) if large else self._split(attempt)
        if len(calls) == 1 or attempt.probe:  # of a probe the first call decides whether the others are made
            await self._call(attempt, *calls.pop(0))
        async with asyncio.TaskGroup() as tasks:
            for call, batch_key in calls:
                tasks.create_task(self._call(attempt, call, batch_key))

    def _split(self, attempt: Attempt) -> list[tuple[Call, Hashable | None]]:
        """The calls, each with the key of those it may share a request with; None for a request of its own."""
        message, email = attempt.message, attempt.email
        found: list[tuple[Call, Hashable | None]] = []
        for group in attempt.groups:
            for addressing in self.provider.calls(email, message.envelope.reverse_path, group):
                key = idempotency_key(message.queue_id, addressing.recipients)
                if self.provider.passes_wishes:
                    addressing = replace(addressing, envelope=message.envelope)
                call = Call(email=email, addressing=addressing, queue_id=message.queue_id, key=key)
                single = attempt.alone or self.provider.max_batch < 2
                found.append((call, None if single else self.provider.batch_key(call)))
        return found

    async def _call(self, attempt: Attempt, call: Call, batch_key: Hashable | None) -> None:
        if batch_key is None:
            made = await self._make(attempt, call)
        else:
            made = await self._batches.make(attempt, call, batch_key)
        if made is None:
            attempt.outcomes.update(dict.fromkeys(call.addressing.recipients, NO_SLOT))
            return
        metrics.attempt_seconds.observe(made.duration_ms / 1000, self.provider.name)
        facts = {"batch": made.batch} if made.batch > 1 else {}
        outcomes = {
            recipient: made.outcomes.get(recipient) or replace(NO_OUTCOME, keyless=made.batch > 1)
            for recipient in call.addressing.recipients
        }
        for recipient, outcome in outcomes.items():
            attempt.add(recipient, outcome, duration_ms=made.duration_ms, **facts)
            self._count(recipient, outcome)
        if made.lesson:
            self._learn(made.lesson, attempt)

    async def _make(self, attempt: Attempt, call: Call) -> Made | None:
        if not await attempt.may_begin(self._slots):
            return None
        try:
            if not await self._may_call(attempt):
                return None
            attempt.begun = True
            started = time.monotonic()
            outcomes = await self.provider.send(attempt.email, call.addressing, queue_id=call.queue_id, key=call.key)
        finally:
            self._slots.release()
        lesson = tuple(outcomes.values()) or (NO_OUTCOME,)
        return Made(outcomes, round((time.monotonic() - started) * 1000, 1), lesson=lesson)

    async def _may_call(self, attempt: Attempt) -> bool:
        """The breaker may have opened while it waited for a slot, and the limiter may want it to wait a little more."""
        while not attempt.ended and (self.breaker.closed or (attempt.probe and not attempt.begun)):
            now = self._clock.now()
            wait = self.limiter.wait(now)
            if wait <= 0:
                self.limiter.take(now)
                return True
            if wait > PATIENCE_S:
                return False
            await self._clock.wait(attempt.ending, wait)
        return False

    async def _turn(self) -> int:
        """For a request of several calls: how many of them may go, once the limiter allows some; 0: they wait in the queue."""
        while self.breaker.closed:
            now = self._clock.now()
            wait = self.limiter.wait(now)
            if wait <= 0:
                return self.limiter.room(now)
            if wait > PATIENCE_S:
                return 0
            await self._clock.wait(asyncio.Event(), wait)
        return 0

    def _take(self, number: int) -> None:
        self.limiter.take(self._clock.now(), number)

    # --- what a call taught

    def _learn(self, outcomes: Sequence[Outcome], attempt: Attempt) -> None:
        """One request is one lesson, however many recipients it had: the gravest, but where it took some it is there."""
        now = self._clock.now()
        lesson = max(outcomes, key=_gravity)
        if lesson.status == "deferred" and lesson.reply.enhanced == _CONGESTED and lesson.fault is Fault.PROVIDER:
            self.limiter.congested(now, lesson.retry_after)
        elif lesson.status in ("sent", "bounced"):
            self.limiter.went_well()
            self._ramp = min(self._ramp + 1, self._full)
        if self.provider.allowance:
            self.limiter.told(*self.provider.allowance, now)
        waited_s = now - self.breaker.since
        if change := self.breaker.note(lesson, now=now, probe=attempt.probe):
            self._changed(change, lesson, waited_s)

    def _count(self, recipient: str, outcome: Outcome) -> None:
        metrics.attempts.add(self.provider.name, outcome.status)
        if outcome.status == "sent":
            self.sent += 1
            metrics.sent.add(self.provider.name)
        elif outcome.status == "bounced":
            self.bounced += 1
            if outcome.fault is Fault.RECIPIENT:
                self.on_refused(self, recipient, outcome)
        else:
            self.deferred += 1
            metrics.deferred.add(self.provider.name)

    def _changed(self, change: Change, outcome: Outcome, waited_s: float) -> None:
        name, breaker = self.provider.name, self.breaker
        if change == "closed":
            self._ramp = min(FIRST_AFTER_PAUSE, self._full)
            log.info("provider.breaker_closed", provider=name, after_s=round(waited_s, 1))
        elif change == "blocked":
            log.error("provider.blocked", provider=name, text=outcome.reply.text, detail=outcome.detail)
        else:
            retry_in_s = round(breaker.until - breaker.since, 1)
            log.warning("provider.breaker_opened", provider=name, detail=breaker.reason, retry_in_s=retry_in_s)
        self.on_change(self, change)


def _trace(attempt: Attempt, began: int) -> None:
    """One attempt is one span, whatever calls it made; waiting for a slot is part of it."""
    found = [attempt.outcomes.get(recipient, NO_OUTCOME) for recipient in attempt.recipients]
    counts = Counter[str](outcome.status for outcome in found)
    gravest = min(found, key=_gravity)
    tracing.tracer.ended(
        "attempt",
        attempt.message.queue_id,
        began,
        failure="" if set(counts) == {"sent"} else f"{gravest.reply.code} {gravest.reply.enhanced}",
        provider=attempt.provider.name,
        kind=attempt.provider.kind,
        attempt=attempt.number,
        recipients=len(found),
        outcome=next(iter(counts)) if len(counts) == 1 else "mixed",
        code=gravest.reply.code,
        enhanced=gravest.reply.enhanced,
        **dict[str, Any](counts),
    )


def _gravity(outcome: Outcome) -> int:
    if outcome.status == "sent":
        return 5
    if outcome.fault is Fault.ACCOUNT:
        return 4
    return {"unknown": 3, "deferred": 2, "bounced": 1}[outcome.status]
