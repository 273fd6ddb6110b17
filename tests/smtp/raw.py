"""A client that sends octets, not commands: tests decide what is in a segment, and see every reply and the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.leaks import BODY

CAPTURE = {"SMTP_BRIDGE_PROVIDER__KIND": "capture"}
ENVELOPE = b"MAIL FROM:<ann@example.com>\r\nRCPT TO:<bob@example.org>\r\n"
HEADER = b"Date: Mon, 23 Nov 2026 03:27:18 +0000\r\nMessage-ID: <1@example.com>\r\nFrom: ann@example.com\r\n\r\n"
WHOLE = ENVELOPE + b"DATA\r\n" + HEADER + BODY.encode() + b"\r\n.\r\n"


OPEN: list[Raw] = []


class Raw:
    """`replies` are whole lines without CRLF, of a multi-line reply the last one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.lines: list[str] = []  # of the last reply
        OPEN.append(self)

    @classmethod
    async def connect(cls, port: int, *, tls: ssl.SSLContext | None = None, rcvbuf: int = 0, host: str = "") -> Raw:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        await asyncio.get_running_loop().sock_connect(sock, (host or "127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(*await asyncio.open_connection(sock=sock, ssl=tls, server_hostname="localhost" if tls else None))

    @classmethod
    async def greeted(cls, port: int, **options: Any) -> Raw:
        raw = await cls.connect(port, **options)
        await raw.expect("220")
        raw.send(b"EHLO client.example\r\n")
        await raw.expect("250")
        return raw

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def send_apart(self, *parts: bytes) -> None:
        """Each part is a segment of its own, and read as one."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0.001)

    async def reply(self) -> str:
        self.lines = []
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), 20)).decode("ascii")
            if not line:
                return ""
            assert line.endswith("\r\n"), line
            self.lines.append(line[4:-2])
            if line[3] == " ":
                return line[:-2]

    async def expect(self, *beginnings: str) -> str:
        reply = ""
        for beginning in beginnings:
            reply = await self.reply()
            assert reply.startswith(beginning), f"{reply!r} instead of {beginning!r}"
        return reply

    async def say(self, line: str) -> str:
        self.send(line.encode() + b"\r\n")
        return await self.reply()

    async def begin_data(self) -> None:
        self.send(ENVELOPE + b"DATA\r\n")
        await self.expect("250 2.1.0", "250 2.1.5", "354")

    async def expect_end(self) -> None:
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(self.reader.read(100), 20) == b""

    async def start_tls(self) -> None:
        self.send(b"STARTTLS\r\n")
        await self.expect("220 2.0.0")
        await self.writer.start_tls(trusting())

    def reset(self) -> None:
        """End with RST, as a client that crashed behind a firewall that answers for it."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def open_sockets() -> int:
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum(link.is_symlink() and os.readlink(link).startswith("socket:") for link in links)


async def bodies(daemon: Any) -> list[bytes]:
    """What the spool holds, newest first."""
    rows: Sequence[Any] = await daemon.spool.list_messages()
    return [await daemon.spool.body(row["queue_id"]) for row in rows]


def without_received(raw: bytes) -> bytes:
    """A stored message without the folded Received field that this bridge put on top."""
    assert raw.startswith(b"Received: "), raw[:80]
    lines = raw.split(b"\r\n")
    end = next(n for n, line in enumerate(lines[1:], 1) if not line.startswith(b"\t"))
    return b"\r\n".join(lines[end:])


@pytest.fixture(autouse=True)
async def clients_end(start_daemon: Any) -> AsyncIterator[None]:
    """Every test's clients are closed after it, passed or failed, and before its daemon, which would wait for them; a module
    that uses Raw imports this."""
    yield
    for raw in OPEN:
        raw.writer.transport.abort()
    OPEN.clear()
    await asyncio.sleep(0.01)
