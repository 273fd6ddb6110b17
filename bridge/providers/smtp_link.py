"""The connection of an SMTP client while a message goes over it: what the server says is heard whenever it says it.

aiosmtplib hears one reply for each command, and drops what comes when it waits for none: a refusal right behind the 354, or
while we write. So for that time its transport speaks to this protocol instead.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from typing import cast

from aiosmtplib import SMTP, SMTPResponse, SMTPServerDisconnected

MAX_REPLY = 32 * 1024  # octets of a reply, all its lines
_TURNS = 50  # of the loop, in which what has arrived is read


class Link(asyncio.Protocol):
    """Between `begin` and `end` of one message. What is said before the connection is lost counts, not how it was lost."""

    def __init__(self, own: asyncio.BaseProtocol, transport: asyncio.WriteTransport) -> None:
        self.replies: deque[SMTPResponse] = deque()
        self._own = own
        self._transport = transport
        self._buffer = b""
        self._lines: list[bytes] = []
        self._size = 0
        self._paused = False
        self._lost: Exception | None = None
        self._changed = asyncio.Event()

    @classmethod
    def begin(cls, client: SMTP) -> Link:
        """Raises SMTPServerDisconnected."""
        protocol = client.protocol
        if protocol is None or protocol.transport is None or protocol.transport.is_closing():
            raise SMTPServerDisconnected("Connection lost")
        transport = cast(asyncio.WriteTransport, protocol.transport)  # uvloop's is of no such class
        link = cls(protocol, transport)
        transport.set_protocol(link)
        return link

    def end(self, *, good: bool) -> None:
        """The connection is the client's again. Not `good`: it is good for nothing else, and closed in the ordinary way it would
        wait for a peer that may never read the rest."""
        if self._lost is None:
            self._transport.set_protocol(self._own)
        if not good and self._transport.get_write_buffer_size():
            self._transport.abort()

    # --- what is said

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more, a reply, or an end of the connection."""
        await self._listen()
        if self.replies or self._lost:
            return
        self._transport.write(data)
        await asyncio.sleep(0)  # the others have their turn in any case
        while self._paused and not self.replies and self._lost is None:
            await self._change()

    async def reply(self) -> SMTPResponse:
        """Raises SMTPServerDisconnected, also for what is no reply."""
        while not self.replies:
            if self._lost:
                raise SMTPServerDisconnected(str(self._lost) or "Connection lost") from self._lost
            await self._change()
        return self.replies.popleft()

    @property
    def lost(self) -> bool:
        return self._lost is not None

    async def _listen(self) -> None:
        """To what is here already: to write to a connection that was reset would lose it."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        for _ in range(_TURNS):
            if self.replies or self._lost or not poll.poll(0):
                return
            await asyncio.sleep(0)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # --- what the transport tells

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        if self._lost or self._size > MAX_REPLY:
            self._fail(SMTPServerDisconnected("Response too long"))
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._line(line.rstrip(b"\r"))

    def _line(self, line: bytes) -> None:
        if not line[:3].isdigit() or line[3:4] not in (b"", b" ", b"-"):
            self._fail(SMTPServerDisconnected("Malformed SMTP response line"))
            return
        self._lines.append(line[4:].strip())
        if line[3:4] != b"-":
            text = b"\n".join(self._lines).decode("utf-8", "surrogateescape")
            self.replies.append(SMTPResponse(int(line[:3]), text))
            self._lines, self._size = [], len(self._buffer)
            self._changed.set()

    def _fail(self, error: Exception) -> None:
        self._lost = self._lost or error
        self._changed.set()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._changed.set()

    def eof_received(self) -> bool:
        self._fail(SMTPServerDisconnected("Unexpected EOF received"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or SMTPServerDisconnected("Connection lost"))
        self._own.connection_lost(exc)
