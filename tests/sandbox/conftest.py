"""A running sandbox with a clock that never waits, and a client that has its key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from bridge.sandbox import Sandbox
from tests.conftest import reserved_port

KEY = "sandbox-test-key"


class InstantClock:
    """Notes what it was asked to wait for, and is there at once."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    def now(self) -> float:
        return 1_700_000_000.0

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.waited.append(seconds)
        return event.is_set()


@pytest.fixture
def clock() -> InstantClock:
    return InstantClock()


@pytest.fixture
async def sandbox(clock: InstantClock) -> AsyncIterator[Sandbox]:
    with reserved_port() as port:
        async with Sandbox(key=KEY, clock=clock, max_recipients=5, max_body=2_000_000, port=port) as running:
            yield running


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=sandbox.url, headers=headers, trust_env=False, timeout=10) as ready:
        yield ready
