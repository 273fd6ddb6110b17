from __future__ import annotations

import time

import pytest

from bridge.model import Mailbox
from bridge.sandbox.addresses import parse_mailbox, split_list


@pytest.mark.parametrize(
    ("text", "mailbox"),
    [
        ("ann@example.com", Mailbox("ann@example.com")),
        (" <ann@example.com> ", Mailbox("ann@example.com")),
        ("Ann <ann@example.com>", Mailbox("ann@example.com", "Ann")),
        ('"Doe, Ann \\"A\\"" <ann@example.com>', Mailbox("ann@example.com", 'Doe, Ann "A"')),
        ("Jürgen Q. Müller (Sales) <j@bücher.example>", Mailbox("j@bücher.example", "Jürgen Q. Müller (Sales)")),
        ("=?utf-8?q?J=C3=BCrgen?= <j@example.com>", Mailbox("j@example.com", "=?utf-8?q?J=C3=BCrgen?=")),
        ('"a b,c"@example.com', Mailbox('"a b,c"@example.com')),
        ("root@[192.0.2.1]", Mailbox("root@[192.0.2.1]")),
    ],
)
def test_one_mailbox_as_in_a_header_is_read(text: str, mailbox: Mailbox) -> None:
    assert parse_mailbox(text) == mailbox


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ann",
        "ann@",
        "@example.com",
        "a@example.com, b@example.com",
        "Doe, Ann <ann@example.com>",
        "Friends: ann@example.com;",
        "ann@example.com <ann@example.com>",
        "Ann <ann@example.com",
        "Ann <ann@example.com> <bob@example.com>",
        "ann@@example.com",
        "an n@example.com",
        "ann@exam..ple.com",
        "ann@example.com\r\nBcc: bob@example.com",
        "Ann\0 <ann@example.com>",
        "a" * 65 + "@example.com",
        "ann@" + "a." * 130 + "com",
        "a" * 1001,
    ],
)
def test_what_is_not_one_mailbox_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_mailbox(text)

    assert "example.com" not in str(refused.value)


@pytest.mark.parametrize("text", ['"' * 999, " " * 999, '"a"' * 333, "a " * 499, '"\\' * 499, "<" * 999])
def test_hostile_text_costs_little(text: str) -> None:
    started = time.process_time()
    with pytest.raises(ValueError):
        parse_mailbox(text)

    assert time.process_time() - started < 0.5


def test_a_comma_inside_quotes_separates_nothing() -> None:
    assert split_list(' a@x.example,"b,c"@x.example , ,d@x.example') == [
        "a@x.example",
        '"b,c"@x.example',
        "d@x.example",
    ]
