"""Connections go to the next request, are closed when idle or surplus, and are never more than allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from bridge.providers.transport import CoreTransport
from tests.e2e.conftest import eventually


class Server:
    """Answers after `gate`, if it is set; counts its connections."""

    def __init__(self) -> None:
        self.made = self.open = self.most = 0
        self.gate: asyncio.Event | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if self.gate:
                    await self.gate.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def two() -> AsyncIterator[tuple[list[Server], list[str]]]:
    servers = [Server(), Server()]
    listening = [await asyncio.start_server(server.serve, "127.0.0.1", 0) for server in servers]
    yield servers, [f"http://127.0.0.1:{one.sockets[0].getsockname()[1]}/" for one in listening]
    for one in listening:
        one.close()


async def ask(transport: CoreTransport, url: str, **timeouts: float) -> int:
    response = await transport.handle_async_request(httpx.Request("GET", url, extensions={"timeout": timeouts}))
    return response.status_code


async def test_one_after_the_other_goes_over_one_connection(two: tuple[list[Server], list[str]]) -> None:
    (server, _), (url, _) = two
    async with CoreTransport() as transport:
        for _ in range(5):
            assert await ask(transport, url) == 200
        assert server.made == 1
    await eventually(lambda: server.open == 0)


async def test_many_at_once_are_no_more_than_allowed(two: tuple[list[Server], list[str]]) -> None:
    (server, _), (url, _) = two
    async with CoreTransport(max_connections=3) as transport:
        assert await asyncio.gather(*(ask(transport, url) for _ in range(20))) == [200] * 20
        assert server.most == server.made == 3


async def test_who_waits_too_long_hears_so_and_who_gives_up_takes_no_room(
    two: tuple[list[Server], list[str]],
) -> None:
    (server, _), (url, _) = two
    server.gate = asyncio.Event()
    async with CoreTransport(max_connections=1) as transport:
        first = asyncio.create_task(ask(transport, url))
        await eventually(lambda: server.open == 1)
        with pytest.raises(httpx.PoolTimeout):
            await ask(transport, url, pool=0.01)
        waiting = asyncio.create_task(ask(transport, url))
        await asyncio.sleep(0)
        waiting.cancel()
        first.cancel()  # also of one in the middle of its answer the connection goes
        await asyncio.gather(first, waiting, return_exceptions=True)
        server.gate.set()
        await eventually(lambda: server.open == 0)
        assert await ask(transport, url) == 200


async def test_an_idle_one_makes_room_for_another_server(two: tuple[list[Server], list[str]]) -> None:
    (one, other), (url, another) = two
    async with CoreTransport(max_connections=1) as transport:
        assert await ask(transport, url) == 200
        assert await ask(transport, another) == 200
        await eventually(lambda: one.open == 0 and other.open == 1)


async def test_idle_ones_are_not_kept_for_long(two: tuple[list[Server], list[str]]) -> None:
    (server, _), (url, _) = two
    async with CoreTransport(keepalive_s=0.01) as transport:
        await asyncio.gather(*(ask(transport, url) for _ in range(3)))
        await asyncio.sleep(0.02)
        assert await ask(transport, url) == 200
        assert server.made == 4
        await eventually(lambda: server.open == 1)
    async with CoreTransport(keepalive_s=0) as transport:
        assert await ask(transport, url) == 200
        await eventually(lambda: server.open == 0)


async def test_who_waits_when_they_are_closed_hears_so_and_opens_none(two: tuple[list[Server], list[str]]) -> None:
    (server, _), (url, _) = two
    server.gate = asyncio.Event()
    transport = CoreTransport(max_connections=1)
    asked = [asyncio.create_task(ask(transport, url)) for _ in range(4)]
    await eventually(lambda: server.open == 1)
    await transport.aclose()
    server.gate.set()
    first, *others = await asyncio.gather(*asked, return_exceptions=True)

    assert isinstance(first, httpx.TransportError)
    assert [type(other) for other in others] == [httpx.ConnectError] * 3
    await eventually(lambda: server.open == 0)
    assert server.made == 1


async def test_what_is_no_http_is_refused() -> None:
    async with CoreTransport() as transport:
        with pytest.raises(httpx.UnsupportedProtocol):
            await ask(transport, "ftp://localhost/")
