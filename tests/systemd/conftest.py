"""What systemd holds: the socket that is told things, as a real one."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest


class Told:
    """A $NOTIFY_SOCKET and what came to it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    async def until(self, wanted: Callable[[str], bool] | str, seconds: float = 20.0) -> str:
        """The first line from now on that is the one wanted, or begins so; TimeoutError when it does not come."""
        passes = wanted if callable(wanted) else lambda line: line.startswith(wanted)
        async with asyncio.timeout(seconds):
            while True:
                datagram = await asyncio.get_running_loop().sock_recv(self._socket, 8192)
                lines = datagram.decode().split("\n")
                self.lines += lines
                for line in lines:
                    if passes(line):
                        return line

    def at_hand(self) -> list[str]:
        """All that has come and was not read yet."""
        found = []
        while True:
            try:
                found += self._socket.recv(8192).decode().split("\n")
            except BlockingIOError:
                self.lines += found
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
async def told() -> AsyncIterator[Told]:
    with tempfile.TemporaryDirectory() as name:  # a path of a socket has at most 107 octets
        one = Told(str(Path(name) / "notify"))
        yield one
        one.close()
