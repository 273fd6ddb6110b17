from __future__ import annotations

import re
import struct
import zlib
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from bridge.sandbox.samples import PDF_NAME, Sample, pdf, png, samples


def parsed(sample: Sample) -> EmailMessage:
    message = message_from_bytes(sample.message_bytes, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def header_addresses(message: EmailMessage) -> set[str]:
    return {box.addr_spec for name in ("To", "Cc") for value in message.get_all(name, []) for box in value.addresses}


def test_they_are_the_same_on_every_call() -> None:
    assert samples() == samples()


@pytest.mark.parametrize("sample", samples("shop.example"), ids=lambda sample: sample.title)
def test_each_parses_without_a_defect_and_is_what_smtp_carries(sample: Sample) -> None:
    message = parsed(sample)

    assert [part.defects for part in message.walk() if part.defects] == []
    assert sample.message_bytes.isascii()
    assert re.search(rb"(?<!\r)\n|\r(?!\n)", sample.message_bytes) is None
    assert max(map(len, sample.message_bytes.split(b"\r\n"))) <= 998
    assert header_addresses(message) <= set(sample.recipients)
    assert message["Bcc"] is None


def test_the_plain_one_has_text_alone() -> None:
    message = parsed(samples()[0])

    assert message.get_content_type() == "text/plain"
    assert "8 %" in message.get_content()


def test_the_report_has_text_html_an_inline_image_and_a_pdf() -> None:
    message = parsed(samples()[1])
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    (attached,) = message.iter_attachments()
    (image,) = (part for part in message.walk() if part.get_content_maintype() == "image")

    assert isinstance(text, EmailMessage)
    assert isinstance(html, EmailMessage)
    assert "Übersicht" in text.get_content()
    assert "cid:logo" in html.get_content()
    assert (image["Content-ID"], image.get_content_disposition(), image.get_payload(decode=True)) == (
        "<logo>",
        "inline",
        png(),
    )
    assert (attached.get_filename(), attached.get_content_type()) == (PDF_NAME, "application/pdf")
    assert attached.get_payload(decode=True) == pdf("Overview of March")
    assert message["Subject"] == "Monatsübersicht März"


def test_a_bcc_stands_in_the_envelope_alone() -> None:
    sample = samples("shop.example")[2]

    hidden = set(sample.recipients) - header_addresses(parsed(sample))
    assert hidden == {"audit@shop.example"}
    assert b"audit" not in sample.message_bytes


def test_the_last_one_goes_to_the_domain_the_sandbox_refuses() -> None:
    assert samples("shop.example")[4].recipients == ("nobody@refused.example",)


def test_the_image_is_a_png_whose_chunks_add_up() -> None:
    content, kinds = png()[8:], []
    while content:
        (length,) = struct.unpack(">I", content[:4])
        kind, data, crc = content[4:8], content[8 : 8 + length], content[8 + length : 12 + length]
        assert struct.unpack(">I", crc) == (zlib.crc32(kind + data),)
        kinds.append((kind, len(zlib.decompress(data)) if kind == b"IDAT" else length))
        content = content[12 + length :]

    assert kinds == [(b"IHDR", 13), (b"IDAT", 16 * (1 + 3 * 16)), (b"IEND", 0)]


def test_the_pdf_table_points_at_its_objects() -> None:
    content = pdf("Hello")
    start = int(content.rsplit(b"startxref\n", 1)[1].split(b"\n")[0])
    table = content[start:].split(b"\n")

    assert table[:3] == [b"xref", b"0 6", b"0000000000 65535 f "]
    for number, line in enumerate(table[3:8], start=1):
        assert len(line) == 19  # and the line end: 20 octets each
        assert content[int(line[:10]) :].startswith(b"%d 0 obj\n" % number)
