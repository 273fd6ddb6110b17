"""The arguments of MAIL and RCPT, and who may relay: tables of values."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.reply import Reply
from bridge.smtp.policy import ListenerPolicy, is_allowed
from bridge.smtp.replies import banner
from bridge.smtp.syntax import MailCommand, RcptCommand, parse_mail, parse_rcpt

LONG_LOCAL = "x" * 200


def mail(argument: str) -> MailCommand | Reply:
    return parse_mail(argument, hostname="bridge.example", max_size=1000)


def rcpt(argument: str, *, smtputf8: bool = False) -> str | Reply:
    return parse_rcpt(argument, hostname="bridge.example", smtputf8=smtputf8)


@pytest.mark.parametrize(
    ("argument", "path"),
    [
        ("FROM:<a@example.com>", "a@example.com"),
        ("from: <a@example.com>", "a@example.com"),
        ("FROM:<>", ""),
        ("FROM:<root>", "root@bridge.example"),
        ("FROM:<A.b+c=d@EXAMPLE.com>", "A.b+c=d@EXAMPLE.com"),
        ("FROM:<@relay.example:a@example.com>", "a@example.com"),
        ('FROM:<"a b"@example.com>', '"a b"@example.com'),
        ('FROM:<"a>b"@example.com>', '"a>b"@example.com'),
        ('FROM:<"a\\"b"@example.com>', '"a\\"b"@example.com'),
        ("FROM:<a@[192.0.2.1]>", "a@[192.0.2.1]"),
        ("FROM:<a@[IPv6:::1]>", "a@[IPv6:::1]"),
        ("FROM:<a..b.@docomo.example>", "a..b.@docomo.example"),
        ("FROM:<a@host_with_underscores.example>", "a@host_with_underscores.example"),
        ("FROM:<a@localhost>", "a@localhost"),
        ("FROM:<a@_dmarc.host_.example>", "a@_dmarc.host_.example"),
        ("FROM:<!#$%&'*+/=?^_`{|}~-@example.com>", "!#$%&'*+/=?^_`{|}~-@example.com"),
    ],
)
def test_a_sender_is_taken_as_it_is_written(argument: str, path: str) -> None:
    assert mail(argument) == MailCommand(reverse_path=path)


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        ("", "501 5.5.4"),
        ("FROM", "501 5.5.4"),
        ("FROM:", "501 5.5.4"),
        ("FROM:a@example.com", "501 5.5.4"),
        ("FROM:<a@example.com", "501 5.5.4"),
        ("FROM:a@example.com>", "501 5.5.4"),
        ("FROM:<", "501 5.5.4"),
        ("FROM:<<a@example.com>>", "501 5.5.4"),
        ("FROM:<a b@example.com>", "501 5.5.4"),
        ("FROM:<a@example.com>SIZE=1", "501 5.5.4"),
        ("FROM:<a@example.com> SIZE=-1", "501 5.5.4"),
        ("FROM:<a@example.com> =1", "501 5.5.4"),
        ("FROM:<a@example.com> SIZE=1001", "552 5.3.4"),
        ("FROM:<a@example.com> SIZE=" + "9" * 20, "552 5.3.4"),
        ("FROM:<a@example.com> SIZE=" + "9" * 21, "501 5.5.4"),
        ("FROM:<a@example.com> X-FOO", "555 5.5.4"),
        ("FROM:<a@example.com> ENVID", "501 5.5.4"),
        ("FROM:<a@example.com> AUTH", "501 5.5.4"),
        ("FROM:<a@example.com> RET=HDR\u017f", "501 5.5.4"),
        ("FROM:<a@example.com> \u017fIZE=1", "501 5.5.4"),
        ("FROM:<@relay.example:>", "553 5.1.7"),
        ("FROM:<(comment)>", "553 5.1.7"),
        ("FROM:<@>", "553 5.1.7"),
        ("FROM:<a@>", "553 5.1.7"),
        ("FROM:<@example.com>", "553 5.1.7"),
        ("FROM:<a@example..com>", "553 5.1.7"),
        ("FROM:<a@-example.com>", "553 5.1.7"),
        ("FROM:<a@[192.0.2.1>", "553 5.1.7"),
        ("FROM:<a@b@example.com>", "553 5.1.7"),
        ('FROM:<"a"b@example.com>', "553 5.1.7"),
        (f"FROM:<{LONG_LOCAL}@{'d' * 60}.example>", "553 5.1.7"),
        ("FROM:<\udcff@example.com> SMTPUTF8", "553 5.1.7"),
        ("FROM:<ä@example.com>", "553 5.6.7"),
        ("FROM:<a\x01@example.com>", "501 5.1.7"),
        ("FROM:<a\x7f@example.com>", "501 5.1.7"),
        ("FROM:<a\x85@example.com> SMTPUTF8", "501 5.1.7"),
        ('FROM:<"a\rb"@example.com>', "501 5.1.7"),
        ("FROM:<a@example.com>\x0b", "501 5.1.7"),
        ("FROM:<a\u2028b@example.com> SMTPUTF8", "501 5.1.7"),
        ("FROM:<a\u00a0b@example.com> SMTPUTF8", "553 5.1.7"),
        ("FROM:<\u3000a@example.com> SMTPUTF8", "553 5.1.7"),
        ('FROM:<"a\u2029b"@example.com> SMTPUTF8', "501 5.1.7"),
    ],
)
def test_what_is_no_sender_is_refused_with_the_reason(argument: str, reply: str) -> None:
    answer = mail(argument)

    assert isinstance(answer, Reply)
    assert str(answer).startswith(reply)


@pytest.mark.parametrize(
    ("argument", "path"),
    [
        ("TO:<b@example.org>", "b@example.org"),
        ("to: <b@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+40example.org", "b@example.org"),
        ("TO:<Postmaster>", "Postmaster@bridge.example"),
        ("TO:<postmaster@example.org>", "postmaster@example.org"),
        ("TO:<@a.example,@b.example:b@example.org>", "b@example.org"),
    ],
)
def test_a_recipient_is_taken_as_it_is_written(argument: str, path: str) -> None:
    found = rcpt(argument)

    assert isinstance(found, RcptCommand)
    assert found.address == path


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        ("TO:<>", "553 5.1.3"),
        ("TO:<bob>", "553 5.1.3"),
        ("TO:bob@example.org", "501 5.5.4"),
        ("TO:Postmaster", "501 5.5.4"),
        ("FROM:<bob@example.org>", "501 5.5.4"),
        ("TO:<b@example.org> NOTIFY=NEVER,SUCCESS", "501 5.5.4"),
        ("TO:<b@example.org> ORCPT=b@example.org", "501 5.5.4"),
        ("TO:<b@example.org> SIZE=1", "555 5.5.4"),
        ("TO:<b\x00@example.org>", "501 5.1.3"),
        ("TO:<bücher@example.org>", "553 5.6.7"),
        ("TO:<b@bücher.example>", "553 5.6.7"),
    ],
)
def test_what_is_no_recipient_is_refused_with_the_reason(argument: str, reply: str) -> None:
    answer = rcpt(argument)

    assert isinstance(answer, Reply)
    assert str(answer).startswith(reply)


def test_addresses_of_any_script_need_smtputf8() -> None:
    assert mail("FROM:<ä@bücher.example> SMTPUTF8") == MailCommand(reverse_path="ä@bücher.example", smtputf8=True)
    assert rcpt("TO:<用户@例子.example>", smtputf8=True) == RcptCommand(address="用户@例子.example")


@given(st.text(st.characters() | st.sampled_from('<>@"\\ ():.[],'), max_size=60))
def test_nothing_in_an_argument_raises_and_nothing_accepted_holds_a_control(text: str) -> None:
    for argument in (text, f"FROM:<{text}>", f"TO:<{text}>", f"TO:<a@example.org> {text}"):
        for answer in (mail(argument), rcpt(argument, smtputf8=True)):
            if isinstance(answer, Reply):
                continue
            path = answer.reverse_path if isinstance(answer, MailCommand) else answer.address
            path.encode()
            assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in path)


def networks(*names: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(name) for name in names)


@pytest.mark.parametrize(
    ("client", "allowed", "yes"),
    [
        ("127.0.0.1", ("127.0.0.0/8", "::1/128"), True),
        ("::1", ("127.0.0.0/8", "::1/128"), True),
        ("::ffff:127.0.0.1", ("127.0.0.0/8",), True),
        ("::ffff:192.0.2.1", ("127.0.0.0/8",), False),
        ("192.0.2.1", ("127.0.0.0/8", "::1/128"), False),
        ("192.0.2.200", ("192.0.2.0/24",), True),
        ("fe80::1%eth0", ("fe80::/10",), True),
        ("2001:db8::1", ("192.0.2.0/24",), False),
        ("unix", (), True),
        ("", ("127.0.0.0/8",), False),
        ("localhost", ("127.0.0.0/8",), False),
        ("127.0.0.1", (), False),
    ],
)
def test_who_may_relay_is_a_matter_of_networks(client: str, allowed: tuple[str, ...], yes: bool) -> None:
    assert is_allowed(client, networks(*allowed)) is yes


@pytest.mark.parametrize(
    ("require_auth", "authenticated", "client", "may"),
    [
        (False, False, "127.0.0.1", True),
        (False, False, "192.0.2.1", False),
        (False, True, "192.0.2.1", True),
        (True, False, "127.0.0.1", False),
        (True, False, "unix", False),
        (True, True, "192.0.2.1", True),
    ],
)
def test_a_login_opens_what_a_network_does_not(require_auth: bool, authenticated: bool, client: str, may: bool) -> None:
    policy = ListenerPolicy(require_auth=require_auth, allowed_networks=networks("127.0.0.0/8"))

    assert policy.may_relay(client, authenticated=authenticated) is may


def test_a_reply_never_holds_a_line_break() -> None:
    """aiosmtpd writes a status with a newline in it as it is, and the client hears two replies."""
    with pytest.raises(ValueError, match="printable"):
        Reply(550, "5.1.1", "no\r\n250 yes")
    assert Reply.safe(550, "5.1.1", "no\r\n250 yes").encode() == b"550 5.1.1 no 250 yes\r\n"
    assert banner("host\r\n250 x", "smtp").encode() == b"220 host 250 x ESMTP smtp-rest-bridge\r\n"


@pytest.mark.parametrize("domain", ["डाटामेल.भारत", "ไทยดี.ไทย", "نامه\u200cای.ایران", "බ්\u200dරා.ලංකා"])
def test_the_vowel_signs_and_joiners_of_a_script_belong_to_its_domains(domain: str) -> None:
    assert rcpt(f"TO:<bob@{domain}>", smtputf8=True) == RcptCommand(address=f"bob@{domain}")


@pytest.mark.parametrize("domain", ["\u093e.example", "a-\u093e.example", "\u200dx.example", "a\u3002b"])
def test_what_belongs_to_no_letter_makes_no_domain(domain: str) -> None:
    assert str(rcpt(f"TO:<bob@{domain}>", smtputf8=True)).startswith("553 5.1.3")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("piece", ["_a.", "_.", "a.", "a-", "@a:", "é", '""', '"\\"'])
def test_no_address_takes_long_to_read(piece: str) -> None:
    """One of 200 octets held up everybody for ever."""
    for argument in (f"<a@{piece * 80})>", f"<{piece * 80})>", f"<@{piece * 80})@a>"):
        assert isinstance(mail(f"FROM:{argument} SMTPUTF8"), Reply), argument
