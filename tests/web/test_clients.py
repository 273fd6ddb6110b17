"""Who the client is behind the operator's own proxies, and that nobody else can say so."""

from __future__ import annotations

import ipaddress
from typing import Any

import httpx
import pytest

from bridge.config.load import SettingsError, load_settings
from bridge.web.clients import UNKNOWN, Forwarded, client_told, read_address
from bridge.web.pages.sign_in import FREE_TRIES
from tests.conftest import environment
from tests.web.conftest import bearer, keys
from tests.web.pages.conftest import CAPTURE, SIGNED, Browser
from tests.web.pages.test_sign_in import tried
from tests.web.test_send import PLAIN

PROXIES = [ipaddress.ip_network(text) for text in ("127.0.0.0/8", "10.0.0.0/8", "fd00::/8")]
TRUSTING = {"SMTP_BRIDGE_HTTP__TRUSTED_PROXIES": "127.0.0.1/32,10.0.0.0/8"}


@pytest.mark.parametrize(
    ("told", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7", "192.0.2.7"),  # the client claims to be a proxy of somebody
        ("6.6.6.6, 192.0.2.7, 10.0.0.3, 127.0.0.2", "192.0.2.7"),
        ("10.0.0.4, 10.0.0.3", "10.0.0.4"),  # all are ours: the one that was first
        ("192.0.2.7, unknown, 10.0.0.3", UNKNOWN),  # one of ours does not know for whom it asks
        ("192.0.2.7, , 127.0.0.1", UNKNOWN),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("[2001:db8::7]:4711, fd00::1", "2001:db8::7"),
        ("::ffff:192.0.2.7, ::ffff:10.0.0.3", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%eth0]:4711", "fe80::1"),
        ("unknown", UNKNOWN),
        ("", UNKNOWN),
        (", ".join(["192.0.2.7", *["10.0.0.3"] * 1000]), "10.0.0.3"),
    ],
)
def test_it_is_read_from_the_right_up_to_the_first_that_is_no_proxy(told: str, client: str) -> None:
    assert client_told(told.split(","), PROXIES) == client


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1.2.3.4.5", "[]:80", "_hidden", "192.0.2.7/24", "0x7f.1"])
def test_what_is_no_address_is_none(text: str) -> None:
    assert read_address(text) is None


def from_(*told: str) -> dict[str, str]:
    return {"X-Forwarded-For": ", ".join(told)}


async def test_each_client_behind_a_proxy_is_throttled_by_itself(start_web: Any) -> None:
    _, client = await start_web(config=SIGNED, **TRUSTING)
    browser = Browser(client)
    for number in range(FREE_TRIES):
        await tried(browser, "sb_wrong", headers=from_(f"6.6.6.{number}", "192.0.2.7"))

    assert (await tried(browser, "sb_wrong", headers=from_("6.6.6.6", "192.0.2.7"))).status_code == 429
    assert (await tried(browser, "sb_wrong", headers=from_("192.0.2.8"))).status_code == 401


async def test_without_a_proxy_of_ours_nothing_of_it_is_believed(start_web: Any) -> None:
    _, client = await start_web(config=SIGNED)
    browser = Browser(client)
    for number in range(FREE_TRIES):
        await tried(browser, "sb_wrong", headers=from_(f"192.0.2.{number}"))

    assert (await tried(browser, "sb_wrong", headers=from_("192.0.2.99"))).status_code == 429


@pytest.mark.parametrize(("variables", "client_is"), [(TRUSTING, "192.0.2.7"), ({}, "127.0.0.1")])
async def test_it_is_where_the_mail_came_from(start_web: Any, variables: dict[str, str], client_is: str) -> None:
    daemon, client = await start_web(config=CAPTURE + keys("send"), **variables)
    headers = {**bearer("send"), **from_("6.6.6.6", "192.0.2.7", "10.1.1.1")}
    answer = await client.post("/send-email", json=PLAIN, headers=headers)
    row = await daemon.spool.show(answer.json()["id"])

    assert row["client"] == client_is
    assert f"[{client_is}]".encode() in await daemon.spool.body(row["queue_id"])


async def test_over_a_unix_socket_whoever_connects_is_the_proxy(start_web: Any, tmp_path: Any) -> None:
    path = str(tmp_path / "http.sock")
    config = CAPTURE + keys("send")
    daemon, _ = await start_web(config=config, **TRUSTING, SMTP_BRIDGE_HTTP__ADDRESS=f"unix:{path}")
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=path), base_url="http://localhost") as client:
        answer = await client.post("/send-email", json=PLAIN, headers={**bearer("send"), **from_("192.0.2.7")})

    assert (await daemon.spool.show(answer.json()["id"]))["client"] == "192.0.2.7"


async def test_a_page_that_is_open_to_this_machine_is_not_so_through_its_proxy(start_web: Any) -> None:
    _, client = await start_web(config=CAPTURE, **TRUSTING)

    assert (await client.get("/api/v1/status", headers=from_("127.0.0.1"))).status_code == 200
    for told in ("192.0.2.7", "fe80::1%eth0", "unknown", "", "unknown, 127.0.0.1"):
        assert (await client.get("/api/v1/status", headers=from_(told))).status_code == 401, told
    assert (await client.get("/api/v1/status")).status_code == 401


@pytest.mark.parametrize(("variables", "status"), [({}, 200), (TRUSTING, 401)])
async def test_over_a_unix_socket_it_is_open_where_no_proxy_is_named(
    start_web: Any, tmp_path: Any, variables: dict[str, str], status: int
) -> None:
    path = str(tmp_path / "http.sock")
    await start_web(config=CAPTURE, **variables, SMTP_BRIDGE_HTTP__ADDRESS=f"unix:{path}")
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=path), base_url="http://localhost") as client:
        assert (await client.get("/api/v1/status")).status_code == status


async def test_other_proxies_hold_from_a_reload_on(start_web: Any, tmp_path: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    assert (await client.get("/api/v1/status")).status_code == 200
    # Somebody behind a proxy that nobody declared is not on this machine.
    for headers in (from_("192.0.2.7"), from_("127.0.0.1"), {"Forwarded": "for=192.0.2.7"}, {"Via": "1.1 proxy"}):
        assert (await client.get("/api/v1/status", headers=headers)).status_code == 401
    variables = environment(tmp_path, **TRUSTING, SMTP_BRIDGE_HTTP__ADDRESS="127.0.0.1:0")

    assert await daemon.reload(load_settings(environ=variables, cwd=tmp_path)) == []
    assert (await client.get("/api/v1/status", headers=from_("127.0.0.1"))).status_code == 200
    assert (await client.get("/api/v1/status", headers=from_("192.0.2.7"))).status_code == 401


async def test_https_is_what_the_proxy_says() -> None:
    seen: list[str] = []

    async def tell(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["scheme"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    for peer, scheme in (("127.0.0.1", "https"), ("127.0.0.1", "gopher"), ("192.0.2.1", "https")):
        transport = httpx.ASGITransport(Forwarded(tell, proxies=lambda: PROXIES), client=(peer, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            await client.get("/", headers={"X-Forwarded-Proto": scheme})

    assert seen == ["https", "http", "http"]


def test_the_internet_is_no_proxy(tmp_path: Any) -> None:
    environ = {"SMTP_BRIDGE_PROVIDER__KIND": "capture", "SMTP_BRIDGE_HTTP__TRUSTED_PROXIES": "0.0.0.0/0"}
    with pytest.raises(SettingsError, match=r"http.trusted_proxies.*name the proxies"):
        load_settings(environ=environ, cwd=tmp_path)
