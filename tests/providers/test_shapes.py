"""The bodies of `kind = "rest"`, exactly."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.mime.parse import parse
from bridge.model import Addressing, Attachment, Email, Mailbox
from bridge.providers import shapes
from bridge.providers.display import format_mailbox
from tests.providers.conftest import PLAIN, TO_ANN

RICH = b"""From: "Shop, Inc." <shop@example.com>\r
To: Ann <ann@example.com>, bob@example.com\r
Cc: =?utf-8?q?J=C3=BCrgen?= <j@example.com>\r
Bcc: secret@example.com\r
Reply-To: Help <help@example.com>\r
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r
Date: Mon, 23 Nov 2026 03:27:18 +0000\r
Message-ID: <1@example.com>\r
X-Tag: one\r
x-tag: two\r
List-Unsubscribe: <https://example.com/u>\r
MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary=m\r
\r
--m\r
Content-Type: multipart/alternative; boundary=a\r
\r
--a\r
Content-Type: text/plain\r
\r
Text\r
--a\r
Content-Type: text/html\r
\r
<p>Text</p>\r
--a--\r
--m\r
Content-Type: application/pdf; name=a.pdf\r
Content-Disposition: attachment; filename=a.pdf\r
Content-Transfer-Encoding: base64\r
\r
JVBERi0x\r
--m\r
Content-Type: image/png\r
Content-ID: <logo>\r
Content-Disposition: inline; filename=logo.png\r
Content-Transfer-Encoding: base64\r
\r
iVBORw==\r
--m--\r
"""
TO_ALL = Addressing(
    reverse_path="bounces@example.com",
    to=(Mailbox("ann@example.com", "Ann"), Mailbox("bob@example.com")),
    cc=(Mailbox("j@example.com", "Jürgen"),),
    bcc=("secret@example.com",),
)


def as_json(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


def test_a_plain_mail_to_one_person_is_exactly_the_four_fields() -> None:
    assert orjson.dumps(shapes.simple(parse(PLAIN), TO_ANN)) == (
        b'{"to":"Ann <ann@example.com>","from":"Shop <shop@example.com>","subject":"Hello","body":"The text.\\n"}'
    )


def test_simple_has_the_rest_when_there_is_some() -> None:
    assert as_json(shapes.simple(parse(RICH), TO_ALL)) == {
        "to": ["Ann <ann@example.com>", "bob@example.com"],
        "from": '"Shop, Inc." <shop@example.com>',
        "subject": "Grüße",
        "body": "Text",
        "cc": "Jürgen <j@example.com>",
        "bcc": "secret@example.com",
        "reply_to": "Help <help@example.com>",
        "html": "<p>Text</p>",
        "headers": {"X-Tag": ["one", "two"], "List-Unsubscribe": "<https://example.com/u>"},
        "attachments": [
            {"filename": "a.pdf", "content_type": "application/pdf", "content": "JVBERi0x"},
            {"filename": "logo.png", "content_type": "image/png", "content": "iVBORw==", "content_id": "logo"},
        ],
    }


def test_full_is_everything_with_the_envelope() -> None:
    assert as_json(shapes.full(parse(RICH), TO_ALL, key="Q-1")) == {
        "id": "Q-1",
        "envelope": {
            "from": "bounces@example.com",
            "to": ["ann@example.com", "bob@example.com", "j@example.com", "secret@example.com"],
        },
        "from": {"email": "shop@example.com", "name": "Shop, Inc."},
        "to": [{"email": "ann@example.com", "name": "Ann"}, {"email": "bob@example.com", "name": ""}],
        "cc": [{"email": "j@example.com", "name": "Jürgen"}],
        "bcc": [{"email": "secret@example.com", "name": ""}],
        "reply_to": [{"email": "help@example.com", "name": "Help"}],
        "subject": "Grüße",
        "date": "Mon, 23 Nov 2026 03:27:18 +0000",
        "message_id": "<1@example.com>",
        "text": "Text",
        "html": "<p>Text</p>",
        "alternatives": [],
        "attachments": [
            {
                "filename": "a.pdf",
                "content_type": "application/pdf",
                "content_id": "",
                "disposition": "attachment",
                "size": 6,
                "content": "JVBERi0x",
            },
            {
                "filename": "logo.png",
                "content_type": "image/png",
                "content_id": "logo",
                "disposition": "inline",
                "size": 4,
                "content": "iVBORw==",
            },
        ],
        "headers": [
            {"name": "X-Tag", "value": "one"},
            {"name": "x-tag", "value": "two"},
            {"name": "List-Unsubscribe", "value": "<https://example.com/u>"},
        ],
        "tags": [],
        "metadata": {},
    }


def test_raw_is_the_mime_without_bcc_and_the_envelope() -> None:
    found = as_json(shapes.raw(parse(RICH), TO_ALL, key="Q-1"))

    assert list(found) == ["id", "envelope", "raw"]
    assert found["envelope"]["to"][-1] == "secret@example.com"
    assert base64.b64decode(found["raw"]) == RICH.replace(b"Bcc: secret@example.com\r\n", b"")


@pytest.mark.parametrize("make", [shapes.simple, shapes.full, shapes.raw])
def test_a_bcc_is_in_no_place_but_those_for_it(make: Any) -> None:
    to_ann = replace(TO_ALL, bcc=())
    args = {} if make is shapes.simple else {"key": "Q-1"}
    body = as_json(make(parse(RICH), to_ann, **args))
    if "raw" in body:
        body["raw"] = base64.b64decode(body["raw"]).decode()

    assert "secret@" not in str(body)


@pytest.mark.parametrize(
    ("mailbox", "text"),
    [
        (Mailbox("a@example.com"), "a@example.com"),
        (Mailbox("a@example.com", "Ann Lee"), "Ann Lee <a@example.com>"),
        (Mailbox("a@example.com", "Lee, Ann"), '"Lee, Ann" <a@example.com>'),
        (Mailbox("a@example.com", 'Ann "A" \\ Lee'), '"Ann \\"A\\" \\\\ Lee" <a@example.com>'),
        (Mailbox("a@example.com", "a@example.com"), '"a@example.com" <a@example.com>'),
        (Mailbox("a@example.com", "Jürgen Ö"), "Jürgen Ö <a@example.com>"),
        (Mailbox("a@example.com", "Ann\r\nBcc: x@example.com"), '"Ann Bcc: x@example.com" <a@example.com>'),
        (Mailbox("a@example.com", "Ann\x00\u2028\x85"), "Ann <a@example.com>"),
        (Mailbox("jürgen@exämple.com", "J"), "J <jürgen@exämple.com>"),
    ],
)
def test_addresses_are_written_as_in_a_header(mailbox: Mailbox, text: str) -> None:
    assert format_mailbox(mailbox) == text


@given(st.text(max_size=60))
def test_no_name_can_start_another_line_or_leave_its_quotes(name: str) -> None:
    text = format_mailbox(Mailbox("a@example.com", name))

    assert len(text.splitlines()) == 1
    assert text.endswith("a@example.com") or text.endswith("<a@example.com>")


def test_a_subject_stays_one_line() -> None:
    email = replace(parse(PLAIN), subject="Hi\r\nBcc: x@example.com", headers=(("X-A", "1\nX-B: 2"),))
    found = shapes.simple(email, TO_ANN)

    assert (found["subject"], found["headers"]) == ("Hi Bcc: x@example.com", {"X-A": "1 X-B: 2"})


def test_without_a_from_the_reverse_path_is_the_sender() -> None:
    email = parse(PLAIN.replace(b"From: Shop <shop@example.com>\r\n", b""))

    assert shapes.simple(email, TO_ANN)["from"] == "shop@example.com"


def test_a_bounce_comes_from_its_from_header() -> None:
    assert shapes.simple(parse(PLAIN), replace(TO_ANN, reverse_path=""))["from"] == "Shop <shop@example.com>"
    assert shapes.full(parse(PLAIN), replace(TO_ANN, reverse_path=""), key="k")["envelope"]["from"] == ""


def test_html_alone_gives_its_text_as_body() -> None:
    email = replace(parse(PLAIN), text="", html="<h1>Hi</h1><p>Ann &amp; Bob</p>")

    assert shapes.simple(email, TO_ANN)["body"] == "Hi\n\nAnn & Bob"


@pytest.mark.parametrize("make", [lambda e: shapes.simple(e, TO_ALL), lambda e: shapes.full(e, TO_ALL, key="k")])
def test_the_same_mail_gives_the_same_bytes(make: Any) -> None:
    assert orjson.dumps(make(parse(RICH))) == orjson.dumps(make(parse(RICH)))


@pytest.mark.serial
def test_large_attachments_pass_through_without_being_looked_at(email: Email) -> None:
    encoded = b"QUJD" * 3_500_000
    attachment = Attachment(filename="a", content_type="application/pdf", encoded=encoded, size=10_500_000)
    email = replace(email, attachments=(attachment,))

    took = []
    for _ in range(5):
        started = time.perf_counter()
        body = orjson.dumps(shapes.simple(email, TO_ANN))
        took.append(time.perf_counter() - started)

    assert body.count(encoded) == 1
    assert min(took) < 0.1  # a few ms; the bound only keeps copies by the dozen out


def test_the_neutral_tag_and_metadata_have_fields_of_their_own_in_the_full_shape() -> None:
    raw = RICH.replace(b"Subject:", b"X-Bridge-Tag: welcome\r\nX-Bridge-Metadata: order=17\r\nSubject:", 1)
    made = shapes.full(parse(raw), TO_ALL, key="K")

    assert (made["tags"], made["metadata"]) == (["welcome"], {"order": "17"})
    assert not [h for h in made["headers"] if h["name"].startswith("X-Bridge")]
