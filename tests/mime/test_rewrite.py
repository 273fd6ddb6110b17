"""Changes to a message's header: what is asked for changes, every other byte stays."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.mime.compose import MAX_LINE, address_field, parameter_field, text_field
from bridge.mime.headers import decode_words
from bridge.mime.mailboxes import parse_mailboxes
from bridge.mime.params import parse_value
from bridge.mime.parse import parse
from bridge.mime.rewrite import with_fields, with_from, with_recipients, without_fields
from bridge.model import Mailbox
from tests.mime.samples import ODD, mail

MAIL = (
    b"Received: from x by y;\r\n\tMon, 23 Nov 2026 03:27:18 +0000\r\n"
    b"DKIM-Signature: v=1;\r\n b=abc\r\n"
    b"From: Shop <shop@example.com>\r\n"
    b"To: ann@example.org,\r\n eve@example.org\r\n"
    b"Resent-To: mallory@example.org\r\n"
    b"X-MC-Tags: a\r\nx-mc-BccAddress: eve@example.org\r\n"
    b"Subject: Hello\r\n\r\nTo: not a header\r\n"
)


def test_fields_go_by_name_or_by_prefix_with_their_continuation_lines() -> None:
    assert without_fields(MAIL, {"to", "x-mc-*"}) == MAIL.replace(
        b"To: ann@example.org,\r\n eve@example.org\r\n", b""
    ).replace(b"X-MC-Tags: a\r\nx-mc-BccAddress: eve@example.org\r\n", b"")


def test_nothing_to_drop_gives_the_same_object() -> None:
    assert without_fields(MAIL, {"x-nothing"}) is MAIL
    assert without_fields(MAIL, set()) is MAIL


def test_the_recipient_fields_are_exactly_those_given() -> None:
    out = with_recipients(MAIL, to=[Mailbox("bob@example.org", "Lee, Bob")], cc=[], bcc=["cat@example.org"])

    email = parse(out)
    assert email.to == (Mailbox("bob@example.org", "Lee, Bob"),)
    assert not email.cc
    assert b"Bcc: cat@example.org\r\n" in out
    for gone in (b"eve@example.org,", b"mallory", b"DKIM-Signature", b"To: ann"):
        assert gone not in out
    assert out.endswith(b"\r\n\r\nTo: not a header\r\n")
    assert b"Received: from x by y;\r\n\tMon" in out


def test_a_from_is_put_in_the_place_of_one_that_cannot_be_read() -> None:
    out = with_from(b"From: \r\nSubject: x\r\n\r\nbody", Mailbox("a@example.com", "J\u00fcrgen"))

    assert parse(out).sender == Mailbox("a@example.com", "J\u00fcrgen")
    assert out.count(b"From:") == 1


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"Subject: x\r\n\r\nbody", b"Subject: x\r\nX-A: 1\r\n\r\nbody"),
        (b"Subject: x\n\nbody", b"Subject: x\nX-A: 1\r\n\nbody"),
        (b"Subject: x", b"Subject: x\r\nX-A: 1\r\n\r\n"),
        (b"\r\nbody", b"X-A: 1\r\n\r\nbody"),
        (b"body only", b"X-A: 1\r\n\r\nbody only"),
        (b"Subject: x\r\nbroken line\r\n\r\nbody", b"Subject: x\r\nX-A: 1\r\n\r\nbroken line\r\n\r\nbody"),
    ],
)
def test_fields_are_added_at_the_end_of_the_header_wherever_it_ends(raw: bytes, expected: bytes) -> None:
    assert with_fields(raw, [b"X-A: 1\r\n"]) == expected


@pytest.mark.parametrize("raw", ODD.values(), ids=ODD)
def test_odd_mail_gets_its_recipients_and_keeps_its_body(raw: bytes) -> None:
    out = with_recipients(raw, to=[Mailbox("bob@example.org")], cc=[], bcc=[])

    assert parse(out).to == (Mailbox("bob@example.org"),)
    assert parse(out).text == parse(raw).text


# --- fields

texts = st.text(max_size=200)


@given(texts)
@example("0\xa0\x1b")  # a blank that only a control character keeps from the end
def test_a_text_field_says_what_was_given_in_short_ascii_lines(text: str) -> None:
    field = text_field("Subject", text)

    assert field.isascii()
    assert field.endswith(b"\r\n")
    assert all(len(line) <= MAX_LINE for line in field.split(b"\r\n"))
    value = field.partition(b":")[2]
    assert decode_words(value[:-2]) == decode_words(text) or "=?" in text
    assert parse(field + b"To: a@b.example\r\n\r\n").to == (Mailbox("a@b.example"),)


@given(st.lists(st.tuples(st.from_regex(r"[a-z]{1,9}@[a-z]{1,9}\.org", fullmatch=True), texts), max_size=8))
def test_an_address_field_names_the_addresses_given_and_no_others(people: list[tuple[str, str]]) -> None:
    field = address_field("To", [Mailbox(email, name) for email, name in people])

    assert field.isascii()
    assert [m.email for m in parse_mailboxes(field.partition(b":")[2])] == [email for email, _ in people]
    assert [line for line in field.split(b"\r\n")[1:-1] if not line.startswith(b" ")] == []


@pytest.mark.parametrize(
    "name", ["Lee, Ann", 'Ann "A" Lee', "a\\b", "J\u00fcrgen Gro\u00df", "=?utf-8?q?x?=", "\u65e5" * 90]
)
def test_display_names_are_read_back_as_they_were(name: str) -> None:
    field = address_field("From", [Mailbox("a@example.org", name)])

    assert parse_mailboxes(field.partition(b":")[2]) == (Mailbox("a@example.org", name),)


def test_a_domain_is_written_as_a_labels_and_a_local_part_as_it_is() -> None:
    assert address_field("To", [Mailbox("ann@m\u00fcller.example")]) == b"To: ann@xn--mller-kva.example\r\n"
    assert address_field("To", [Mailbox("\u00fc@example.org")]) == "To: \u00fc@example.org\r\n".encode()


@given(texts.filter(lambda text: text.isprintable() and text == text.strip()))
def test_a_parameter_is_read_back_as_it_was(name: str) -> None:
    field = parameter_field("Content-Disposition", "attachment", {"x-name": name})

    assert field.isascii()
    assert all(len(line) < 100 for line in field.split(b"\r\n"))
    assert parse_value(field.partition(b":")[2]).params.get("x-name", "") == name


def test_mail_without_the_named_fields_loses_nothing() -> None:
    raw = mail("Subject: x")
    assert without_fields(raw, {"to", "cc", "bcc", "resent-*"}) == raw.replace(b"To: bob@example.org\r\n", b"")
