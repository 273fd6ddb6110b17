"""The list: what is on it and in which order, what finds it, the pages of it, and the fragment the script asks for."""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.model import Envelope, Message
from bridge.reply import Reply
from bridge.spool.base import Result
from bridge.spool.ids import new_queue_id
from bridge.web.pages import find as finding
from bridge.web.pages.query import Query, QueryError, parse_query
from tests.web.pages.conftest import AWAY, CAPTURE, QUEUED, SIGNED, Browser, mail, send

NOW = 1_793_000_000.0  # 2026-10-26


async def put(daemon: Any, count: int, *, to: str = "ann@example.com", subject: str = "Mail") -> list[str]:
    """As sent, oldest first."""
    ids = []
    for number in range(count):
        now = daemon.clock.now()
        message = Message(
            queue_id=new_queue_id(),
            envelope=Envelope(reverse_path="shop@example.org", recipients=(to,)),
            raw=b"Subject: x\r\n\r\nx\r\n",
            created_at=now,
            expires_at=now + 1000,
            subject=f"{subject} {number}",
        )
        sent = Result(status="sent", reply=Reply(250, "2.0.0", "Ok"), provider="main")
        await daemon.spool.put_history(message, {to: sent})
        ids.append(message.queue_id)
    return ids


async def test_newest_first_with_what_was_said_of_it(start_web: Any) -> None:
    daemon, client = await start_web(config=QUEUED + AWAY)
    first, second = await send(daemon, mail("One"), mail("Two", to="bob@example.com"))

    page = await Browser(client).get("/")

    assert page.ids == [second, first]
    assert page.text.index("bob@example.com") < page.text.index("ann@example.com")
    assert [a["href"] for a in page.all("a", class_="subject")] == [
        f"/mail/{second}", f"/mail/{first}"
    ]  # fmt: skip


@pytest.mark.parametrize("capture", [True, False])
async def test_an_empty_list_says_how_to_send_the_first_mail(start_web: Any, capture: bool) -> None:
    daemon, client = await start_web(
        config=CAPTURE if capture else QUEUED + AWAY, SMTP_BRIDGE_SMTP__LISTENER__ADDRESS="127.0.0.1:0"
    )
    page = await Browser(client).get("/")

    assert "No mail yet" in page.text
    assert all(f"{tool} " in page.text for tool in ("swaks", "curl", "python3"))
    assert f"swaks --server localhost:{daemon.listeners[0].port} " in page.text
    assert ("goes nowhere else" in page.text) is capture
    assert page.html.count("<title>Inbox") == capture


async def test_a_search_finds_and_one_that_finds_nothing_says_so(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    one, two = await send(daemon, mail("Your order"), mail("News", to="bob@example.com", sender="list@example.net"))
    browser = Browser(client)

    async def found(q: str) -> list[str]:
        return (await browser.get("/?" + urlencode({"q": q}))).ids

    assert await found("to:bob") == [two]
    assert await found("from:bob") == []
    assert await found("from:shop@example.org") == [two, one]
    assert await found('subject:"your order"') == [one]
    assert await found("order") == [one]
    assert await found("status:sent provider:main order") == [one]
    assert await found("status:failed") == []
    assert await found(f"id:{two}") == [two]
    assert await found("after:1h") == [two, one]
    assert await found("before:2020-01-01") == []
    nothing = await browser.get("/?q=nobody")
    assert "Nothing found" in nothing.text
    assert "No mail yet" not in nothing.text


async def test_what_cannot_be_searched_for_is_said(start_web: Any) -> None:
    _, client = await start_web(config=CAPTURE)
    page = await Browser(client).get("/?q=status:%3Cb%3Elost")

    assert page.all("p", role="alert")
    assert "There is no status “<b>lost”; one of active" in page.text
    assert not page.all("b")


async def test_pages_by_the_last_message_and_back_again(start_web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, client = await start_web(config=CAPTURE)
    ids = await put(daemon, 25)
    monkeypatch.setattr(finding.find, "__kwdefaults__", {"limit": 10})
    browser, path, seen, forward = Browser(client), "/", [], []

    while path:
        page = await browser.get(path)
        seen.append(page.ids)
        forward.append(path)
        path = next((a["href"] for a in page.all("a", rel="next")), "")
    assert [one for page in seen for one in page] == ids[::-1]
    assert [len(page) for page in seen] == [10, 10, 5]

    await put(daemon, 3)  # what comes meanwhile moves nothing on the pages before
    back = [await browser.get(page.all("a", rel="prev")[0]["href"]) for page in [await browser.get(forward[2])]]
    assert back[0].ids == seen[1]
    (again,) = back[0].all("a", rel="prev")
    assert len((await browser.get(again["href"])).ids) == 10
    assert (await browser.get(again["href"])).ids[3:] == seen[0][:7]


async def test_one_side_of_the_envelope_is_found_over_several_pages(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    (old,) = await put(daemon, 1, to="shop@example.org", subject="To the shop")
    await put(daemon, 70)  # from the shop

    assert (await Browser(client).get("/?q=to:shop@example.org")).ids == [old]


async def test_the_fragment_is_the_list_and_unchanged_is_304(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    (one,) = await send(daemon, mail())

    first = await client.get("/list")
    assert first.text.lstrip().startswith("<ol")
    again = await client.get("/list", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    (two,) = await send(daemon, mail("Another"))
    new = await client.get("/list", headers={"If-None-Match": first.headers["etag"]})
    assert new.status_code == 200
    assert new.text.index(two) < new.text.index(one)


async def test_a_page_runs_our_own_files_only(start_web: Any) -> None:
    daemon, client = await start_web(config=SIGNED)
    await send(daemon, mail())
    browser = await Browser(client).sign_in("manage")
    page = await browser.get("/")
    answer = await client.get("/")

    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not page.all("style")
    assert all("src" in script for script in page.all("script"))
    assert not [attrs for _, attrs in page.tags if "style" in attrs or any(name.startswith("on") for name in attrs)]
    linked = [attrs.get("src") or attrs.get("href") for tag, attrs in page.tags if tag in ("script", "link", "img")]
    for path in linked:
        assert path
        assert path.startswith("/static/")
        assert (await client.get(path)).headers["cache-control"].startswith("public")
    assert (await client.get("/static/..%2flayout.py")).status_code == 404
    assert (await client.get("/static/nothing.css")).status_code == 404


async def test_the_page_has_its_landmarks_and_every_field_a_name(start_web: Any) -> None:
    daemon, client = await start_web(config=QUEUED + AWAY + SIGNED[len(CAPTURE) :])
    await send(daemon, mail())
    browser = await Browser(client).sign_in("manage")

    for path in ("/", "/help"):
        page = await browser.get(path)
        assert page.tags[0] == ("html", {"lang": "en"})
        assert [len(page.all(tag)) for tag in ("main", "header", "h1")] == [1, 1, 1]
        assert page.all("a", class_="skip", href="#main")
        labelled = {label.get("for") for label in page.all("label")}
        for one in page.all("input") + page.all("select"):
            named = one.get("id") in labelled or one.get("aria-label") or one.get("type") in ("hidden", None)
            assert named or one == {"type": "checkbox"}  # inside its label


async def test_a_spool_that_cannot_be_read_is_an_error_page(start_web: Any) -> None:
    from bridge.spool.base import SpoolError

    daemon, client = await start_web(config=CAPTURE)

    async def broken(*args: Any, **values: Any) -> None:
        raise SpoolError("the <disk> is gone")

    daemon.spool.search = broken
    page = await Browser(client).get("/", 503)

    assert "The spool cannot be read: the <disk> is gone" in page.text


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("", Query()),
        ("ann  order", Query(words=("ann", "order"))),
        ('"your order"', Query(words=("your order",))),
        ("TO:ann from:shop@", Query(to=("ann",), sender=("shop@",))),
        ('to:"Ann B" to:c', Query(to=("Ann B", "c"))),
        ("Re: hello", Query(words=("Re:", "hello"))),
        ("urn:x http://a", Query(words=("urn:x", "http://a"))),
        ("status:FAILED provider:main", Query(status="failed", provider="main")),
        ("after:2026-11-01", Query(since=1793491200.0)),
        ("before:2026-11-01T01:00", Query(until=1793494800.0)),
        ("after:2h", Query(since=NOW - 7200)),
        ("after:3d", Query(since=NOW - 3 * 86400)),
        ('to:"unended', Query(to=("unended",))),
        ('to:""', Query()),
    ],
)
def test_what_is_typed_as_a_query(text: str, query: Query) -> None:
    assert parse_query(text, now=NOW) == query


def test_today_is_since_midnight() -> None:
    today = parse_query("after:today", now=NOW).since

    assert (today % 86400, 0 <= NOW - today < 86400) == (0, True)
    assert parse_query("after:yesterday", now=NOW).since == today - 86400


@pytest.mark.parametrize(
    "text", ["status:lost", "after:soon", "before:2026-13-01", "after:9999999h", "after:0001-01-01x"]
)
def test_what_is_no_query_is_said(text: str) -> None:
    with pytest.raises(QueryError):
        parse_query(text, now=NOW)


PARTS = st.sampled_from(["to:", "after:", "status:", '"', " ", "ann", ":", "2026-11-01", "9d", "\0", "é", "before:"])


@given(st.lists(PARTS | st.text(max_size=8), max_size=12).map("".join))
@settings(max_examples=60, deadline=None)
def test_a_query_is_never_a_crash(text: str) -> None:
    with contextlib.suppress(QueryError):
        parse_query(text, now=NOW)
