"""What the doctor makes of a dialogue, and of octets: values in, findings out."""

from __future__ import annotations

import ipaddress
import tomllib
from typing import Any

import pytest

from bridge.cli.doctor.content import NewlineCount, message_of, wrong_end
from bridge.cli.doctor.dialogue import (
    Command,
    Delivered,
    Dialogue,
    Ended,
    Handshake,
    Login,
    Proxied,
    Setup,
    Stall,
    Step,
)
from bridge.cli.doctor.findings import Finding, Setting, as_toml, gets_through, listener, merged, toml_value
from bridge.cli.doctor.hello import Hello, kind_of, parse_record
from bridge.cli.doctor.mending import SOMEBODY, mend_path, without_size
from bridge.cli.doctor.rules import examine
from bridge.delivery.preparation import SENDER_NOT_ALLOWED as FROM_NOT_ALLOWED
from bridge.reply import Reply
from bridge.smtp import replies
from bridge.smtp.policy import ListenerPolicy
from bridge.smtp.proxy import PROXY_MARKS
from bridge.smtp.syntax import parse_rcpt

LOCAL = (ipaddress.ip_network("127.0.0.0/8"),)
GOOD = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: s\r\nDate: d\r\nMessage-ID: <1@x>\r\n\r\ntext\r\n.\r\n"
RSA_ONLY, ECDSA, EITHER = 0x002F, 0xC02B, 0x1301


def setup(**policy: Any) -> Setup:
    facts = {
        name: policy.pop(name) for name in tuple(policy) if name in Setup.__dataclass_fields__ and name != "policy"
    }
    return Setup(policy=ListenerPolicy(allowed_networks=LOCAL, **policy), **{"users": ("printer",), **facts})


def found(*steps: Step, client: str = "127.0.0.1", to: Setup | None = None, **more: Any) -> dict[str, Finding]:
    dialogue = Dialogue(client=client, steps=steps, **more)
    return {finding.rule: finding for finding in examine(dialogue, to or setup())}


def delivered(raw: bytes = GOOD, sender: str = "a@example.com", refusal: Reply | None = None) -> Delivered:
    count = NewlineCount()
    count.feed(raw)
    return Delivered(content=message_of(raw, len(raw), count.value), sender=sender, refusal=refusal)


EHLO, QUIT = Command(verb="EHLO", argument="x"), Ended(by="quit")


def test_a_device_without_a_login_from_outside_is_let_in_by_its_address_or_the_network_it_moves_in() -> None:
    mail = Command(verb="MAIL", argument="FROM:<a@example.com>", refusals=(replies.NEED_AUTH,))

    finding = found(EHLO, mail, QUIT, client="192.168.1.50", to=setup(address="0.0.0.0:25"))["no-login"]

    assert finding.settings == (listener("allowed_networks", ("127.0.0.0/8", "192.168.1.50/32")),)
    assert any("192.168.1.0/24" in advice for advice in finding.do)


def test_a_listener_on_the_loopback_is_no_use_to_another_machine() -> None:
    findings = found(EHLO, QUIT, client="192.168.1.50")

    assert findings["address"].settings == (listener("address", "0.0.0.0:2525"),)
    assert "address" not in found(Proxied(source="192.168.1.50"), EHLO, QUIT, client="192.168.1.50")


def test_the_settings_for_a_balancer_and_for_paths_without_brackets_are_named() -> None:
    rcpt = Command(verb="RCPT", argument="TO:b@example.com", refusals=(replies.RCPT_SYNTAX,))

    findings = found(Proxied(by="10.0.0.7"), EHLO, rcpt, QUIT)

    assert findings["proxy-header"].settings == (
        listener("proxy_protocol", True),
        listener("proxy_networks", ("10.0.0.7",)),
    )
    assert findings["bare-address"].settings == (listener("bare_addresses", True),)


@pytest.mark.parametrize(
    ("offered", "minimum", "named"),
    [("1.0", "1.2", "1.0"), ("1.1", "1.2", "1.1"), ("1.2", "1.3", "1.2"), ("1.2", "1.2", None), ("SSL 3", "1.0", "")],
)
def test_the_oldest_tls_that_is_needed_is_named(offered: str, minimum: str, named: str | None) -> None:
    findings = found(Handshake(hello=Hello(version=offered)), EHLO, QUIT, to=setup(tls_minimum=minimum))

    values = [setting.value for setting in findings["tls-version"].settings] if "tls-version" in findings else None
    assert values == (None if named is None else [named] if named else [])


@pytest.mark.parametrize(
    ("offered", "keys"),
    [
        ({ECDSA}, None),
        ({0xC02F}, ["cert_file"]),
        ({RSA_ONLY}, ["tls_minimum", "cert_file"]),
        ({0xC009}, ["tls_minimum"]),
        ({0x0005}, []),
    ],
)
def test_without_a_common_cipher_a_certificate_or_older_ciphers_are_named(
    offered: set[int], keys: list[str] | None
) -> None:
    known = {ECDSA: "ecdsa", 0xC02F: "rsa", EITHER: "any"}
    to = setup(ciphers=known, old_ciphers={**known, RSA_ONLY: "rsa", 0xC009: "ecdsa"}, key="ecdsa")

    findings = found(
        Handshake(hello=Hello(version="1.2", ciphers=frozenset(offered)), version="1.2"), EHLO, QUIT, to=to
    )

    finding = findings.get("tls-ciphers")
    assert (finding and [setting.key for setting in finding.settings]) == keys


def test_what_leaves_after_ehlo_is_only_guessed_at_and_not_where_all_was_offered() -> None:
    left = found(EHLO, Ended(by="device"), to=setup(tls="none", users=()))["left-after-ehlo"]

    assert left.weight == "guess"
    assert "STARTTLS or AUTH" in left.says
    assert "left-after-ehlo" not in found(EHLO, Ended(by="device"), offered_all=True)


def test_a_test_of_the_connection_is_no_fault() -> None:
    encrypted = (EHLO, Command(verb="STARTTLS"), Handshake(version="1.3"), EHLO)

    for steps in ((*encrypted, Command(verb="QUIT"), QUIT), (Ended(by="device"),)):
        findings = found(*steps)
        assert gets_through(findings.values()), findings
        assert any("--count 2" in advice for finding in findings.values() for advice in finding.do)


def test_an_unknown_mechanism_is_a_note_where_another_follows() -> None:
    ntlm, plain = Login(mechanism="NTLM", tls=True), Login(mechanism="PLAIN", tls=True, name="printer", right=True)

    assert found(ntlm, EHLO, QUIT)["mechanism"].weight == "change"
    assert found(ntlm, plain, EHLO, QUIT)["mechanism"].weight == "note"


def test_a_user_is_let_send_as_both_addresses_where_from_is_another_than_that_of_mail() -> None:
    login = Login(mechanism="PLAIN", tls=True, name="printer", right=True)
    mail = Command(verb="MAIL", argument="FROM:<a@example.com>", refusals=(replies.SENDER_NOT_ALLOWED,))
    steps = (EHLO, login, mail, delivered(sender="b@example.com", refusal=FROM_NOT_ALLOWED), QUIT)
    findings = examine(Dialogue(client="127.0.0.1", steps=steps), setup())

    assert {finding.rule for finding in findings if finding.weight == "change"} == {"sender"}
    assert [setting.value for setting in merged(findings) if setting.key == "senders"] == [
        ("a@example.com", "b@example.com")
    ]


def test_a_refusal_that_no_rule_knows_is_told_all_the_same() -> None:
    odd = Reply(550, "5.7.1", "Something new")

    findings = found(EHLO, Command(verb="RCPT", argument="TO:<b@example.com>", refusals=(odd,)), delivered(), QUIT)

    assert (findings["refused"].weight, findings["refused"].reply) == ("change", odd)


@pytest.mark.parametrize(
    ("raw", "rules"),
    [
        (GOOD, set()),
        (GOOD.replace(b"Date: d\r\n", b""), {"missing"}),
        (GOOD.replace(b"To: b@example.com\r\n", b""), {"no-to"}),
        (GOOD.replace(b"text\r\n", b" \r\n"), {"empty"}),
        (GOOD.replace(b"Subject: s", b"Subject:"), {"empty"}),
        (GOOD.replace(b"Subject: s", b"Subject: \xfcber"), {"eight-bit-header"}),
        (GOOD.replace(b"text\r\n", b"te\nxt\r\n"), {"bare-newlines"}),
        (b".\r\n", {"missing", "no-to", "empty"}),
    ],
)
def test_what_a_message_lacks_is_noted(raw: bytes, rules: set[str]) -> None:
    findings = found(EHLO, delivered(raw), QUIT)

    assert {finding.rule for finding in findings.values()} - {"mail"} == rules
    assert gets_through(findings.values())


def test_a_sender_that_no_provider_takes_is_guessed_to_matter_unless_all_is_only_captured() -> None:
    for sender in ("", "scanner@localhost", "scanner@192.0.2.7"):
        assert found(EHLO, delivered(sender=sender), QUIT)["from"].weight == "guess"
        assert "from" not in found(EHLO, delivered(sender=sender), QUIT, to=setup(sends=False))


def test_settings_are_merged_into_lines_for_the_file() -> None:
    findings = [
        Finding(rule="a", weight="change", says="", settings=(listener("auth_mechanisms", ("PLAIN", "LOGIN")),)),
        Finding(rule="b", weight="change", says="", settings=(listener("auth_mechanisms", ("PLAIN", "CRAM-MD5")),)),
        Finding(rule="c", weight="change", says="", settings=(listener("tls_minimum", "1.1"), listener("tls", "none"))),
        Finding(rule="d", weight="change", says="", settings=(listener("tls_minimum", "1.0", "old"),)),
        Finding(rule="e", weight="note", says="", settings=(Setting(table="user", key="name", value='a"\\\x1b'),)),
        Finding(rule="f", weight="note", says="", settings=(Setting(table="smtp", key="max_recipients", value=10),)),
    ]

    tree = tomllib.loads(as_toml(merged(findings), address="0.0.0.0:25"))

    listeners = [
        {
            "address": "0.0.0.0:25",
            "auth_mechanisms": ["PLAIN", "LOGIN", "CRAM-MD5"],
            "tls_minimum": "1.0",
            "tls": "none",
        }
    ]
    assert tree == {"smtp": {"listener": listeners, "max_recipients": 10}, "user": [{"name": 'a"\\\x1b'}]}
    assert toml_value(True) == "true"


@pytest.mark.parametrize(
    ("tail", "end"),
    [(b"xt\n.\n", "LF"), (b"xt\r\n.\n", "LF"), (b"xt\n.\r\n", "LF"), (b".\n", "LF"), (b"xt\r.\r", "CR"),
     (b"xt\r\n.\r\n", ""), (b"xt.\n", ""), (b"xt\n..\n", ""), (b"xt\n", ""), (b"", "")],
)  # fmt: skip
def test_an_end_that_is_none_is_known_by_its_octets(tail: bytes, end: str) -> None:
    assert wrong_end(tail) == end


@pytest.mark.parametrize("cut", range(11))
def test_line_ends_are_counted_right_however_the_segments_are_cut(cut: int) -> None:
    data = b"a\r\nb\nc\rd\r\r\n"
    count = NewlineCount()

    count.feed(data[:cut])
    count.feed(data[cut:])

    assert (count.value.crlf, count.value.lf, count.value.cr) == (2, 1, 2)


def test_what_stands_behind_the_end_of_a_message_is_not_counted_to_it() -> None:
    content = message_of(GOOD + b"MAIL FROM:<a@b>\n", len(GOOD) + 16, NewlineCount().value)

    assert (content.size, content.newlines.lf, content.body) == (len(GOOD) - 3, 0, 5)


def test_a_stall_in_a_line_is_the_only_thing_that_is_said_of_it() -> None:
    findings = found(Stall(where="line", tail=b"EHLO x\r"), EHLO, Command(verb="QUIT"), QUIT)

    assert [f.rule for f in findings.values() if f.weight != "note"] == ["open-line"]
    assert "CR alone" in findings["open-line"].says


# --- octets


@pytest.mark.parametrize(
    ("octets", "kind"),
    [(b"\x16\x03\x01", "tls"), (b"\x80\x2e\x01\x03\x01", "tls"), (b"\x16", None), (b"PROX", None), (b"PROXY ", "proxy"),
     (PROXY_MARKS[1][:5], None), (PROXY_MARKS[1], "proxy"),
     (b"EHLO", "text"), (b"GET /", "text"), (b"P", None), (b"\x16\x01\x01", "text")],
)  # fmt: skip
def test_the_first_octets_tell_the_protocol_or_wait_for_more(octets: bytes, kind: str | None) -> None:
    assert kind_of(octets) == kind


@pytest.mark.parametrize("length", range(5, 60, 7))
def test_a_hello_that_is_cut_off_is_no_error(length: int) -> None:
    whole = b"\x16\x03\x01\x00\x31\x01\x00\x00\x2d\x03\x01" + b"r" * 32 + b"\x00\x00\x04\x00\x2f\x00\x35\x01\x00"

    hello = parse_record(whole[:length])

    assert hello is None or hello.version in ("1.0", "SSL 3")
    assert parse_record(whole) == Hello(version="1.0", ciphers=frozenset({0x2F, 0x35}))


@pytest.mark.parametrize(
    ("argument", "mended"),
    [
        ("TO:<a@example.com>", "TO:<a@example.com>"),
        ("TO: a@example.com", "TO:<a@example.com>"),
        ("TO:a@example.com SIZE=5", "TO:<a@example.com>"),
        ("TO:<a@example.com@device>", "TO:<a@example.com>"),
        ("<a@example.com>", "TO:<a@example.com>"),
        ("TO:<>", f"TO:<{SOMEBODY}>"),
        ("", f"TO:<{SOMEBODY}>"),
    ],
)
def test_a_bad_path_is_mended_so_that_the_conversation_goes_on(argument: str, mended: str) -> None:
    takes = lambda text: not isinstance(parse_rcpt(text, hostname="h", smtputf8=False), Reply)  # noqa: E731

    assert mend_path(argument, "TO", takes) == mended
    assert without_size("FROM:<a@b> SIZE=9 BODY=7BIT") == "FROM:<a@b> BODY=7BIT"
