from __future__ import annotations

import base64
import hashlib
from email import policy
from email.message import EmailMessage

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.sandbox.mail import KEPT_RAW, Attachment
from bridge.sandbox.samples import PDF_NAME, pdf, png, samples
from bridge.sandbox.twins.mimemail import mail_from_mime

PLAIN, REPORT, WITH_BCC, *_ = samples()


def test_a_report_has_its_text_its_html_and_its_files() -> None:
    mail = mail_from_mime(REPORT.message_bytes, REPORT.recipients, envelope_sender="bounces@example.com")

    assert (mail.sender, mail.sender_name, mail.envelope_sender) == (
        "erp@example.com",
        "Jürgen Müller",
        "bounces@example.com",
    )
    assert (mail.subject, mail.text) == ("Monatsübersicht März", "Die Übersicht liegt bei.\n")
    assert mail.html.startswith("<p>Die <b>Übersicht</b>")
    assert mail.attachments == (
        Attachment(
            filename="logo.png",
            content_type="image/png",
            size=len(png()),
            sha256=hashlib.sha256(png()).hexdigest(),
            content_id="logo",
            disposition="inline",
        ),
        Attachment(
            filename=PDF_NAME,
            content_type="application/pdf",
            size=len(pdf("Overview of March")),
            sha256=hashlib.sha256(pdf("Overview of March")).hexdigest(),
        ),
    )
    assert base64.b64decode(mail.raw) == REPORT.message_bytes
    assert mail.raw_sha256 == hashlib.sha256(REPORT.message_bytes).hexdigest()


def test_with_an_envelope_its_recipients_are_mailed_and_what_the_headers_hide_is_bcc() -> None:
    mail = mail_from_mime(WITH_BCC.message_bytes, WITH_BCC.recipients)

    assert mail.recipients == ("ann@example.com", "bob@example.com", "audit@example.com")
    assert (mail.to, mail.cc) == ((("ann@example.com", "Ann"),), (("bob@example.com", "Roe, Bob"),))
    assert mail.bcc == ("audit@example.com",)


BOTH = b"To: a@x.example, A@X.example\r\nCc: c@x.example\r\nBcc: d@x.example,\r\n e@x.example\r\nX-A: 1\r\n\r\nhi"


def test_without_an_envelope_the_headers_name_whom_to_mail_and_bcc_is_taken_out() -> None:
    mail = mail_from_mime(BOTH, None)

    assert mail.recipients == ("a@x.example", "c@x.example", "d@x.example", "e@x.example")
    assert (mail.bcc, mail.headers) == (("d@x.example", "e@x.example"), (("X-A", "1"),))


def test_a_bcc_header_beside_an_envelope_is_a_leak_that_shows() -> None:
    mail = mail_from_mime(BOTH, ["a@x.example"])

    assert mail.recipients == ("a@x.example",)
    assert mail.bcc == ()
    assert ("Bcc", "d@x.example, e@x.example") in mail.headers


def test_header_addresses_that_the_envelope_leaves_out_stay_visible_and_unmailed() -> None:
    mail = mail_from_mime(b"To: a@x.example, list@x.example\r\n\r\nhi", ["b@x.example"])

    assert [email for email, _ in mail.to] == ["a@x.example", "list@x.example"]
    assert (mail.recipients, mail.bcc) == (("b@x.example",), ("b@x.example",))


def test_an_attached_message_is_a_file_with_its_own_octets() -> None:
    inner = b"From: x@x.example\r\nSubject: " + b"long " * 40 + b"\r\n\r\nText\r\n"
    outer = EmailMessage(policy=policy.SMTP)
    outer["To"] = "a@x.example"
    outer.set_content("see below")
    raw = outer.as_bytes().replace(b"Content-Type: text/plain", b"X-Was: text/plain")
    head, _, _ = raw.partition(b"\r\n\r\n")
    raw = (
        head.replace(b"X-Was: text/plain", b"Content-Type: multipart/mixed; boundary=b; x=y")
        + b"\r\n\r\n--b\r\n\r\nsee below\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n"
        + inner
        + b"\r\n--b--\r\n"
    )
    mail = mail_from_mime(raw, None)

    assert mail.text == "see below"
    assert [(a.content_type, a.sha256) for a in mail.attachments] == [
        ("message/rfc822", hashlib.sha256(inner).hexdigest())
    ]


def test_a_text_that_is_attached_is_no_body() -> None:
    message = EmailMessage(policy=policy.SMTP)
    message["To"] = "a@x.example"
    message.set_content("body")
    message.add_attachment("log", filename="log.txt")
    message.add_attachment("calendar", subtype="calendar")
    mail = mail_from_mime(message.as_bytes(), None)

    assert mail.text == "body\n"
    assert [a.filename for a in mail.attachments] == ["log.txt", ""]


@pytest.mark.parametrize(
    ("raw", "field", "value"),
    [
        ("Subject: Grüße\r\nFrom: Jü <jü@x.example>\r\n\r\n".encode(), "subject", "Grüße"),
        ("From: Jü <jü@x.example>\r\n\r\n".encode(), "sender", "jü@x.example"),
        (b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n", "subject", "Grüße"),
        (b"Subject: =?nowhere?q?x?=\r\n\r\n", "subject", "x"),
        (b"Subject: one\r\n two\r\n\r\n", "subject", "one two"),
        (b"Message-ID: <1@x.example>\r\n\r\n", "message_id", "<1@x.example>"),
        (b"To: undisclosed-recipients:;\r\n\r\n", "to", ()),
        (b'To: "\r\n\r\n', "to", ()),
        (b"Reply-To: R <r@x.example>\r\n\r\n", "reply_to", (("r@x.example", "R"),)),
        (b"Content-Type: text/plain; charset=nowhere\r\n\r\nhi\r\n", "text", "hi\n"),
        (b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\ngr\xfc\xdfe", "text", "grüße"),
        (b"Content-Type: text/html\r\n\r\n<p>", "html", "<p>"),
        (b"", "recipients", ()),
        (b"\xff\x00", "subject", ""),
    ],
)
def test_odd_headers_and_bodies_are_read_as_well_as_they_can_be(raw: bytes, field: str, value: object) -> None:
    assert getattr(mail_from_mime(raw, None), field) == value


def test_multiparts_nested_beyond_reason_are_read_without_a_fault() -> None:
    deep = b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n) for n in range(3000))

    assert mail_from_mime(b"Subject: deep\r\n" + deep, None).subject == "deep"


def test_a_large_message_is_kept_as_its_hash() -> None:
    raw = b"To: a@x.example\r\n\r\n" + b"x" * KEPT_RAW
    mail = mail_from_mime(raw, None)

    assert (mail.raw, mail.raw_sha256) == ("", hashlib.sha256(raw).hexdigest())


@given(
    st.lists(st.tuples(st.integers(0, 1500), st.binary(min_size=1, max_size=4)), max_size=20),
    st.sampled_from([sample.message_bytes for sample in samples()]),
)
def test_damaged_messages_never_raise_and_are_always_json(damages: list[tuple[int, bytes]], raw: bytes) -> None:
    for at, octets in damages:
        raw = raw[:at] + octets + raw[at + len(octets) :]

    assert orjson.dumps(mail_from_mime(raw, None))
