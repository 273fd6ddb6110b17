"""One connection's bytes on top of aiosmtpd: reading lines and DATA in blocks, writing replies, time-outs, TLS.

aiosmtpd reads line by line through a StreamReader, which makes a 10 MB message three times slower, lets a line without CRLF grow
without bound, closes silently on time-outs and cuts a slow DATA that flows. So its connection, protocol and task
handling are kept, and what reads and writes is ours.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

from aiosmtpd.smtp import SMTP
from aiosmtpd.smtp import Session as AiosmtpdSession

from bridge import metrics
from bridge.reply import Reply
from bridge.smtp import replies
from bridge.smtp.policy import client_of
from bridge.smtp.tls import handshake_fault

MAX_COMMAND = 512  # RFC 5321 4.5.3.1.4, CRLF included
MAX_MAIL_COMMAND = 2048  # with SIZE, BODY, SMTPUTF8, AUTH=, RET, ENVID, and the DSN parameters of RCPT
MAX_AUTH_LINE = 12288  # RFC 4954 4
# With the name of any mechanism, known to us or not (RFC 4422 3.1: up to 20 octets).
MAX_AUTH_COMMAND = MAX_AUTH_LINE + 32
_LONG = {b"MAIL": MAX_MAIL_COMMAND, b"RCPT": MAX_MAIL_COMMAND, b"AUTH": MAX_AUTH_COMMAND}
HIGH_WATER = 128 * 1024  # unread octets before the socket is paused
UNREAD = 16 * 1024  # unread octets that a session may have uncounted between contents
UNSENT = 16 * 1024  # octets of replies that a client has not read, before it is waited for
BLOCK = 64 * 1024  # content is taken from the buffer when so much of it is there, or its end
_NEVER = float("inf")
_AT_ONCE = 1e-3
_END = b"\r\n.\r\n"
LINGER_S = 2.0  # how long a connection that we have closed may take to end


class Incoming(Protocol):
    """Takes content block by block."""

    async def write(self, block: bytes) -> None: ...


class LineTooLong(Exception):
    """The line was read to its end and thrown away."""


class Disconnected(Exception):
    """The client closed its side with nothing more to read."""


class Wire(SMTP):
    """The connection itself. Subclasses implement `serve`."""

    _transport: asyncio.Transport  # asyncio's own, which TLS replaces

    def __init__(
        self, *, loop: asyncio.AbstractEventLoop, timeout: float, min_data_rate: float = 0.0, client: str = ""
    ) -> None:
        # Not SMTP.__init__: it walks every attribute with `inspect` for each connection (0.3 ms) and sets class-level
        # limits that all sessions share.
        reader = asyncio.StreamReader(loop=loop)
        asyncio.StreamReaderProtocol.__init__(self, reader, self._cb_client_connected, loop=loop)
        self.loop = loop
        self.session: AiosmtpdSession | None = None
        self.transport: Any = None
        self.client = client  # "": the connection's own address
        self.nameless = (
            False  # reset before we could ask who it is (uvloop asks late), while what it sent can still be read
        )
        self.tls = False
        self.tls_fault = ""  # why a handshake failed
        self.eof = False
        self.handshaking = False
        self._original_transport = None
        self._tls_protocol = None
        self._timeout_duration = timeout
        self._min_data_rate = min_data_rate  # octets per second
        self._timeout_handle: asyncio.TimerHandle | None = None
        self._deadline = _NEVER
        self._handler_coroutine: asyncio.Task[None] | None = None
        self._buffer = bytearray()
        self.receiving = False  # what comes is content
        self._begun = 0.0  # when content began to come in
        self._taken = 0  # octets of it
        self._reading_paused = False
        self._counted = 0  # octets of the buffer that are in the budget
        self.draining = False  # all is said, and what the client still sends is thrown away
        self.uncounted = False  # one too many: it gets no time
        self._more: asyncio.Future[None] | None = None

    # --- the connection

    async def serve(self) -> None:
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.client = self.client or client_of(transport.get_extra_info("peername"))
        self.nameless = not self.client
        self.tls = transport.get_extra_info("ssl_object") is not None
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=UNSENT)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.eof = True
        self._wake()
        self.left()
        self._count(0)
        super().connection_lost(error)

    def eof_received(self) -> bool:
        """A client that only closed its writing side (`nc -N`) still gets its answers; aiosmtpd would cancel the handler."""
        self.eof = True
        self._wake()
        return not (self.tls or self.draining)

    def _set_rset_state(self) -> None:
        """aiosmtpd's envelope is not used: it cannot tell a null reverse path from none."""

    async def _handle_client(self) -> None:
        try:
            if not self.nameless:
                await self.serve()
        except (ConnectionError, Disconnected):
            pass
        finally:
            self._close()

    def _close(self) -> None:
        """What was written still goes out, but not for ever: a client that reads nothing would keep the connection."""
        self._deadline = _NEVER
        self._cancel_timer()
        transport = self._writer.transport
        if not transport.is_closing():
            unread = (self._buffer or self._reading_paused) and not self.eof
            if unread and not self.uncounted and transport.can_write_eof():
                self._drain()
            else:
                transport.close()
        if self.transport is not None:
            self._timeout_handle = self.loop.call_later(LINGER_S, self._cut_off, transport)

    def _cut_off(self, transport: asyncio.WriteTransport) -> None:
        transport.abort()
        self.left()

    def left(self) -> None:
        """The connection is gone, or will be in a moment. May be called more than once."""

    def _drain(self) -> None:
        """The client has sent more than was read: closed with that unread, the kernel would reset the connection, and the last
        replies be lost. So it is told that this was all, and what it still sends is thrown away."""
        self.draining = True
        self._buffer.clear()
        self._count(0)
        self._writer.transport.write_eof()
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    def _cancel_timer(self) -> None:
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()

    # --- time

    def _reset_timeout(self, duration: float | None = None) -> None:
        """One timer a connection, which looks at the deadline when it fires, instead of a new timer for each command."""
        self._deadline = self.loop.time() + (duration or self._timeout_duration)
        if self._timeout_handle is None:
            self._timeout_handle = self.loop.call_at(self._deadline, self._timeout_cb)

    def _timeout_cb(self) -> None:
        now = self.loop.time()
        if self._deadline > now:
            again = self._deadline if self._deadline != _NEVER else now + self._timeout_duration
            self._timeout_handle = self.loop.call_at(again, self._timeout_cb)
            return
        self.say_and_close(replies.IDLE)

    def say_and_close(self, reply: Reply) -> None:
        """End the connection from outside its task, which `connection_lost` then cancels."""
        if self.transport is None or self.transport.is_closing() or self.draining:
            return
        if self._paused:  # type: ignore[attr-defined]  # it reads nothing, this neither
            self.transport.abort()
            return
        metrics.replies.add(reply.code)
        self._writer.write(reply.encode())
        self._close()

    # --- reading

    def data_received(self, data: bytes) -> None:
        if self.draining:
            return
        self._buffer += data
        if len(self._buffer) > UNREAD and not self.receiving:
            self._count(len(self._buffer))
        if len(self._buffer) > HIGH_WATER and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake()

    def _count(self, octets: int) -> None:
        if octets != self._counted:
            self._counted = octets
            self.count_unread(octets)

    def count_unread(self, octets: int) -> None:
        """So much is unread that is not content, which its owner counts."""

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def _fill(self) -> None:
        """Wait until there is more in the buffer; raises Disconnected at the end of the stream."""
        if self.eof:
            raise Disconnected
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        self._more = self.loop.create_future()
        try:
            await self._more
        finally:
            self._more = None

    async def read_line(self, limit: int = 0) -> bytes:
        """The next line without its CRLF or LF. `limit` 0: that of the command in it. Raises LineTooLong, Disconnected.

        The time-out is for the whole line: trickling octets does not extend it.
        """
        buffer = self._buffer
        end = buffer.find(b"\n")
        if end < 0:
            self._reset_timeout()
            try:
                end = await self._find_line_end(limit or MAX_AUTH_COMMAND)
            finally:
                self._deadline = _NEVER
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        if self._counted and len(buffer) <= UNREAD:
            self._count(0)
        if end + 1 > (limit or _LONG.get(line[:4].upper(), MAX_COMMAND)):
            raise LineTooLong
        return line[:-1] if line.endswith(b"\r") else line

    async def _find_line_end(self, limit: int) -> int:
        buffer = self._buffer
        while (end := buffer.find(b"\n")) < 0:
            if len(buffer) > limit:
                await self._skip_line()
                raise LineTooLong
            await self._fill()
        return end

    async def _skip_line(self) -> None:
        buffer = self._buffer
        while (end := buffer.find(b"\n")) < 0:
            buffer.clear()
            await self._fill()
        del buffer[: end + 1]

    async def read_data(self, content: Incoming) -> None:
        """DATA up to CRLF.CRLF (only that ends it), dots unstuffed, into `content`. After `begin_content`."""
        buffer, self.receiving = self._buffer, True
        self._count(0)
        scanned, line_start = 0, True
        try:
            while (end := self._data_end(scanned, first=not self._taken)) < 0:
                # What may be the beginning of the end mark stays, and no CRLF is cut in two.
                cut = scanned = max(len(buffer) - len(_END) + 1, 0)
                cut -= buffer[cut - 1 : cut + 1] == b"\r\n"
                if cut < BLOCK:
                    self._reset_timeout(self._patience(len(buffer)))
                    await self._fill()
                    continue
                block = self._take(cut)
                scanned -= cut
                await content.write(_unstuff(block, line_start=line_start))
                line_start = block.endswith(b"\r\n")
            block = self._take(end)
            del buffer[: len(_END) - 2]
            await content.write(_unstuff(block, line_start=line_start))
            self._content_ended()
        finally:
            self._deadline = _NEVER

    def _data_end(self, scanned: int, *, first: bool) -> int:
        """Where the content in the buffer ends, its last CRLF included; -1 when the end mark is not there."""
        if first and self._buffer.startswith(_END[2:]):
            return 0
        if self._buffer.find(b".", scanned) < 0:  # forty times faster, and base64 has none
            return -1
        found = self._buffer.find(_END, scanned)
        return found + 2 if found >= 0 else -1

    def _take(self, count: int) -> bytes:
        """The next octets of the buffer. Nobody waits for the client from here on."""
        self._deadline = _NEVER
        with memoryview(self._buffer) as view:
            block = bytes(view[:count])  # copied once, not twice
        del self._buffer[:count]
        self._taken += count
        return block

    async def read_octets(self, count: int, content: Incoming) -> None:
        """So many octets, whatever they are, into `content` (BDAT, RFC 3030 2). After `begin_content`, once for all chunks."""
        left, self.receiving = count, True
        self._count(0)
        try:
            while left:
                there = len(self._buffer)
                if there < min(left, BLOCK):
                    self._reset_timeout(self._patience(there))
                    await self._fill()
                else:
                    block = self._take(min(left, there))
                    left -= len(block)
                    await content.write(block)
            self._content_ended()
        finally:
            self._deadline = _NEVER
        if self._patience(0) <= _AT_ONCE:  # chunk by chunk, each of them in time
            self.say_and_close(replies.IDLE)
            raise Disconnected

    def _content_ended(self) -> None:
        """Read on: a client that hangs up while its message is attempted must be noticed."""
        self.receiving = False
        if len(self._buffer) > UNREAD and not self.eof:
            self._count(len(self._buffer))
        if self._reading_paused and len(self._buffer) <= HIGH_WATER:
            self._reading_paused = False
            self._transport.resume_reading()

    def begin_content(self) -> None:
        """What comes from now on has to keep the least rate, also in several chunks."""
        self._begun, self._taken = self.loop.time(), 0

    def _patience(self, there: int) -> float:
        """Seconds until the next block must be there: not too long after the last one, and all in all not slower than
        `min_data_rate`, as Postfix's smtpd_min_data_rate. `there`: octets that are not taken yet."""
        if not self._min_data_rate:
            return self._timeout_duration
        spent = self.loop.time() - self._begun
        left = self._timeout_duration + (self._taken + there) / self._min_data_rate - spent
        return max(min(self._timeout_duration, left), _AT_ONCE)

    # --- writing

    async def send(self, reply: Reply) -> None:
        metrics.replies.add(reply.code)
        await self._write(reply.encode())

    async def send_lines(self, code: int, lines: Iterable[str]) -> None:
        """A multi-line reply: `250-first`, ..., `250 last` (RFC 5321 4.2.1)."""
        metrics.replies.add(code)
        texts = list(lines)
        marks = ["-"] * (len(texts) - 1) + [" "]
        await self._write(
            "".join(f"{code}{m}{t}\r\n" for m, t in zip(marks, texts, strict=True)).encode("ascii", "replace")
        )

    async def _write(self, data: bytes) -> None:
        if self.transport is None:
            raise Disconnected
        self._writer.write(data)
        if self._paused:  # type: ignore[attr-defined]  # asyncio: the write buffer is full, a client that does not read
            self._reset_timeout()
            await self._writer.drain()
            self._deadline = _NEVER

    # --- TLS

    async def upgrade(self, context: ssl.SSLContext, *, timeout: float) -> bool:
        """STARTTLS: answer 220, drop whatever came before the handshake (CVE-2011-0411), upgrade. False when it failed."""
        self._transport.pause_reading()
        self._buffer.clear()
        self._count(0)
        self._writer.write(replies.READY_FOR_TLS.encode())
        self.handshaking = True
        try:
            transport = await self.loop.start_tls(
                self._transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=timeout,
            )
        except OSError as error:  # ssl.SSLError and TimeoutError are; nothing more can be said on this connection
            self.tls_fault = handshake_fault(error)
            return False
        finally:
            self.handshaking = False
        if transport is None:  # aborted meanwhile, which asyncio tells in this way
            return False
        transport.set_write_buffer_limits(high=UNSENT)
        # What StreamReaderProtocol does by a method of its own, which has another name from Python 3.13 on.
        self._writer._transport = self.transport = self._transport = transport  # type: ignore[attr-defined]
        self.tls = True
        return True

    def peer_certificate(self) -> Mapping[str, Any]:
        """What the client showed and TLS verified, as `ssl.SSLSocket.getpeercert`; empty when it showed none."""
        return (self._writer.get_extra_info("peercert") if self.tls else None) or {}

    def tls_description(self) -> str:
        """`TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)` for the Received header; "" without TLS."""
        cipher = self._writer.get_extra_info("cipher") if self.tls else None
        return f"{cipher[1]} with cipher {cipher[0]} ({cipher[2]}/{cipher[2]} bits)" if cipher else ""


def _unstuff(block: bytes, *, line_start: bool) -> bytes:
    """RFC 5321 4.5.2: the first dot of a line that begins with one goes."""
    if line_start and block.startswith(b"."):
        block = block[1:]
    return block.replace(b"\r\n.", b"\r\n") if b"." in block and b"\r\n." in block else block
