"""The sign of life that systemd's watchdog waits for, and the line that `systemctl status` shows.

The sign comes from the event loop, and only after the spool's writer has answered: a daemon in which either hangs takes no
mail any more and is better started again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from bridge.clock import Clock
from bridge.delivery.choice import Dispatchers
from bridge.delivery.dispatcher import Dispatcher
from bridge.notify import Notifier
from bridge.spool.base import Depth, Spool, SpoolError

EVERY_S = 10.0
SIGNS = 3  # in the time of the watchdog: one may be late
NO_ANSWER = "the spool does not answer"


class Place(Protocol):
    """What is listened on."""

    @property
    def address(self) -> str: ...

    @property
    def port(self) -> int: ...


class Pulse:
    """`run` for ever. `places` may grow until it runs."""

    def __init__(
        self, notifier: Notifier, *, spool: Spool, dispatchers: Dispatchers, places: Sequence[Place], clock: Clock
    ) -> None:
        self._notifier = notifier
        self._spool = spool
        self._dispatchers = dispatchers
        self._places = places
        self._clock = clock
        self.every_s = min(EVERY_S, (notifier.watchdog_s or EVERY_S * SIGNS) / SIGNS)

    async def run(self) -> None:
        never = asyncio.Event()
        asked: asyncio.Task[str] | None = None
        try:
            while True:
                asked = asked or asyncio.create_task(self._ask(), name="pulse")
                await asyncio.wait({asked}, timeout=self.every_s)
                if asked.done():
                    self._notifier.watchdog()
                    self._say(asked.result())
                    asked = None
                else:
                    self._say(NO_ANSWER)
                await self._clock.wait(never, self.every_s)
        finally:
            if asked:
                asked.cancel()
                await asyncio.wait({asked})

    async def _ask(self) -> str:
        """Comes back once the writer's thread has looked around, be it to say that it cannot write."""
        writable = await self._spool.writable()
        depth: Depth | None = None
        with contextlib.suppress(SpoolError):
            depth = await self._spool.queue_depth()
        counted = _counted(depth) if depth else "the queue cannot be read"
        return counted if writable else f"{counted}, the spool is full"

    def _say(self, queue: str) -> None:
        listening = f"listening on {', '.join(_shown(place) for place in self._places)}"
        providers = [f"{one.provider.name}: {_state(one)}" for one in self._dispatchers.all]
        self._notifier.status(f"{listening}; {', '.join([queue, *providers])}")


def _shown(place: Place) -> str:
    """With the port in fact bound, where that was not ours to choose."""
    if place.address.startswith("systemd:") and place.port:
        return f"{place.address} (port {place.port})"
    return f"{place.address[:-1]}{place.port}" if place.address.endswith(":0") else place.address


def _counted(depth: Depth) -> str:
    waiting = depth.recipients.get("queued", 0) + depth.recipients.get("deferred", 0)
    held = depth.recipients.get("held", 0)
    return f"{waiting} queued, {held} held" if held else f"{waiting} queued"


def _state(one: Dispatcher) -> str:
    return "ok" if one.breaker.closed else f"{one.breaker.state} ({one.breaker.reason})"
