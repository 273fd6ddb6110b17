"""Five messages that show what the bridge does, as bytes a legacy program would send. Pure: the same on every call.

None has a Date or a Message-ID, as is common with such programs: the bridge adds them.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage

PDF_NAME = "Übersicht – März.pdf"
_PNG_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """`recipients` is the envelope: it may name more people than the headers do."""

    title: str
    sender: str
    recipients: tuple[str, ...]
    message_bytes: bytes = field(repr=False)


def samples(domain: str = "example.com") -> tuple[Sample, ...]:
    """In the order of the demo: plain, HTML with parts, Bcc, the one for the outage, the one that is refused."""
    return (_plain(domain), _report(domain), _with_bcc(domain), _for_the_outage(domain), _refused())


def _plain(domain: str) -> Sample:
    message = _message(f"Printer <printer@{domain}>", f"Ann <ann@{domain}>", "Toner is low")
    message.set_content("The toner of printer 3 is at 8 %.\n")
    return _sample("plain text", message, f"printer@{domain}", f"ann@{domain}")


def _report(domain: str) -> Sample:
    message = _message(f"Jürgen Müller <erp@{domain}>", f"Ann <ann@{domain}>", "Monatsübersicht März")
    message.set_content("Die Übersicht liegt bei.\n", cte="quoted-printable")
    html = '<p>Die <b>Übersicht</b> liegt bei.</p><p><img src="cid:logo" alt="Logo"></p>\n'
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    html_part = message.get_payload(1)
    assert isinstance(html_part, EmailMessage)
    html_part.add_related(png(), "image", "png", cid="<logo>", filename="logo.png", disposition="inline")
    message.add_attachment(pdf("Overview of March"), "application", "pdf", filename=PDF_NAME)
    return _sample("HTML, an inline image and a PDF", message, f"erp@{domain}", f"ann@{domain}")


def _with_bcc(domain: str) -> Sample:
    message = _message(f"Jenkins <jenkins@{domain}>", f"Ann <ann@{domain}>", "Build 512 is stable again")
    message["Cc"] = f'"Roe, Bob" <bob@{domain}>'
    message.set_content("All 1204 tests passed.\n")
    everyone = (f"ann@{domain}", f"bob@{domain}", f"audit@{domain}")
    return _sample("To, Cc and a Bcc that only the envelope names", message, f"jenkins@{domain}", *everyone)


def _for_the_outage(domain: str) -> Sample:
    message = _message(f"Cron <root@{domain}>", f"Ops <ops@{domain}>", "Nightly backup finished")
    message.set_content("Sent while the API was down.\n")
    return _sample("sent while the API is down", message, f"root@{domain}", f"ops@{domain}")


def _refused(domain: str = "refused.example") -> Sample:
    """To the domain whose recipients the sandbox does not know."""
    message = _message("Shop <shop@example.com>", f"nobody@{domain}", "Your order")
    message.set_content("Thank you for your order.\n")
    return _sample("refused by the API", message, "shop@example.com", f"nobody@{domain}")


def _message(sender: str, to: str, subject: str) -> EmailMessage:
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = sender
    message["To"] = to
    message["Subject"] = subject
    return message


def _sample(title: str, message: EmailMessage, sender: str, *recipients: str) -> Sample:
    # The generator would draw boundaries at random.
    for number, part in enumerate(part for part in message.walk() if part.is_multipart()):
        part.set_boundary(f"=-sample-{number}")
    return Sample(title=title, sender=sender, recipients=recipients, message_bytes=message.as_bytes())


def png() -> bytes:
    """A small blue square: signature, header, image data, end (PNG 1.2, sections 3 and 4.1)."""
    header = struct.pack(">IIBBBBB", _PNG_SIZE, _PNG_SIZE, 8, 2, 0, 0, 0)  # 8 bits, RGB
    row = b"\0" + b"\x1f\x6f\xeb" * _PNG_SIZE
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * _PNG_SIZE)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, content) for kind, content in chunks)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def pdf(text: str) -> bytes:
    """One page with one line of ASCII text without brackets (PDF 1.4, section 3.4)."""
    drawing = f"BT /F1 24 Tf 72 720 Td ({text}) Tj ET".encode("ascii")
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawing), drawing),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    content, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(content))
    return content + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + trailer
