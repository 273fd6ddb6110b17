"""Signing in on the page: by which keys, what the cookie is, what a form must carry, and who must wait."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.requests import Request

from bridge.web.pages.layout import own_path
from bridge.web.pages.sign_in import FORM_COOKIE, FREE_TRIES, MAX_WAIT_S, Throttle, client_of
from bridge.web.visits import COOKIE
from tests.web.conftest import KEYS, keys
from tests.web.pages.conftest import CAPTURE, SIGNED, Browser, Page, mail, send


async def tried(browser: Browser, key: str, **more: Any) -> httpx.Response:
    page = await browser.get("/sign-in")
    return await browser.post("/sign-in", [*page.form("/sign-in").fields, ("key", key)], **more)


async def test_a_page_leads_to_the_sign_in_and_back(start_web: Any) -> None:
    _, client = await start_web(config=SIGNED)

    led = await client.get("/?q=to:ann")
    assert (led.status_code, led.headers["location"]) == (303, "/sign-in?next=%2F%3Fq%3Dto%3Aann")
    page = Page((await client.get(led.headers["location"])).text)
    answer = await Browser(client).post("/sign-in", [*page.form("/sign-in").fields, ("key", f" {KEYS['read'][0]}\n")])
    assert (answer.status_code, answer.headers["location"]) == (303, "/?q=to:ann")
    assert (await client.get("/?q=to:ann")).status_code == 200


async def test_the_cookie_is_for_this_site_and_no_script(start_web: Any) -> None:
    _, client = await start_web(config=SIGNED, SMTP_BRIDGE_HTTP__TRUSTED_PROXIES="127.0.0.1/32")
    browser = Browser(client)

    plain = await tried(browser, KEYS["manage"][0])
    (cookie,) = [one for one in plain.headers.get_list("set-cookie") if one.startswith(f"{COOKIE}=")]
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == {
        "httponly", "samesite=strict", "path=/", "max-age=43200"
    }  # fmt: skip
    client.cookies.clear()
    behind = await tried(browser, KEYS["manage"][0], headers={"X-Forwarded-Proto": "https"})
    (cookie,) = [one for one in behind.headers.get_list("set-cookie") if one.startswith(f"{COOKIE}=")]
    assert "; secure" in cookie.lower()


async def test_https_is_believed_of_a_proxy_of_ours_alone(start_web: Any) -> None:
    _, client = await start_web(config=SIGNED)
    answer = await tried(Browser(client), KEYS["manage"][0], headers={"X-Forwarded-Proto": "https"})

    assert answer.status_code == 303
    assert not any("secure" in one.lower() for one in answer.headers.get_list("set-cookie"))


async def test_a_key_that_may_only_send_or_is_unknown_opens_nothing(start_web: Any) -> None:
    _, client = await start_web(config=SIGNED)
    browser = Browser(client)

    assert (await tried(browser, "sb_wrong")).status_code == 401
    sender = await tried(browser, KEYS["send"][0])
    assert (sender.status_code, "may send only" in sender.text) == (403, True)
    assert COOKIE not in client.cookies
    assert (await client.get("/")).status_code == 303


async def test_signing_in_needs_the_form_of_this_browser(start_web: Any) -> None:
    _, client = await start_web(config=SIGNED)
    browser = Browser(client)
    fields = dict((await browser.get("/sign-in")).form("/sign-in").fields)

    assert (await browser.post("/sign-in", [("key", KEYS["manage"][0])])).status_code == 403
    client.cookies.delete(FORM_COOKIE)
    assert (await browser.post("/sign-in", [*fields.items(), ("key", KEYS["manage"][0])])).status_code == 403
    empty = await browser.post(
        "/sign-in", [("csrf", ""), ("key", KEYS["manage"][0])], headers={"Cookie": f"{FORM_COOKIE}="}
    )
    assert empty.status_code == 403


async def test_signing_out_needs_the_token_and_ends_the_visit(start_web: Any) -> None:
    daemon, client = await start_web(config=SIGNED)
    browser = await Browser(client).sign_in("read")
    token = client.cookies[COOKIE]

    assert (await browser.post("/sign-out", [("csrf", "x")])).status_code == 403
    answer = await browser.post("/sign-out", [("csrf", await browser.csrf())])
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert daemon.web.visits.find(token, daemon.clock.now()) is None
    assert (await client.get("/", headers={"Cookie": f"{COOKIE}={token}"})).status_code == 303


async def test_who_guesses_must_wait_and_then_even_the_right_key_is_not_looked_at(start_web: Any) -> None:
    _, client = await start_web(config=SIGNED)
    browser = Browser(client)

    statuses = [(await tried(browser, "sb_wrong")).status_code for _ in range(FREE_TRIES + 1)]
    late = await tried(browser, KEYS["manage"][0])

    assert statuses == [401] * FREE_TRIES + [429]
    assert (late.status_code, late.headers["retry-after"]) == (429, "1")
    assert COOKIE not in client.cookies


def test_the_wait_doubles_up_to_a_ceiling_and_is_forgotten() -> None:
    throttle, now, waits = Throttle(), 0.0, []
    for _ in range(20):
        waits.append(throttle.wait("a", now))
        now += waits[-1]
        throttle.wrong("a", now)

    assert waits[: FREE_TRIES + 4] == [0.0] * FREE_TRIES + [1.0, 2.0, 4.0, 8.0]
    assert max(waits) == waits[-1] == MAX_WAIT_S
    assert throttle.wait("b", now) == 0.0
    throttle.right("a")
    assert throttle.wait("a", now) == 0.0
    for _ in range(FREE_TRIES):
        throttle.wrong("c", now)
    throttle.wrong("c", now + 4000)
    assert throttle.wait("c", now + 4000) == 0.0


@pytest.mark.parametrize(
    ("host", "client"),
    [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8::1", "2001:db8::/64"), ("", "")],
)
def test_an_ipv6_client_is_its_network(host: str, client: str) -> None:
    scope = {"type": "http", "client": (host, 1) if host else None, "headers": []}

    assert client_of(Request(scope)) == client


@pytest.mark.parametrize(
    "text",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example/",
        "javascript:alert(1)",
        "//[",
        "/a\u2028b",
        "",
        "/a\r\nb",
        "/\t/evil",
    ],
)
def test_one_is_never_led_elsewhere(text: str) -> None:
    assert own_path(text) == "/"


def test_a_path_of_ours_is_gone_back_to() -> None:
    assert own_path("/mail/1K?view=html#x") == "/mail/1K?view=html#x"


async def test_without_keys_the_page_is_open_to_read_says_so_and_offers_nothing_more(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    (queue_id,) = await send(daemon, mail())
    browser = Browser(client)

    page = await browser.get("/")
    assert page.ids == [queue_id]
    assert "No key is configured" in page.text
    assert not page.all("form", action="/act")
    assert not page.all("input", name="id")
    assert not (await browser.get(f"/mail/{queue_id}")).all("form", method="post")
    refused = await browser.post("/act", [("action", "drop"), ("id", queue_id), ("sure", "yes")])
    assert refused.status_code == 401
    assert "No key is configured" in (await browser.get("/sign-in")).text


async def test_who_may_read_is_told_what_he_may_not(start_web: Any) -> None:
    daemon, client = await start_web(config=SIGNED)
    (queue_id,) = await send(daemon, mail())
    browser = await Browser(client).sign_in("read")

    page = await browser.get("/")
    assert (page.ids, "need a key with scope manage" in page.text) == ([queue_id], True)
    assert not page.all("form", action="/act")
    csrf = await browser.csrf()
    refused = await browser.post("/act", [("csrf", csrf), ("action", "drop"), ("id", queue_id), ("sure", "yes")])
    assert refused.status_code == 403


async def test_the_page_of_a_browser_elsewhere_that_calls_itself_by_another_name_is_closed(start_web: Any) -> None:
    _, client = await start_web(config=CAPTURE)

    assert (await client.get("/", headers={"Host": "rebound.example"})).status_code == 303


async def test_the_keys_table_alone_decides_whether_a_visit_goes_on(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE + keys("manage", "read"))
    await Browser(client).sign_in("manage")

    daemon.web.keys.replace([key for key in daemon.web.keys._keys if key.name != "manage"])
    assert (await client.get("/")).status_code == 303
