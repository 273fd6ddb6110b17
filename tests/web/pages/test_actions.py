"""Actions on one message and on many: first said, then done, with the token of who may."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.web.pages.actions import MAX_IDS, with_query
from tests.web.conftest import bearer, keys
from tests.web.pages.conftest import AWAY, QUEUED, Browser, mail, send

CONFIG = QUEUED + AWAY + keys("manage")


@pytest.fixture
async def queue(start_web: Any) -> tuple[Any, Browser, list[str]]:
    """Three messages on hold, so that nothing moves by itself."""
    daemon, client = await start_web(config=CONFIG)
    browser = await Browser(client).sign_in("manage")
    ids = await send(daemon, mail("One"), mail("Two"), mail("Three"))
    async with asyncio.timeout(10):
        while await daemon.spool.hold(ids, now=daemon.clock.now()) or await statuses(daemon) != ["held"] * 3:
            await asyncio.sleep(0.01)
    return daemon, browser, ids


async def statuses(daemon: Any) -> list[str]:
    return [row["status"] for row in reversed(await daemon.spool.list_messages())]


async def test_what_would_happen_is_said_first_and_nothing_is_done(queue: Any) -> None:
    daemon, browser, ids = queue
    asked = await browser.act(await browser.get("/"), "drop", ids[0], ids[1], "1GONE")

    assert "Drop: 2 messages" in asked.text
    assert "2 recipients : given up, and nobody is told" in asked.text
    assert "1 message is not there any more" in asked.text
    assert await statuses(daemon) == ["held"] * 3


async def test_it_is_done_to_those_that_were_shown_and_said(queue: Any) -> None:
    daemon, browser, ids = queue
    asked = await browser.act(await browser.get("/?q=status:held"), "drop", ids[0], ids[1])
    done = await browser.confirm(asked)

    assert await statuses(daemon) == ["dropped", "dropped", "held"]
    assert "2 recipients are dropped." in done.text
    assert done.ids == [ids[2]]  # the same search again
    assert (await browser.confirm(asked)).text.count("0 recipients are dropped.") == 1


async def test_from_the_page_of_one_message_and_back_to_it(queue: Any) -> None:
    daemon, browser, ids = queue
    asked = await browser.act(await browser.get(f"/mail/{ids[1]}?view=text"), "release")
    done = await browser.confirm(asked)

    assert [status == "held" for status in await statuses(daemon)] == [True, False, True]
    assert "1 recipient is released." in done.text
    assert [a["href"] for a in done.all("a", **{"aria-current": "page"}) if "view" in a["href"]] == [
        f"/mail/{ids[1]}?view=text"
    ]


async def test_release_hold_and_retry_say_what_they_leave(queue: Any) -> None:
    _, browser, ids = queue
    page = await browser.get("/")

    held = await browser.act(page, "hold", *ids)
    assert "Nothing would change." in held.text
    assert "3: it is on hold already" in held.text
    assert not held.all("button", autofocus="")
    assert "3 recipients : due at once" in (await browser.act(page, "release", *ids)).text
    assert "3 recipients : due at once" in (await browser.act(page, "retry", *ids)).text


async def test_released_is_tried_again_at_once(queue: Any) -> None:
    daemon, browser, ids = queue
    (before,) = (await daemon.spool.show(ids[0]))["recipients"]
    await browser.confirm(await browser.act(await browser.get("/"), "release", ids[0]))

    async with asyncio.timeout(10):
        while (after := (await daemon.spool.show(ids[0]))["recipients"][0])["attempts"] <= before["attempts"]:
            await asyncio.sleep(0.01)
    assert (before["status"], after["status"]) == ("held", "deferred")
    assert "released" in [event["event"] for event in (await daemon.spool.show(ids[0]))["events"]]


async def test_through_another_provider(queue: Any) -> None:
    daemon, browser, ids = queue
    page = await browser.get("/")
    asked = await browser.act(page, "reroute", ids[0], provider="spare")
    assert "Retry through spare: 1 message" in asked.text
    assert "1 recipient : due at once, through spare alone." in asked.text
    await browser.confirm(asked)

    events = [(event["event"], event["text"]) for event in (await daemon.spool.show(ids[0]))["events"]]
    assert ("rerouted", "spare") in events
    unknown = await browser.post(
        "/act", [*page.form("/act").fields, ("action", "reroute"), ("provider", "<x>"), ("id", ids[0])]
    )
    assert (unknown.status_code, "&lt;x&gt;" in unknown.text, "<x>" in unknown.text) == (422, True, False)


async def test_nothing_is_done_without_the_token(queue: Any) -> None:
    daemon, browser, ids = queue
    order = [("action", "drop"), ("id", ids[0]), ("sure", "yes")]

    for fields in (order, [("csrf", "x"), *order], [("csrf", ""), *order]):
        assert (await browser.post("/act", fields)).status_code == 403
    token = await browser.csrf()
    in_the_address = await browser.client.get("/act", params=[("csrf", token), *order])
    assert in_the_address.status_code == 405
    as_json = await browser.client.post("/act", json={"csrf": token, **dict(order)})
    assert as_json.status_code == 415
    browser.client.cookies.clear()
    assert (await browser.post("/act", [("csrf", token), *order])).status_code == 401
    with_a_key = await browser.post("/act", [("csrf", token), *order], headers=bearer("manage"))
    assert with_a_key.status_code == 403  # a form is for who signed in; the API is for keys
    assert await statuses(daemon) == ["held"] * 3


async def test_a_form_that_cannot_be_is_said(start_web: Any) -> None:
    _, client = await start_web(config=CONFIG)
    browser = await Browser(client).sign_in("manage")
    csrf = ("csrf", await browser.csrf())

    async def said(*fields: tuple[str, str]) -> str:
        answer = await browser.post("/act", [csrf, *fields])
        assert (answer.status_code, "<b>" in answer.text) == (422, False)
        return answer.text

    assert "no such action" in await said(("action", "explode"), ("id", "1K"))
    assert "No message is selected" in await said(("action", "drop"))
    assert "queue ids" in await said(("action", "drop"), ("id", "<b>"))
    many = [("id", f"1K{number}") for number in range(MAX_IDS + 1)]
    assert f"At most {MAX_IDS}" in await said(("action", "drop"), *many)


async def test_a_form_is_bounded(start_web: Any) -> None:
    _, client = await start_web(config=CONFIG)
    browser = await Browser(client).sign_in("manage")

    assert (await browser.post("/act", [("id", "x" * 300_000)])).status_code == 413
    assert (await browser.post("/act", [("id", "")] * 3000)).status_code == 422


async def test_one_is_not_led_elsewhere_afterwards(queue: Any) -> None:
    _, browser, ids = queue
    fields = [("csrf", await browser.csrf()), ("action", "hold"), ("id", ids[0]), ("sure", "yes")]

    answer = await browser.post("/act", [*fields, ("next", "//evil.example/")])
    assert answer.headers["location"] == "/?did=hold&count=0"


def test_what_was_said_before_is_not_said_again() -> None:
    assert with_query("/?q=a%26b&did=drop&count=3&through=x", {"did": "hold"}) == "/?q=a%26b&did=hold"


async def test_what_stands_in_the_address_is_no_text_of_ours(start_web: Any) -> None:
    _, client = await start_web(config=CONFIG)
    browser = await Browser(client).sign_in("manage")

    for path in ("/?did=explode&count=1", "/?did=drop&count=x", "/?did=drop&count=-1", "/?did=drop"):
        assert not (await browser.get(path)).all("p", class_="said")
