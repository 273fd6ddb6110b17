"""Calls of spooled mail that wait for a slot together go out as one request, where the provider takes several (`max_batch`).

Nothing waits to be joined by more: what is there when a slot is free is what goes, so a lone mail is as fast as ever and
batches grow with the queue. A call is begun, and can no longer be withdrawn, from the moment it is taken into a request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import structlog

from bridge.delivery.attempt import Attempt
from bridge.model import Fault, Outcome
from bridge.providers.base import Call, Provider
from bridge.reply import LOCAL_ERROR

log: Any = structlog.get_logger()


UNTOLD = Outcome(status="unknown", reply=LOCAL_ERROR, fault=Fault.PROVIDER)  # of a request of which nothing is known


@dataclass(frozen=True, slots=True)
class Made:
    """What one call brought. `batch`: how many calls its request carried; `lesson`: with one of these, all that came of it."""

    outcomes: Mapping[str, Outcome]
    duration_ms: float
    batch: int = 1
    lesson: Sequence[Outcome] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A call that waits. `made` becomes None when its attempt ended before it was begun."""

    attempt: Attempt
    call: Call
    key: Hashable
    made: asyncio.Future[Made | None]


class Waiting:
    """Entries in the order they came, and by key. Taking and removing cost the same however many wait."""

    def __init__(self) -> None:
        self._all: dict[Entry, None] = {}
        self._by_key: dict[Hashable, dict[Entry, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._all)

    def dismiss(self) -> None:
        """None of them is begun."""
        for entry in tuple(self._all):
            self.remove(entry)
            _answer(entry, None)

    def add(self, entry: Entry) -> None:
        self._all[entry] = None
        self._by_key.setdefault(entry.key, {})[entry] = None

    def remove(self, entry: Entry) -> None:
        if entry not in self._all:
            return
        del self._all[entry]
        same = self._by_key[entry.key]
        del same[entry]
        if not same:
            del self._by_key[entry.key]

    def take(self, *, number: int, size: int) -> list[Entry]:
        """The oldest and those of its key, oldest first, up to `number` and `size` octets (0: no limit).

        The first is taken whatever its size; entries whose attempt has ended are told so and not counted.
        """
        taken: list[Entry] = []
        octets = 0
        while self._all and not taken:
            for entry in tuple(self._by_key[next(iter(self._all)).key]):
                if entry.attempt.ended or entry.made.done():
                    self.remove(entry)
                    _answer(entry, None)
                    continue
                octets += len(entry.call.email.raw)
                if taken and (len(taken) == number or (size and octets > size)):
                    break
                self.remove(entry)
                taken.append(entry)
        return taken


Turn = Callable[[], Awaitable[int]]  # so many calls may go now, when that has come; 0: none for long


class Batches:
    """Makes the calls that wait, with one provider, within its slots."""

    def __init__(self, provider: Provider, slots: asyncio.Semaphore, turn: Turn, take: Callable[[int], None]) -> None:
        self._provider = provider
        self._slots = slots
        self._turn = turn
        self._take = take
        self._waiting = Waiting()
        self._pump: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[None]] = set()

    async def make(self, attempt: Attempt, call: Call, key: Hashable) -> Made | None:
        """Make a call with others of its key, or alone when it is the only one; None when the attempt ended before."""
        entry = Entry(attempt, call, key, asyncio.get_running_loop().create_future())
        self._waiting.add(entry)
        if self._pump is None or self._pump.done():
            # A task's first step comes after everything that is ready to run now, so all that was claimed together is there.
            self._pump = asyncio.create_task(self._run())
        try:
            return await entry.made
        finally:
            self._waiting.remove(entry)

    async def settle(self) -> None:
        """Wait for the requests that are being cut off, so that none uses a connection any more."""
        await asyncio.gather(*(r for r in self._requests if r.cancelling()), return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            await self._slots.acquire()
            room = await self._turn()
            if not room:
                self._waiting.dismiss()
            entries = self._waiting.take(
                number=min(room, self._provider.max_batch), size=self._provider.max_batch_bytes
            )
            if not entries:
                self._slots.release()
                continue
            self._take(len(entries))
            self._start(entries)

    def _start(self, entries: list[Entry]) -> None:
        request = asyncio.create_task(self._request(entries))
        self._requests.add(request)
        request.add_done_callback(self._finished)

        def abandon(_: asyncio.Future[Made | None]) -> None:
            if all(entry.made.cancelled() for entry in entries):  # nobody is left who could record what it brings
                request.cancel()

        for entry in entries:
            entry.attempt.begun = True
            entry.attempt.batched = entry.attempt.batched or len(entries) > 1
            entry.made.add_done_callback(abandon)

    def _finished(self, request: asyncio.Task[None]) -> None:
        # Here and not in the task: one that is cancelled before its first step must give its slot back too.
        self._requests.discard(request)
        self._slots.release()

    async def _request(self, entries: list[Entry]) -> None:
        started = time.monotonic()
        try:
            found = await self._send([entry.call for entry in entries])
        except Exception:
            # A defect of ours: nothing is known of any of them, which is what no outcome means to whoever waits.
            log.exception(
                "attempt.error",
                queue_id=entries[0].call.queue_id,
                provider=self._provider.name,
                batch=len(entries),
            )
            found = ()
        duration_ms = round((time.monotonic() - started) * 1000, 1)
        lesson = tuple(outcome for outcomes in found for outcome in outcomes.values()) or (UNTOLD,)
        for entry, outcomes in zip(entries, chain(found, repeat({})), strict=False):
            _answer(entry, Made(outcomes, duration_ms, len(entries), lesson))
            lesson = ()

    async def _send(self, calls: list[Call]) -> Sequence[Mapping[str, Outcome]]:
        if len(calls) > 1:
            return await self._provider.send_many(calls)
        (call,) = calls
        return (await self._provider.send(call.email, call.addressing, queue_id=call.queue_id, key=call.key),)


def _answer(entry: Entry, made: Made | None) -> None:
    if not entry.made.done():  # whoever waited was cancelled
        entry.made.set_result(made)
