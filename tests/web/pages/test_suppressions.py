"""Suppressions on the page: entered, found, taken off, by who may; and that SMTP keeps to them at once."""

from __future__ import annotations

import smtplib
import sqlite3
from typing import Any

import pytest

from bridge.spool import memory
from tests.web.pages.conftest import SIGNED, Browser

SENDER = "shop@example.org"


async def rcpt(daemon: Any, address: str) -> int:
    import asyncio

    def ask() -> int:
        with smtplib.SMTP("127.0.0.1", daemon.listeners[0].port) as client:
            client.ehlo()
            client.mail(SENDER)
            return client.rcpt(address)[0]

    return await asyncio.to_thread(ask)


async def signed(start_web: Any, scope: str = "manage") -> tuple[Any, Browser]:
    daemon, client = await start_web(config=SIGNED)
    return daemon, await Browser(client).sign_in(scope)


async def test_an_address_is_refused_from_then_on_and_no_more_when_it_is_taken_off(start_web: Any) -> None:
    daemon, browser = await signed(start_web)
    page = await browser.get("/suppressions")
    assert "No address is suppressed" in page.text
    form = page.form("/suppressions/add").fields
    token = [field for field in form if field[0] == "csrf"]
    answer = await browser.post("/suppressions/add", [*token, ("address", " Zoe@Example.org "), ("reason", "asked")])
    assert answer.status_code == 303
    page = await browser.get(answer.headers["location"])

    assert "zoe@example.org by hand" in page.text
    assert "asked" in page.text
    assert await rcpt(daemon, "zoe@example.org") == 550
    answer = await browser.post("/suppressions/remove", page.form("/suppressions/remove").fields)
    assert "mailed again" in (await browser.get(answer.headers["location"])).text
    assert await rcpt(daemon, "zoe@example.org") == 250


@pytest.mark.parametrize("address", ["", "zoe", "zoe@", "a b@example.org", "zoe@example.org\r\nX: y"])
async def test_what_is_no_address_is_told_with_what_was_entered(start_web: Any, address: str) -> None:
    daemon, browser = await signed(start_web)
    answer = await browser.post("/suppressions/add", [("csrf", await browser.csrf()), ("address", address)])

    assert answer.status_code == 422
    assert "This is no address" in answer.text
    assert await daemon.spool.suppressions() == {}


async def test_a_part_of_the_address_or_of_the_reason_finds_it_page_by_page(start_web: Any) -> None:
    daemon, browser = await signed(start_web, "read")
    for number in range(103):
        await daemon.spool.suppress(f"a{number:03}@example.org", "550 5.1.1 gone", now=1.8e9)
    await daemon.spool.suppress("zoe@example.net", "asked for it", now=1.8e9)

    assert (await browser.get("/suppressions?q=ASKED")).text.count("@example") == 1
    assert "Nothing found" in (await browser.get("/suppressions?q=nobody")).text
    first = await browser.get("/suppressions?q=example.org")
    assert first.text.count("@example.org") == 100
    (more,) = first.all("a", rel="next")
    assert (await browser.get(more["href"])).text.count("@example.org") == 3


async def test_a_search_that_finds_none_in_time_says_where_it_goes_on(
    start_web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, browser = await signed(start_web, "read")
    with sqlite3.connect(daemon.settings.spool_path) as db:
        rows = ((f"a{number:04}@example.org", "gone", 1.8e9) for number in range(5000))
        db.executemany("INSERT INTO suppression VALUES (?, ?, 'main', ?)", rows)
    db.close()
    monkeypatch.setattr(memory.find_suppressions, "__defaults__", (0.0,))

    first = await browser.get("/suppressions?q=a4999")
    assert "Nothing was found so far" in first.text
    assert "Nothing found" not in first.text
    (more,) = first.all("a", rel="next")
    assert "a4999@example.org" in (await browser.get(more["href"])).text


@pytest.mark.parametrize("path", ["/suppressions/add", "/suppressions/remove"])
async def test_only_who_may_manage_and_has_the_token_changes_them(start_web: Any, path: str) -> None:
    daemon, browser = await signed(start_web)
    await daemon.spool.suppress("zoe@example.org", "asked", now=1.8e9)
    fields = [("address", "zoe@example.org")]

    assert (await browser.post(path, fields)).status_code == 403
    assert (await browser.post(path, [*fields, ("csrf", "another")])).status_code == 403
    reader = await browser.sign_in("read")
    assert (await reader.post(path, [*fields, ("csrf", await reader.csrf())])).status_code == 403
    assert await daemon.spool.suppressions() == {"zoe@example.org": "asked"}
