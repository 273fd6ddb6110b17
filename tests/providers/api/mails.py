"""Mails for the contract of the adapters, as programs write them, each with its envelope."""

from __future__ import annotations

import base64
import functools
import random
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

from bridge.mime.trace import stamp
from bridge.model import Envelope

SENDER = "shop@example.com"
ANN, BOB, CAT = "ann@example.org", "bob@example.net", "cat@example.org"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PDF = b"%PDF-1.4\n" + bytes(range(256)) * 4
TEXT = "Hello Ann,\nthe second line: gr\u00fc\u00dfe, \u65e5\u672c.\n"
HTML = '<p>Hello <b>Ann</b>, <img src="cid:logo@shop"> gr\u00fc\u00dfe</p>\n'


def build(**fields: Any) -> EmailMessage:
    """A plain mail from the shop to Ann; `None` leaves a header field out."""
    text = fields.pop("text", TEXT)
    message = EmailMessage(policy=SMTP)
    given = {
        "From": f"The Shop <{SENDER}>",
        "To": f"Ann Lee <{ANN}>",
        "Subject": "Your order, gr\u00fc\u00dfe \u65e5\u672c",
        "Date": "Mon, 23 Nov 2026 03:27:18 +0000",
        "Message-ID": "<1@example.com>",
        **{name.replace("_", "-"): value for name, value in fields.items()},
    }
    for name, value in given.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                message[name] = each
    if text is not None:
        message.set_content(text)
    return message


def raw(message: EmailMessage | bytes) -> bytes:
    """As the bridge keeps it: with its own Received field on top."""
    content = message if isinstance(message, bytes) else message.as_bytes()
    received = "Received: from client ([192.0.2.1])\r\n\tby bridge.example with ESMTP id Q1;\r\n\tMon, 23 Nov 2026 03:27:18 +0000"
    return stamp(content, received=received, date="Mon, 23 Nov 2026 03:27:18 +0000", message_id="<q1@bridge.example>")


def envelope(*recipients: str, sender: str = SENDER) -> Envelope:
    return Envelope(reverse_path=sender, recipients=recipients or (ANN,))


def with_parts() -> EmailMessage:
    """Text, HTML with an inline image, and two files, one with a name that is not ASCII."""
    message = build()
    message.add_alternative(HTML, subtype="html")
    html = message.get_payload()[1]  # type: ignore[index]
    html.add_related(PIXEL, "image", "png", cid="<logo@shop>", filename="logo.png", disposition="inline")  # type: ignore[union-attr]
    message.add_attachment(PDF, maintype="application", subtype="pdf", filename="Rechnung f\u00fcr \u00c4rger.pdf")
    message.add_attachment(b"a,b\n1,2\n", maintype="text", subtype="csv", filename="table.csv")
    return message


@functools.cache
def large(megabytes: int) -> bytes:
    """With a file of so many times a million octets, and header fields that do not leave."""
    message = build(Bcc="eve@example.org", X_Bridge_Tag="welcome")
    content = random.Random(7).randbytes(megabytes * 1_000_000)
    message.add_attachment(content, maintype="application", subtype="pdf", filename="scan.pdf")
    return raw(message)


def signed() -> bytes:
    """multipart/signed, whose signed part must not change in a single byte."""
    return (
        f"From: {SENDER}\r\nTo: {ANN}\r\nSubject: signed\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/signed; protocol="application/pgp-signature"; micalg=pgp-sha256; boundary=sig\r\n\r\n'
        "--sig\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nsigned text\r\n\r\n--sig\r\n"
        "Content-Type: application/pgp-signature; name=signature.asc\r\n\r\n-----BEGIN PGP SIGNATURE-----\r\nabc\r\n"
        "-----END PGP SIGNATURE-----\r\n\r\n--sig--\r\n"
    ).encode()


def invitation() -> EmailMessage:
    message = build()
    calendar = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n"
    message.add_alternative(calendar, subtype="calendar", params={"method": "REQUEST"})
    return message
