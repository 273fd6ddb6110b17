"""Content encoded and decoded piece by piece is what it is as a whole, wherever it is cut; messages inside others too."""

from __future__ import annotations

import base64
import binascii
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.mime import binary, pieces, seven_bit
from bridge.mime.binary import Unconvertible, without_binary
from bridge.mime.encoded import InLines, Octets, is_utf8, quoted_printable, unquoted
from bridge.mime.parse import Costly, parse
from bridge.mime.pieces import Base64Of
from bridge.mime.seven_bit import to_seven_bit
from bridge.mime.structure import Part, parse_structure
from tests.mime.samples import ODD

SIZES = st.integers(1, 200)
LINES = st.lists(
    st.sampled_from(
        [b"a", b"a" * 70, b"=", b" ", b"\t", b".", b"\xc3\xa4", b"\xff" * 30, b"\n", b"\r\n", b"\r\n.\r\n"]
    ),
    max_size=60,
).map(b"".join)
ESCAPES = st.lists(
    st.sampled_from([b"=", b"=C", b"=C3", b"A", b"\r", b"\n", b"=\r", b"=\r\n", b"==", b" ", b"xyz", b"\xe4"]),
    max_size=60,
).map(b"".join)


@given(LINES, SIZES)
def test_quoted_printable(content: bytes, piece: int) -> None:
    with patch.object(pieces, "PIECE", piece):
        made = quoted_printable(content)

        assert bytes(made) == binascii.b2a_qp(content).replace(b"=\n", b"=\r\n")
        assert len(made) == len(bytes(made))


@given(ESCAPES, SIZES)
def test_what_quoted_printable_says(content: bytes, piece: int) -> None:
    with patch.object(pieces, "PIECE", piece):
        made = unquoted(content)

        assert bytes(made) == binascii.a2b_qp(content)
        assert len(made) == len(bytes(made))


@given(st.binary(max_size=600), SIZES)
def test_base64_in_lines(content: bytes, piece: int) -> None:
    with patch.object(pieces, "PIECE", piece):
        made = InLines(Base64Of(content))

        assert bytes(made) == base64.encodebytes(content).replace(b"\n", b"\r\n").removesuffix(b"\r\n")
        assert len(made) == len(bytes(made))


@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode) | LINES, st.integers(1, 9))
def test_what_decides_the_encoding(content: bytes, piece: int) -> None:
    with patch.object(pieces, "PIECE", piece):
        octets, utf8 = Octets.of(content), is_utf8(content)

    assert octets.high == sum(octet > 127 for octet in content)
    assert octets.lines == (b"\0" not in content and content.count(b"\r") == content.count(b"\r\n"))
    assert utf8 == (content.decode("utf-8", "replace").encode() == content)


TYPES = [b"", b"text/plain; charset=utf-8", b"application/x", b"message/rfc822", b"multipart/mixed; boundary=b"]
ENCODINGS = [b"", b"8bit", b"binary", b"base64", b"quoted-printable"]
BODIES = st.one_of(
    st.binary(max_size=200),
    LINES,
    ESCAPES,
    st.binary(max_size=90).map(base64.b64encode),
    st.sampled_from([*ODD.values()]),
)


@st.composite
def messages(draw: st.DrawFn, depth: int = 0) -> bytes:
    """Messages and multiparts inside each other, with what may be found at their beginning and end."""
    kind = draw(st.sampled_from(TYPES if depth < 4 else TYPES[:3]))
    head = draw(
        st.sampled_from([b"", b"From ann\r\n", b">From ann", b"Subject: gr\xc3\xbc\xc3\x9fe\r\n", b"\r\n", b"no field"])
    )
    head += b"Content-Type: %b\r\n" % kind if kind else b""
    head += b"Content-Transfer-Encoding: %b\r\n" % draw(st.sampled_from(ENCODINGS))
    if kind.startswith(b"multipart"):
        parts = draw(st.lists(messages(depth + 1), max_size=3))
        body = b"".join(b"\r\n--b\r\n" + part for part in parts) + draw(
            st.sampled_from([b"", b"\r\n--b--", b"\r\n--b--\n\xff"])
        )
    else:
        body = draw(messages(depth + 1) if kind == b"message/rfc822" else BODIES)
    return head + draw(st.sampled_from([b"\r\n", b"\n"])) + body


@given(messages(), SIZES)
def test_a_large_message_becomes_what_a_small_one_does(raw: bytes, piece: int) -> None:
    """Small leaves are encoded whole, by the standard library."""
    expected, converted = to_seven_bit(raw), _converted(raw)
    with (
        patch.object(pieces, "PIECE", piece),
        patch.object(pieces, "LARGE", -1),
        patch.object(seven_bit, "LARGE", -1),
        patch.object(binary, "LARGE", -1),
    ):
        made, problems = seven_bit.seven_bit(raw)

        assert (bytes(made), problems) == expected
        assert len(made) == len(expected[0])
        assert _converted(raw) == converted


def _converted(raw: bytes) -> bytes | None:
    try:
        return without_binary(raw)
    except Unconvertible:
        return None


AROUND = st.sampled_from([b"", b"\n", b"\r\n", b"--b\r\n", b"\n--b", b"Content-Type: text/html\r\n", b"x"])


@given(messages(), AROUND, AROUND)
def test_a_message_inside_has_the_parts_it_has_alone(raw: bytes, before: bytes, after: bytes) -> None:
    inside = parse_structure(before + raw + after, start=len(before), end=len(before) + len(raw))

    assert _shape(inside, len(before)) == _shape(parse_structure(raw), 0)


@given(messages(), AROUND, AROUND)
def test_what_becomes_of_a_message_inside_is_what_becomes_of_it_alone(raw: bytes, before: bytes, after: bytes) -> None:
    """What stands beside it in the multipart is not seen."""
    mark = b"--the-outer-one"
    head = (
        b"Content-Type: multipart/mixed; boundary=the-outer-one\r\n\r\n"
        + mark
        + b"\r\nContent-Type: text/plain\r\n\r\n"
    )
    inner = b"\r\n" + mark + b"\r\nContent-Type: message/rfc822\r\n\r\n"
    whole = head + before + inner + raw + b"\r\n" + mark + b"\r\n\r\n" + after + b"\r\n" + mark + b"--\r\n"
    alone, problems = to_seven_bit(raw)
    made, found = to_seven_bit(whole)

    assert found == problems
    assert alone + b"\r\n" + mark in made


def _shape(part: Part, start: int) -> tuple[object, ...]:
    return (
        part.start - start,
        part.body - start,
        part.end - start,
        part.fields,
        part.type,
        part.opaque,
        part.defects,
        part.beyond,
        [(a - start, b - start) for a, b in part.delimiters],
        [_shape(child, start) for child in part.children],
    )


@given(
    st.text(max_size=300), st.sampled_from(["utf-8", "iso-8859-1", "windows-1252", "koi8-r", "shift_jis", "us-ascii"])
)
def test_line_ends_of_a_large_text_are_those_of_a_small_one(text: str, charset: str) -> None:
    raw = f"Content-Type: text/plain; charset={charset}\r\n\r\n".encode() + text.encode(charset, "xmlcharrefreplace")
    with patch("bridge.mime.parse.LARGE", -1):
        large = parse(raw)

    assert large == parse(raw)


def cost_of(raw: bytes) -> int:
    with pytest.raises(Costly) as caught:
        parse(raw, room=0)
    assert parse(raw, room=caught.value.octets) == parse(raw)
    return caught.value.octets


def test_what_parsing_may_cost_is_known_by_the_text() -> None:
    head = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n\r\n"
    ascii_text, wide = head % b"8bit" + b"a" * 999, head % b"8bit" + b"\xc3\xa4" * 500
    quoted = head % b"quoted-printable" + b"a" * 999
    file = b"Content-Type: application/pdf\r\n\r\n" + b"\xff" * 999

    assert cost_of(file) == len(file)
    assert cost_of(ascii_text) < 4 * len(ascii_text)
    assert cost_of(wide) > 7 * len(wide)
    assert cost_of(quoted) > 7 * len(quoted)
