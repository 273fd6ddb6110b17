"""BINARYMIME content made fit for everything that comes after: what a reader gets is the same, to the octet."""

from __future__ import annotations

import base64
import email
import email.policy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.mime.binary import Unconvertible, without_binary
from bridge.mime.trace import has_bare_newline

HEAD = b'MIME-Version: 1.0\r\nContent-Type: multipart/%b; boundary="limit"\r\nContent-Transfer-Encoding: binary\r\n\r\n'


def mail(*bodies: bytes, kind: bytes = b"mixed", encoding: bytes = b"binary") -> bytes:
    part = b"--limit\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: %b\r\n\r\n%b\r\n"
    return HEAD % kind + b"".join(part % (encoding, body) for body in bodies) + b"--limit--\r\n"


def payloads(raw: bytes) -> list[bytes]:
    message = email.message_from_bytes(raw, policy=email.policy.compat32)
    return [part.get_payload(decode=True) for part in message.walk() if not part.is_multipart()]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=400).filter(lambda body: b"--limit" not in body), min_size=1, max_size=4))
def test_every_octet_of_every_part_comes_through(bodies: list[bytes]) -> None:
    converted = without_binary(mail(*bodies))

    assert not has_bare_newline(converted)
    assert payloads(converted) == bodies


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_whatever_it_is_it_never_raises_but_one_error_and_has_crlf_line_ends(content: bytes) -> None:
    for raw in (content, mail(content), b"Content-Transfer-Encoding: binary\r\n\r\n" + content):
        try:
            assert not has_bare_newline(without_binary(raw))
        except Unconvertible:
            continue


def test_a_message_that_is_one_binary_part() -> None:
    raw = b"Content-Type: image/png\r\ncontent-transfer-encoding:\r\n binary\r\nX: y\r\n\r\n\x89PNG\r\n\x1a\n\0\r"

    assert payloads(without_binary(raw)) == [b"\x89PNG\r\n\x1a\n\0\r"]
    assert b"X: y\r\n" in without_binary(raw)


def test_text_that_needs_no_change_stays_readable() -> None:
    assert b"\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n--limit--" in without_binary(mail("Grüße".encode()))
    assert b"base64" not in without_binary(mail(b"text"))


def test_a_message_inside_is_converted_inside() -> None:
    inner = mail(b"a\nb\0")
    raw = HEAD % b"mixed" + b"--limit\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    converted = without_binary(raw.replace(b"limit", b"outer") + inner + b"\r\n--outer--\r\n")

    assert base64.b64encode(b"a\nb\0") in converted
    assert converted.count(b"Content-Transfer-Encoding: 8bit") == 3


@pytest.mark.parametrize("body", [b"a\nb", b"\0", b"x" * 2000])
def test_what_is_signed_is_not_touched(body: bytes) -> None:
    with pytest.raises(Unconvertible):
        without_binary(mail(body, kind=b"signed"))


def test_what_is_signed_and_is_text_in_fact_stays_as_it_is() -> None:
    raw = mail(b"text", kind=b"signed")

    assert without_binary(raw).replace(b"8bit", b"binary") == raw


@pytest.mark.parametrize(
    "encoding", [b"8bit", b"7bit", b'"binary"', b"binary.", b"x-binary", b"7bit\r\nContent-Transfer-Encoding: binary"]
)
def test_what_is_binary_in_fact_is_packed_whatever_it_says(encoding: bytes) -> None:
    body = b"\0\n\r\n\n\rx"

    assert payloads(without_binary(mail(body, encoding=encoding))) == [body]


def test_a_part_without_any_header_is_packed_too() -> None:
    raw = HEAD % b"mixed" + b"--limit\r\n\r\n\0\na\r\n--limit--\r\n"

    assert payloads(without_binary(raw)) == [b"\0\na"]


def test_more_parts_than_a_message_may_have_are_all_right() -> None:
    bodies = [b"\0\n%d" % number for number in range(1500)]

    assert payloads(without_binary(mail(*bodies))) == bodies


@pytest.mark.timeout(20)
def test_lines_just_below_the_limit_take_no_long_time() -> None:
    """With a pattern that may begin anywhere this took nearly a minute."""
    body = (b"x" * 990 + b"\r\n") * 25_000

    assert without_binary(mail(body)).count(b"\r\n") > 25_000
