"""The pages: everything that came from outside is escaped, and nothing else may be loaded."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import httpx

from bridge.sandbox import Sandbox
from bridge.sandbox.mail import Mail
from bridge.sandbox.pages import message_page, messages_page
from bridge.sandbox.state import Received
from bridge.sandbox.twins.mimemail import mail_from_mime

MAIL: dict[str, Any] = {"to": "ann@example.com", "from": "shop@example.com", "subject": "Hi", "body": "Hello"}
HOSTILE = '"><script>alert(1)</script><img src=x onerror="alert(1)">\'</pre></title></style>'


class Tags(HTMLParser):
    """The elements of a page and the attributes they have."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}


def received(mail: Mail, **changes: Any) -> Received:
    parts = {
        "id": "msg_1",
        "at": 1_700_000_000.0,
        "shape": "sendgrid",
        "idempotency_key": mail.idempotency_key,
        "sender": mail.sender,
        "to": tuple(email for email, _ in mail.to),
        "cc": tuple(email for email, _ in mail.cc),
        "bcc": mail.bcc,
        "recipients": mail.recipients,
        "subject": mail.subject,
        "message_id": mail.message_id,
        "payload": {},
        "headers": (),
        "mail": mail,
    }
    return Received(**{**parts, **changes})


def text_of(page: bytes) -> str:
    return page.decode()


async def test_the_newest_message_comes_first_with_what_it_is_about(
    client: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    for subject in ("first", "second"):
        await client.post("/send-email", json={**MAIL, "subject": subject, "bcc": "eve@example.com"})
    sandbox.fail("sendgrid=429:3")
    page = await client.get("/")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.index("second") < page.text.index("first")
    assert "2023-11-14 22:13:20 UTC" in page.text
    assert 'eve@example.com <span class="quiet">(bcc)</span>' in page.text
    assert "Planned failures: mode=status status=429 count=3 provider=sendgrid" in page.text
    assert f'href="/sandbox/messages/{sandbox.messages[0].id}"' in page.text


async def test_the_pages_load_nothing_and_run_nothing(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    await client.post("/send-email", json=MAIL)
    for path in ("/", f"/sandbox/messages/{sandbox.messages[0].id}"):
        page = await client.get(path)
        style = re.search(r"<style>(.*?)</style>", page.text, re.DOTALL)

        assert style
        digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
        assert page.headers["content-security-policy"] == (
            f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert page.headers["x-content-type-options"] == "nosniff"
        assert not {"script", "img", "link", "iframe"} & Tags(page.text).found
        assert not {"src", "style", "onclick"} & Tags(page.text).attributes


def test_hostile_words_are_shown_and_not_obeyed() -> None:
    mail = Mail(
        sender="a@x.example",
        sender_name=HOSTILE,
        to=((HOSTILE, HOSTILE),),
        bcc=(HOSTILE,),
        recipients=(HOSTILE,),
        subject=HOSTILE,
        text=HOSTILE,
        html=HOSTILE,
        headers=((HOSTILE, HOSTILE),),
        attachments=mail_from_mime(
            b'Content-Type: text/x; name="<script>.txt"\r\nContent-Disposition: attachment\r\n\r\n', None
        ).attachments,
        tags=(HOSTILE,),
        metadata={HOSTILE: HOSTILE},
        message_id=HOSTILE,
        idempotency_key=HOSTILE,
    )
    message = received(mail, payload={HOSTILE: HOSTILE}, headers=(("x", HOSTILE),), shape=HOSTILE, id=HOSTILE)
    plan = [{"mode": HOSTILE}]
    for response in (messages_page([message], plan, HOSTILE), message_page(message)):
        page = text_of(response.body)

        assert "&lt;script&gt;" in page
        assert not {"script", "img"} & Tags(page).found
        assert not {"src", "onerror"} & Tags(page).attributes
    assert "&lt;script&gt;.txt" in text_of(message_page(message).body)


def test_who_is_shown_without_being_mailed_is_struck_out() -> None:
    mail = mail_from_mime(b"To: a@x.example, list@x.example\r\n\r\nhi", ["a@x.example", "b@x.example"])
    page = text_of(messages_page([received(mail)], []).body)

    assert "a@x.example<br><s>list@x.example</s>" in page
    assert 'b@x.example <span class="quiet">(bcc)</span>' in page


def test_a_message_page_has_its_envelope_its_texts_and_its_payload() -> None:
    raw = b"From: A <a@x.example>\r\nTo: b@x.example\r\nX-A: 1\r\nContent-Type: text/html\r\n\r\n<p>Hi</p>"
    mail = mail_from_mime(raw, ["b@x.example"], envelope_sender="")
    page = text_of(message_page(received(mail, payload={"raw": "x", "key": "***"}, provider_id="p1")).body)

    assert "<th>Envelope sender<td>&lt;&gt;" in page
    assert "<th>From<td>A &lt;a@x.example&gt;" in page
    assert "<th>Id of the provider<td>p1" in page
    assert "<th>X-A<td>1" in page
    assert "<pre>&lt;p&gt;Hi&lt;/p&gt;</pre>" in page
    assert "&quot;key&quot;: &quot;***&quot;" in page


def test_many_recipients_are_cut_short() -> None:
    people = tuple(f"p{number}@x.example" for number in range(50))
    page = text_of(messages_page([received(Mail(sender="", recipients=people))], []).body)

    assert "p19@x.example" in page
    assert "p20@x.example" not in page
    assert "and 30 more" in page


async def test_every_shape_has_a_page(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    envelope = {"from": "a@x.example", "to": ["b@x.example"]}
    full = {"envelope": envelope, "from": {"email": "a@x.example"}, "subject": "full", "body": 1}
    raw = {"envelope": envelope, "raw": base64.b64encode(b"Subject: raw\r\n\r\nHi").decode()}
    file = {"filename": "a.txt", "content": "aGk="}
    await client.post("/send-email", json={**MAIL, "html": "<p>", "attachments": [file]})
    await client.post("/send-full", json=full)
    await client.post("/send-raw", json=raw)

    pages = [await client.get(f"/sandbox/messages/{message.id}") for message in sandbox.messages]
    assert [page.status_code for page in pages] == [200, 200, 200]
    assert "<pre>&lt;p&gt;</pre>" in pages[0].text
    assert "a.txt" in pages[0].text
    assert "a.txt" in (await client.get("/")).text


async def test_the_page_can_be_had_for_one_kind(client: httpx.AsyncClient) -> None:
    await client.post("/send-email", json=MAIL)

    assert "1 message of simple" in (await client.get("/?kind=simple")).text
    assert "0 messages of sendgrid" in (await client.get("/?kind=sendgrid")).text


async def test_the_button_forgets_all_and_leads_back(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    await client.post("/send-email", json=MAIL)
    strange = await client.post("/sandbox/forget", headers={"Origin": "http://elsewhere.example"})
    assert (strange.status_code, len(sandbox.messages)) == (403, 1)
    done = await client.post("/sandbox/forget", headers={"Origin": sandbox.url})

    assert (done.status_code, done.headers["location"], done.content) == (303, "/", b"")
    assert sandbox.messages == []
