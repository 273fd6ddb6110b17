"""8-bit mail as 7-bit: what people read is the same, and what cannot be changed without harm is named."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.mime.parse import parse
from bridge.mime.seven_bit import is_seven_bit, to_seven_bit
from bridge.model import Email
from tests.mime.samples import BOMBS, ODD, mail, multipart, part, whole

UTF8 = "text/plain; charset=utf-8"


def readable(raw: bytes) -> Email:
    """What people and programs read of it."""
    email = parse(raw)
    return replace(
        email,
        raw=b"",
        defects=(),
        headers=tuple(h for h in email.headers if h[0].lower() != "content-transfer-encoding"),
    )


def checked(raw: bytes) -> bytes:
    out, problems = to_seven_bit(raw)
    assert not problems
    assert is_seven_bit(out)
    assert readable(out) == readable(raw)
    return out


def test_mail_that_is_seven_bit_stays_the_same_object() -> None:
    raw = mail("Subject: x")
    assert to_seven_bit(raw)[0] is raw


def test_text_becomes_quoted_printable_and_tells_so_once() -> None:
    raw = mail(
        "MIME-Version: 1.0",
        f"Content-Type: {UTF8}",
        "Content-Transfer-Encoding: 8bit",
        body="mit freundlichen gr\u00fc\u00dfen\r\n=\r\n".encode(),
    )
    out = checked(raw)

    assert out.lower().count(b"content-transfer-encoding") == 1
    assert out.endswith(b"gr=C3=BC=C3=9Fen\r\n=3D\r\n")


def test_text_of_mostly_other_characters_becomes_base64() -> None:
    assert b"Content-Transfer-Encoding: base64" in checked(
        mail(f"Content-Type: {UTF8}", body=("\u65e5\u672c" * 400).encode())
    )


def test_text_that_says_nothing_of_itself_is_described() -> None:
    out = checked(mail("Subject: x", body="h\u00e4llo".encode()))
    assert b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n" in out
    assert b"charset=windows-1252" in checked(mail("Subject: x", body=b"h\xe4llo"))


@pytest.mark.parametrize("line", [b"y" * 999, b"y" * 5000], ids=["just too long", "very long"])
@pytest.mark.parametrize("end", [b"\r\n", b""], ids=["with a line break", "without"])
def test_long_lines_are_broken_softly(line: bytes, end: bytes) -> None:
    assert b"\n" not in checked(mail(f"Content-Type: {UTF8}", body=line + end)).replace(b"\r\n", b"")


def test_a_file_of_bytes_becomes_base64() -> None:
    content = bytes(range(256)) * 8
    file = part(
        "application/pdf",
        content,
        "Content-Transfer-Encoding: binary",
        "Content-Disposition: attachment; filename=a.pdf",
    )
    raw = whole(multipart("mixed", part(UTF8, "\u00e4".encode()), file), "MIME-Version: 1.0")

    checked(raw)


def test_header_fields_are_encoded_by_what_they_are() -> None:
    raw = mail(
        'Cc: J\u00fcrgen Gro\u00df <j@example.org>, "Lee, Ann" <ann@m\u00fcller.example>',
        "Subject: gr\u00fc\u00dfe",
        "X-Long: " + "\u00e4" * 3000,
        "References: <\u00fc@example.org>",
        'Content-Type: application/pdf; name="\u00c4rger.pdf"',
        'Content-Disposition: attachment; filename="\u00c4rger ' + "\u65e5" * 60 + '.pdf"',
        body=b"%PDF",
    )
    out, problems = to_seven_bit(raw)

    assert not problems
    assert is_seven_bit(out)
    before, after = parse(raw), parse(out)
    assert (after.subject, after.to) == (before.subject, before.to)
    assert [m.name for m in after.cc] == [m.name for m in before.cc]
    assert after.cc[1].email == "ann@xn--mller-kva.example"
    assert [a.filename for a in after.attachments] == [a.filename for a in before.attachments]
    assert dict(after.headers)["X-Long"] == dict(before.headers)["X-Long"]


def test_a_message_in_a_message_is_changed_inside() -> None:
    inner = mail("Subject: gr\u00fc\u00dfe", f"Content-Type: {UTF8}", body="many times \u00e4\r\n".encode())
    raw = whole(multipart("mixed", part("message/rfc822", inner, "Content-Transfer-Encoding: 8bit")))
    out, problems = to_seven_bit(raw)

    assert not problems
    assert is_seven_bit(out)
    assert b"message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n" in out
    assert b"=C3=A4" in out


def test_a_signed_part_with_bytes_is_left_alone_and_named() -> None:
    signed = multipart("signed", part(UTF8, "\u00e4".encode()), part("application/pgp-signature", b"x"))
    raw = whole(signed)

    assert to_seven_bit(raw) == (raw, {"signed"})


def test_a_signed_part_beside_bytes_is_kept_byte_for_byte() -> None:
    signed = multipart("signed", part(UTF8, b"a  b \r\n"), part("application/pgp-signature", b"x"), boundary="s")
    out, problems = to_seven_bit(whole(multipart("mixed", signed, part(UTF8, "\u00e4".encode()))))

    assert not problems
    assert signed in out


def test_an_address_that_ascii_cannot_write_is_named() -> None:
    assert to_seven_bit(mail("Cc: \u00fc@example.org"))[1] == {"smtputf8"}


@pytest.mark.parametrize("raw", [*ODD.values(), *BOMBS.values()], ids=[*ODD, *BOMBS])
def test_odd_mail_becomes_seven_bit_or_says_why_not(raw: bytes) -> None:
    out, problems = to_seven_bit(raw + "\r\n\u00e4".encode())

    assert problems or is_seven_bit(out)


pieces = st.lists(
    st.sampled_from([b"Content-Type: ", b"text/plain", b"multipart/mixed; boundary=b", b"\r\n", b"--b", b"--", b"Subject: ",
                     "\u00e4".encode(), b"\xff", b": ", b" ", b"a", b"To: ", b"Content-Transfer-Encoding: base64", b"=", b"\0",
                     b"message/rfc822", b"x" * 999]),
    max_size=30,
).map(b"".join)  # fmt: skip


@given(pieces)
def test_whatever_it_is_it_becomes_seven_bit_or_says_why_not(raw: bytes) -> None:
    out, problems = to_seven_bit(raw)

    assert problems or is_seven_bit(out)
