"""Connections before they are sessions: bounded, and not lost when the machine is short of something."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.delivery.conftest import every_line
from tests.smtp.raw import Raw, clients_end, open_sockets, trusting

__all__ = ["clients_end"]
CONFIG = '[[provider]]\nkind = "capture"\n[smtp]\nmax_connections_per_client = 2\n[smtp.listener]\ntls = "implicit"\n'


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Every one of this process is taken, until the end of the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


async def test_a_connection_that_comes_when_no_descriptor_is_left_is_served_later(
    start_daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.smtp.arrival.PAUSE_S", 0.05)
    daemon = await start_daemon(config=CONFIG)
    client = socket.socket()

    with every_line() as lines, no_descriptors_left():
        client.connect(("127.0.0.1", daemon.listeners[0].port))
        async with asyncio.timeout(5):
            while sum(line["event"] == "listener.paused" for line in lines) < 2:
                await asyncio.sleep(0.01)

    client.setblocking(False)
    raw = Raw(*await asyncio.open_connection(sock=client, ssl=trusting(), server_hostname="localhost"))
    await raw.expect("220")


async def test_a_listener_that_pauses_may_be_closed(start_daemon: Any) -> None:
    daemon = await start_daemon(config=CONFIG)

    with every_line() as lines, socket.socket() as client, no_descriptors_left():
        client.connect(("127.0.0.1", daemon.listeners[0].port))
        async with asyncio.timeout(5):
            while not any(line["event"] == "listener.paused" for line in lines):
                await asyncio.sleep(0.01)
    await daemon.stop()


async def test_connections_that_come_to_nothing_leave_nothing(start_daemon: Any) -> None:
    daemon = await start_daemon(config=CONFIG.replace("client = 2", "client = 100"))
    port = daemon.listeners[0].port
    (arrivals,) = daemon.listeners[0]._servers
    await Raw.greeted(port, tls=trusting())
    before = open_sockets()  # the spool opens files meanwhile

    for _ in range(3):
        for sent in (b"NOOP\r\n", b"\x16\x03\x01\x02\x00" + b"x" * 600, b"\x16"):
            raw = await Raw.connect(port)
            raw.send(sent)
            if len(sent) == 1:
                raw.reset()
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(raw.reader.read(), 5)
            raw.close()
    async with asyncio.timeout(5):
        while arrivals._tasks or open_sockets() > before:
            await asyncio.sleep(0.01)

    assert not arrivals._by_client


async def test_handshakes_that_do_not_end_are_counted_by_client(start_daemon: Any) -> None:
    daemon = await start_daemon(config=CONFIG)
    port = daemon.listeners[0].port
    silent = [await Raw.connect(port) for _ in range(2)]

    await (await Raw.connect(port)).expect_end()
    silent[0].reset()
    await asyncio.sleep(0.02)
    await Raw.greeted(port, tls=trusting())
