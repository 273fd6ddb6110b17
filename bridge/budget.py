"""How much memory all sessions and attempts may hold: one budget, asked before the memory is taken.

Two kinds ask. *Small* holds are what a session needs to read a message at all, and short messages; *large* ones are long
messages. Large holds get three quarters at most, so that somebody's many big mails never keep a short one waiting, and of
these a third is left to what waits in the queue (`reserved`). Each kind is served in order. For the loop's thread alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

QUEUE_SHARE = 4  # the part of the budget that what waits in the queue may always have, whatever the sessions hold


class Exhausted(Exception):
    """The budget did not have so much left within the time."""


@dataclass(slots=True)
class _Waiter:
    octets: int
    ready: asyncio.Future[Hold]


class MemoryBudget:
    """`total` octets; who asks waits `wait_s` seconds at most."""

    def __init__(self, total: int, *, wait_s: float) -> None:
        self.total = total
        self.most_large = total * 3 // 4
        self.reserved = 0  # of large holds: what the queue may still take of its share
        self.used = 0
        self.large = 0
        self._wait_s = wait_s
        self._waiting: dict[bool, deque[_Waiter]] = {False: deque(), True: deque()}
        self._closed = False

    def take(self, octets: int, *, large: bool = False) -> Hold | None:
        """None when that much is not left now, or others asked before."""
        return self.charge(octets, large=large) if not self._waiting[large] and self._fits(octets, large) else None

    def charge(self, octets: int, *, large: bool = False) -> Hold:
        """Taken whatever is left: of something that is there already. Who comes next waits the longer."""
        hold = Hold(self, large)
        hold.resize(octets)
        return hold

    async def hold(self, octets: int, *, large: bool = False) -> Hold:
        """As `take`, but waits. What is more than there will ever be gets all that is left when no other of its kind holds
        anything (but the queue, of its share), and none is let in beside it. Raises Exhausted."""
        if not self._waiting[large] and (hold := self._grant(octets, large)):
            return hold
        waiter = _Waiter(octets, asyncio.get_running_loop().create_future())
        queue = self._waiting[large]
        queue.append(waiter)
        try:
            if self._closed:
                raise Exhausted
            async with asyncio.timeout(self._wait_s):
                return await waiter.ready
        except (TimeoutError, asyncio.CancelledError) as error:
            let_in = waiter.ready.done() and not (waiter.ready.cancelled() or waiter.ready.exception())
            if let_in:  # at that very moment
                waiter.ready.result().release()
            if isinstance(error, TimeoutError):
                raise Exhausted from None
            raise
        finally:
            if waiter in queue:
                queue.remove(waiter)
                self._let_in()

    def close(self) -> None:
        """Shutdown: who waits hears now that there is nothing."""
        self._closed = True
        for queue in self._waiting.values():
            for waiter in queue:
                if not waiter.ready.done():
                    waiter.ready.set_exception(Exhausted())

    def _grant(self, octets: int, large: bool) -> Hold | None:
        """None when that much, or what there can be of it, is not left now."""
        usual = self.most_large - self.total // QUEUE_SHARE if large else self.total
        if not self._fits(min(octets, usual), large):
            return None
        if octets > usual:
            octets = min(octets, self.total - self.used, self.most_large - self.large if large else self.total)
        return self.charge(octets, large=large)

    def _fits(self, octets: int, large: bool) -> bool:
        return self.used + octets <= self.total and (
            not large or self.large + octets + self.reserved <= self.most_large
        )

    def _count(self, octets: int, large: bool) -> None:
        self.used += octets
        if large:
            self.large += octets
        if octets < 0 and (self._waiting[False] or self._waiting[True]):
            self._let_in()

    def _let_in(self) -> None:
        for large, queue in self._waiting.items():
            while queue and (hold := self._grant(queue[0].octets, large)):
                waiter = queue.popleft()
                if waiter.ready.done():  # it was cancelled, or the budget closed, a moment ago
                    hold.release()
                else:
                    waiter.ready.set_result(hold)


class Hold:
    """Some octets of the budget, until `release`. One that is shared is given back by the last who releases it."""

    __slots__ = ("_budget", "_large", "_owners", "octets")

    def __init__(self, budget: MemoryBudget, large: bool) -> None:
        self._budget = budget
        self._large = large
        self._owners = 1
        self.octets = 0

    def resize(self, octets: int) -> None:
        """To what is held in fact; growing does not wait."""
        change, self.octets = octets - self.octets, octets
        self._budget._count(change, self._large)

    def grow(self, octets: int) -> bool:
        """By so much more, if it is left now."""
        if not self._budget._fits(octets, self._large):
            return False
        self.resize(self.octets + octets)
        return True

    def share(self) -> Hold:
        self._owners += 1
        return self

    def release(self) -> None:
        self._owners -= 1
        if not self._owners:
            self.resize(0)
