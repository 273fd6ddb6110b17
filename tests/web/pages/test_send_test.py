"""The form for a test message: it goes the way of all mail, and what was answered is shown."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import Any

import pytest

from tests.web.conftest import KEYS, keys
from tests.web.pages.conftest import AWAY, CAPTURE, Browser, Page

MAIL = {
    "from": "Shop <shop@example.org>",
    "to": "ann@example.com, Zoe <zoe@example.net>",
    "subject": "Größe",
    "text": "It works",
}


async def sent(start_web: Any, config: str = CAPTURE, scope: str = "manage", **more: str) -> tuple[Any, Any]:
    daemon, client = await start_web(config=config if "[[http.key]]" in config else config + keys("manage", "read"))
    browser = await Browser(client).sign_in(scope)
    values = {**MAIL, "csrf": await browser.csrf(), **more}
    return daemon, await browser.post("/send-test", list(values.items()))


async def test_it_is_sent_as_written_and_its_page_is_linked(start_web: Any) -> None:
    daemon, answer = await sent(start_web, html="<p>It works</p>")
    (row,) = await daemon.spool.list_messages()
    raw = await daemon.spool.body(row["queue_id"])

    assert answer.status_code == 200
    page = Page(answer.text)
    assert "250 2.0.0" in page.text
    assert page.all("a", href=f"/mail/{row['queue_id']}")
    assert sorted(one["address"] for one in row["recipients"]) == ["ann@example.com", "zoe@example.net"]
    assert raw
    mail = message_from_bytes(raw, policy=policy.default)
    assert (mail["From"], mail["Subject"]) == ("Shop <shop@example.org>", "Größe")
    assert [part.get_content_type() for part in mail.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    shown = await daemon.spool.show(row["queue_id"])
    assert (shown["user"], shown["protocol"]) == ("key:manage", "HTTP")


async def test_html_alone_is_a_mail_without_text(start_web: Any) -> None:
    daemon, _ = await sent(start_web, text="", html="<p>It works</p>")
    (row,) = await daemon.spool.list_messages()

    assert b"Content-Type: text/html" in (await daemon.spool.body(row["queue_id"]) or b"")


@pytest.mark.parametrize("provider", ["kept", "main", ""])
async def test_it_goes_through_the_provider_that_was_chosen(start_web: Any, provider: str) -> None:
    """By the routes it is main's turn, which cannot be reached."""
    config = AWAY + '[[provider]]\nkind = "capture"\nname = "kept"\n[[route]]\nproviders = ["main", "spare"]\n'
    daemon, answer = await sent(start_web, config, provider=provider)
    (row,) = await daemon.spool.list_messages()

    assert answer.status_code == 200
    assert {one["provider"] for one in row["recipients"]} <= ({provider} if provider else {"main", "spare"})
    assert row["status"] == ("sent" if provider == "kept" else "deferred")


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("from", "", "One address is needed"),
        ("from", "a@example.org, b@example.org", "One address is needed"),
        ("to", "", "1 to 20 addresses"),
        ("to", "ann", "ann"),
        ("to", ", ".join(f"a{n}@example.org" for n in range(21)), "1 to 20 addresses"),
        ("subject", "x" * 501, "500 characters"),
        ("provider", "nobody", "There is no such provider"),
    ],
)
async def test_what_cannot_be_sent_is_told_at_its_field(start_web: Any, field: str, value: str, text: str) -> None:
    daemon, answer = await sent(start_web, **{field: value})
    page = Page(answer.text)

    assert answer.status_code == 422
    assert text in page.text
    assert [one["name"] for tag in ("input", "select") for one in page.all(tag, **{"aria-invalid": "true"})] == [field]
    assert await daemon.spool.list_messages() == []


async def test_a_suppressed_recipient_is_refused_as_by_smtp(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE + keys("manage"))
    await daemon.spool.suppress("ann@example.com", "asked", now=1.8e9)
    await daemon.suppressions.load()
    browser = await Browser(client).sign_in("manage")
    answer = await browser.post("/send-test", list({**MAIL, "csrf": await browser.csrf()}.items()))

    assert answer.status_code == 422
    assert "Recipient is suppressed" in answer.text


async def test_a_key_sends_as_its_senders_and_no_faster_than_its_rate(start_web: Any) -> None:
    bound = f'[[http.key]]\nname = "manage"\nkey_hash = "{KEYS["manage"][1]}"\nscopes = ["manage"]\n'
    config = CAPTURE + bound + 'senders = ["*@example.org"]\nrate = "1/h"\n'
    _, client = await start_web(config=config)
    browser = await Browser(client).sign_in("manage")
    values = {**MAIL, "csrf": await browser.csrf()}

    other = await browser.post("/send-test", list({**values, "from": "ceo@example.com"}.items()))
    assert (other.status_code, "may not send as ceo@example.com" in other.text) == (422, True)
    assert (await browser.post("/send-test", list(values.items()))).status_code == 200
    assert (await browser.post("/send-test", list(values.items()))).status_code == 429


async def test_who_may_only_read_sends_nothing(start_web: Any) -> None:
    daemon, answer = await sent(start_web, scope="read")

    assert answer.status_code == 403
    assert await daemon.spool.list_messages() == []
