"""httpx over httpcore2's pool: no redirects, no retries, bounded answers, and httpcore2's exceptions as httpx's.

A request may carry a `Progress` (extension "progress"), which tells afterwards whether it was written in full.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable
from types import TracebackType
from typing import Any

import httpcore2
import httpx

from bridge.providers.connections import Connections
from bridge.providers.network import Backend, progress_of_call
from bridge.providers.trust import client_context, proxy_for_pool

MAX_ANSWER = 1024 * 1024  # what is kept of a response's body; the verdict comes from the status
KEEPALIVE_S = 5.0  # servers close idle connections after 5 s and more; reusing one they just closed costs an `unknown`

_NAMES = (
    *("TimeoutException", "PoolTimeout", "ConnectTimeout", "ReadTimeout", "WriteTimeout"),
    *("NetworkError", "ConnectError", "ReadError", "WriteError", "ProxyError"),
    *("UnsupportedProtocol", "ProtocolError", "LocalProtocolError", "RemoteProtocolError"),
)
_HTTPX: dict[type[Exception], type[Exception]] = {getattr(httpcore2, name): getattr(httpx, name) for name in _NAMES}


def open_pool(
    *,
    backend: httpcore2.AsyncNetworkBackend,
    keepalive_s: float = KEEPALIVE_S,
    ca_file: str = "",
    proxy: str = "",
    secure: bool = False,
) -> httpcore2.AsyncConnectionPool:
    """What makes connections; `Connections` says which and how many."""
    return httpcore2.AsyncConnectionPool(
        ssl_context=client_context(ca_file) if secure else None,
        proxy=proxy_for_pool(proxy),
        keepalive_expiry=keepalive_s,
        retries=0,
        network_backend=backend,
    )


class CoreTransport(httpx.AsyncBaseTransport):
    """The connections to one provider. They, and the TLS context, are made at the first request: an idle daemon holds neither."""

    def __init__(
        self,
        *,
        max_connections: int = 10,
        keepalive_s: float = KEEPALIVE_S,
        ca_file: str = "",
        proxy: str = "",
        pool: httpcore2.AsyncConnectionPool | None = None,
    ) -> None:
        self._max_connections, self._keepalive_s = max_connections, keepalive_s
        self._ca_file, self._proxy = ca_file, proxy
        self._backend: Backend | None = None
        self._pool = pool
        self._connections: Connections | None = None

    def _opened(self, *, secure: bool) -> Connections:
        if self._connections is None:
            self._connections = Connections(
                self._pool or self._open(secure=secure), most=self._max_connections, keepalive_s=self._keepalive_s
            )
        return self._connections

    def _open(self, *, secure: bool) -> httpcore2.AsyncConnectionPool:
        self._backend = Backend()
        return open_pool(
            backend=self._backend,
            keepalive_s=self._keepalive_s,
            ca_file=self._ca_file,
            proxy=self._proxy,
            secure=secure or self._proxy.startswith("https:"),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"no HTTP: {url.scheme!r}")
        core = httpcore2.Request(
            method=request.method.encode("ascii"),
            url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        token = progress_of_call.set(request.extensions.get("progress"))
        try:
            answer, body = await mapped(self._exchanged(self._opened(secure=url.scheme == "https"), core))
        finally:
            progress_of_call.reset(token)
        return _response(answer, body, request)

    async def _exchanged(
        self, connections: Connections, request: httpcore2.Request
    ) -> tuple[httpcore2.Response, bytes]:
        origin = request.url.origin
        while True:
            connection = await connections.take(origin, request.extensions.get("timeout", {}).get("pool"))
            try:
                answer = await connection.handle_async_request(request)
                return answer, await _read_bounded(answer)
            except httpcore2.ConnectionNotAvailable:
                pass  # it was found closed when the request was about to leave; a new one never is
            finally:
                await connections.give_back(origin, connection)

    async def aclose(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.aclose()
        if self._backend is not None:
            await self._backend.aclose()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()


async def mapped(awaitable: Awaitable[Any]) -> Any:
    """One to one; whatever is not httpcore2's own passes through."""
    try:
        return await awaitable
    except tuple(_HTTPX) as exc:
        raise _HTTPX[type(exc)](str(exc)) from exc


async def _read_bounded(answer: httpcore2.Response) -> bytes:
    """The body's first MiB. Closing an answer that was not read to its end closes the connection."""
    body = bytearray()
    try:
        async for chunk in answer.stream:  # type: ignore[union-attr]
            body += chunk
            if len(body) > MAX_ANSWER:
                break
    finally:
        await answer.aclose()
    return bytes(body[:MAX_ANSWER])


def _response(answer: httpcore2.Response, body: bytes, request: httpx.Request) -> httpx.Response:
    """Decoded by ourselves, bounded: httpx would unpack a bomb whole. We ask for `identity`; this is for who ignores it."""
    headers = answer.headers
    encoding = next((v.strip().lower() for k, v in headers if k.lower() == b"content-encoding"), b"")
    if encoding:
        headers = [(k, v) for k, v in headers if k.lower() not in (b"content-encoding", b"content-length")]
        body = _unpack(body, encoding)
    return httpx.Response(answer.status, headers=headers, content=body, request=request)


def _unpack(body: bytes, encoding: bytes) -> bytes:
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        return body if encoding == b"identity" else b""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MAX_ANSWER)  # 32: gzip or zlib, by its header
    except zlib.error:
        return b""
