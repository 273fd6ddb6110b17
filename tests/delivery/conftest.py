"""A runner on a real SQLite spool, with a provider whose answers are written down and a clock that only we move."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from bridge.budget import MemoryBudget
from bridge.delivery.breaker import BreakerPolicy
from bridge.delivery.choice import Dispatchers
from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.lanes import Lane
from bridge.delivery.ratelimit import LimitPolicy
from bridge.delivery.recorder import Recorder
from bridge.delivery.retry import RetryPolicy
from bridge.delivery.routing import Route, Routes
from bridge.delivery.runner import Runner
from bridge.mime.addressing import address
from bridge.mime.parse import parse
from bridge.model import Addressing, Email, Envelope, Fault, Message, Outcome
from bridge.providers.base import Call, Policy, Provider, Unfit
from bridge.reply import Reply, sent
from bridge.spool.ids import new_queue_id
from bridge.spool.opening import open_spool
from bridge.spool.sqlite import SqliteSpool

START = 1_800_000_000.0
# For tests that are not about the breaker: faults of the provider never open it.
PATIENT = BreakerPolicy(failures=10**6, wait=1.0, maximum=1.0)
RAW = b"From: ann@example.com\r\nSubject: x\r\n\r\nx\r\n"


@contextlib.contextmanager
def every_line() -> Iterator[list[Any]]:
    """What is logged at any level."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    try:
        with structlog.testing.capture_logs() as lines:
            yield lines
    finally:
        structlog.configure(wrapper_class=before)


class FakeClock:
    """Time stands still until `advance`; whoever waits is woken in order."""

    def __init__(self) -> None:
        self._now = START
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        if event.is_set():
            return True
        over = asyncio.get_running_loop().create_future()
        waiting = (self._now + seconds, over)
        self._waiting.append(waiting)
        if seconds <= 0:
            over.set_result(None)
        setting = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({setting, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            setting.cancel()
            self._waiting = [other for other in self._waiting if other is not waiting]
        return event.is_set()

    def advance(self, seconds: float) -> None:
        self._now += seconds
        for due, over in self._waiting:
            if due <= self._now and not over.done():
                over.set_result(None)


Script = Callable[[Addressing], Any]  # an Outcome for all recipients, a mapping, or an awaitable of one


class ScriptedProvider(Provider):
    """Its nth answer is the nth request's, the last one that of all others. `calls_made`: (recipients, key).

    `requests`: for each the recipients of all its calls. An answer for a batch is one for all recipients of all its calls, or
    a mapping by recipient, in which those may miss that get no verdict. `unfit_for`: subject -> Unfit.
    """

    kind = "scripted"

    def __init__(
        self,
        *answers: Any,
        name: str = "scripted",
        idempotent: bool = False,
        separate: bool = False,
        max_batch: int = 1,
        max_batch_bytes: int = 0,
        batch_key: Callable[[Call], Hashable | None] = lambda call: "same",
        unfit_for: Mapping[str, Unfit] | None = None,
        repairs: tuple[str, ...] = (),
        **policy: Any,
    ) -> None:
        super().__init__(name, Policy(**policy))
        self.idempotent = idempotent
        self.separate = separate
        self.max_batch = max_batch
        self.max_batch_bytes = max_batch_bytes
        self.key_of = batch_key
        self.unfit_for = unfit_for or {}
        self.repaired = repairs
        self.answers = list(answers) or [SENT]
        self.calls_made: list[tuple[tuple[str, ...], str]] = []
        self.requests: list[tuple[str, ...]] = []
        self.running = 0
        self.most = 0

    def unfit(self, email: Email, envelope: Envelope) -> Unfit | None:
        return self.unfit_for.get(email.subject)

    def repairs(self, email: Email, envelope: Envelope) -> tuple[str, ...]:
        return self.repaired

    def calls(self, email: Email, reverse_path: str, recipients: tuple[str, ...]) -> tuple[Addressing, ...]:
        return address(email, reverse_path, recipients, carries_envelope=not self.separate)

    async def send(self, email: Email, addressing: Addressing, *, queue_id: str, key: str) -> Mapping[str, Outcome]:
        self.calls_made.append((addressing.recipients, key))
        return await self._answer(addressing.recipients)

    def batch_key(self, call: Call) -> Hashable | None:
        return self.key_of(call)

    async def send_many(self, calls: Sequence[Call]) -> Sequence[Mapping[str, Outcome]]:
        self.calls_made += [(call.addressing.recipients, call.key) for call in calls]
        answer = await self._answer(tuple(r for call in calls for r in call.addressing.recipients))
        return [{r: answer[r] for r in call.addressing.recipients if r in answer} for call in calls]

    async def _answer(self, recipients: tuple[str, ...]) -> Mapping[str, Outcome]:
        self.requests.append(recipients)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if callable(answer):
                answer = await answer()
        finally:
            self.running -= 1
        return answer if isinstance(answer, Mapping) else dict.fromkeys(recipients, answer)


SENT = Outcome(status="sent", reply=sent("1"))
BUSY = Outcome(status="deferred", reply=Reply(451, "4.3.2", "busy"), fault=Fault.PROVIDER)
LOST = Outcome(status="unknown", reply=Reply(451, "4.4.2", "lost"), fault=Fault.PROVIDER)
BAD_KEY = Outcome(status="deferred", reply=Reply(451, "4.3.5", "bad key"), fault=Fault.ACCOUNT)
REFUSED = Outcome(status="bounced", reply=Reply(550, "5.1.1", "nobody"), fault=Fault.RECIPIENT)


def later(seconds: float, *, quota: bool = False) -> Outcome:
    return Outcome(status="deferred", reply=BUSY.reply, fault=Fault.PROVIDER, retry_after=seconds, quota=quota)


class Bench:
    """Spool, providers, runner. `quiet` lets everything happen that is due now."""

    def __init__(
        self,
        spool: SqliteSpool,
        clock: FakeClock,
        providers: Sequence[ScriptedProvider],
        retry: RetryPolicy,
        *,
        degrade: bool = False,
        breaker: BreakerPolicy | None = None,
        limits: Mapping[str, LimitPolicy] | None = None,
        routes: Sequence[Route] = (),
        mark: str = "1",
    ) -> None:
        self.spool, self.clock, self.provider = spool, clock, providers[0]
        self.started = clock.now()
        self.dispatchers = Dispatchers(
            [
                Dispatcher(provider, clock=clock, breaker=breaker, limits=(limits or {}).get(provider.name))
                for provider in providers
            ],
            routes=Routes(routes, [provider.name for provider in providers]),
            degrade=degrade,
            mark=mark,
        )
        self.dispatcher = self.dispatchers.first
        self.recorder = Recorder(spool, retry, clock, timeout=self.dispatchers.timeout, onward=self.dispatchers.onward)
        self.budget = MemoryBudget(256 << 20, wait_s=1)
        self.runner = Runner(
            spool=spool,
            dispatchers=self.dispatchers,
            recorder=self.recorder,
            parse=parse,
            clock=clock,
            owner="me",
            budget=self.budget,
        )
        for dispatcher in self.dispatchers.all:
            dispatcher.on_change = self.runner.changed
        self.task = asyncio.create_task(self.runner.run())

    def message(self, *recipients: str, lifetime: float = 86400.0, subject: str = "x", size: int = 0) -> Message:
        now = self.clock.now()
        return Message(
            queue_id=new_queue_id(),
            envelope=Envelope(reverse_path="ann@example.com", recipients=recipients or ("bob@example.org",)),
            raw=RAW.replace(b"Subject: x", b"Subject: " + subject.encode()) + b"x" * size,
            created_at=now,
            expires_at=now + lifetime,
        )

    async def put(self, *recipients: str, **named: Any) -> Message:
        message = self.message(*recipients, **named)
        await self.put_together(message)
        return message

    async def put_together(self, *messages: Message) -> None:
        """All are due before any of them is claimed, if the runner is `idle` or stopped."""
        lanes: list[Lane] = []
        for message in messages:
            plan = self.dispatchers.again(message, parse(message.raw))
            await self.spool.put(message, lanes=plan.texts)
            lanes += plan.lanes.values()
        self.runner.waits_in(lanes)

    async def statuses(self) -> dict[str, str]:
        rows = await self.spool.list_messages()
        return {r["address"]: r["status"] for row in rows for r in row["recipients"]}

    async def recipients(self) -> Sequence[Mapping[str, Any]]:
        return [r for row in await self.spool.list_messages() for r in row["recipients"]]

    async def until(self, condition: Callable[[], Any], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while True:
                value = condition()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return
                await asyncio.sleep(0.002)

    async def idle(self) -> None:
        """Until the runner claims nothing and waits to be woken, whatever works run."""
        await self.until(lambda: self.clock._waiting and not self.runner._wake.is_set())

    async def quiet(self) -> None:
        """Until nothing runs and nothing is due, which the runner shows by waiting for the clock."""
        await self.until(self._is_quiet)

    async def _is_quiet(self) -> bool:
        if self.runner._works or self.runner._wake.is_set() or not self.clock._waiting:
            return False
        due = await self.spool.next_due()
        return (due is None or due > self.clock.now()) and not self.runner._works

    async def _is_quiet_or_waits(self) -> bool:
        """Nothing happens any more unless time goes on."""
        if self.runner._wake.is_set() or not self.clock._waiting or self.runner._tasks:
            return False
        if self.runner._works:  # all of them wait for the limiter
            return all(one.limiter.wait(self.clock.now()) > 0 for one in self.dispatchers.all)
        now = self.clock.now()
        assigned, _ = self.runner._assigned(now)
        lanes = [text for one, texts in assigned.items() if self.runner._room(one, now) for text in texts]
        due = await self.spool.next_due(lanes) if lanes else None
        return (due is None or due > now) and not self.runner._works and not self.runner._wake.is_set()

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.runner.wake()
        await self.quiet()

    async def next_attempt_in(self) -> float:
        due = await self.spool.next_due()
        assert due is not None
        return due - self.clock.now()

    async def stop(self) -> None:
        self.runner.stop()
        await self.runner.drain(0)
        await self.dispatchers.drain(0)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[SqliteSpool]:
    opened = await open_spool(
        tmp_path / "spool.db",
        max_bytes=1 << 30,
        min_free=0,
        history_s=1e9,
        failed_s=1e9,
        owner="me",
        now=START,
    )
    yield opened
    await opened.close()


@pytest.fixture
async def bench(spool: SqliteSpool, clock: FakeClock) -> AsyncIterator[Callable[..., Bench]]:
    """`bench(answer, answer, ..., jitter=0)` -> a running Bench; with `providers` instead of answers, with those."""
    made: list[Bench] = []

    def make(
        *answers: Any,
        providers: Sequence[ScriptedProvider] = (),
        retry: RetryPolicy | None = None,
        degrade: bool = False,
        breaker: BreakerPolicy | None = None,
        limits: Mapping[str, LimitPolicy] | LimitPolicy | None = None,
        routes: Sequence[Route] = (),
        mark: str = "1",
        **provider: Any,
    ) -> Bench:
        providers = providers or [ScriptedProvider(*answers, **provider)]
        if isinstance(limits, LimitPolicy):
            limits = {one.name: limits for one in providers}
        made.append(
            Bench(
                spool,
                clock,
                providers,
                retry or RetryPolicy(jitter=0, maximum=30),
                degrade=degrade,
                breaker=breaker or PATIENT,
                limits=limits,
                routes=routes,
                mark=mark,
            )
        )
        return made[-1]

    yield make
    for one in made:
        await one.stop()
