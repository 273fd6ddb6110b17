from __future__ import annotations

import base64
import hashlib
from typing import Any

import orjson
import pytest

from bridge.sandbox.exchange import Refusal, Request
from bridge.sandbox.payloads import KEPT_CONTENT, Submission, read_full, read_raw, read_simple

MAIL = {"to": "ann@example.com", "from": "shop@example.com", "subject": "Hi", "body": "Hello\n"}
FILE = {"filename": "a.txt", "content_type": "text/plain", "content": "YWJj"}
FULL = {
    "id": "q1",
    "envelope": {"from": "shop@example.com", "to": ["ann@example.com", "eve@example.com"]},
    "from": {"email": "shop@example.com", "name": "Shop"},
    "to": [{"email": "list@example.com", "name": ""}],
    "subject": "Hi",
    "message_id": "<1@example.com>",
}
RAW = b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <1@example.com>\r\n\r\nHello\r\n"


def simple(**changes: Any) -> Submission:
    """The plain mail with changed fields; a field given as `...` is left out."""
    payload = {name: value for name, value in {**MAIL, **changes}.items() if value is not ...}
    return read_simple(request(payload), 5)


def request(payload: Any, *headers: tuple[str, str]) -> Request:
    body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
    return Request(method="POST", path="/", headers=headers, body=body)


def full(**changes: Any) -> Submission:
    return read_full(request({name: value for name, value in {**FULL, **changes}.items() if value is not ...}), 5)


def test_the_four_fields_are_a_whole_mail() -> None:
    mail = simple()

    assert (mail.sender, mail.recipients, mail.subject) == ("shop@example.com", ("ann@example.com",), "Hi")
    assert mail.payload == MAIL


def test_everything_optional_is_taken_together() -> None:
    mail = simple(
        **{"from": "Shop <shop@example.com>"},
        to=["Ann <ann@example.com>", "bob@example.com"],
        cc="cy@example.com",
        bcc=["dee@example.com"],
        reply_to=["help@example.com"],
        html="<p>Hello",
        headers={"Message-ID": "<1@example.com>", "X-Tag": "a", "Received": ["one", "two"]},
        attachments=[FILE, {"filename": "", "content": "", "content_id": "logo"}],
        subject="",
        body="",
    )

    assert (mail.to, mail.cc, mail.bcc) == (
        ("ann@example.com", "bob@example.com"),
        ("cy@example.com",),
        ("dee@example.com",),
    )
    assert mail.recipients == (*mail.to, *mail.cc, *mail.bcc)
    assert mail.message_id == "<1@example.com>"
    assert mail.payload["attachments"][0] == FILE


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"nmae": "x"}, "nmae"),
        *[({name: ...}, name) for name in MAIL],
        *[({name: 5}, name) for name in MAIL],
        *[({name: None}, name) for name in (*MAIL, "cc", "html", "headers", "attachments")],
        ({"to": []}, "to"),
        ({"to": ""}, "to"),
        ({"to": [["ann@example.com"]]}, "to[0]"),
        ({"to": {"email": "ann@example.com"}}, "to"),
        ({"to": ["ann@example.com", "bob"]}, "to[1]"),
        ({"to": "ann@example.com, bob@example.com"}, "to"),
        ({"from": ["shop@example.com"]}, "from"),
        ({"reply_to": "nobody"}, "reply_to"),
        ({"subject": "a\r\nBcc: eve@example.com"}, "subject"),
        ({"body": "a\0b"}, "body"),
        ({"html": ["x"]}, "html"),
        ({"headers": ["X-A: b"]}, "headers"),
        ({"headers": {"X A": "b"}}, "headers"),
        ({"headers": {"X-A": 5}}, "headers.X-A"),
        ({"headers": {"X-A": "b\nBcc: eve@example.com"}}, "headers.X-A"),
        ({"headers": {"bcc": "eve@example.com"}}, "headers.bcc"),
        ({"headers": {"Resent-Bcc": "eve@example.com"}}, "headers.Resent-Bcc"),
        ({"headers": {"Content-Type": "text/html"}}, "headers.Content-Type"),
        ({"attachments": FILE}, "attachments"),
        ({"attachments": ["a.txt"]}, "attachments[0]"),
        ({"attachments": [FILE, {"filename": "b"}]}, "attachments[1].content"),
        ({"attachments": [{"content": ""}]}, "attachments[0].filename"),
        ({"attachments": [{**FILE, "size": 3}]}, "attachments[0].size"),
        ({"attachments": [{**FILE, "content": "YWJ"}]}, "attachments[0].content"),
        ({"attachments": [{**FILE, "content": "YW\nJj"}]}, "attachments[0].content"),
        ({"attachments": [{**FILE, "content": "YWJjé"}]}, "attachments[0].content"),
        ({"attachments": [{**FILE, "content": 5}]}, "attachments[0].content"),
        ({"attachments": [{**FILE, "filename": "../a"}]}, "attachments[0].filename"),
        ({"attachments": [{**FILE, "filename": "a\\b"}]}, "attachments[0].filename"),
        ({"attachments": [{**FILE, "content_type": "text"}]}, "attachments[0].content_type"),
        ({"attachments": [{**FILE, "content_id": "a\nb"}]}, "attachments[0].content_id"),
    ],
)
def test_a_field_that_is_wrong_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Refusal) as refused:
        simple(**changes)

    assert (refused.value.status, refused.value.code, refused.value.field) == (422, "validation_error", field)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"to": ["ann@example.com", "Ann <ann@EXAMPLE.com>"]}, "to"),
        ({"cc": "ann@example.com"}, "cc"),
        ({"bcc": ["eve@example.com", "ann@example.com"]}, "bcc"),
    ],
)
def test_an_address_given_twice_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Refusal) as refused:
        simple(**changes)

    assert refused.value.field == field
    assert "second time" in refused.value.message


def test_a_local_part_that_differs_in_case_is_another_recipient() -> None:
    assert len(simple(cc="Ann@example.com").recipients) == 2


def test_recipients_are_counted_over_all_fields() -> None:
    five = [f"r{n}@example.com" for n in range(4)]

    assert len(simple(to=five, bcc="x@example.com").recipients) == 5
    with pytest.raises(Refusal) as refused:
        simple(to=five, cc="x@example.com", bcc="y@example.com")
    assert (refused.value.field, "more than 5" in refused.value.message) == ("to", True)


@pytest.mark.parametrize("body", [b"", b"{", b'{"to": NaN}', b'{"to": "\xff"}', b'{"to": "\\ud800"}', b"[" * 5000])
def test_what_is_not_json_is_400_and_not_quoted(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read_simple(request(body), 5)

    assert (refused.value.status, refused.value.code) == (400, "invalid_json")
    assert refused.value.message == "the body is not valid JSON in UTF-8"


def test_json_that_is_no_object_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        read_simple(request([MAIL]), 5)

    assert refused.value.status == 422


def test_equal_payloads_have_one_fingerprint_whatever_their_order() -> None:
    turned = dict(reversed(MAIL.items()))

    assert read_simple(request(turned), 5).fingerprint == simple().fingerprint != simple(body="Hello").fingerprint


def test_large_content_is_kept_as_its_size_and_hash() -> None:
    small, large = bytes(KEPT_CONTENT), bytes(KEPT_CONTENT + 1)
    encoded = [base64.b64encode(content).decode() for content in (small, large)]
    kept = simple(attachments=[{"filename": "f", "content": content} for content in encoded]).payload["attachments"]

    assert kept[0] == {"filename": "f", "content": encoded[0]}
    assert kept[1] == {"filename": "f", "size": len(large), "sha256": hashlib.sha256(large).hexdigest()}


def test_full_mails_the_envelope_and_lets_unknown_fields_pass() -> None:
    mail = full(tags=["a"], attachments=[{**FILE, "size": 3, "disposition": "inline"}])

    assert mail.recipients == ("ann@example.com", "eve@example.com")
    assert (mail.to, mail.message_id) == (("list@example.com",), "<1@example.com>")
    assert mail.payload["tags"] == ["a"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"envelope": ...}, "envelope"),
        ({"envelope": {"to": ["a@x.example"]}}, "envelope.from"),
        ({"envelope": {"from": "", "to": []}}, "envelope.to"),
        ({"envelope": {"from": "", "to": "a@x.example"}}, "envelope.to"),
        ({"envelope": {"from": "", "to": ["A <a@x.example>"]}}, "envelope.to[0]"),
        ({"envelope": {"from": "", "to": ["a@x.example", "a@X.example"]}}, "envelope.to"),
        ({"from": "shop@example.com"}, "from"),
        ({"from": {"name": "Shop"}}, "from.email"),
        ({"to": ["a@x.example"]}, "to"),
        ({"subject": ...}, "subject"),
        ({"attachments": [{"filename": "a", "content": "YQ=="}]}, "attachments[0].content_type"),
        ({"attachments": [{**FILE, "content": "?"}]}, "attachments[0].content"),
    ],
)
def test_full_names_what_is_missing_or_wrong(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Refusal) as refused:
        full(**changes)

    assert (refused.value.status, refused.value.field) == (422, field)


def test_raw_is_read_from_json_with_subject_and_message_id() -> None:
    envelope = {"from": "<>", "to": ["ann@example.com"]}
    mail = read_raw(request({"id": "q1", "envelope": envelope, "raw": base64.b64encode(RAW).decode()}), 5)

    assert (mail.sender, mail.recipients) == ("", ("ann@example.com",))
    assert (mail.subject, mail.message_id) == ("Grüße", "<1@example.com>")


def test_rfc822_takes_the_envelope_from_headers_listed_or_repeated() -> None:
    headers = (
        ("content-type", "Message/RFC822; charset=x"),
        ("x-envelope-from", "shop@example.com"),
        ("x-envelope-to", 'ann@example.com, "b,c"@example.com'),
        ("x-envelope-to", "dee@example.com"),
    )
    mail = read_raw(request(RAW, *headers), 5)

    assert mail.sender == "shop@example.com"
    assert mail.recipients == ("ann@example.com", '"b,c"@example.com', "dee@example.com")
    assert base64.b64decode(mail.payload["raw"]) == RAW


def test_rfc822_envelope_headers_are_percent_decoded() -> None:
    headers = (
        ("content-type", "message/rfc822"),
        ("x-envelope-from", "j%C3%BCrgen@example.com"),
        ("x-envelope-to", "%22a%2C%20b%22@example.com, 100%25@example.com"),
    )
    mail = read_raw(request(RAW, *headers), 5)

    assert (mail.sender, mail.recipients) == ("jürgen@example.com", ('"a, b"@example.com', "100%@example.com"))


@pytest.mark.parametrize(
    ("body", "headers", "field"),
    [
        (RAW, (("x-envelope-to", "a@x.example"),), "X-Envelope-From"),
        (RAW, (("x-envelope-from", ""),), "envelope.to"),
        (RAW, (("x-envelope-from", "nobody"), ("x-envelope-to", "a@x.example")), "envelope.from"),
        (b"", (("x-envelope-from", ""), ("x-envelope-to", "a@x.example")), "body"),
    ],
)
def test_rfc822_names_what_is_missing(body: bytes, headers: tuple[tuple[str, str], ...], field: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_raw(request(body, ("content-type", "message/rfc822"), *headers), 5)

    assert refused.value.field == field


@pytest.mark.parametrize("raw", [..., "", "?", 5])
def test_raw_must_hold_a_message_in_base64(raw: Any) -> None:
    payload = {"envelope": {"from": "", "to": ["a@x.example"]}} | ({} if raw is ... else {"raw": raw})

    with pytest.raises(Refusal) as refused:
        read_raw(request(payload), 5)

    assert refused.value.field == "raw"


@pytest.mark.parametrize(
    "head",
    [
        b"Subject: =?nonsense?q?a?=",
        b"Subject: =?utf-8?b?####?=",
        b"Subject: \xff\xfe",
        b"Subject",
        b"\x00",
        b"no header at all",
    ],
)
def test_odd_headers_of_raw_mail_never_stop_it(head: bytes) -> None:
    headers = (("content-type", "message/rfc822"), ("x-envelope-from", ""), ("x-envelope-to", "a@x.example"))
    mail = read_raw(request(head + b"\r\n\r\nbody", *headers), 5)

    assert orjson.dumps([mail.subject, mail.message_id])
