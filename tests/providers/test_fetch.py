"""One GET of something small: what is had, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bridge.providers import fetch as fetching
from bridge.providers.fetch import MAX_OCTETS, fetch


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[bytes], Any]]:
    servers: list[asyncio.Server] = []
    held: list[asyncio.StreamWriter] = []

    async def start(answer: bytes) -> str:
        async def answer_it(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            held.append(writer)
            if answer:
                writer.close()

        servers.append(await asyncio.start_server(answer_it, "127.0.0.1", 0))
        return f"http://127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}/a.pem"

    yield start
    for server in servers:
        server.close()
    for writer in held:
        writer.close()


def answer(status: str, body: bytes = b"", header: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{header}\r\n".encode() + body


async def test_what_is_there_is_fetched(serve: Any) -> None:
    assert await fetch(await serve(answer("200 OK", b"a certificate"))) == b"a certificate"


@pytest.mark.parametrize(
    "said",
    [
        answer("404 Not Found", b"none"),
        answer("302 Found", header="Location: http://127.0.0.1:1/\r\n"),
        answer("200 OK", b"x" * (MAX_OCTETS + 1)),
        b"garbage\r\n\r\n",
        answer("200 OK", b"a certificate")[:-3],
    ],
)
async def test_everything_else_is_an_error_and_nothing_is_followed(serve: Any, said: bytes) -> None:
    with pytest.raises(OSError, match=r"at 127\.0\.0\.1"):
        await fetch(await serve(said))


async def test_who_does_not_answer_is_not_waited_for(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT_S", 0.05)

    with pytest.raises(OSError, match="TimeoutError"):
        await fetch(await serve(b""))
    with pytest.raises(OSError, match="ConnectError"):
        await fetch("http://127.0.0.1:1/a.pem")
