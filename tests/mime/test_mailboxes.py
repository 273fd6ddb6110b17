from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.mime.mailboxes import parse_mailboxes


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("ann@x.org", [("ann@x.org", "")]),
        (" Ann Lee <ann@x.org>", [("ann@x.org", "Ann Lee")]),
        ("<ann@x.org>", [("ann@x.org", "")]),
        ("a@x, B <b@x>,\r\n c@x", [("a@x", ""), ("b@x", "B"), ("c@x", "")]),
        ('"Lee, Ann" <ann@x>, bob@x', [("ann@x", "Lee, Ann"), ("bob@x", "")]),
        (r'"Ann \"The\" Lee" <ann@x>', [("ann@x", 'Ann "The" Lee')]),
        ("a@x; Bob <b@x>; c@x", [("a@x", ""), ("b@x", "Bob"), ("c@x", "")]),
        ("=?utf-8?q?J=C3=B6rg?= <j@x>", [("j@x", "Jörg")]),
        ('"=?utf-8?q?J=C3=B6rg?=" <j@x>', [("j@x", "Jörg")]),
        ("=?utf-8?Q?Lee,_Ann?= <ann@x>", [("ann@x", "Lee, Ann")]),
        ("Jörg Müller <j@x>", [("j@x", "Jörg Müller")]),
        ("ann@x (Ann Lee)", [("ann@x", "Ann Lee")]),
        ("Ann (the (nested) one) <ann@x>", [("ann@x", "Ann")]),
        ("Ann <ann@x (comment)>", [("ann@x", "Ann")]),
        ("undisclosed-recipients:;", []),
        ("Team: a@x, Bob <b@x>;, c@x", [("a@x", ""), ("b@x", "Bob"), ("c@x", "")]),
        ("<@relay1,@relay2:ann@x>", [("ann@x", "")]),
        ('"john doe"@x', [('"john doe"@x', "")]),
        ('<"a>b"@x>', [('"a>b"@x', "")]),
        ("Ann ann@x", [("ann@x", "Ann")]),
        ("ann @ x", [("ann@x", "")]),
        ("a@x b@x", [("a@x", ""), ("b@x", "")]),
        ('"A" <a@x> "B" <b@x>', [("a@x", "A"), ("b@x", "B")]),
        ("Ann <ann@x, Bob <bob@x>", [("ann@x", "Ann"), ("bob@x", "Bob")]),
        ("Ann (work <ann@x>, bob@x", [("ann@x", "Ann work"), ("bob@x", "")]),
        ('Ann "The <ann@x>', [("ann@x", 'Ann "The')]),
        ("O'Brien <o@x>", [("o@x", "O'Brien")]),
        ("old@x <new@x>", [("new@x", "old@x")]),
        ("ann@[192.0.2.7]", [("ann@[192.0.2.7]", "")]),
        ("ann@[IPv6:2001:db8::1]", [("ann@[IPv6:2001:db8::1]", "")]),
        ("root", [("root", "")]),
        ("jörg@müller.example", [("jörg@müller.example", "")]),
        (",, ;;, a@x,", [("a@x", "")]),
        ("<>", []),
        ("Nobody At All", []),
        ("", []),
    ],
)
def test_addresses_are_read_as_real_mail_writes_them(raw: str, expected: list[tuple[str, str]]) -> None:
    assert [(mailbox.email, mailbox.name) for mailbox in parse_mailboxes(raw.encode())] == expected


def test_an_address_is_never_made_out_of_an_encoded_word() -> None:
    assert parse_mailboxes(b"=?utf-8?q?evil=40example.com?=") == ()
    assert parse_mailboxes(b"=?utf-8?q?=3Cevil=40example.com=3E=2C?= <ann@x>")[0].email == "ann@x"


def test_a_name_in_windows_1252_is_read() -> None:
    assert parse_mailboxes(b"M\xfcller <m@x>")[0].name == "Müller"


@given(st.text(alphabet='ab@x.<>"(),;:\\ =?[]\r\n\t\x00é', max_size=60))
def test_whatever_stands_there_gives_addresses_that_are_one_line(text: str) -> None:
    for mailbox in parse_mailboxes(text):
        assert mailbox.email
        assert mailbox.email.isprintable()
        assert mailbox.name == mailbox.name.strip()


@given(st.lists(st.from_regex(r"[a-z]{1,8}@[a-z]{1,8}\.org", fullmatch=True), max_size=20))
def test_a_plain_list_keeps_every_address_and_the_order(addresses: list[str]) -> None:
    assert [mailbox.email for mailbox in parse_mailboxes(", ".join(addresses))] == addresses
