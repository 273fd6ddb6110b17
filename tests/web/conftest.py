"""A daemon with its HTTP side, and clients for it over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from bridge.web.keys import new_key
from tests.leaks import watch

CAPTURE = {"SMTP_BRIDGE_PROVIDER__KIND": "capture"}
KEYS = {scope: new_key() for scope in ("send", "read", "manage")}
for key, _ in KEYS.values():
    watch.plant(key)


def keys(*scopes: str) -> str:
    """The tables of keys with these scopes, each named like its own."""
    return "".join(
        f'[[http.key]]\nname = "{scope}"\nkey_hash = "{KEYS[scope][1]}"\nscopes = ["{scope}"]\n' for scope in scopes
    )


def bearer(scope: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[scope][0]}"}


StartWeb = Callable[..., Awaitable[tuple[Any, httpx.AsyncClient]]]


@pytest.fixture
async def start_web(start_daemon: Any) -> AsyncIterator[StartWeb]:
    """`await start_web(config=..., **variables)` -> (the daemon, a client of its HTTP side)."""
    clients: list[httpx.AsyncClient] = []

    async def start(*, config: str = "", clock: Any = None, **variables: str) -> tuple[Any, httpx.AsyncClient]:
        http = {"SMTP_BRIDGE_HTTP__ADDRESS": "127.0.0.1:0"}
        daemon = await start_daemon(clock, config=config, **{**http, **variables})
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{daemon.http.port}", trust_env=False)
        clients.append(client)
        return daemon, client

    yield start
    for client in clients:
        await client.aclose()
