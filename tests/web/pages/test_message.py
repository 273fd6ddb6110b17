"""The page of one message: what it shows, what of it is hostile and stays harmless, its frame, its files, its request."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import smtplib
import time
from collections.abc import Sequence
from email.message import EmailMessage
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.mime.parse import parse
from bridge.model import Attachment, Envelope, Message
from bridge.providers import catalogue
from bridge.providers.base import Policy
from bridge.reply import Reply
from bridge.spool.base import Result
from bridge.spool.ids import new_queue_id
from bridge.web.pages import letter
from bridge.web.pages.as_sent import MAX_CALLS, masked, masked_url, requests_of
from bridge.web.pages.message import VIEWS
from tests.web.pages.conftest import AWAY, CAPTURE, QUEUED, SIGNED, Browser, Page, mail, send

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HTML = '<html><head><meta http-equiv="refresh" content="0;url=https://evil.example"><link rel="preconnect" href="//x">'
HTML += '<base href="https://evil.example/"></head><body><script>alert(1)</script><img src="cid:pic@x"><p>Grüße</p>'
HTML += '<img src="https://tracker.example/p.gif"></body></html>'


def rich() -> EmailMessage:
    made = mail("Größe", text="plain words\n")
    made["X-Campaign"] = "autumn"
    made.add_alternative(HTML, subtype="html")
    made.get_payload()[1].add_related(PIXEL, "image", "png", cid="<pic@x>")
    made.add_attachment(b"%PDF-1.4", "application", "pdf", filename="Übersicht & <b>.pdf")
    made.add_attachment("<script>alert(1)</script>", subtype="html", filename="page.html")
    return made


async def test_what_stands_on_each_view(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    (queue_id,) = await send(daemon, rich())
    browser = Browser(client)

    async def view(name: str) -> Page:
        return await browser.get(f"/mail/{queue_id}?view={name}")

    delivery = await view("delivery")
    assert "Größe" in delivery.text
    assert f"main, its id {queue_id}" in delivery.text
    assert f"250 2.0.0 Ok: sent, id {queue_id}" in delivery.text
    assert "plain words" in (await view("text")).text
    headers = (await view("headers")).text
    assert all(word in headers for word in ("X-Campaign autumn", "Received from", "Subject Größe"))
    files = await view("files")
    assert [a["href"] for a in files.all("a", download="")] == [f"/mail/{queue_id}/files/{n}" for n in (1, 2, 3)]
    assert "Übersicht & <b>.pdf" in files.text
    assert "X-Campaign: autumn" in (await view("source")).text
    request = (await view("request")).text
    assert "Captured: it goes nowhere" in request
    assert "RCPT TO: <ann@example.com>" in request
    assert [a["href"] for a in delivery.all("a") if "view=" in a["href"]] == [
        f"/mail/{queue_id}?view={name}" for name in VIEWS
    ]


async def test_a_development_inbox_shows_the_mail_first_and_a_relay_what_became_of_it(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    html, plain = await send(daemon, rich(), mail())
    browser = Browser(client)

    assert (await browser.get(f"/mail/{html}")).all("iframe")
    assert "It works" in (await browser.get(f"/mail/{plain}")).text
    assert not (await browser.get(f"/mail/{plain}?view=html")).all("iframe")
    assert (await browser.get(f"/mail/{html}?view=<b>")).all("iframe")


async def test_a_relay_shows_what_became_of_it_first(start_web: Any) -> None:
    daemon, client = await start_web(config=QUEUED + AWAY)
    (queue_id,) = await send(daemon, rich())

    page = await Browser(client).get(f"/mail/{queue_id}")

    assert not page.all("iframe")
    assert all(word in page.text for word in ("Next attempt", "Given up", "ann@example.com"))


async def test_every_attempt_with_the_providers_own_words(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    now = daemon.clock.now()
    people = ("ann@example.com", "bob@example.com")
    message = Message(
        queue_id=new_queue_id(), envelope=Envelope(reverse_path="", recipients=people), raw=b"Subject: x\r\n\r\nx\r\n",
        created_at=now, expires_at=now + 1000, kind="dsn",
    )  # fmt: skip
    refused = Result(
        status="bounced", reply=Reply(550, "5.1.1", "No such <user>"), provider="main", provider_message_id="p-7",
        detail="HTTP 422: mailbox & unknown",
    )  # fmt: skip
    later = Result(status="deferred", reply=Reply(451, "4.7.1", "Greylisted"), provider="main", at=now + 900)
    await daemon.spool.put(message, results={people[0]: refused, people[1]: later})

    page = await Browser(client).get(f"/mail/{message.queue_id}?view=delivery")

    assert "550 5.1.1 No such <user>" in page.text
    assert "HTTP 422: mailbox & unknown" in page.text
    assert "its id p-7" in page.text
    assert "451 4.7.1 Greylisted" in page.text
    assert "<> → ann@example.com, bob@example.com" in page.text
    assert not page.all("user")
    listed = await Browser(client).get("/")
    assert "main: 550 5.1.1 No such <user>" in listed.text


async def test_what_became_of_it_is_asked_for_again_while_something_is_to_come(start_web: Any) -> None:
    daemon, client = await start_web(config=QUEUED + AWAY)
    (queue_id,) = await send(daemon, mail())
    page = await Browser(client).get(f"/mail/{queue_id}")

    (box,) = [attrs["data-delivery"] for attrs in page.all("section") if "data-delivery" in attrs]
    (fragment,) = [attrs for attrs in (await Browser(client).get(box)).all("div") if "data-fragment" in attrs]
    assert "data-waits" in fragment
    await daemon.spool.hold([queue_id], now=daemon.clock.now())
    await daemon.spool.drop([queue_id], now=daemon.clock.now())
    async with asyncio.timeout(10):
        while (await daemon.spool.show(queue_id))["status"] != "dropped":  # an attempt was running
            await asyncio.sleep(0.01)
            await daemon.spool.drop([queue_id], now=daemon.clock.now())
    (fragment,) = [attrs for attrs in (await Browser(client).get(box)).all("div") if "data-fragment" in attrs]
    assert (fragment["data-state"], "data-waits" in fragment) == ("dropped", False)


async def test_a_message_without_its_content_says_so(start_web: Any) -> None:
    from tests.web.pages.test_mails import put

    daemon, client = await start_web(config=CAPTURE)
    (queue_id,) = await put(daemon, 1)
    browser = Browser(client)

    page = await browser.get(f"/mail/{queue_id}?view=source")
    assert "is not kept any more" in page.text
    assert [a["href"] for a in page.all("a") if "view=" in a["href"]] == [f"/mail/{queue_id}?view=delivery"]
    for path in ("html", "raw", "files/1"):
        assert "is not kept any more" in (await browser.get(f"/mail/{queue_id}/{path}", 404)).text


async def test_a_message_that_is_not_there(start_web: Any) -> None:
    _, client = await start_web(config=CAPTURE)

    for name in ("1GONE", "<b>", "..%2f..", "x" * 100, "%00"):
        answer = await client.get(f"/mail/{name}")
        assert (answer.status_code, "<b>" in answer.text) == (404, False)


async def test_nobody_sees_a_message_without_a_key(start_web: Any) -> None:
    daemon, client = await start_web(config=SIGNED)
    (queue_id,) = await send(daemon, rich())

    for path in ("", "/html", "/raw", "/files/1", "?view=source"):
        answer = await client.get(f"/mail/{queue_id}{path}")
        assert (answer.status_code, answer.headers["location"].startswith("/sign-in?")) == (303, True)
    for path in ("/", "/list", "/help"):
        assert (await client.get(path)).status_code == 303


# the frame


async def test_the_frame_may_run_nothing_and_fetch_nothing(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    (queue_id,) = await send(daemon, rich())
    page = await Browser(client).get(f"/mail/{queue_id}?view=html")

    (frame,) = page.all("iframe")
    assert set(frame["sandbox"].split()) == {"allow-popups", "allow-popups-to-escape-sandbox"}
    assert "Remote content is blocked" in page.text
    answer = await client.get(frame["src"])
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'", "style-src": "'unsafe-inline'", "img-src": "data:", "form-action": "'none'",
        "base-uri": "'none'", "frame-ancestors": "'self'", "sandbox": "allow-popups allow-popups-to-escape-sandbox",
    }  # fmt: skip
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    inside = Page(answer.text)
    assert inside.all("base") == [{"target": "_blank"}]
    assert inside.all("meta") == [{"charset": "utf-8"}]
    assert not inside.all("link")
    assert inside.all("img")[0]["src"] == f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    assert "Grüße" in inside.text


async def test_remote_pictures_come_when_asked_for_and_nothing_else(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    (queue_id,) = await send(daemon, rich())
    page = await Browser(client).get(f"/mail/{queue_id}?view=html&remote=1")

    (frame,) = page.all("iframe")
    policy = (await client.get(frame["src"])).headers["content-security-policy"]
    assert "img-src data: https: http:;" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert page.all("a", href=f"/mail/{queue_id}?view=html")


def picture(content_id: str, kind: str = "image/png", size: int = 4) -> Attachment:
    return Attachment(filename="", content_type=kind, encoded=b"AAAA", size=size, content_id=content_id)


def whole_letter(html: str, files: Sequence[Attachment]) -> str:
    return b"".join(map(bytes, letter.letter(html, files))).decode()


def test_only_pictures_of_the_mail_are_put_into_it_and_not_without_end() -> None:
    half = letter.MAX_EMBEDDED // 2
    files = [
        picture("a", size=half),
        picture("b", size=half),
        picture("c"),
        picture("s", "image/svg+xml"),
        picture("t/x y"),
    ]

    def shown(cid: str) -> bool:
        return "data:" in whole_letter(f'<img src="{cid}">', files)

    assert [shown(f"cid:{name}") for name in ("a", "CID:a"[4:], "s", "z", "t%2Fx%20y")] == [
        True,
        True,
        False,
        False,
        True,
    ]
    whole = whole_letter("<img src=cid:a><img src=cid:b><img src=cid:c>", files)
    assert whole.count("data:image/png") == 2


@pytest.mark.parametrize("tag", ["<LINK rel=x>", "<meta/http-equiv=refresh>", "<base\nhref=x>", "</base>", "<link>"])
def test_what_a_policy_says_nothing_of_is_taken_out(tag: str) -> None:
    inside = Page(whole_letter(f"<p>{tag}", ())).tags[3:]

    assert [name for name, _ in inside if name in ("link", "meta", "base")] == []
    assert whole_letter("<linker><basefont><metadata>", ()).endswith("<linker><basefont><metadata>")


@pytest.mark.parametrize(
    ("html", "remote"),
    [
        ('<img src="https://a/b">', True), ("<img src=//a/b>", True), ("<p style='background:url(http://a)'>", True),
        ("<img srcset='https://a 2x'>", True), ('<a href="https://a">', False), ("<img src=cid:a>", False),
    ],
)  # fmt: skip
def test_whether_there_is_something_remote(html: str, remote: bool) -> None:
    assert letter.has_remote(html) is remote


def test_looking_for_something_remote_takes_no_time_over_spaces() -> None:
    before = time.process_time()

    assert not letter.has_remote("src=" + " " * 500_000)
    assert not letter.has_remote("src " * 100_000)
    assert time.process_time() - before < 2


# files


async def test_a_file_is_only_ever_saved(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    (queue_id,) = await send(daemon, rich())

    answers = [await client.get(f"/mail/{queue_id}/files/{number}") for number in (1, 2, 3)]
    assert [answer.content for answer in answers][:2] == [PIXEL, b"%PDF-1.4"]
    for answer in (*answers, await client.get(f"/mail/{queue_id}/raw")):
        assert answer.headers["content-disposition"].startswith("attachment; ")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answers[1].headers["content-disposition"].endswith("filename*=UTF-8''%C3%9Cbersicht%20%26%20b.pdf") or (
        "%C3%9Cbersicht" in answers[1].headers["content-disposition"]
    )
    assert answers[2].headers["content-type"] == "text/html"
    assert (await client.get(f"/mail/{queue_id}/files/4")).status_code == 404
    assert (await client.get(f"/mail/{queue_id}/files/0")).status_code == 404
    raw = await client.get(f"/mail/{queue_id}/raw")
    assert raw.content == await daemon.spool.body(queue_id)


# what is sent


async def test_the_request_is_shown_without_its_secrets(start_web: Any) -> None:
    daemon, client = await start_web(config=QUEUED + AWAY)
    made = mail("Order", text="It works\n")
    made["Bcc"] = "hidden@example.com"
    (queue_id,) = await send(daemon, made)

    page = await Browser(client).get(f"/mail/{queue_id}?view=request")

    assert "POST http://127.0.0.1:9/" in page.text
    assert "?token=***" in page.text
    assert "authorization: ***" in page.text
    assert '"subject": "Order"' in page.text
    assert f"idempotency-key: {queue_id}-" in page.text
    assert not any(secret in page.html for secret in ("sesame-open", "very-secret"))


async def test_the_request_of_an_api_of_the_catalogue(start_web: Any) -> None:
    postmark = '[[provider]]\nkind = "postmark"\napi_key = "pm-very-secret"\nurl = "http://127.0.0.1:9"\n'
    daemon, client = await start_web(config=QUEUED + postmark)
    (queue_id,) = await send(daemon, rich())

    page = await Browser(client).get(f"/mail/{queue_id}?view=request")

    assert "POST http://127.0.0.1:9/email" in page.text
    assert "x-postmark-server-token: ***" in page.text.lower()
    assert '"Subject": "Größe"' in page.text
    assert "pm-very-secret" not in page.html


SECRET = base64.b64encode(b"never to be seen").decode()
WANTED = {"url": "http://127.0.0.1:9", "region": "eu-west-1", "domain": "example.org", "account_id": "a1"}


@pytest.mark.parametrize("kind", [kind for kind in catalogue.KINDS if kind != "gmail"])  # whose key is a file
def test_no_secret_of_any_api_is_shown(kind: str) -> None:
    adapter = catalogue.adapter(kind)
    given = {
        one.name: SECRET if not one.repr else WANTED[one.name]
        for one in dataclasses.fields(adapter.Settings)
        if not one.repr or one.name in WANTED
    }
    provider = adapter("one", Policy(), adapter.Settings(**given), transport=httpx.AsyncHTTPTransport())

    made = requests_of(
        provider,
        parse(rich().as_bytes()),
        reverse_path="shop@example.org",
        recipients=("ann@example.com",),
        queue_id="1K",
    )

    assert [one.line.startswith("POST http://127.0.0.1:9/") for one in made] == [True]
    assert made[0].body
    assert SECRET not in str(made)
    signs = bool(provider.auth)
    assert signs or ("***" in str(made[0].headers) + made[0].body)


def test_many_calls_and_a_large_body_are_shown_in_part() -> None:
    adapter = catalogue.adapter("postmark")
    provider = adapter("one", Policy(), adapter.Settings(**{"api_key": SECRET}), transport=httpx.AsyncHTTPTransport())
    large = rich()
    large.add_attachment(b"\xff" * 3_000_000, "application", "octet-stream", filename="large")
    people = tuple(f"hidden{number}@example.net" for number in range(400))

    *shown, rest = requests_of(
        provider, parse(large.as_bytes()), reverse_path="shop@example.org", recipients=people, queue_id="1K"
    )

    assert len(shown) == MAX_CALLS
    assert rest.note == "In further calls like these"
    assert tuple(one for call in (*shown, rest) for one in call.recipients) == people
    assert "… (4000000 characters)" in shown[0].body
    assert (shown[0].size > 4_000_000, len(shown[0].body) < 20_000) == (True, True)


async def test_a_provider_that_is_not_there_any_more(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    (queue_id,) = await send(daemon, mail())
    daemon.dispatchers._state = dataclasses.replace(daemon.dispatchers._state, by_name={})  # as after a reload

    page = await Browser(client).get(f"/mail/{queue_id}?view=request")

    assert "not configured any more" in page.text


def test_secrets_are_masked_in_each_of_their_forms() -> None:
    secrets = ('pass"word/1',)

    assert masked('pass"word/1 pass\\"word/1 pass%22word%2F1 pass%22word/1', secrets) == "*** *** *** ***"
    assert masked("a b", ("a",)) == "a b"
    url = httpx.URL("https://user:pw@api.example:8443/v1/hooks/T0ABCDEF12345678xyz/send?key=abc&to=b")
    assert masked_url(url, ()) == "https://api.example:8443/v1/hooks/***/send?key=***&to=***"


# what is hostile stays text

NASTY = st.sampled_from(
    [
        "<zq onzq=1>",
        '"><zq>',
        "'><zq>",
        '" onzq="1',
        "</pre><zq>",
        "</title><zq>",
        "&lt;zq&gt;",
        "{{ 7*'7' }}",
        "<!--<zq>",
        "&",
    ]
)
TEXT = st.lists(
    NASTY | st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=10), max_size=5
).map("".join)


def no_markup_of_theirs(html: str) -> None:
    assert "<zq" not in html.lower()
    page = Page(html)
    assert not [name for name, _ in page.tags if "zq" in name]
    assert not [attrs for _, attrs in page.tags if any("zq" in name for name in attrs)]
    assert "7777777" not in html


async def test_nothing_of_a_mail_becomes_markup_of_the_page(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    base = str(client.base_url)
    port = daemon.listeners[0].port
    number = 0

    @given(st.fixed_dictionaries(dict.fromkeys(("subject", "name", "header", "file", "text", "local", "helo"), TEXT)))
    @settings(max_examples=6, deadline=None)
    def check(words: dict[str, str]) -> None:
        nonlocal number
        number += 1
        local = "".join(c for c in words["local"] if c.isascii() and c.isprintable() and c not in '"\\')[:40] or "x"
        raw = (
            f'From: "{words["name"]}" <shop@example.org>\nTo: "{words["name"]}" <"{local}"@example.com>\n'
            f"Subject: {words['subject']}\nX-Note: {words['header']}\nMessage-ID: <{number}{words['header']}>\n"
            'Content-Type: multipart/mixed; boundary="b"\n\n--b\nContent-Type: text/plain; charset=utf-8\n\n'
            f"{words['text']}\n--b\nContent-Type: text/html; charset=utf-8\n\n<p>x\n--b\n"
            f'Content-Type: application/x; name="{words["file"]}"\n'
            f'Content-Disposition: attachment; filename="{words["file"]}"\n\nx\n--b--\n'
        )
        with smtplib.SMTP("127.0.0.1", port) as smtp:
            smtp.ehlo()
            smtp.docmd("MAIL", "FROM:<shop@example.org> BODY=8BITMIME")
            assert smtp.docmd("RCPT", f'TO:<"{local}"@example.com>')[0] == 250
            assert smtp.data(raw.encode("utf-8", "replace"))[0] == 250
        with httpx.Client(base_url=base, trust_env=False) as http:
            listed = http.get("/").text
            no_markup_of_theirs(listed)
            newest = Page(listed).ids[0]
            for view in VIEWS:
                answer = http.get(f"/mail/{newest}?view={view}")
                assert answer.status_code == 200
                no_markup_of_theirs(answer.text)
            saved = http.get(f"/mail/{newest}/files/1").headers["content-disposition"]
            assert saved.count('"') == 2
            found = http.get("/", params={"q": words["subject"]})
            assert found.status_code == 200
            no_markup_of_theirs(found.text)

    await asyncio.to_thread(check)
    assert number >= 6


async def test_many_recipients_are_shown_in_pages(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    people = tuple(f"u{number:03}@example.org" for number in range(120))
    now = daemon.clock.now()
    message = Message(
        queue_id=new_queue_id(), envelope=Envelope(reverse_path="", recipients=people), raw=b"Subject: x\r\n\r\nx\r\n",
        created_at=now, expires_at=now + 1000,
    )  # fmt: skip
    sent = Result(status="sent", reply=Reply(250, "2.0.0", "Ok"), provider="main")
    bad = Result(status="bounced", reply=Reply(550, "5.1.1", "No such user"), provider="main")
    await daemon.spool.put_history(message, dict.fromkeys(people, sent) | {people[110]: bad})
    browser, path = Browser(client), f"/mail/{message.queue_id}?view=delivery"

    seen = []
    while path:
        page = await browser.get(path)
        assert "120 recipients: 1 bounced, 119 sent" in page.text
        seen.append([one for one in people if one in page.text])
        path = next((a["href"] for a in page.all("a", rel="next")), "")
    assert seen == [list(people[:50]), list(people[50:100]), list(people[100:])]
    listed = await browser.get("/")
    assert "u000@example.org and 119 more" in listed.text
    assert "main: 550 5.1.1 No such user" in listed.text
    assert (await browser.get("/?q=to:u119")).ids == [message.queue_id]
