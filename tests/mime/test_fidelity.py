from __future__ import annotations

from dataclasses import replace

import pytest

from bridge.mime.fidelity import Carries, losses, payload_size
from bridge.mime.parse import parse
from bridge.model import Envelope
from tests.mime.samples import PDF, attached, mail, multipart, part, whole

PLAIN = part("text/plain", b"plain")
HTML = part("text/html", b"<p>html</p>")
ENVELOPE = Envelope(reverse_path="ann@example.com", recipients=("bob@example.org",))
JSON = Carries()

SIGNED = whole(multipart("signed", PLAIN, attached(b"sig")))
CALENDAR = whole(multipart("alternative", PLAIN, part("text/calendar; method=REQUEST", b"BEGIN:VCALENDAR")))
AMP = whole(multipart("alternative", PLAIN, part("text/x-amp-html", b"<amp>"), HTML))
IMAGE = whole(multipart("related", HTML, attached(PDF, "Content-ID: <a>", content_type="image/png")))
FILE = whole(multipart("mixed", PLAIN, attached(PDF)))
ONLY_TEXT = Carries(html=False, headers=False, attachments=False, inline_images=False, reply_to=False, names=False)


@pytest.mark.parametrize(
    ("raw", "carries", "kinds"),
    [
        (mail("X-Mailer: x", "List-Id: x", "Reply-To: c@x"), JSON, []),
        (FILE, JSON, []),
        (IMAGE, JSON, []),
        (SIGNED, JSON, ["protection"]),
        (SIGNED, Carries(raw=True), []),
        (whole(multipart("mixed", multipart("signed", PLAIN, boundary="in"), PLAIN)), JSON, ["protection"]),
        (whole(multipart("encrypted", attached(b"1"), attached(b"2"))), JSON, ["protection"]),
        (whole(attached(PDF, content_type="application/pkcs7-mime")), JSON, ["protection"]),
        (CALENDAR, JSON, ["calendar"]),
        (CALENDAR, Carries(alternatives=True), []),
        (AMP, JSON, ["alternative"]),
        (whole(HTML), replace(JSON, html=False), ["html"]),
        (FILE, replace(JSON, attachments=False), ["attachments"]),
        (IMAGE, replace(JSON, inline_images=False), ["inline_images"]),
        (FILE, replace(JSON, inline_images=False), []),
        (mail("In-Reply-To: <1@x>"), replace(JSON, headers=False), ["headers"]),
        (mail("X-Mailer: x"), replace(JSON, headers=False), []),
        (mail("Reply-To: c@x"), replace(JSON, reply_to=False), ["reply_to"]),
        (mail("Reply-To: ann@example.com"), replace(JSON, reply_to=False), []),
        (mail(), replace(JSON, names=False), ["names"]),
        (
            whole(multipart("related", HTML, attached(PDF, "Content-ID: <a>"))),
            ONLY_TEXT,
            ["html", "attachments", "names"],
        ),
    ],
)
def test_only_what_the_shape_cannot_express_is_a_loss(raw: bytes, carries: Carries, kinds: list[str]) -> None:
    found = losses(parse(raw), ENVELOPE, carries)

    assert [loss.kind for loss in found] == kinds
    assert all(loss.reply.code == 554 and loss.reply.enhanced == "5.6.5" for loss in found)


@pytest.mark.parametrize("raw_carrier", [True, False])
def test_a_message_over_the_limit_is_too_big(raw_carrier: bool) -> None:
    email = parse(FILE)
    size = len(email.raw) if raw_carrier else payload_size(email)

    assert losses(email, ENVELOPE, Carries(raw=raw_carrier, max_size=size)) == ()
    (loss,) = losses(email, ENVELOPE, Carries(raw=raw_carrier, max_size=size - 1))
    assert (loss.kind, loss.reply.code, loss.reply.enhanced) == ("size", 552, "5.3.4")


@pytest.mark.parametrize(
    ("reverse_path", "recipient", "refused"),
    [
        ("ann@example.com", "bob@example.org", False),
        ("ann@example.com", "bob@müller.example", False),  # a domain has an ASCII form
        ("ann@example.com", "jörg@example.org", True),
        ("änn@example.com", "bob@example.org", True),
        ("", "bob@example.org", False),
    ],
)
@pytest.mark.parametrize("raw_carrier", [True, False])
def test_a_non_ascii_local_part_needs_smtputf8(
    reverse_path: str, recipient: str, refused: bool, raw_carrier: bool
) -> None:
    envelope = Envelope(reverse_path=reverse_path, recipients=(recipient,), smtputf8=True)
    found = losses(parse(mail()), envelope, Carries(raw=raw_carrier))

    assert [(loss.kind, loss.reply.code, loss.reply.enhanced) for loss in found] == [
        ("smtputf8", 553, "5.6.7")
    ] * refused
    assert losses(parse(mail()), envelope, Carries(raw=raw_carrier, smtputf8=True)) == ()


def test_a_non_ascii_from_needs_smtputf8_too() -> None:
    email = parse("From: jörg@example.org\r\n\r\n".encode())

    assert [loss.kind for loss in losses(email, ENVELOPE, JSON)] == ["smtputf8"]


def test_too_many_recipients_for_one_call_are_a_loss() -> None:
    shown = Envelope(reverse_path="", recipients=("bob@example.org", "c@x", "d@x"))
    hidden = Envelope(reverse_path="", recipients=("b@x", "c@x", "d@x"))

    assert [loss.kind for loss in losses(parse(mail()), shown, Carries(max_recipients=2))] == ["recipients"]
    assert losses(parse(mail()), hidden, Carries(max_recipients=2)) == ()  # one call each
    assert [loss.kind for loss in losses(parse(mail()), hidden, Carries(max_recipients=2, raw=True))] == ["recipients"]
