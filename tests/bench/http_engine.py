"""Requests/s per core of the HTTP engines, 5 kB bodies against a light local sink in another process.

    python -m tests.bench.http_engine [seconds]

Engines: the pool over our own network backend, over httpcore2's anyio one, each by the transport directly and through
`httpx.AsyncClient`; and stock httpx. CPU time is this process's own, so the figure is per core, whatever else runs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpcore2
import httpx
import uvloop

from bridge.providers.transport import CoreTransport, open_pool

BODY = b'{"to":"ann@example.com","body":"' + b"x" * 5_000 + b'"}'
HEADERS = {"Authorization": "Bearer k", "Content-Type": "application/json"}
ANSWER = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"id":"abc-123"}'[:-1]


class Sink(asyncio.Protocol):
    """Answers 202 to every request that has come in full."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            self.transport.write(ANSWER)  # type: ignore[attr-defined]


def serve(port: Any) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


Send = Callable[[], Awaitable[httpx.Response]]


def direct(transport: httpx.AsyncBaseTransport, url: httpx.URL) -> Send:
    async def send() -> httpx.Response:
        request = httpx.Request("POST", url, headers=HEADERS, content=BODY)
        response = await transport.handle_async_request(request)
        await response.aread()
        await response.aclose()
        return response

    return send


def client(transport: httpx.AsyncBaseTransport | None, url: httpx.URL, limit: int) -> Send:
    limits = httpx.Limits(max_connections=limit, max_keepalive_connections=limit)
    http = httpx.AsyncClient(transport=transport, limits=limits, trust_env=False, verify=transport is None)

    async def send() -> httpx.Response:
        return await http.post(url, headers=HEADERS, content=BODY)

    return send


async def rate(send: Send, connections: int, seconds: float) -> float:
    done = 0

    async def worker(until: float) -> None:
        nonlocal done
        while time.monotonic() < until:
            response = await send()
            assert response.status_code == 202
            done += 1

    await asyncio.gather(*(worker(time.monotonic() + 0.3) for _ in range(connections)))
    done, cpu = 0, time.process_time()
    await asyncio.gather(*(worker(time.monotonic() + seconds) for _ in range(connections)))
    return done / (time.process_time() - cpu)


def engines(url: httpx.URL, n: int) -> dict[str, Send]:
    def ours() -> CoreTransport:
        return CoreTransport(max_connections=n)

    def anyio() -> CoreTransport:
        return CoreTransport(max_connections=n, pool=open_pool(backend=httpcore2.AnyIOBackend()))

    return {
        "our backend, direct": direct(ours(), url),
        "our backend, AsyncClient": client(ours(), url, n),
        "anyio backend, direct": direct(anyio(), url),
        "anyio backend, AsyncClient": client(anyio(), url, n),
        "stock httpx": client(None, url, n),
    }


async def compare(url: httpx.URL, seconds: float) -> None:
    print(f"{'requests/s of CPU':<30}" + "".join(f"{n:>8}" for n in (4, 16, 64)))
    table: dict[str, list[float]] = {}
    for n in (4, 16, 64):
        for name, send in engines(url, n).items():
            table.setdefault(name, []).append(await rate(send, n, seconds))
    for name, figures in table.items():
        print(f"{name:<30}" + "".join(f"{figure:>8.0f}" for figure in figures))


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    receiver, sender = multiprocessing.Pipe(duplex=False)
    sink = multiprocessing.Process(target=serve, args=(sender,), daemon=True)
    sink.start()
    url = httpx.URL(f"http://127.0.0.1:{receiver.recv()}/send")
    try:
        for loop in (uvloop.new_event_loop, asyncio.new_event_loop):
            print(loop.__module__)
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(compare(url, seconds))
    finally:
        sink.terminate()
        sink.join()


if __name__ == "__main__":
    main()
