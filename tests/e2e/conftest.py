"""The bridge between a real SMTP client and the sandbox API over real HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest

from bridge.sandbox import Sandbox
from tests.conftest import reserved_port
from tests.leaks import BODY, MARK

KEY = f"{MARK}-sandbox-key"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    with reserved_port() as port:
        async with Sandbox(key=KEY, port=port) as running:
            yield running


def rest(sandbox_url: str, **more: str) -> dict[str, str]:
    """Variables for a bridge that sends to the sandbox and retries fast."""
    return {
        "SMTP_BRIDGE_PROVIDER__KIND": "rest",
        "SMTP_BRIDGE_PROVIDER__URL": f"{sandbox_url}/send-email",
        "SMTP_BRIDGE_PROVIDER__AUTH": "bearer",
        "SMTP_BRIDGE_PROVIDER__TOKEN": KEY,
        "SMTP_BRIDGE_RETRY__FIRST": "0.05s",
        "SMTP_BRIDGE_RETRY__MAXIMUM": "0.2s",
        "SMTP_BRIDGE_BREAKER__WAIT": "0.05s",
        "SMTP_BRIDGE_BREAKER__MAXIMUM": "0.2s",
        **more,
    }


class Smtp:
    """A client that speaks the protocol itself, so that tests see every reply."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writer: Any = None

    async def open(self, hello: str = "EHLO client.example") -> Smtp:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        await self.reply()
        await self.say(hello)
        return self

    async def reply(self) -> str:
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), 30)).decode("ascii")
            if not line or line[3:4] == " ":
                return line.rstrip("\r\n")

    async def say(self, line: str) -> str:
        self.writer.write(line.encode() + b"\r\n")
        return await self.reply()

    async def envelope(self, recipients: Iterable[str], sender: str = "ann@example.com") -> None:
        assert (await self.say(f"MAIL FROM:<{sender}>")).startswith("250")
        for recipient in recipients:
            assert (await self.say(f"RCPT TO:<{recipient}>")).startswith("250")

    async def send(
        self, *recipients: str, subject: str = "hello", content: bytes = b"", sender: str = "ann@example.com"
    ) -> str:
        """The reply to the final dot."""
        recipients = recipients or ("bob@example.org",)
        await self.envelope(recipients, sender)
        assert (await self.say("DATA")).startswith("354")
        if not content:
            content = f"From: {sender}\r\nTo: {', '.join(recipients)}\r\nSubject: {subject}\r\n\r\n{BODY}\r\n".encode()
        self.writer.write(content + b".\r\n")
        return await self.reply()

    def close(self) -> None:
        if self.writer:
            self.writer.close()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Any]]:
    clients: list[Smtp] = []

    async def start(port: int, hello: str = "EHLO client.example") -> Smtp:
        client = await Smtp(port).open(hello)
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.close()


async def statuses(daemon: Any) -> dict[str, str]:
    """recipient -> status, over all messages the spool knows."""
    rows = await daemon.spool.list_messages()
    return {r["address"]: r["status"] for row in rows for r in row["recipients"]}


async def eventually(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    """Wait for a condition (a function, or one that gives an awaitable), looking often; AssertionError when it never comes."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
