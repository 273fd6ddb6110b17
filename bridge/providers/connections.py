"""Which connection takes a request: the one that came back last, a new one, or the next that comes back.

What makes connections (through proxies, with TLS) is httpcore2's pool; its own choice among them looks at each of them, twice
for every request.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpcore2


@dataclass(frozen=True, slots=True)
class _Idle:
    origin: httpcore2.Origin
    connection: httpcore2.AsyncConnectionInterface
    since: float  # of the loop's clock


class Connections:
    """At most `most` at a time, idle ones for `keepalive_s` at most. `make`: of the pool that makes them."""

    def __init__(self, make: httpcore2.AsyncConnectionPool, *, most: int, keepalive_s: float) -> None:
        self._make = make
        self._most = most
        self._keepalive_s = keepalive_s
        self._room = asyncio.Semaphore(most)
        self._idle: list[_Idle] = []  # the last that came back at the end
        self._busy: set[httpcore2.AsyncConnectionInterface] = set()
        self._closed = False

    async def take(self, origin: httpcore2.Origin, timeout: float | None = None) -> httpcore2.AsyncConnectionInterface:
        """`give_back` in any case. Raises httpcore2.PoolTimeout, and ConnectError when they are closed."""
        if self._room.locked():
            await self._wait(timeout)
        else:
            await self._room.acquire()  # at once
        try:
            return await self._take(origin)
        except BaseException:
            self._room.release()
            raise

    async def _wait(self, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._room.acquire()
        except TimeoutError as error:
            raise httpcore2.PoolTimeout from error

    async def _take(self, origin: httpcore2.Origin) -> httpcore2.AsyncConnectionInterface:
        await self._close_old()
        for position in range(len(self._idle) - 1, -1, -1):
            if self._idle[position].origin == origin:
                connection = self._idle.pop(position).connection
                if not connection.has_expired():
                    self._busy.add(connection)
                    return connection
                await connection.aclose()
                return await self._take(origin)
        while self._idle and len(self._busy) + len(self._idle) >= self._most:  # for another origin
            await self._idle.pop(0).connection.aclose()
        if self._closed:
            raise httpcore2.ConnectError("the connections are closed")
        connection = self._make.create_connection(origin)
        self._busy.add(connection)
        return connection

    async def _close_old(self) -> None:
        old = asyncio.get_running_loop().time() - self._keepalive_s
        while self._idle and self._idle[0].since < old:
            await self._idle.pop(0).connection.aclose()

    async def give_back(self, origin: httpcore2.Origin, connection: httpcore2.AsyncConnectionInterface) -> None:
        """For the next request, if it is as good as new."""
        self._busy.discard(connection)
        self._room.release()
        if connection.is_closed():
            return
        if self._keepalive_s and not self._closed and connection.is_idle():
            self._idle.append(_Idle(origin, connection, asyncio.get_running_loop().time()))
        else:
            await asyncio.shield(connection.aclose())

    async def aclose(self) -> None:
        """Who still waits for one gets none, so nothing of his was sent."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in [*(one.connection for one in idle), *self._busy]:
            await connection.aclose()
