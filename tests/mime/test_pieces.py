"""Content as offsets into the message is what it would be as bytes, whatever the message holds and however it is cut."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import partial
from unittest.mock import patch

import httpx
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.mime import charset, pieces
from bridge.mime.fields import strip_bcc
from bridge.mime.parse import parse
from bridge.mime.pieces import Base64Of, Joined, Slice, decoded, encoded_part
from bridge.mime.repair import is_blank
from bridge.mime.rewrite import with_fields, with_from, with_head, with_recipients, without_fields
from bridge.mime.seven_bit import seven_bit
from bridge.mime.transfer import encode_payload
from bridge.model import Content, Mailbox, Pieces
from bridge.providers import body
from tests.mime.samples import ODD, attached, multipart, part, whole


@pytest.fixture(autouse=True, scope="module")
def _everything_is_large() -> Iterator[None]:
    """Many short pieces, so that every seam is met."""
    with (
        patch.object(pieces, "LARGE", -1),
        patch.object(pieces, "SMALL_PART", 0),
        patch.object(pieces, "PIECE", 12),
        patch.object(body, "LARGE", -1),
    ):
        yield


@st.composite
def base64_texts(draw: st.DrawFn) -> bytes:
    """As mail programs write it, and with what breaks it: junk, blanks anywhere, padding in the middle, bits under it."""
    packed = base64.b64encode(draw(st.binary(max_size=120)))
    width = draw(st.integers(1, 90))
    ending = draw(st.sampled_from([b"\r\n", b"\n", b" \t\r\n", b"\r\n\r\n", b""]))
    lines = ending.join(packed[start : start + width] for start in range(0, len(packed), width))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(lines)))
        junk = draw(
            st.sampled_from([b"=", b"==", b"A", b"AAAB", b"QR==", b"QUJ=", b"-_", b"!", b"\x00", b" ", b"\xff\n"])
        )
        lines = lines[:at] + junk + lines[at + draw(st.integers(0, 2)) :]
    return lines + draw(st.sampled_from([b"", b"\r\n", b"=", b"   ", b"\r\n--"]))


@given(base64_texts() | st.binary(max_size=100), st.sampled_from(["base64", "base64", "", "8bit", "quoted-printable"]))
def test_a_part_is_encoded_as_its_bytes_are(payload: bytes, encoding: str) -> None:
    raw = b"before" + payload + b"=after"
    encoded, size, clean = encoded_part(raw, 6, 6 + len(payload), encoding)

    assert (bytes(encoded), size, clean) == encode_payload(payload, encoding)
    assert len(encoded) == len(bytes(encoded))
    assert bytes(decoded(encoded, size)) == base64.b64decode(bytes(encoded))
    assert len(decoded(encoded, size)) == size


@given(st.lists(st.binary(max_size=50)))
def test_base64_does_not_see_the_seams_of_what_it_is_made_of(parts: list[bytes]) -> None:
    made = Base64Of(Joined(tuple(parts)))

    assert bytes(made) == bytes(made) == base64.b64encode(b"".join(parts))
    assert len(made) == len(bytes(made))


@given(st.binary(max_size=100) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_text_of_a_json_string_is_cut_at_no_character(content: bytes) -> None:
    made = body.json_text(content)

    assert isinstance(made, Pieces)
    assert b'"%b"' % bytes(made) == orjson.dumps(content.decode("utf-8", "replace"))
    assert len(made) == len(bytes(made))


TEXTS = st.text(max_size=40)  # no lone surrogates
VALUES = st.recursive(
    TEXTS | st.integers(0, 9) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@given(VALUES)
def test_json_of_long_texts_is_that_of_short_ones(value: object) -> None:
    with patch.object(body, "_LONG_TEXT", 3), patch.object(body, "_AT_ONCE", 5):
        request = body.of_large(lambda: body.request("POST", httpx.URL("http://x.org/"), {}, body.json_body(value)))

        assert request.read() == orjson.dumps(value)
        assert body.size_of(request) == len(orjson.dumps(value))


@given(TEXTS, st.integers(1, 9))
def test_octets_are_counted_without_making_them(text: str, at_once: int) -> None:
    with patch.object(charset, "_AT_ONCE", at_once):
        assert charset.utf8_size(text) == len(text.encode())
    assert body.size_in_json(text) == len(orjson.dumps(text))
    assert is_blank(text) == (not text.strip())


_LINES = [
    b"Bcc: e@x.org",
    b" folded",
    b"To: a@x.org",
    b"From: b@x.org",
    b"X-A: 1",
    b"",
    b"no field",
    b"\xff: \xe9",
    b"Resent-To: c@x",
]


@example(b"Bcc: e@x.org\r\nno field\r\n\xff: \xe9", False)  # of the head nothing is left
@given(st.sampled_from(list(ODD.values())) | st.lists(st.sampled_from(_LINES)).map(b"\r\n".join), st.booleans())
def test_a_head_is_changed_as_in_the_whole_message(raw: bytes, traced: bool) -> None:
    raw = b"Received: by us\r\n" + raw if traced else raw
    ann, shop = Mailbox("ann@example.org"), Mailbox("shop@example.com", "Shop")
    for change in (
        strip_bcc,
        lambda head: without_fields(head, {"to", "x-*"}),
        lambda head: with_from(head, shop),
        lambda head: with_recipients(head, to=[ann], cc=[], bcc=["b@example.org"]),
    ):
        made = with_head(raw, change)

        assert bytes(made) == change(raw)
        assert made is raw or isinstance(made, Joined)
        assert _whole(seven_bit(made)) == _whole(seven_bit(bytes(made)))
        ascii_made, _ = seven_bit(made)
        marked = partial(with_fields, fields=[b"X-Mark: 1\r\n"])
        assert bytes(with_head(ascii_made, marked)) == marked(bytes(ascii_made))


def _whole(made: tuple[Content, frozenset[str]]) -> tuple[bytes, frozenset[str]]:
    return bytes(made[0]), made[1]


def test_a_body_of_seven_bits_is_not_copied() -> None:
    raw = b"Bcc: e@x.org\r\nTo: a@x.org\r\n\r\ntext\r\n"
    made, _ = seven_bit(with_head(raw, strip_bcc))

    assert isinstance(made, Joined)
    assert made.parts[-1] == Slice(raw, raw.index(b"text"), len(raw))


def test_equal_messages_have_equal_attachments() -> None:
    raw = whole(multipart("mixed", part("text/plain", b"see file"), attached(b"0123456789" * 9)))

    assert parse(raw) == parse(bytes(bytearray(raw)))
    assert isinstance(parse(raw).attachments[0].encoded, pieces.Base64Lines)
