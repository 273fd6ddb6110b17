"""A mail that tries to run script or to fetch something, looked at in Chromium: nothing of it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.web.browser.conftest import Open, StartSite
from tests.web.browser.mail import hostile, letter

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass
class Remote:
    """A host elsewhere. `asked`: the first line of whatever connects, "" for one that says nothing."""

    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append("")
        self.asked[-1] = (await reader.readline()).decode("latin-1").strip()
        writer.close()


@pytest_asyncio.fixture(loop_scope="session")
async def remote() -> AsyncIterator[Remote]:
    found = Remote()
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


async def test_it_runs_nothing_and_fetches_nothing(start_site: StartSite, open_page: Open, remote: Remote) -> None:
    site = await start_site()
    queue_id = await site.send(content=letter("Look at me", html=hostile(remote.url)))
    page = await open_page(site, "/status")
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), asyncio.ensure_future(dialog.dismiss())))
    await page.goto(f"/mail/{queue_id}?view=html")
    frame = page.frame_locator("iframe.letter")

    await expect(frame.locator("#seen")).to_have_text("The text of the mail")
    title = await page.title()
    for place in ("#js", "#go"):  # what it would do when somebody clicks
        if await frame.locator(place).count():
            await frame.locator(place).click(force=True, no_wait_after=True)
    await page.wait_for_timeout(500)  # nothing is waited for: it is the time in which it would be seen
    assert (remote.asked, dialogs) == ([], [])
    assert await page.title() == title
    assert page.url.startswith(f"{site.url}/mail/{queue_id}")


async def test_its_source_and_headers_are_text(start_site: StartSite, open_page: Open, remote: Remote) -> None:
    site = await start_site()
    script = f"<script src='{remote.url}/x.js'></script><img src={remote.url}/x.png onerror=alert(1)>"
    queue_id = await site.send(content=letter(script, html=hostile(remote.url), text=script))
    page = await open_page(site, "/")
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), asyncio.ensure_future(dialog.dismiss())))

    for path in (
        "/",
        *(f"/mail/{queue_id}?view={view}" for view in ("delivery", "text", "headers", "source", "request")),
    ):
        await page.goto(path)
        assert await page.locator("main script, main img").count() == 0, path
    await page.goto(f"/mail/{queue_id}/html")  # on its own, out of the frame
    await page.wait_for_timeout(500)
    assert (remote.asked, dialogs) == ([], [])


async def test_remote_pictures_are_shown_to_who_asks(start_site: StartSite, open_page: Open, remote: Remote) -> None:
    """And with it that the listener would have heard of the others."""
    site = await start_site()
    queue_id = await site.send(content=letter("Look at me", html=f'<img src="{remote.url}/pixel.png"><p>text</p>'))
    page = await open_page(site, f"/mail/{queue_id}?view=html", elsewhere=remote.url)
    await page.wait_for_load_state("networkidle")
    assert remote.asked == []
    await page.get_by_role("link", name="Show remote pictures").click()
    await page.wait_for_load_state("networkidle")

    assert remote.asked == ["GET /pixel.png HTTP/1.1"]
