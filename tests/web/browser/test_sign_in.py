"""Signing in and out, and forms that come from elsewhere, in Chromium."""

from __future__ import annotations

import pytest

from tests.web.browser.conftest import Open, StartSite, sign_in

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_who_has_not_signed_in_is_led_to_it_and_back(start_site: StartSite, open_page: Open) -> None:
    site = await start_site()
    page = await open_page(site, "/status", key="")

    assert "/sign-in" in page.url
    await sign_in(page, "manage")
    assert page.url == f"{site.url}/status"


async def test_the_cookie_is_for_http_and_for_this_site_alone(start_site: StartSite, open_page: Open) -> None:
    site = await start_site()
    page = await open_page(site, "/status", key="")
    await sign_in(page, "manage")

    (cookie,) = [one for one in await page.context.cookies() if one["name"] == "smtp_bridge"]
    assert cookie["httpOnly"] is True
    assert cookie["sameSite"] == "Strict"
    assert await page.evaluate("document.cookie") == ""


async def test_signing_out_ends_it(start_site: StartSite, open_page: Open) -> None:
    site = await start_site()
    page = await open_page(site, "/status", key="")
    await sign_in(page, "manage")
    await page.get_by_role("button", name="Sign out").click()
    await page.goto("/status")

    assert "/sign-in" in page.url
