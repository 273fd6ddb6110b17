from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.mime.fields import header_exceeds, strip_bcc, summary
from bridge.mime.parse import parse
from bridge.mime.trace import (
    count_hops,
    has_bare_newline,
    hops_told,
    normalize_newlines,
    received_field,
    rfc5322_date,
    stamp,
)
from bridge.model import Origin
from tests.mime.samples import mail

ADDED = {
    "received": "Received: from a by b;\r\n\tnow",
    "date": "Mon, 23 Nov 2026 03:27:18 +0000",
    "message_id": "<1@b>",
}
TOP = b"Received: from a by b;\r\n\tnow\r\n"
DATE = b"Date: Mon, 23 Nov 2026 03:27:18 +0000\r\n"
ID = b"Message-ID: <1@b>\r\n"


@pytest.mark.parametrize(
    ("raw", "stamped"),
    [
        (b"Date: x\r\nMessage-id : <2@x>\r\n\r\nbody", TOP + b"Date: x\r\nMessage-id : <2@x>\r\n\r\nbody"),
        (b"DATE: x\r\n\r\nbody", TOP + ID + b"DATE: x\r\n\r\nbody"),
        (b"Subject: x\r\n\r\nDate: body", TOP + DATE + ID + b"Subject: x\r\n\r\nDate: body"),
        (b"\r\nbody", TOP + DATE + ID + b"\r\nbody"),
        (b"just a body\r\n", TOP + DATE + ID + b"\r\njust a body\r\n"),
        (b" starts with a blank: x\r\n", TOP + DATE + ID + b"\r\n starts with a blank: x\r\n"),
        (b"", TOP + DATE + ID + b"\r\n"),
        (b"Subject: x", TOP + DATE + ID + b"Subject: x\r\n\r\n"),
        (b"Subject: x\r\nno field\r\nBcc: y\r\n\r\n", TOP + DATE + ID + b"Subject: x\r\n\r\nno field\r\n\r\n"),
        (b"From ann Mon\r\nSubject: x\r\n\r\nb", TOP + b"X-Mailbox-Line: From ann Mon\r\n" + DATE + ID + b"Subject: x\r\n\r\nb"),
    ],
)  # fmt: skip
def test_stamp_adds_what_is_missing_and_keeps_the_body_a_body(raw: bytes, stamped: bytes) -> None:
    assert stamp(raw, **ADDED) == stamped


@given(
    st.binary(max_size=120)
    | st.lists(st.sampled_from([b"A: b\r\n", b"\r\n", b" c\r\n", b"From x\r\n", b"text"])).map(b"".join)
)
def test_stamp_never_changes_the_body(raw: bytes) -> None:
    raw = normalize_newlines(raw)
    stamped = stamp(raw, **ADDED)

    assert parse(stamped).text == parse(raw).text
    assert count_hops(stamped) == count_hops(raw) + 1


def test_stamp_lets_no_line_break_of_its_own_arguments_through() -> None:
    stamped = stamp(b"\r\nbody", received="Received: a\nBcc: x", date="d\rX: y", message_id="i\r\nBcc: z")

    assert [name for name, _ in parse(stamped).headers] == []
    assert parse(stamped).text == "body"


def test_received_is_counted_in_the_top_header_only() -> None:
    raw = mail(
        "Received: one", "RECEIVED : two", "X-Received: no", "X: a\r\n Received: folded", body=b"Received: body\r\n"
    )

    assert count_hops(raw) == 2
    assert count_hops(b"") == 0


def test_received_says_who_sent_what_how_and_when() -> None:
    origin = Origin(
        client="192.0.2.7", helo="printer.example", protocol="ESMTPSA", tls="TLSv1.3 with cipher X (256/256 bits)"
    )
    field = received_field(
        origin, hostname="mx.example", queue_id="4XyZ", now=1795404438.0, recipient="ann@example.com"
    )

    assert field == (
        "Received: from printer.example ([192.0.2.7])\r\n"
        "\t(using TLSv1.3 with cipher X (256/256 bits))\r\n"
        "\tby mx.example with ESMTPSA id 4XyZ for <ann@example.com>;\r\n"
        "\tMon, 23 Nov 2026 03:27:18 +0000"
    )


@pytest.mark.parametrize(
    ("origin", "start"),
    [
        (
            Origin(client="2001:db8::1", helo="[IPv6:2001:db8::1]"),
            "Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])",
        ),
        (Origin(client="unix", helo=""), "Received: from unknown (local)"),
        (Origin(client="unknown", helo="x"), "Received: from x (unknown)"),
        (Origin(client="192.0.2.7", helo="a\r\nBcc: x (y) <z>;"), "Received: from a_Bcc:_x_y_z_ ([192.0.2.7])"),
    ],
)
def test_received_says_where_from_even_if_the_name_is_hostile(origin: Origin, start: str) -> None:
    assert received_field(origin, hostname="mx", queue_id="1", now=0).startswith(start + "\r\n\tby mx ")


@given(st.text(max_size=40) | st.just("x" * 5000), st.text(max_size=40) | st.just("y" * 5000))
def test_received_is_printable_ascii_in_lines_below_998(hostile: str, recipient: str) -> None:
    origin = Origin(client=hostile, helo=hostile, protocol=hostile, tls=hostile)
    field = received_field(origin, hostname="mx", queue_id="1", now=0, recipient=recipient)

    for line in field.split("\r\n"):
        assert len(line) < 998
        assert line.removeprefix("\t").isprintable()
        assert line.isascii()
    assert all(line.startswith("\t") for line in field.split("\r\n")[1:])


def test_a_date_does_not_depend_on_the_locale() -> None:
    assert rfc5322_date(0) == "Thu, 01 Jan 1970 00:00:00 +0000"


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        (b"a\nb", b"a\r\nb"),
        (b"a\rb", b"a\r\nb"),
        (b"\n\r", b"\r\n\r\n"),
        (b"\r\r\n\n", b"\r\n\r\n\r\n"),
        (b"\r", b"\r\n"),
    ],
)
def test_lone_line_breaks_become_crlf(raw: bytes, normal: bytes) -> None:
    assert has_bare_newline(raw)
    assert normalize_newlines(raw) == normal


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a"])).map(b"".join))
def test_normalized_bytes_have_no_bare_newline_and_stay_the_same_object(raw: bytes) -> None:
    normal = normalize_newlines(raw)

    assert not has_bare_newline(normal)
    assert normalize_newlines(normal) is normal
    assert has_bare_newline(raw) == (normal != raw)


@pytest.mark.parametrize(
    ("header", "stripped"),
    [
        (b"Bcc: a@x\r\nTo: b@x\r\n", b"To: b@x\r\n"),
        (b"To: b@x\r\nBCC : a@x,\r\n\tc@x,\r\n d@x\r\nX: y\r\n", b"To: b@x\r\nX: y\r\n"),
        (b"To: b@x\r\nresent-BCC:a@x\r\n", b"To: b@x\r\n"),
        (b"bcc:\r\nTo: b@x\r\nbcc: c@x\r\n", b"To: b@x\r\n"),
        (b"Subject: a\r\n Bcc: folded\r\nBcc: c@x\r\n", b"Subject: a\r\n Bcc: folded\r\n"),
        (b"To: b@x\nBcc: c@x\n\td@x\nX: y\n", b"To: b@x\nX: y\n"),
        (b'To: b@x\r\n"Bcc": c@x\r\nX: y\r\n', b"To: b@x\r\nX: y\r\n"),
        (b"To: b@x\r\nBcc\0: c@x\r\nX: y\r\n", b"To: b@x\r\nX: y\r\n"),
        (b"To: b@x\r\nX-Bcc: kept\r\n", b"To: b@x\r\nX-Bcc: kept\r\n"),
    ],
)
def test_bcc_is_stripped_with_its_folded_lines_and_nothing_else_changes(header: bytes, stripped: bytes) -> None:
    body = b"\r\nBcc: stays@in.the.body\r\n"

    assert strip_bcc(header + body) == stripped + body


@pytest.mark.parametrize(
    "raw",
    [
        mail("Subject: Bcc: none", body=b"Bcc: body\r\n"),
        mail("X-Bcc: kept"),
        mail("Subject: a\r\n bcc: folded"),
        b"Bcc is a word here: x\r\n",
        b"",
    ],
)
def test_without_bcc_the_same_bytes_come_back(raw: bytes) -> None:
    assert strip_bcc(raw) is raw


def test_bcc_is_found_behind_a_header_of_any_length() -> None:
    raw = b"X: " + b"a" * 2_000_000 + b"\r\nBcc: a@x\r\n\r\n"

    assert b"Bcc" not in strip_bcc(raw)


def test_a_header_that_is_nothing_but_bcc_ends_as_an_empty_one() -> None:
    assert strip_bcc(b"Bcc: a@x") == b""


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (mail("Message-ID: <1@x>", "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?="), ("<1@x>", "Grüße")),
        (mail("Subject: one", "Subject: two", body=b"Message-ID: <no@x>"), ("", "one")),
        (mail("subject : a\r\n b", "MESSAGE-ID:\r\n <1@x>"), ("<1@x>", "a b")),
        (mail("Subject: =?utf-8?q?a=0D=0Ab?="), ("", "a b")),
        (mail("Subject: " + "x" * 5000), ("", "x" * 200)),
        (b"", ("", "")),
    ],
)
def test_summary_is_the_message_id_and_the_subject(raw: bytes, expected: tuple[str, str]) -> None:
    assert summary(raw) == expected


@pytest.mark.parametrize(
    "bcc", [b"Bcc: secret@x", b"\x0bBcc: secret@x", b'"bcc" : secret@x', b"Resent-Bcc: a@x,\r\n secret@x"]
)
def test_a_bcc_behind_a_broken_header_line_does_not_become_readable_body(bcc: bytes) -> None:
    raw = b"To: b@x\r\nX Foo: bar\r\n" + bcc + b"\r\nX: y\r\n\r\nBcc: stays@in.the.body\r\n"

    stamped = stamp(raw, **ADDED)

    assert b"secret@x" not in stamped
    assert stamped.endswith(b"X Foo: bar\r\nX: y\r\n\r\nBcc: stays@in.the.body\r\n")


def test_a_header_is_too_large_by_its_own_length_alone() -> None:
    field = b"X: " + b"y" * 95 + b"\r\n"

    assert header_exceeds(field * 30, 1000)
    assert not header_exceeds(field * 10 + b"\r\n" + b"body " * 1000, 1000)
    assert not header_exceeds(b"no header at all " * 1000, 1000)
    assert not header_exceeds(b"", 1000)


def test_hops_before_http_are_counted_with_those_after() -> None:
    raw = mail(
        "Received: one", "X-Bridge-Hops: 7", "received: two", "X-Bridge-Hops-Not: 9", body=b"X-Bridge-Hops: 5\r\n"
    )

    assert (count_hops(raw), hops_told(raw)) == (9, True)
    assert (count_hops(mail("X-Bridge-Hops: x")), hops_told(mail("Received: one"))) == (0, False)
    assert parse(raw).headers == (("X-Bridge-Hops-Not", "9"),)
