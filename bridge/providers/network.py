"""Sockets for the HTTP pool, on plain asyncio or uvloop, that know whether a request left this machine.

httpcore2 hides a failed write (it goes on to read, for servers that answer early), so the certainty that decides between
"never sent" and "sent, answer lost" is kept here: `Progress.written` becomes true when the last byte of the request was
handed to the kernel, and a connection that is given up with bytes still in our buffers is aborted, so they stay unsent.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import httpcore2

from bridge.providers.dialing import dial

COALESCE = 64 * 1024  # header and body up to here go out in one write, so one packet or a few; more flows as it comes
PIECE = 256 * 1024  # larger bodies go piece by piece: bounded buffers, also under TLS
READ_AHEAD = 256 * 1024
TLS_GOODBYE_S = 1.0


@dataclass(slots=True)
class Progress:
    """How far one request got. `written`: its last byte was handed to the kernel, so the server may act on it."""

    written: bool = False


progress_of_call: ContextVar[Progress | None] = ContextVar("progress_of_call", default=None)


class Stream(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """One connection. Used by one task at a time, as HTTP/1.1 is."""

    def __init__(self, closed: asyncio.Future[None] | None = None) -> None:
        self._transport: asyncio.Transport
        self._lower: asyncio.Transport  # the TCP transport, also below TLS
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._held: list[bytes] = []
        self._held_size = 0
        self._flowing = False  # the first bytes of a request were written, not yet its last
        self._ended = False
        self._error = ""
        self._paused = False
        self._used = False
        self._broken = False
        self._progress: Progress | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._poll: select.poll | None = None
        self.closed = closed or asyncio.get_running_loop().create_future()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tcp = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._attach(tcp, tcp)

    def _attach(self, transport: asyncio.Transport, lower: asyncio.Transport) -> None:
        self._transport, self._lower = transport, lower
        # A write goes to the kernel at once, and a pause means exactly "not all of it was taken". TLS pauses from the limit
        # on (with 0 it would at once and for ever), TCP above it.
        transport.set_write_buffer_limits(high=0 if transport is lower else 1, low=0)

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > READ_AHEAD and not self._transport.is_closing():
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._error = self._error or (describe(exc) if exc else "")
        if not self.closed.done():
            self.closed.set_result(None)
        self._wake()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, deadline: float | None, late: type[Exception]) -> None:
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None if deadline is None else loop.call_at(deadline, _expire, waiter, late)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    # httpcore2.AsyncNetworkStream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._held:
            await self._flush(timeout, last=True)
        deadline = _deadline(timeout)
        while not self._chunks and not self._ended:
            await self._wait(deadline, httpcore2.ReadTimeout)
        if self._chunks:
            return self._take(max_bytes)
        if self._error:
            raise httpcore2.ReadError(self._error)
        return b""

    def _take(self, max_bytes: int) -> bytes:
        chunk = self._chunks.popleft()
        if len(chunk) > max_bytes:
            self._chunks.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        self._buffered -= len(chunk)
        if self._buffered <= READ_AHEAD and not self._ended and not self._transport.is_closing():
            self._transport.resume_reading()
        return chunk

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Hold what belongs to one request and send it as one, a large one as it comes. httpcore2 writes b"" at the end of a
        request that has a Content-Length, as all of ours do; were it ever not so, `read` flushes."""
        if buffer:
            self._held.append(buffer)
            self._held_size += len(buffer)
        if not buffer or self._held_size > COALESCE:
            await self._flush(timeout, last=not buffer)

    async def _flush(self, timeout: float | None, *, last: bool) -> None:
        held, self._held, self._held_size = self._held, [], 0
        if held and not self._flowing:
            self._progress = None if held[0].startswith(b"CONNECT ") else progress_of_call.get()
            self._check_usable()
            self._used = self._flowing = True
        await self._write_all(held, _deadline(timeout))
        if last and self._flowing:
            self._flowing = False
            if self._progress is not None:
                self._progress.written = True

    async def _write_all(self, held: list[bytes], deadline: float | None) -> None:
        for piece in _pieces(held):
            if self._ended:  # seen between two pieces
                raise self._write_error()
            self._transport.write(piece)
            if self._paused:
                await self._drain(deadline)
            elif self._lower.is_closing() or self._transport.is_closing():
                raise self._write_error()  # refused by the kernel there and then

    def _check_usable(self) -> None:
        """Nothing was written yet, so a used connection that turns out closed is simply exchanged for another."""
        if self._used and (self._ended or self._transport.is_closing() or self._readable()):
            raise httpcore2.ConnectionNotAvailable
        if self._ended or self._transport.is_closing():
            raise self._write_error()

    async def _drain(self, deadline: float | None) -> None:
        while self._paused:
            if self._ended:
                raise self._write_error()
            if self._answered_early():
                self._broken = True
                raise httpcore2.WriteError("answered before the whole request was read")
            await self._wait(deadline, httpcore2.WriteTimeout)

    def _answered_early(self) -> bool:
        """A refusal that comes while the body is still being sent ends the sending (RFC 9112 9.5)."""
        return bool(self._chunks) and self._chunks[0][:5] == b"HTTP/" and self._chunks[0][9:10] in (b"3", b"4", b"5")

    def _write_error(self) -> httpcore2.WriteError:
        self._broken = True
        return httpcore2.WriteError(self._error or "connection closed before the request was written")

    def _readable(self) -> bool:
        """The kernel may know of an end the loop has not looked at yet."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._lower.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(self._poll.poll(0))

    async def aclose(self) -> None:
        if self._paused or self._lower.get_write_buffer_size():
            if self._progress is not None:
                self._progress.written = False  # what is left in our buffers is thrown away
            self._transport.abort()
            self._lower.abort()
        else:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()
        self._lower.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Stream:
        secured = Stream(self.closed)  # one connection still
        try:
            async with asyncio.timeout(timeout):
                transport = await asyncio.get_running_loop().start_tls(
                    self._transport,
                    secured,
                    ssl_context,
                    server_hostname=server_hostname,
                    ssl_handshake_timeout=None if timeout is None else timeout + 1,
                    ssl_shutdown_timeout=TLS_GOODBYE_S,
                )
            if transport is None:  # closed during the handshake; seen with asyncio
                raise ConnectionResetError("closed during the TLS handshake")
        except BaseException as exc:
            self.abort()
            secured.connection_lost(None)  # the loops do not say so before a handshake is done
            raise _connect_error(exc) from exc
        secured._attach(transport, self._lower)
        return secured

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # the pool asks this of every idle connection at every request: flags only
            return bool(self._ended or self._broken or self._chunks)
        return self._transport.get_extra_info(info)


class Backend(httpcore2.AsyncNetworkBackend):
    """Opens connections for httpcore2's pool."""

    def __init__(self) -> None:
        self._open: set[Stream] = set()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Stream:
        try:
            async with asyncio.timeout(timeout):
                sock = await dial(host, port)
                stream = await self._adopt(sock)
        except BaseException as exc:
            raise _connect_error(exc) from exc
        self._open.add(stream)
        stream.closed.add_done_callback(lambda _: self._open.discard(stream))
        return stream

    async def _adopt(self, sock: socket.socket) -> Stream:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, stream = await asyncio.get_running_loop().create_connection(Stream, sock=sock)
        except BaseException:
            sock.close()
            raise
        return stream

    async def aclose(self) -> None:
        """Wait a moment for the goodbyes of connections that were closed, then end them."""
        if waiting := [s.closed for s in self._open]:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait(waiting, timeout=TLS_GOODBYE_S)
        for stream in list(self._open):
            stream.abort()


def _pieces(held: list[bytes]) -> Iterator[bytes | memoryview]:
    if sum(map(len, held)) <= PIECE:
        yield b"".join(held)
        return
    for part in held:
        view = memoryview(part)
        for start in range(0, len(part), PIECE):
            yield view[start : start + PIECE]


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else asyncio.get_running_loop().time() + timeout


def _expire(waiter: asyncio.Future[None], late: type[Exception]) -> None:
    if not waiter.done():
        waiter.set_exception(late())


def _connect_error(exc: BaseException) -> BaseException:
    if isinstance(exc, TimeoutError) and not exc.args:  # asyncio.timeout's; the kernel's ETIMEDOUT carries an errno
        return httpcore2.ConnectTimeout("no connection in time")
    return httpcore2.ConnectError(describe(exc)) if isinstance(exc, OSError | ValueError) else exc


def describe(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
