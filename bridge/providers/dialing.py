"""From a host name to a connected socket: addresses of both families raced, the next one 250 ms after the last (RFC 8305).

Written out because uvloop's `create_connection` has no `happy_eyeballs_delay`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from typing import Any

ATTEMPT_DELAY_S = 0.25  # RFC 8305 section 5


async def dial(host: str, port: int) -> socket.socket:
    """A connected, non-blocking socket. Raises OSError (also for DNS) of the first address."""
    found = await resolve(host, port)
    addresses = interleave([(family, address) for family, _, _, _, address in found])
    if len(addresses) == 1:
        return await _connect(*addresses[0])
    return await _race(addresses)


async def resolve(host: str, port: int) -> list[Any]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


def interleave(addresses: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Families in turn, the resolver's first choice first (RFC 8305 section 4); duplicates removed."""
    addresses = list(dict.fromkeys(addresses))
    first = [a for a in addresses if a[0] == addresses[0][0]]
    other = [a for a in addresses if a[0] != addresses[0][0]]
    return [a for pair in itertools.zip_longest(first, other) for a in pair if a is not None]


async def _connect(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _race(addresses: list[tuple[int, Any]]) -> socket.socket:
    waiting = list(addresses)
    tasks: list[asyncio.Task[socket.socket]] = []
    try:
        while waiting or not all(t.done() for t in tasks):
            if waiting:
                tasks.append(asyncio.create_task(_connect(*waiting.pop(0))))
            running = [t for t in tasks if not t.done()]
            await asyncio.wait(
                running, timeout=ATTEMPT_DELAY_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            if (winner := _winner(tasks)) is not None:
                return winner.result()
        raise tasks[0].exception() or OSError("no address")
    finally:
        await _discard(tasks)


def _winner(tasks: list[asyncio.Task[socket.socket]]) -> asyncio.Task[socket.socket] | None:
    return next((t for t in tasks if t.done() and not t.cancelled() and t.exception() is None), None)


async def _discard(tasks: list[asyncio.Task[socket.socket]]) -> None:
    """Stop the losers and close what they opened meanwhile."""
    winner = _winner(tasks)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, OSError):
            sock = await task
            if task is not winner:
                sock.close()
