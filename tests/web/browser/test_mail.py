"""The list and what is done from it, by mouse and by keys, in Chromium."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from bridge.sandbox import Sandbox
from tests.web.browser.conftest import Open, Site, StartSite

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Nobody listens there, so mail waits.
WAITS = (
    '[[provider]]\nname = "main"\nkind = "rest"\nurl = "http://127.0.0.1:9/send-email"\nauth = "bearer"\ntoken = "k"\n'
)


def here(page: Page) -> object:
    """The row that the keys are at."""
    return page.locator(".mail.here .subject")


async def test_mail_appears_without_loading_the_page_again(start_site: StartSite, open_page: Open) -> None:
    site = await start_site()
    page = await open_page(site)
    await page.evaluate("window.loaded = 'once'")
    await expect(page.get_by_text("No mail yet")).to_be_visible()
    await site.send(subject="Just arrived")

    await expect(page.get_by_role("link", name="Just arrived")).to_be_visible()
    assert await page.evaluate("window.loaded") == "once"


async def test_search_finds_what_is_asked_for_alone(start_site: StartSite, open_page: Open) -> None:
    site = await start_site()
    for name in ("ann", "bob", "zoe"):
        await site.send(f"{name}@example.org", subject=f"To {name}")
    page = await open_page(site)
    await page.get_by_label("Search the mail").fill("to:bob")
    await page.keyboard.press("Enter")

    await expect(page.locator(".mail")).to_have_count(1)
    await expect(page.locator(".mail")).to_contain_text("To bob")
    await page.get_by_label("Search the mail").fill("nobodyhasthis")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("Nothing found")).to_be_visible()


async def test_keys_move_open_search_and_help(start_site: StartSite, open_page: Open) -> None:
    site = await start_site()
    for number in (1, 2, 3):
        await site.send(subject=f"Mail {number}")
    page = await open_page(site)
    for key, subject in (("j", "Mail 3"), ("j", "Mail 2"), ("j", "Mail 1"), ("j", "Mail 1"), ("k", "Mail 2")):
        await page.keyboard.press(key)
        await expect(here(page)).to_have_text(subject)

    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await page.keyboard.press("/")
    await expect(page.get_by_label("Search the mail")).to_be_focused()
    await page.keyboard.type("jk")
    await expect(here(page)).to_have_text("Mail 2")
    await page.keyboard.press("Escape")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Mail 2")).to_be_visible()


async def test_keys_hold_and_retry_after_it_was_said_what_happens(start_site: StartSite, open_page: Open) -> None:
    site = await start_site(config=WAITS)
    queue_id = await site.send(subject="Waits")
    page = await open_page(site)
    await page.keyboard.press("j")
    await page.keyboard.press("h")
    await expect(page.get_by_role("heading", name="Hold: 1 message")).to_be_visible()
    assert await site.status(queue_id) == "deferred"
    await page.get_by_role("button", name="Hold").click()

    await expect(page.get_by_role("status").filter(has_text="on hold")).to_be_visible()
    assert await site.status(queue_id) == "held"
    await page.keyboard.press("j")
    await page.keyboard.press("h")
    await page.get_by_role("button", name="Release").click()
    await page.wait_for_url(lambda url: "/act" not in url)
    assert await site.status(queue_id) != "held"
    await page.keyboard.press("j")
    await page.keyboard.press("r")
    await expect(page.get_by_role("heading", name="Retry now: 1 message")).to_be_visible()


async def test_many_are_held_and_dropped_at_once(start_site: StartSite, open_page: Open) -> None:
    site = await start_site(config=WAITS)
    ids = [await site.send(subject=f"Waits {number}") for number in range(3)]
    page = await open_page(site)
    await page.get_by_role("checkbox", name="Select Waits 0").check()
    await page.get_by_role("checkbox", name="Select Waits 2").check()
    await page.get_by_role("button", name="Hold").click()
    await page.get_by_role("button", name="Hold").click()
    await page.wait_for_url(lambda url: "/act" not in url)

    assert [await site.status(one) for one in ids] == ["held", "deferred", "held"]
    await page.get_by_role("checkbox", name="All").check()
    await page.get_by_role("button", name="Drop").click()
    await expect(page.get_by_role("heading", name="Drop: 3 messages")).to_be_visible()
    await page.get_by_role("button", name="Drop").click()
    await page.wait_for_url(lambda url: "/act" not in url)
    assert [await site.status(one) for one in ids] == ["dropped"] * 3


async def test_a_message_that_waited_is_sent_when_it_is_retried(start_site: StartSite, open_page: Open) -> None:
    async with Sandbox(key="k") as sandbox:
        await sandbox.stop()
        site = await start_site(config=WAITS.replace("http://127.0.0.1:9", sandbox.url))
        queue_id = await site.send(subject="Waits")
        await sandbox.start()
        page = await open_page(site, f"/mail/{queue_id}")
        await page.get_by_role("button", name="Retry now").click()
        await page.get_by_role("button", name="Retry now").click()
        await page.wait_for_url(lambda url: "/act" not in url)
        await sandbox.wait_for(1)
        await page.goto(f"/mail/{queue_id}")

        await expect(page.get_by_role("main").get_by_text("sent", exact=True).first).to_be_visible()


@pytest.mark.parametrize("key", ["read", ""])
async def test_who_may_only_read_is_offered_nothing_that_changes(
    start_site: StartSite, open_page: Open, key: str
) -> None:
    site = await start_site(scopes=("read",) if key else (), config=WAITS)
    queue_id = await site.send(subject="Waits")
    page = await open_page(site, key=key)
    await expect(page.locator(".mail")).to_have_count(1)

    for path in ("/", f"/mail/{queue_id}", "/suppressions", "/send-test"):
        await page.goto(path)
        assert await page.locator("main form[method=post]").count() == 0, path


async def held(site: Site, queue_id: str) -> bool:
    return await site.status(queue_id) == "held"


@pytest.mark.parametrize("path", ["/act", "/suppressions/add", "/suppressions/remove", "/send-test", "/sign-out"])
async def test_a_form_without_its_token_is_refused(start_site: StartSite, open_page: Open, path: str) -> None:
    site = await start_site(config=WAITS)
    queue_id = await site.send(subject="Waits")
    page = await open_page(site)
    fields = {"action": "hold", "sure": "yes", "id": queue_id, "address": "x@example.org", "csrf": "another"}
    async with page.expect_navigation():
        await page.evaluate(
            """([path, fields]) => {
                const form = Object.assign(document.createElement("form"), { method: "post", action: path });
                for (const [name, value] of Object.entries(fields)) {
                    form.append(Object.assign(document.createElement("input"), { name, value }));
                }
                document.body.append(form);
                form.submit();
            }""",
            [path, fields],
        )

    await expect(page.get_by_text("403 csrf")).to_be_visible()
    assert not await held(site, queue_id)
    assert await site.daemon.spool.suppressions() == {}


async def test_dark_is_chosen_and_stays(start_site: StartSite, open_page: Open) -> None:
    site = await start_site()
    page = await open_page(site)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(ground)
    await page.get_by_role("button", name="Dark mode").click()
    dark = await page.evaluate(ground)
    await page.goto("/status")

    assert dark != light
    assert await page.evaluate(ground) == dark
    await page.get_by_role("button", name="Light mode").click()
    assert await page.evaluate(ground) == light


async def test_a_test_message_is_sent_and_led_to(start_site: StartSite, open_page: Open) -> None:
    site = await start_site()
    page = await open_page(site, "/send-test")
    await page.get_by_label("Subject").fill("From the form")
    await page.get_by_role("button", name="Send").click()
    await page.get_by_role("link", name="Look at the message").click()

    await expect(page.get_by_role("heading", name="From the form")).to_be_visible()


async def test_an_address_is_suppressed_and_mailed_again(start_site: StartSite, open_page: Open) -> None:
    site = await start_site()
    page = await open_page(site, "/suppressions")
    await page.get_by_role("textbox", name="Address").fill("zoe@example.org")
    await page.get_by_role("button", name="Suppress").click()
    await expect(page.get_by_role("status")).to_contain_text("refused")
    assert await site.daemon.spool.suppressions() == {"zoe@example.org": "by hand"}

    await page.get_by_role("button", name="Mail again: zoe@example.org").click()
    await expect(page.get_by_role("status")).to_contain_text("mailed again")
    assert await site.daemon.spool.suppressions() == {}


async def test_the_status_page_is_read_again_and_what_is_open_or_marked_is_let_be(
    start_site: StartSite, open_page: Open
) -> None:
    site = await start_site()
    page = await open_page(site, "/status")
    await page.clock.install()
    await page.reload()
    await page.evaluate("window.loaded = 'once'")
    table = page.get_by_text("As a table").first
    await table.click()
    await site.send(subject="one")
    await page.clock.run_for(11_000)

    sent = page.locator(".tiles div", has_text="Accepted in the last hour").locator("dd.num").first
    await expect(sent).to_have_text("1")
    assert await page.evaluate("window.loaded") == "once"
    assert await page.locator("details").first.evaluate("one => one.open")
    assert await page.evaluate("document.activeElement.tagName") == "SUMMARY"
    await page.evaluate("getSelection().selectAllChildren(document.querySelector('h1'))")
    await site.send(subject="two")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.clock.run_for(30_000)
    assert asked == []
    await page.evaluate("getSelection().removeAllRanges()")
    await page.clock.run_for(11_000)
    await expect(sent).to_have_text("2")
