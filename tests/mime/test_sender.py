"""A new sender for mail whose own no provider takes: what is replaced, what goes to Reply-To, and that nothing else changes."""

from __future__ import annotations

import base64
import re
from email import message_from_bytes, policy
from email.headerregistry import AddressHeader
from email.message import Message
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.mime import sender
from bridge.mime.fields import header_end, read_fields, skip_mbox_line, strip_bcc
from bridge.mime.parse import parse
from bridge.mime.sender import NO_SENDERS, Senders, is_usable, parse_setting, rewrite_sender
from bridge.mime.trace import normalize_newlines, stamp
from bridge.model import Mailbox
from tests.mime.samples import BOMBS, ODD

NEW = "noreply@example.com"
NAMED = Mailbox(NEW, "Servers")
DEFAULT = Senders(default=NAMED)
NAMELESS = Senders(default=Mailbox(NEW))
RULES = Senders(rules=(("root@*", NAMED), ("*@old.example", Mailbox("new@example.com"))))
FINE = "ann@example.com"
STAMP = {
    "received": "Received: from a by b;\r\n\tnow",
    "date": "Mon, 23 Nov 2026 03:27:18 +0000",
    "message_id": "<1@b>",
}


def header(*lines: str | bytes) -> bytes:
    return b"".join((line.encode() if isinstance(line, str) else line) + b"\r\n" for line in lines)


def rewritten(*lines: str | bytes, path: str = FINE, senders: Senders = DEFAULT) -> list[str]:
    """The lines of the header after it; the body is checked."""
    raw, _, _ = rewrite_sender(header(*lines) + b"\r\nFrom: body@localhost\r\n", path, senders)
    head, empty, body = raw.partition(b"\r\n\r\n")
    assert (empty, body) == (b"\r\n\r\n", b"From: body@localhost\r\n")
    return head.decode().split("\r\n")


def read_by_the_standard_library(raw: bytes) -> Message[Any, Any]:
    message = message_from_bytes(raw, policy=policy.default)
    assert not isinstance(message, str)
    return message


def addresses(message: Message[Any, Any], name: str) -> list[tuple[str, str]]:
    field = message[name]
    assert isinstance(field, AddressHeader)
    return [(address.display_name, address.addr_spec) for address in field.addresses]


# --- rules


@pytest.mark.parametrize(
    ("address", "usable"),
    [
        ("ann@example.com", True),
        ("ann@a.b", True),
        ("ann@example.com.", True),
        ("ann@b\u00fccher.example", True),
        ("a@printer.local", True),
        ("a@localhost1.example", True),
        ('"a b"@example.com', True),
        ("", False),
        ("root", False),
        ("root@", False),
        ("@example.com", False),
        ("root@web1", False),
        ("root@web1.", False),
        ("a@.example", False),
        ("a@example..com", False),
        ("root@localhost", False),
        ("root@LocalHost", False),
        ("root@localhost.", False),
        ("root@localhost.localdomain", False),
        ("root@localhost.example.com", False),
        ("root@web1.LocalDomain", False),
        ("root@web1.localdomain.", False),
        ("a@[192.0.2.1]", False),
        ("a@[IPv6:2001:db8::1]", False),
        ("a@192.0.2.1", False),
    ],
)
def test_a_sender_is_usable_with_a_full_domain(address: str, usable: bool) -> None:
    assert is_usable(address) is usable


@pytest.mark.parametrize(
    ("text", "mailbox"),
    [
        ("a@example.com", Mailbox("a@example.com")),
        ("<a@example.com>", Mailbox("a@example.com")),
        ("Servers <a@example.com>", Mailbox("a@example.com", "Servers")),
        ("Print Room<a@example.com>", Mailbox("a@example.com", "Print Room")),
        ("[Ops] B\u00e4cker <a@example.com>", Mailbox("a@example.com", "[Ops] B\u00e4cker")),
        ('"Lee, Ann <x>" <a@example.com>', Mailbox("a@example.com", "Lee, Ann <x>")),
    ],
)
def test_a_setting_is_a_mailbox(text: str, mailbox: Mailbox) -> None:
    assert parse_setting(text) == mailbox


@pytest.mark.parametrize("senders", [NO_SENDERS, DEFAULT, RULES])
@pytest.mark.parametrize(
    "line", [b"From: Ann <ann@example.com>", b"FROM : ann@example.com,\r\n root@localhost", b"From: \xe4 <a@b.example>"]
)
def test_mail_that_needs_nothing_comes_back_as_the_same_object(senders: Senders, line: bytes) -> None:
    raw = header("Received: x", line, "Reply-To:", "Sender: root@localhost") + b"\r\nbody\r\n"

    found, path, old = rewrite_sender(raw, FINE, senders)

    assert found is raw
    assert (path, old) == (FINE, "")


def test_without_settings_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "header_end", lambda *args: 1 / 0)

    assert rewrite_sender(b"From: root@localhost\r\n\r\n", "root@localhost", Senders())[1:] == ("root@localhost", "")


def test_header_and_envelope_are_judged_each_by_itself() -> None:
    bad, good = b"From: root@localhost\r\n\r\n", b"From: ann@example.com\r\n\r\n"

    assert rewrite_sender(good, "root@localhost", DEFAULT) == (good, NEW, "root@localhost")
    raw, path, old = rewrite_sender(bad, FINE, DEFAULT)
    assert (path, old) == (FINE, "root@localhost")
    assert parse(raw).sender == NAMED
    raw, path, old = rewrite_sender(bad, "www@web1", DEFAULT)
    assert (path, old) == (NEW, "root@localhost")
    assert parse(raw).sender == NAMED


def test_a_rule_that_matches_the_envelope_is_for_both() -> None:
    raw, path, old = rewrite_sender(b"From: Ann <ann@example.com>\r\n\r\n", "Root@web1.example.net", RULES)

    assert (path, old) == (NEW, "ann@example.com")
    assert raw == b"From: Servers <noreply@example.com>\r\nReply-To: Ann <ann@example.com>\r\n\r\n"


def test_a_rule_that_matches_only_the_header_changes_only_that() -> None:
    raw, path, old = rewrite_sender(b"From: bob@old.example\r\n\r\n", FINE, RULES)

    assert (path, old) == (FINE, "bob@old.example")
    assert raw == b"From: new@example.com\r\nReply-To: bob@old.example\r\n\r\n"


def test_the_first_rule_that_matches_either_wins() -> None:
    senders = Senders(rules=(("bob@*", Mailbox("header@example.com")), ("ann@*", Mailbox("envelope@example.com"))))

    raw, path, _ = rewrite_sender(b"From: bob@b.example\r\n\r\n", FINE, senders)

    assert parse(raw).sender.email == "header@example.com"
    assert path == FINE


def test_the_default_is_for_what_no_rule_replaced() -> None:
    senders = Senders(default=Mailbox("default@example.com"), rules=RULES.rules)

    raw, path, _ = rewrite_sender(b"From: bob@old.example\r\n\r\n", "bob@web1", senders)
    assert (parse(raw).sender.email, path) == ("new@example.com", "default@example.com")
    raw, path, _ = rewrite_sender(b"From: bob@web1\r\n\r\n", "root@web1", senders)
    assert (parse(raw).sender.email, path) == (NEW, NEW)
    raw, path, _ = rewrite_sender(b"From: bob@web1\r\n\r\n", "bob@web1", senders)
    assert (parse(raw).sender.email, path) == ("default@example.com", "default@example.com")


def test_the_null_reverse_path_stays_null_and_matches_no_rule() -> None:
    everybody = Senders(rules=(("*", NAMED),))

    raw, path, old = rewrite_sender(b"From: MAILER-DAEMON@localhost\r\n\r\n", "", everybody)
    assert (parse(raw).sender, path, old) == (NAMED, "", "MAILER-DAEMON@localhost")
    raw, path, old = rewrite_sender(b"Subject: x\r\n\r\n", "", everybody)
    assert (raw, path, old) == (b"Subject: x\r\n\r\n", "", "")
    raw, path, old = rewrite_sender(b"Subject: x\r\n\r\n", "", DEFAULT)
    assert (parse(raw).sender, path, old) == (NAMED, "", "")


def test_a_rule_may_match_the_address_that_it_gives() -> None:
    own = Senders(rules=(("*@example.com", NAMED),))
    done = b"From: Servers <NoReply@example.com>\r\n\r\n"

    assert rewrite_sender(done, NEW, own) == (done, NEW, "")
    raw, path, _ = rewrite_sender(b"From: noreply@example.com\r\n\r\n", NEW, own)
    assert (raw, path) == (b"From: Servers <noreply@example.com>\r\n\r\n", NEW)
    raw, _, _ = rewrite_sender(b"From: noreply@example.com, bob@b.example\r\n\r\n", NEW, own)
    assert raw == b"From: Servers <noreply@example.com>\r\nReply-To: bob@b.example\r\n\r\n"


# --- the header


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["From: root@localhost", "Subject: x"], ["From: @", "Reply-To: root@localhost", "Subject: x"]),
        (["Subject: x", "FROM : root@web1", "To: b"], ["Subject: x", "From: @", "Reply-To: root@web1", "To: b"]),
        (["From:", " root@localhost", "\t(Cron Daemon)"], ["From: @", "Reply-To: Cron Daemon <root@localhost>"]),
        (['From: "Lee, Ann" <a@h>'], ["From: @", 'Reply-To: "Lee, Ann" <a@h>']),
        (["From: Team: a@h, b@h;"], ["From: @", "Reply-To: a@h, b@h"]),
        (["From: a@h, Bob <bob@b.example>"], ["From: @", "Reply-To: a@h, Bob <bob@b.example>"]),
        (["From: a@h", "Subject: x", "from: b@h"], ["From: @", "Reply-To: a@h, b@h", "Subject: x"]),
        (["From: a@[192.0.2.7]"], ["From: @", "Reply-To: a@[192.0.2.7]"]),
        (['From: "a b"@localhost'], ["From: @", 'Reply-To: "a b"@localhost']),
        (["From: root"], ["From: @"]),
        (["From: root (Cron Daemon)"], ["From: @"]),
        (["From:", "Subject: x"], ["From: @", "Subject: x"]),
        (["From: <>"], ["From: @"]),
        (["From: Nobody At All"], ["From: @"]),
        (["Received: x", "Subject: x"], ["Received: x", "Subject: x", "From: @"]),
        (["From: a@h", "Reply-To: b@b.example"], ["From: @", "Reply-To: b@b.example"]),
        (["reply-to : b", "From: a@h"], ["reply-to : b", "From: @"]),
        (["Reply-To:", "From: a@h"], ["From: @", "Reply-To: a@h"]),
        (["From: a", "Reply-To: "], ["From: @", "Reply-To: "]),
        (["Sender: b@h", "From: a@h"], ["From: @", "Reply-To: a@h"]),
        (["From: a@h", "sender:", " root"], ["From: @", "Reply-To: a@h"]),
        (["From: a@h", "Sender: Bob <b@b.example>"], ["From: @", "Reply-To: a@h", "Sender: Bob <b@b.example>"]),
        (["Resent-From: a@h", "X-From: a@h", "From: a"], ["Resent-From: a@h", "X-From: a@h", "From: @"]),
        (["X: y", " From: folded@h", "From: a"], ["X: y", " From: folded@h", "From: @"]),
    ],
)
def test_an_unusable_from_gives_way_and_goes_to_reply_to(before: list[str], after: list[str]) -> None:
    assert rewritten(*before) == [line.replace("From: @", "From: Servers <noreply@example.com>") for line in after]


def test_a_sender_that_is_the_old_from_goes_with_it() -> None:
    lines = rewritten("From: bob@old.example", "Sender: Bob <BOB@old.example>", "Subject: x", senders=RULES)

    assert lines == ["From: new@example.com", "Reply-To: bob@old.example", "Subject: x"]


@pytest.mark.parametrize(
    ("value", "name", "reply_to"),
    [
        ("Print Room <a@h>", "Print Room <noreply@example.com>", "Print Room <a@h>"),
        ('"Lee, Ann" <a@h>', '"Lee, Ann" <noreply@example.com>', '"Lee, Ann" <a@h>'),
        ('"The \\"Boss\\"" <a@h>', '"The \\"Boss\\"" <noreply@example.com>', '"The \\"Boss\\"" <a@h>'),
        ("a@h (Ann)", "Ann <noreply@example.com>", "Ann <a@h>"),
        ("root (Cron Daemon)", "Cron Daemon <noreply@example.com>", ""),
        ("Second floor scanner", "Second floor scanner <noreply@example.com>", ""),
        ("=?utf-8?q?evil=40b=2Eexample?=", "noreply@example.com", ""),
        ("a@h", "noreply@example.com", "a@h"),
        ("=?iso-8859-2?Q?B=E4r?= <a@h>", "=?iso-8859-2?Q?B=E4r?= <noreply@example.com>", "=?iso-8859-2?Q?B=E4r?= <a@h>"),
        ("=?utf-8?q?Lee=2C_A?= <a@h>", "=?utf-8?q?Lee=2C_A?= <noreply@example.com>", "=?utf-8?q?Lee=2C_A?= <a@h>"),
        ('"=?utf-8?q?B=C3=A4r?=" <a@h>', "=?utf-8?b?QsOkcg==?= <noreply@example.com>", "=?utf-8?b?QsOkcg==?= <a@h>"),
        ("=?utf-8?q?B=C3=A4r,_A?= <a@h>", "=?utf-8?b?QsOkciwgQQ==?= <noreply@example.com>", "=?utf-8?b?QsOkciwgQQ==?= <a@h>"),
        ("B\u00e4r <a@h>", "=?utf-8?b?QsOkcg==?= <noreply@example.com>", "=?utf-8?b?QsOkcg==?= <a@h>"),
    ],
)  # fmt: skip
def test_the_old_name_stays_where_the_new_mailbox_has_none(value: str, name: str, reply_to: str) -> None:
    expected = [f"From: {name}", *([f"Reply-To: {reply_to}"] if reply_to else [])]

    assert rewritten(f"From: {value}", senders=NAMELESS) == expected


def test_an_encoded_name_of_several_words_is_folded_as_it_came() -> None:
    encoded = base64.b64encode("\u0412\u0430\u0441\u044f".encode("cp1251") * 10).decode()
    words = [f"=?windows-1251?B?{encoded}?="] * 3

    lines = rewritten("From: " + "\r\n ".join(words), " <a@h>", senders=NAMELESS)

    assert lines[:4] == [f"From: {words[0]}", f" {words[1]}", f" {words[2]}", " <noreply@example.com>"]


@pytest.mark.parametrize("charset", ["iso-8859-1", "koi8-r", "utf-8"])
def test_a_raw_name_is_read_in_the_charset_of_the_mail(charset: str) -> None:
    name = "\u0412\u0430\u0441\u044f" if charset == "koi8-r" else "J\u00f6rg"

    raw, _, _ = rewrite_sender(
        header(f"Content-Type: text/plain; charset={charset}", f"From: {name} <a@h>".encode(charset)), FINE, NAMELESS
    )

    assert parse(raw).sender == Mailbox(NEW, name)
    assert parse(raw).reply_to == (Mailbox("a@h", name),)
    assert raw.isascii()


@pytest.mark.parametrize(
    ("raw", "after"),
    [
        (b"", b"FROM\r\n"),
        (b"\r\nbody", b"FROM\r\nbody"),
        (b"just a body\r\nFrom: a@h\r\n", b"FROM\r\njust a body\r\nFrom: a@h\r\n"),
        (b" starts with a blank: x\r\n", b"FROM\r\n starts with a blank: x\r\n"),
        (b"Subject: x", b"Subject: x\r\nFROM"),
        (b"Subject: x\r\nSender: a@h", b"Subject: x\r\nFROM"),
        (b"Sender: a@h\r\n\r\nbody", b"FROM\r\nbody"),
        (b"From: a", b"FROM"),
        (b"Subject: x\r\nno field\r\nBcc: y\r\n\r\n", b"Subject: x\r\nFROMno field\r\nBcc: y\r\n\r\n"),
        (b"From root Mon Jan 1 2024\r\nSubject: x\r\n\r\nb", b"From root Mon Jan 1 2024\r\nSubject: x\r\nFROM\r\nb"),
        (b"From root Mon Jan 1 2024\r\nFrom: a\r\n\r\nb", b"From root Mon Jan 1 2024\r\nFROM\r\nb"),
        (b">From root Mon", b">From root Mon\r\nFROM\r\n"),
    ],
)
def test_a_header_that_is_none_or_has_no_end_is_no_obstacle(raw: bytes, after: bytes) -> None:
    found, _, _ = rewrite_sender(raw, FINE, DEFAULT)

    assert found == after.replace(b"FROM", b"From: Servers <noreply@example.com>\r\n")


def test_a_bcc_behind_a_broken_header_is_still_stripped_by_who_stamps() -> None:
    raw, _, _ = rewrite_sender(b"Subject: x\r\nno field\r\nBcc: eve@example.org\r\n\r\nbody", FINE, DEFAULT)

    assert b"eve" not in strip_bcc(stamp(raw, **STAMP))
    assert parse(stamp(raw, **STAMP)).sender == NAMED


@pytest.mark.parametrize(
    "value",
    [
        b'"a>,<eve@evil.example" <root@localhost>',
        b'<"a>,<eve@evil.example>,b"@localhost>',
        b"<root,eve@evil.example@localhost>",
        b"<root@local<eve@evil.example>",
        b'root"<eve@evil.example>"@localhost',
        "<root@x\uff0ceve\uff20evil.example>".encode(),
        "<root@x\uff1e\uff0c\uff1ceve>".encode(),
        b"=?utf-8?q?x=3E=2C=3Ceve=40evil=2Eexample=3E?= <root@localhost>",
        b"=?utf-8?b?DQpCY2M6IGV2ZUBldmlsLmV4YW1wbGU=?= <root@localhost>",
        b"a\rBcc: eve@evil.example\r <root@localhost>",
        b"a\0b\x85c <root@localhost>",
    ],
)
def test_an_old_from_brings_in_no_other_address_and_no_other_field(value: bytes) -> None:
    senders = Senders(default=Mailbox(NEW), rules=(("*", Mailbox(NEW)),))

    raw, _, _ = rewrite_sender(b"From: " + value + b"\r\nSubject: x\r\n\r\n", FINE, senders)

    message = read_by_the_standard_library(raw)
    assert set(message.keys()) <= {"From", "Reply-To", "Subject"}
    assert [address for _, address in addresses(message, "From")] == [NEW]
    answered = [address for _, address in addresses(message, "Reply-To")] if message["Reply-To"] else []
    assert set(answered) <= {box.email for box in parse(b"From: " + value).reply_to} | {
        "root@localhost", '"a>,<eve@evil.example>,b"@localhost', "eve@evil.example", "root@local"
    }  # fmt: skip
    assert ("eve@evil.example" in answered) <= (b"<eve@evil.example>" in value or b",eve@evil.example@" in value)


@pytest.mark.parametrize("raw", [*ODD.values(), *BOMBS.values()], ids=[*ODD, *BOMBS])
def test_odd_mail_gets_a_sender_and_keeps_its_content(raw: bytes) -> None:
    raw = normalize_newlines(raw)

    found, path, _ = rewrite_sender(raw, "root@localhost", Senders(rules=(("*", NAMED),)))

    assert path == NEW
    assert parse(stamp(found, **STAMP)).sender == NAMED
    before, after = parse(stamp(raw, **STAMP)), parse(stamp(found, **STAMP))
    assert (before.text, before.html, before.subject, before.to) == (after.text, after.html, after.subject, after.to)


LINES = st.lists(
    st.sampled_from(
        ["From: root@localhost", "from : x", "From: Ann <ann@example.com>", "From: =?utf-8?q?B=C3=A4r?=", " <b@h>",
         "Subject: a", "\tfolded", "Reply-To: a@b.example", "Reply-To:", "Sender: x@y", "From ann", "no field"]
    )
    | st.text(max_size=30),
    max_size=8,
).map(lambda lines: normalize_newlines("\r\n".join([*lines, ""]).encode("utf-8", "surrogatepass")))  # fmt: skip
NAMES = st.text(max_size=60) | st.text('ab=?_,;:<>@()"\\. \t\u00e9\uff0c', max_size=60)


def others(raw: bytes) -> list[bytes]:
    """The fields that are not ours to change, and what comes after them."""
    start = skip_mbox_line(raw)
    end = header_end(raw, start)
    fields = re.split(rb"(?m)^(?=[^ \t])", raw[start:end])
    ours = re.compile(rb"(?i)(from|reply-to|sender)[ \t]*:")
    kept = [field.removesuffix(b"\r\n") for field in fields if field and not ours.match(field)]
    return [raw[:start].removesuffix(b"\r\n"), *kept, raw[end:].removeprefix(b"\r\n")]


@given(head=LINES, body=st.binary(max_size=40), path=st.sampled_from(["", "root@localhost", FINE, "x"]))
@example(head=b"Subject: x\r\nSender: a@h", body=b"", path="x")
def test_whatever_the_mail_only_its_sender_changes(head: bytes, body: bytes, path: str) -> None:
    raw = normalize_newlines(head + body)

    found, new_path, old = rewrite_sender(raw, path, DEFAULT)

    assert others(found) == others(raw)
    assert new_path == (path if path in ("", FINE) else NEW)
    assert is_usable(parse(found).sender.email)
    assert rewrite_sender(found, new_path, DEFAULT)[0] is found
    assert (found is raw and new_path == path) <= (old == "")


FORMS = st.sampled_from(['"{}" <{}@{}>', "{} <{}@{}>", "{}{}@{}", "{},{}@{}"])


@given(name=NAMES, local=NAMES, domain=NAMES | st.just("localhost"), form=FORMS)
def test_the_standard_library_reads_the_new_from_whatever_the_old_one_was(
    name: str, local: str, domain: str, form: str
) -> None:
    value = normalize_newlines(form.format(name, local, domain).encode("utf-8", "surrogatepass"))
    raw = b"From: " + value.replace(b"\r\n", b"\r\n ") + b"\r\nSubject: x\r\n\r\nbody"

    found, _, _ = rewrite_sender(raw, FINE, Senders(rules=(("*", Mailbox(NEW)),)))

    message = read_by_the_standard_library(found)
    start, end = 0, found.index(b"\r\n\r\n") + 2
    assert {name for name, _ in read_fields(found, start, end)} <= {b"From", b"Reply-To", b"Subject"}
    assert [address for _, address in addresses(message, "From")] == [NEW]
    assert parse(found).sender.email == NEW
