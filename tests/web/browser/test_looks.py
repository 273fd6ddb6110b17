"""Every page on a desk and on a phone, light and dark: WCAG 2 A and AA as axe-core sees it, and nothing to scroll sideways.

With SCREENSHOTS=docs/screenshots some of them are kept as pictures.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page

from bridge.model import RecipientStatus
from bridge.reply import Reply
from bridge.sandbox import Sandbox
from bridge.spool.base import Result
from tests.web.browser.conftest import Open, Site, StartSite, sideways, violations
from tests.web.browser.mail import NEWSLETTER, letter

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Colours and widths are each seen once; for pictures all four.
LOOKS = [(False, False), (True, True), *([(False, True), (True, False)] if "SCREENSHOTS" in os.environ else [])]
SHOTS = os.environ.get("SCREENSHOTS", "")
KEY = "sandbox-secret-key"


@pytest_asyncio.fixture(loop_scope="session")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(key=KEY) as running:
        yield running


def providers(url: str) -> str:
    """One that works, one whose key is wrong, one that keeps what it takes, and the routes to them."""
    rest = "".join(
        f'[[provider]]\nname = "{name}"\nkind = "rest"\nurl = "{url}/send-email"\nauth = "bearer"\ntoken = "{token}"\n'
        for name, token in (("main", KEY), ("spare", "expired"))
    )
    routes = {"*@blocked.example": "spare", "bob@example.org": "kept", "*": "main"}
    return f'{rest}[[provider]]\nname = "kept"\nkind = "capture"\n' + "".join(
        f'[[route]]\nrecipient = "{pattern}"\nproviders = ["{name}"]\n' for pattern, name in routes.items()
    )


async def fill(site: Site) -> str:
    """Mail of every kind, and a day of it in the numbers; the queue id of one with HTML and a file."""
    _remember_a_day(site)
    for number in range(6):
        await site.send(f"reader{number}@example.org", subject=f"The news of week {number + 1}")
    await site.send("ann@blocked.example", subject="Waits for a key that works")
    now = site.daemon.clock.now()
    await site.daemon.spool.suppress("gone@example.net", "550 5.1.1 No such mailbox", provider="main", now=now - 86400)
    await site.daemon.spool.suppress("zoe@example.net", "asked to be left alone", now=now - 3600)
    await site.daemon.suppressions.load()
    return await site.send(content=letter("Your order is on its way – Größe 5 €", html=NEWSLETTER, file=True))


def _remember_a_day(site: Site) -> None:
    tally, now = site.daemon.spool._tally, site.daemon.clock.now()
    for minute in range(1, 24 * 60):
        for _ in range(1 + (minute * 7919) % 5 + (minute // 180) % 4):
            status: RecipientStatus = "deferred" if minute % 11 == 3 else "bounced" if minute % 37 == 5 else "sent"
            reply = (
                None
                if status == "sent"
                else Reply(
                    451 if status == "deferred" else 550,
                    "4.3.2" if status == "deferred" else "5.1.1",
                    "No such mailbox",
                )
            )
            tally.accepted(now - minute * 60)
            tally.result(
                "OLD",
                "old@example.org",
                Result(status=status, reply=reply, provider="main"),
                at=now - minute * 60,
                took_s=0.02,
            )


async def picture(page: Page, name: str) -> None:
    if SHOTS and name in KEPT:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


PAGES = {
    "sign-in": "/sign-in",
    "list": "/",
    "nothing-found": "/?q=nobodyhasthis",
    "help": "/help",
    "message": "/mail/{id}",
    "message-html": "/mail/{id}?view=html",
    "message-headers": "/mail/{id}?view=headers",
    "message-source": "/mail/{id}?view=source",
    "message-request": "/mail/{id}?view=request",
    "message-files": "/mail/{id}?view=files",
    "waiting": "/mail/{waiting}",
    "status": "/status",
    "suppressions": "/suppressions",
    "send": "/send-test",
    "missing": "/mail/nosuchid",
    "docs": "/docs",
}
KEPT = {
    "list-desk-light",
    "list-phone-dark",
    "message-html-desk-light",
    "status-desk-dark",
    "status-phone-light",
    "suppressions-desk-light",
    "send-desk-light",
}


@pytest.mark.parametrize(("phone", "dark"), LOOKS)
async def test_every_page_can_be_read_by_everybody(
    start_site: StartSite, open_page: Open, sandbox: Sandbox, phone: bool, dark: bool
) -> None:
    site = await start_site(config=providers(sandbox.url))
    ids = {"id": await fill(site)}
    (waiting,) = await site.daemon.spool.list_messages(status="active", limit=1)
    ids["waiting"] = waiting["queue_id"]
    page = await open_page(site, "/", dark=dark, phone=phone)
    wrong = []
    for name, path in PAGES.items():
        await page.goto(path.format(**ids))
        wrong += [f"{name}: {one}" for one in await violations(page)]
        if beyond := await sideways(page):
            wrong.append(f"{name}: {beyond} pixels too wide")
        await picture(page, f"{name}-{'phone' if phone else 'desk'}-{'dark' if dark else 'light'}")

    assert wrong == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_the_pages_of_an_empty_spool_without_keys(start_site: StartSite, open_page: Open, dark: bool) -> None:
    site = await start_site(scopes=())
    page = await open_page(site, "/", dark=dark, key="")
    wrong = []
    for path in ("/", "/status", "/suppressions", "/send-test"):
        await page.goto(path)
        wrong += [f"{path}: {one}" for one in await violations(page)]

    assert wrong == []
