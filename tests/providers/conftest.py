from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from bridge.mime.parse import parse
from bridge.model import Addressing, Email, Mailbox, Outcome
from bridge.providers.base import Policy
from bridge.providers.http import transport_for
from bridge.providers.rest import RestProvider, RestSettings
from tests.providers.scripted_http import Server, Step, make_certificates

PLAIN = (
    b"From: Shop <shop@example.com>\r\nTo: Ann <ann@example.com>\r\nSubject: Hello\r\n"
    b"Date: Mon, 23 Nov 2026 03:27:18 +0000\r\nMessage-ID: <1@example.com>\r\n\r\nThe text.\r\n"
)
TO_ANN = Addressing(reverse_path="shop@example.com", to=(Mailbox("ann@example.com", "Ann"),))


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The network code runs on both loops, whose transports differ in when they write and when they say so."""
    loops = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    both = ("test_http.py", "test_proxy.py", "test_smtp_data.py")
    return loops if item.path.name in both else {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def email() -> Email:
    return parse(PLAIN)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    return make_certificates(tmp_path_factory.mktemp("tls"))


Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[Server] = []

    async def start(*script: Step, early: Step | None = None, context: ssl.SSLContext | None = None) -> Server:
        server = Server(list(script), early=early)
        await server.start(context)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()


Make = Callable[..., RestProvider]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[RestProvider] = []

    def build(
        url: str, *, timeout: float = 5.0, concurrency: int = 10, proxy: str = "", ca_file: str = "", **settings: Any
    ) -> RestProvider:
        policy = replace(Policy(), timeout=timeout, concurrency=concurrency)
        transport = transport_for(url, policy, proxy=proxy, ca_file=ca_file)
        made.append(RestProvider("main", policy, RestSettings(url=url, **settings), transport=transport))
        return made[-1]

    yield build
    for provider in made:
        await provider.aclose()


async def send(provider: RestProvider, email: Email, to: Addressing = TO_ANN) -> Outcome:
    """One call, and the outcome of its first recipient."""
    outcomes = await provider.send(email, to, queue_id="Q1", key="Q1-key")
    assert set(outcomes) == set(to.recipients)
    return outcomes[to.recipients[0]]
