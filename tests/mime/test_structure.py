from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.mime.structure import Limits, Part, parse_structure, regions
from tests.mime.samples import BOMBS, ODD, mail, many_parts, multipart, nested, part, whole

PIECES = [
    b"--b\r\n",
    b"\r\n--b\r\n",
    b"\n--b\n",
    b"--b--\r\n",
    b"\r\n--b--",
    b"--bb\r\n",
    b"--bb--",
    b"--b \t\r\n",
    b"--b--x",
    b"Content-Type: multipart/mixed; boundary=b\r\n",
    b"Content-Type: multipart/mixed; boundary=bb\r\n",
    b"Content-Type: text/plain\r\n",
    b"Content-Type: multipart/mixed\r\n",
    b"From ann\r\n",
    b"X: y\r\n z\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b"text",
    b" ",
    b":",
    b"-",
]
broken_mime = st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)


def assert_covers(raw: bytes, top: Part) -> None:
    position = 0
    for _, start, end in regions(top):
        assert start == position
        assert end >= start
        position = end
    assert position == len(raw)


def leaves(raw: bytes, top: Part) -> list[bytes]:
    return [raw[start:end] for kind, start, end in regions(top) if kind == "body"]


@given(st.binary(max_size=400) | broken_mime)
def test_every_byte_belongs_to_exactly_one_region(raw: bytes) -> None:
    assert_covers(raw, parse_structure(raw))


@given(broken_mime, st.integers(0, 3), st.integers(0, 4), st.integers(0, 60))
def test_no_limit_loses_a_byte(raw: bytes, depth: int, parts: int, header_bytes: int) -> None:
    head = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    limits = Limits(depth=depth, parts=parts, header_bytes=header_bytes)

    assert_covers(head + raw, parse_structure(head + raw, limits))


@pytest.mark.parametrize("name", [*ODD, *BOMBS])
def test_odd_mail_loses_no_byte(name: str) -> None:
    raw = {**ODD, **BOMBS}[name]

    assert_covers(raw, parse_structure(raw))


@pytest.mark.parametrize(
    ("raw", "bodies"),
    [
        (whole(multipart("mixed", part("text/plain", b"one"), part("text/plain", b"two"))), [b"one", b"two"]),
        (ODD["boundary never closed"], [b"one", b"two"]),
        (ODD["inner boundary like the outer"], [b"", b"in"]),
        (ODD["inner boundary begins like the outer"], [b"in"]),
        (ODD["parts without header"], [b"one", b"two"]),
        (ODD["empty parts"], [b"", b""]),
        (ODD["blanks after the boundary"], [b"one"]),
        (ODD["no boundary"], [b"all of it is text"]),
        (ODD["bare LF"], [b"Hello\n"]),
        (ODD["body only"], [ODD["body only"]]),
        (ODD["continuation first"], [ODD["continuation first"]]),
        (ODD["header only"], [b""]),
        (b"Subject: x\r\nthis is no field\r\nX: y\r\n\r\nz", [b"this is no field\r\nX: y\r\n\r\nz"]),
    ],
)
def test_bodies_are_what_stands_between_the_boundaries(raw: bytes, bodies: list[bytes]) -> None:
    assert leaves(raw, parse_structure(raw)) == bodies


def test_a_body_keeps_its_last_line_break_and_the_delimiter_takes_one() -> None:
    raw = whole(multipart("mixed", part("text/plain", b"one\r\n")))

    assert leaves(raw, parse_structure(raw)) == [b"one\r\n"]


@pytest.mark.parametrize(
    ("value", "content_type", "charset"),
    [
        ("text/plain (comment); charset=utf-8", "text/plain", "utf-8"),
        ("(comment) TEXT/HTML", "text/html", ""),
        ("text/plain; charset=utf-8 (comment)", "text/plain", "utf-8"),
        ('text/plain; charset="utf-8', "text/plain", "utf-8"),
        ("text/plain; charset = utf-8 ; charset=koi8-r", "text/plain", "utf-8"),
        ("text/plain;; ;charset=utf-8;", "text/plain", "utf-8"),
        ('text/plain; name="a.txt" charset=utf-8', "text/plain", "utf-8"),
        ("text", "text/plain", ""),
        ("text/", "text/plain", ""),
        ("", "text/plain", ""),
    ],
)
def test_content_type_is_read_as_written_by_real_programs(value: str, content_type: str, charset: str) -> None:
    top = parse_structure(mail(f"Content-Type: {value}"))

    assert (top.content_type, top.type.params.get("charset", "")) == (content_type, charset)


@pytest.mark.parametrize("value", ["base64", " BASE64 ", "base64 (what else)", "base64;"])
def test_transfer_encoding_is_read_without_case_blanks_and_comments(value: str) -> None:
    assert parse_structure(mail(f"Content-Transfer-Encoding: {value}")).encoding == "base64"


def test_what_is_nested_too_deep_stays_whole() -> None:
    top = parse_structure(nested(300), Limits(depth=100))
    depth, current = 0, top
    while current.children:
        depth, current = depth + 1, current.children[0]

    assert depth == 100
    assert current.opaque
    assert "nested deeper than the limit, the rest is kept as one part" in top.defects


def test_parts_beyond_the_limit_are_one_opaque_part() -> None:
    top = parse_structure(many_parts(20), Limits(parts=10))

    assert len(top.children) == 10
    assert [child.opaque for child in top.children] == [False] * 9 + [True]
    assert b"part 19" in many_parts(20)[top.children[-1].start : top.children[-1].end]


def test_a_long_header_is_read_up_to_the_limit_and_the_body_is_found() -> None:
    raw = mail(b"X-Long: " + b"a" * 5000, body=b"text")
    top = parse_structure(raw, Limits(header_bytes=1000))

    assert raw[top.body : top.end] == b"text"
    assert "header longer than the limit, its end is not read" in top.defects
