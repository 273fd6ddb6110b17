"""The HTTP side itself: that it is listened on, who may come, what stands in every answer, and that it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import sys
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.spool.base import SpoolError
from bridge.web import guard, health, server
from bridge.web.errors import Json
from bridge.web.keys import Key, Keys, hash_key, new_key
from bridge.web.visits import COOKIE, LIFETIME_S, MAX_VISITS, Visits
from tests.web.conftest import CAPTURE, KEYS, bearer, keys

PROVIDER = '[[provider]]\nkind = "capture"\n'


async def test_it_is_alive_and_ready(start_web: Any) -> None:
    daemon, client = await start_web(**CAPTURE)

    assert (await client.get("/healthz")).json() == {"status": "ok"}
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    daemon.web.stopping = True
    stopping = await client.get("/readyz")
    assert (stopping.status_code, stopping.json()["checks"]["daemon"]["reason"]) == (503, "it is stopping")


async def test_it_is_not_ready_when_the_spool_or_every_provider_is_not(start_web: Any) -> None:
    daemon, client = await start_web(**CAPTURE)

    async def broken() -> bool:
        raise SpoolError("the disk is gone")

    daemon.spool.writable = broken
    (one,) = daemon.dispatchers.all
    one.breaker.restore_blocked(daemon.clock.now(), "401")
    found = await client.get("/readyz")

    assert found.status_code == 503
    assert found.json()["checks"] == {
        "daemon": {"ok": True, "reason": ""},
        "listeners": {"ok": True, "reason": ""},
        "spool": {"ok": False, "reason": "the disk is gone"},
        "providers": {"ok": False, "reason": "every provider refuses the account: capture"},
    }


async def test_what_is_not_there_is_told_in_our_form_and_with_the_headers(start_web: Any) -> None:
    _, client = await start_web(**CAPTURE)

    missing, wrong = await client.get("/nowhere"), await client.put("/healthz")

    assert missing.json()["error"]["code"] == "not_found"
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert missing.headers["content-security-policy"].startswith("default-src 'none'")
    assert missing.headers["x-content-type-options"] == "nosniff"
    assert "server" not in missing.headers


def guarded(daemon: Any, scope: Any) -> None:
    """A path of its own in the running application."""

    async def answer(request: Request) -> Response:
        caller = guard.allowed(daemon.web, request, scope)
        guard.csrf_in_header(caller, request)
        return Json({"name": caller.name, "size": len(await guard.read_body(request, 1000))})

    daemon.http._server.config.app.router.routes.append(Route(f"/{scope}", answer, methods=["GET", "POST"]))


async def test_a_key_may_do_what_its_scopes_say(start_web: Any) -> None:
    daemon, client = await start_web(config=PROVIDER + keys("send", "read", "manage"))
    for scope in ("send", "read", "manage"):
        guarded(daemon, scope)

    async def status(scope: str, headers: dict[str, str]) -> int:
        return (await client.get(f"/{scope}", headers=headers)).status_code

    assert [await status(scope, {}) for scope in ("send", "read", "manage")] == [401] * 3
    assert [await status(scope, bearer("send")) for scope in ("send", "read", "manage")] == [200, 403, 403]
    assert [await status(scope, bearer("read")) for scope in ("send", "read", "manage")] == [403, 200, 403]
    assert [await status(scope, bearer("manage")) for scope in ("send", "read", "manage")] == [403, 200, 200]
    unknown = await client.get("/read", headers={"Authorization": f"Bearer {new_key()[0]}"})
    assert (unknown.status_code, unknown.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


async def test_without_keys_this_machine_may_look_and_nothing_else(start_web: Any) -> None:
    daemon, client = await start_web(**CAPTURE)
    for scope in ("send", "read", "manage"):
        guarded(daemon, scope)

    assert (await client.get("/read")).status_code == 200
    assert (await client.get("/read", headers={"Host": "localhost:8025"})).status_code == 200
    assert (await client.get("/read", headers={"Host": "rebound.example"})).status_code == 401
    assert (await client.get("/read", headers={"Host": "localhost.evil.example"})).status_code == 401
    assert (await client.post("/send")).status_code == 401
    assert (await client.post("/manage")).status_code == 401


async def test_who_signed_in_changes_something_only_with_the_token_of_the_page(start_web: Any) -> None:
    daemon, client = await start_web(config=PROVIDER + keys("manage"))
    guarded(daemon, "manage")
    visits = daemon.web.visits
    token = visits.begin("manage", KEYS["manage"][1], daemon.clock.now())
    csrf = visits.find(token, daemon.clock.now()).csrf
    cookie = {"Cookie": f"{COOKIE}={token}"}

    assert (await client.get("/manage", headers=cookie)).status_code == 200
    assert (await client.post("/manage", headers=cookie)).json()["error"]["code"] == "csrf"
    assert (await client.post("/manage", headers={**cookie, guard.CSRF_HEADER: "x"})).status_code == 403
    assert (await client.post("/manage", headers={**cookie, guard.CSRF_HEADER: csrf})).status_code == 200
    (key,) = daemon.web.keys._keys
    daemon.web.keys.replace([dataclasses.replace(key, key_hash=hash_key("another"))])  # it has leaked, and was changed
    assert (await client.get("/manage", headers=cookie)).status_code == 401
    daemon.web.keys.replace([])  # its key was taken away
    assert (await client.get("/manage", headers=cookie)).status_code == 401


async def test_a_body_is_bounded_told_or_not(start_web: Any) -> None:
    daemon, client = await start_web(**CAPTURE)
    guarded(daemon, "read")

    async def pieces(count: int) -> Any:
        for _ in range(count):
            yield b"x" * 100

    assert (await client.post("/read", content=b"x" * 1000)).json()["size"] == 1000
    assert (await client.post("/read", content=b"x" * 1001)).status_code == 413
    assert (await client.post("/read", content=pieces(10))).json()["size"] == 1000
    assert (await client.post("/read", content=pieces(11))).json()["error"]["code"] == "too_large"


async def test_a_body_that_never_comes_is_given_up(start_web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, _ = await start_web(**CAPTURE)
    guarded(daemon, "read")
    monkeypatch.setattr(guard, "BODY_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.http.port)

    writer.write(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")

    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_a_defect_of_ours_is_500_without_its_text(start_web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, client = await start_web(**CAPTURE)

    def broken(web: Any) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr(health, "_providers", broken)
    found = await client.get("/readyz")

    assert found.status_code == 500
    assert "secret words" not in found.text
    assert (await client.get("/healthz")).status_code == 200


async def test_over_a_unix_socket(start_web: Any, tmp_path: Any) -> None:
    path = tmp_path / "http.sock"
    daemon, _ = await start_web(**CAPTURE, SMTP_BRIDGE_HTTP__ADDRESS=f"unix:{path}")

    async with httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://localhost"
    ) as client:
        assert (await client.get("/healthz")).status_code == 200
    await daemon.http.close()
    assert not path.exists()


async def test_signals_stay_the_daemons(bridge_process: Any) -> None:
    """uvicorn would take SIGTERM for itself, and the daemon would not end in its own order."""
    bridge = await bridge_process(**CAPTURE, SMTP_BRIDGE_HTTP__ADDRESS="127.0.0.1:0")
    async with asyncio.timeout(10):
        while not bridge.events("daemon.ready"):
            await asyncio.sleep(0.01)

    assert await bridge.stop() == 0
    assert [entry.get("protocol", "smtp") for entry in bridge.events("daemon.listening")] == ["smtp", "http"]
    assert bridge.events("daemon.stopped")


async def test_another_takes_its_place(start_web: Any) -> None:
    """Nothing of the first is left in the loop: a socket of the second may have its number."""
    daemon, client = await start_web(**CAPTURE)
    await client.get("/healthz")
    await daemon.stop()
    _, client = await start_web(**CAPTURE)

    assert (await client.get("/healthz", timeout=2)).status_code == 200


async def test_without_an_address_nothing_of_it_is_loaded(tmp_path: Any) -> None:
    code = (
        "import sys, bridge.daemon, bridge.cli.run;"
        "print(sorted(set(sys.modules) & {'uvicorn', 'starlette', 'jinja2', 'prometheus_client', 'opentelemetry', 'bridge.web'}))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()

    assert out.strip() == b"[]"


async def test_a_taken_port_is_one_line(start_web: Any) -> None:
    from bridge.sockets import ListenError

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"cannot listen on {address}: the address is in use already"):
            await start_web(**CAPTURE, SMTP_BRIDGE_HTTP__ADDRESS=address)


def test_a_key_is_counted_by_its_own_rate_also_over_a_reload() -> None:
    from bridge.units import parse_rate

    now = [0.0]
    limited = Key(name="a", key_hash=hash_key("x"), scopes=frozenset({"send"}), rate=parse_rate("2/m"))
    ring = Keys([limited], clock=lambda: now[0])

    assert [ring.take(limited), ring.take(limited)] == [0.0, 0.0]
    assert ring.take(limited) == pytest.approx(60, abs=1)
    ring.replace([limited])
    assert ring.take(limited) > 0
    now[0] = 61.0
    assert ring.take(limited, 2) == 0.0


def test_visits_end_and_are_bounded() -> None:
    visits = Visits()
    first = visits.begin("k", "", 0.0)

    assert visits.find(first, LIFETIME_S) is not None
    assert visits.find(first, LIFETIME_S * 2 + 1) is None
    tokens = [visits.begin("k", "", 0.0) for _ in range(MAX_VISITS + 1)]
    assert visits.find(tokens[0], 0.0) is None
    assert visits.find(tokens[-1], 0.0) is not None
    visits.end(tokens[-1])
    assert visits.find(tokens[-1], 0.0) is None


async def refused(port: int, sent: bytes = b"") -> bool:
    """Whether a connection that sends this is closed without an answer, within five seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(1), 5) == b""
    except ConnectionError:
        return True
    finally:
        writer.close()


async def test_a_connection_that_asks_for_nothing_is_closed(start_web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._Connection, "header_s", 0.05)
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.05)
    daemon, client = await start_web(**CAPTURE)
    port = daemon.http.port

    assert await refused(port)
    assert await refused(port, b"GET /healthz HTTP/1.1\r\nHost: local")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b'{"status":"ok"}'), 5)).startswith(b"HTTP/1.1 200")
    writer.write(b"GET /hea")  # after which nothing comes
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    assert (await client.get("/healthz")).status_code == 200


async def test_one_connection_too_many_is_closed_and_smtp_goes_on(start_web: Any) -> None:
    daemon, _ = await start_web(**CAPTURE, SMTP_BRIDGE_HTTP__MAX_CONNECTIONS="3")
    port = daemon.http.port
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    async with asyncio.timeout(5):
        while len(daemon.http._server.server_state.connections) < 3:
            await asyncio.sleep(0.01)

    assert await refused(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.listeners[0].port)
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"220 ")
    for _, one in (*held, (reader, writer)):
        one.close()
    async with asyncio.timeout(5):
        while daemon.http._server.server_state.connections:
            await asyncio.sleep(0.01)
    assert not await refused(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")


async def test_who_takes_nothing_of_his_answer_is_cut_off(start_web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._Connection, "unread_s", 0.1)
    daemon, _ = await start_web(**CAPTURE)

    async def large(request: Request) -> Response:
        return Response(b"x" * 20_000_000)

    daemon.http._server.config.app.router.routes.insert(0, Route("/large", large))
    with socket.create_connection(("127.0.0.1", daemon.http.port)) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(10):
            while not daemon.http._server.server_state.connections:
                await asyncio.sleep(0.01)
            while daemon.http._server.server_state.connections:
                await asyncio.sleep(0.01)
