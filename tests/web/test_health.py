"""/readyz: each check with its reason, from a real daemon to which it happens."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from bridge.sandbox import Sandbox
from bridge.smtp import arrival
from tests.e2e.conftest import KEY, Smtp, eventually, rest
from tests.web.conftest import CAPTURE
from tests.web.test_metrics import LEFT_ALONE

CHECKS = ("daemon", "listeners", "spool", "providers")


async def not_ready(client: httpx.AsyncClient) -> dict[str, str]:
    """Check -> the reason why it is not, as the answer and its status say."""
    answer = await client.get("/readyz")
    told = answer.json()
    assert tuple(told["checks"]) == CHECKS
    assert all(bool(check["reason"]) != check["ok"] for check in told["checks"].values())
    found = {name: check["reason"] for name, check in told["checks"].items() if not check["ok"]}
    assert (answer.status_code, told["ready"]) == ((503, False) if found else (200, True))
    return found


async def test_it_is_ready(start_web: Any) -> None:
    _, client = await start_web(**CAPTURE)

    assert await not_ready(client) == {}


async def test_a_refused_account_makes_it_unready_and_a_provider_that_is_down_does_not(start_web: Any) -> None:
    """What a provider is down for waits in the queue; who asks again in a second would only take us off the network."""
    async with Sandbox(key=KEY) as sandbox:
        settings = {**rest(sandbox.url), **LEFT_ALONE}
        daemon, client = await start_web(**settings)
        smtp = await Smtp(daemon.listeners[0].port).open()
        sandbox.fail("503:1")
        await smtp.send()
        (dispatcher,) = daemon.dispatchers.all
        assert dispatcher.breaker.state == "open"
        assert await not_ready(client) == {}
        sandbox.fail("401")
        dispatcher.breaker.hurry()
        await smtp.send()  # whoever comes next finds out
        await eventually(lambda: dispatcher.breaker.blocked)

        assert await not_ready(client) == {"providers": "every provider refuses the account: rest"}
        smtp.close()


async def test_one_provider_that_is_not_blocked_is_enough(start_web: Any) -> None:
    tables = "".join(f'[[provider]]\nname = "{name}"\nkind = "capture"\n' for name in ("a", "b"))
    daemon, client = await start_web(config=tables)
    first, second = daemon.dispatchers.all

    first.breaker.restore_blocked(daemon.clock.now(), "401")
    assert await not_ready(client) == {}
    second.breaker.restore_blocked(daemon.clock.now(), "401")
    assert await not_ready(client) == {"providers": "every provider refuses the account: a, b"}


async def test_a_listener_that_is_gone_is_named(start_web: Any) -> None:
    daemon, client = await start_web(**CAPTURE)

    port = daemon.listeners[0].port
    daemon.listeners[0].close()

    assert await not_ready(client) == {"listeners": f"not listening on 127.0.0.1:{port}"}


async def test_a_listener_without_descriptors_is_not_up_until_it_has_some_again(
    start_web: Any, monkeypatch: Any
) -> None:
    daemon, client = await start_web(**CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__TLS="implicit")
    (listener,) = daemon.listeners
    (arrivals,) = listener._servers
    real, lacking = arrivals._socket, True

    class Lacking:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def accept(self) -> Any:
            if lacking:
                raise OSError(24, "Too many open files")
            return real.accept()

    monkeypatch.setattr(arrival, "PAUSE_S", 0.3)
    arrivals._socket = Lacking()
    _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    await eventually(lambda: not listener.up)
    assert "listeners" in await not_ready(client)
    lacking = False
    await eventually(lambda: listener.up)
    assert await not_ready(client) == {}
    writer.close()


async def test_a_full_spool_is_told(start_web: Any) -> None:
    _, client = await start_web(**CAPTURE, SMTP_BRIDGE_SPOOL__MIN_FREE="1000000GiB")

    assert await not_ready(client) == {"spool": "the spool is full, or its disk is below spool.min_free"}


async def test_while_it_stops_it_is_alive_and_not_ready(start_web: Any) -> None:
    """A balancer hears it while the last transaction still goes on."""
    daemon, client = await start_web(**CAPTURE, SMTP_BRIDGE_SMTP__SHUTDOWN_TIMEOUT="10s")
    smtp = await Smtp(daemon.listeners[0].port).open()
    await smtp.envelope(["bob@example.org"])
    stopping = asyncio.create_task(daemon.stop())
    await eventually(lambda: daemon.web.stopping)

    assert (await not_ready(client))["daemon"] == "it is stopping"
    assert (await client.get("/healthz")).status_code == 200
    await smtp.say("RSET")
    smtp.close()
    await stopping
