"""A real Chromium before a real daemon: one browser for all of these tests, a daemon with mail in it for each.

They share one loop, since the browser's connection belongs to the one in which it was opened.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from bridge.config.load import load_settings
from bridge.daemon import Daemon
from bridge.web.visits import COOKIE
from tests.conftest import environment
from tests.e2e.conftest import Smtp
from tests.web.conftest import CAPTURE, KEYS, keys

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
AXE = Path(sys.prefix) / "node" / "node_modules" / "axe-core" / "axe.min.js"
# WCAG 2.0, 2.1 and 2.2, levels A and AA.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
WIDE, PHONE = (1280, 800), (360, 740)
WAIT_MS = 10_000
RETRY_LATER = {"SMTP_BRIDGE_RETRY__FIRST": "1h", "SMTP_BRIDGE_RETRY__MAXIMUM": "2h"}


@dataclass
class Site:
    """A daemon, and what is needed to send to it and to look at it."""

    daemon: Daemon
    open_smtp: list[Smtp] = field(default_factory=list)

    @property
    def url(self) -> str:
        assert self.daemon.http
        return f"http://127.0.0.1:{self.daemon.http.port}"

    def visit(self, key: str) -> str:
        """The cookie of who signed in with this key; "" where there is no such key."""
        web = self.daemon.web
        assert web
        found = web.keys.named(key)
        return web.visits.begin(key, found.key_hash, self.daemon.clock.now()) if found else ""

    async def send(self, *recipients: str, subject: str = "hello", content: bytes = b"") -> str:
        """By SMTP; the queue id of what was taken."""
        if not self.open_smtp:
            self.open_smtp.append(await Smtp(self.daemon.listeners[0].port).open())
        reply = await self.open_smtp[0].send(*recipients, subject=subject, content=content)
        assert reply.startswith("250"), reply
        return await self.newest()

    async def newest(self) -> str:
        (row,) = await self.daemon.spool.list_messages(limit=1)
        return str(row["queue_id"])

    async def status(self, queue_id: str) -> str:
        shown = await self.daemon.spool.show(queue_id)
        assert shown
        return str(shown["status"])


StartSite = Callable[..., Awaitable[Site]]
Open = Callable[..., Awaitable[Page]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    if not CHROMIUM:
        pytest.skip("needs chromium (apt-get install chromium)")
    async with async_playwright() as playwright:
        # Without a sandbox of its own: it may be started by root, in a container; it sees our pages only.
        running = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield running
        await running.close()


@pytest_asyncio.fixture(loop_scope="session")
async def start_site(tmp_path: Path) -> AsyncIterator[StartSite]:
    """`await start_site(scopes=("manage",), config="...", **variables)`; in capture where nothing else is said."""
    sites: list[Site] = []

    async def start(*, scopes: tuple[str, ...] = ("manage",), config: str = "", **variables: str) -> Site:
        (tmp_path / "config.toml").write_text(config + keys(*scopes))
        provider = {} if "[[provider]]" in config else CAPTURE
        variables = {"SMTP_BRIDGE_HTTP__ADDRESS": "127.0.0.1:0", **provider, **RETRY_LATER, **variables}
        daemon = Daemon(load_settings(environ=environment(tmp_path, **variables), cwd=tmp_path))
        await daemon.start()
        sites.append(Site(daemon))
        return sites[-1]

    yield start
    for site in sites:
        for client in site.open_smtp:
            client.close()
        await site.daemon.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser) -> AsyncIterator[Open]:
    """`await open_page(site, "/status", key="manage", dark=True, phone=True)`, signed in with that key.

    A page whose scripts raised nothing, and that fetched nothing but from `elsewhere`, or the test fails at its end.
    """
    wrong: list[str] = []
    async with contextlib.AsyncExitStack() as opened:

        async def open_it(
            site: Site,
            path: str = "/",
            *,
            key: str = "manage",
            dark: bool = False,
            phone: bool = False,
            elsewhere: str = "",
        ) -> Page:
            width, height = PHONE if phone else WIDE
            context = await browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                is_mobile=phone,
                has_touch=phone,
                base_url=site.url,
                locale="en-GB",
                timezone_id="UTC",
            )
            context.set_default_timeout(WAIT_MS)
            opened.push_async_callback(context.close)
            if visit := site.visit(key):
                await context.add_cookies([{"name": COOKIE, "value": visit, "url": site.url}])
            page = await context.new_page()
            page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
            # Of a request that its policy forbids there is an event too, but no answer.
            page.on("response", lambda response: wrong.extend(_elsewhere(response.url, site.url, elsewhere)))
            await page.goto(path)
            return page

        yield open_it
    assert not wrong


def _elsewhere(url: str, *places: str) -> list[str]:
    ours = ("data:", "about:", "blob:", *(f"{place}/" for place in places if place))
    return [] if url.startswith(ours) else [f"fetched {url}"]


async def sign_in(page: Page, key: str) -> None:
    await page.get_by_label("API key").fill(KEYS[key][0])
    await page.get_by_role("main").get_by_role("button", name="Sign in").click()
    await page.wait_for_url(lambda url: "/sign-in" not in url)


async def violations(page: Page) -> list[str]:
    """What axe-core finds against WCAG 2 A and AA: one line for each rule, with where it is broken."""
    if not AXE.exists():
        pytest.skip("needs axe-core (make test installs it with npm)")
    if not await page.evaluate("typeof axe !== 'undefined'"):
        await page.evaluate(AXE.read_text())
    options = json.dumps({"runOnly": {"type": "tag", "values": RULES}, "resultTypes": ["violations"]})
    found: dict[str, Any] = await page.evaluate(f"axe.run(document, {options})")
    return [
        f"{one['id']}: {one['help']}: " + ", ".join(str(node["target"]) for node in one["nodes"])
        for one in found["violations"]
    ]


async def sideways(page: Page) -> int:
    """Pixels by which the page is wider than what it is shown in."""
    found: int = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return found
