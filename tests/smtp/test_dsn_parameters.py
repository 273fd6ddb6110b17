"""RFC 3461 at the SMTP side: what MAIL and RCPT may ask for, and that the envelope carries it to whoever delivers."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.model import Envelope, Origin, Wish
from bridge.reply import Reply
from bridge.smtp.syntax import MailCommand, RcptCommand, parse_mail, parse_rcpt
from tests.smtp.raw import CAPTURE, HEADER, Raw, clients_end
from tests.smtp.test_limits import port_of

__all__ = ["clients_end"]
LISTENER = "SMTP_BRIDGE_SMTP__LISTENER__"


def mail(parameters: str) -> MailCommand | Reply:
    return parse_mail(f"FROM:<a@example.com> {parameters}", hostname="bridge.example", max_size=1000)


def rcpt(parameters: str, *, smtputf8: bool = False) -> RcptCommand | Reply:
    return parse_rcpt(f"TO:<b@example.org> {parameters}", hostname="bridge.example", smtputf8=smtputf8)


@pytest.mark.parametrize(
    ("parameters", "ret", "envid"),
    [
        ("", "", ""),
        ("RET=FULL", "FULL", ""),
        ("ret=hdrs envid=QQ+2B314159", "HDRS", "QQ+2B314159"),
        ("ENVID=" + "x" * 100, "", "x" * 100),
        ("ENVID=" + "+2B" * 100, "", "+2B" * 100),
    ],
)
def test_what_is_to_be_returned_is_kept_as_it_was_sent(parameters: str, ret: str, envid: str) -> None:
    assert mail(parameters) == MailCommand(reverse_path="a@example.com", ret=ret, envid=envid)


@pytest.mark.parametrize(
    "parameters",
    [
        *("RET=", "RET", "RET=BODY", "RET=FULL RET=FULL"),
        *(
            "ENVID=",
            "ENVID=a+2",
            "ENVID=a+2b",
            "ENVID=a=b",
            "ENVID=\u00e4",
            "ENVID=" + "x" * 101,
            "ENVID=" + "+2B" * 101,
        ),
    ],
)
def test_a_malformed_ret_or_envid_is_501(parameters: str) -> None:
    assert str(mail(parameters)).startswith("501 5.5.4")


@pytest.mark.parametrize(
    ("parameters", "wish"),
    [
        ("", Wish()),
        ("NOTIFY=never", Wish("NEVER")),
        ("NOTIFY=DELAY,success", Wish("DELAY,SUCCESS")),
        ("notify=FAILURE,SUCCESS,failure,FAILURE", Wish("FAILURE,SUCCESS")),
        ("ORCPT=rfc822;b+2Bc@example.org", Wish("", "rfc822;b+2Bc@example.org")),
        ("orcpt=X-Local;+21b NOTIFY=FAILURE", Wish("FAILURE", "X-Local;+21b")),
        ("ORCPT=rfc822;" + "x" * 493, Wish("", "rfc822;" + "x" * 493)),
        ("ORCPT=utf-8;b+C3+B6b@example.org", Wish("", "utf-8;b+C3+B6b@example.org")),
        (r"ORCPT=UTF-8;b\x{F6}b@example.org", Wish("", r"UTF-8;b\x{F6}b@example.org")),
    ],
)
def test_a_wish_has_its_words_once_in_the_order_sent_and_orcpt_as_it_was_sent(parameters: str, wish: Wish) -> None:
    assert rcpt(parameters) == RcptCommand(address="b@example.org", wish=wish)


@pytest.mark.parametrize(
    "parameters",
    [
        *("NOTIFY=", "NOTIFY", "NOTIFY=SOMETIMES", "NOTIFY=SUCCESS,", "NOTIFY=,SUCCESS"),
        *("NOTIFY=NEVER,FAILURE", "NOTIFY=FAILURE,NEVER", "NOTIFY=NEVER,NEVER"),
        *("ORCPT=", "ORCPT", "ORCPT=b@example.org", "ORCPT=;b@example.org", "ORCPT=rf_c822;b", "ORCPT=rfc822;"),
        *("ORCPT=rfc822;+20+20", r"ORCPT=utf-8;\x{20}", "ORCPT=rfc822;a+zz", "ORCPT=rfc822;a=b"),
        *("ORCPT=rfc822;" + "x" * 494, "ORCPT=rfc822;" + "+40" * 165),
    ],
)
def test_a_malformed_wish_is_501(parameters: str) -> None:
    assert str(rcpt(parameters)).startswith("501 5.5.4")


@pytest.mark.parametrize(
    ("value", "smtputf8", "good"),
    [
        ("utf-8;b\u00f6b@b\u00fccher.example", True, True),
        ("utf-8;\u7528\u6237\u3000@example.org", True, True),
        ("utf-8;b\u00f6b@b\u00fccher.example", False, False),
        ("rfc822;b\u00f6b@b\u00fccher.example", True, False),
        ("utf-8;b\udcf6b@example.org", True, False),
    ],
)
def test_an_original_address_of_any_script_needs_its_type_and_smtputf8(value: str, smtputf8: bool, good: bool) -> None:
    """RFC 6533 3."""
    found = rcpt(f"ORCPT={value} NOTIFY=DELAY", smtputf8=smtputf8)

    if good:
        assert found == RcptCommand(address="b@example.org", wish=Wish("DELAY", value))
    else:
        assert str(found).startswith("501 5.5.4")


# --- over a socket


async def taken(daemon: Any, *commands: str, hello: str = "EHLO client.example") -> tuple[Envelope, Origin]:
    """What the door to the spool is given for a message with these commands, MAIL first."""
    found: list[tuple[Envelope, Origin]] = []
    submit = daemon.submission.submit

    def watched(envelope: Envelope, content: bytes, *, origin: Origin, **more: Any) -> Any:
        found.append((envelope, origin))
        return submit(envelope, content, origin=origin, **more)

    daemon.submission.submit = watched
    raw = await Raw.connect(port_of(daemon))
    await raw.expect("220")
    for command in (hello, *commands):
        assert (await raw.say(command)).startswith("250"), command
    raw.send(b"DATA\r\n" + HEADER + b"text\r\n.\r\n")
    await raw.expect("354", "250 2.0.0")
    return found[0]


@pytest.mark.parametrize(("protocol", "hello"), [("smtp", "EHLO"), ("lmtp", "LHLO")])
async def test_dsn_is_offered_and_the_envelope_carries_what_was_asked_for(
    protocol: str, hello: str, start_daemon: Any
) -> None:
    daemon = await start_daemon(**CAPTURE, **{f"{LISTENER}PROTOCOL": protocol, f"{LISTENER}NAME": "door"})
    offered = await Raw.connect(port_of(daemon))
    await offered.expect("220")
    await offered.say(f"{hello} x")

    envelope, origin = await taken(
        daemon,
        "MAIL FROM:<a@example.com> RET=HDRS ENVID=QQ+2B1",
        "RCPT TO:<b@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old@example.org",
        "RCPT TO:<c@example.org>",
        hello=f"{hello} client.example",
    )

    assert "DSN" in offered.lines
    assert envelope == Envelope(
        reverse_path="a@example.com",
        recipients=("b@example.org", "c@example.org"),
        ret="HDRS",
        envid="QQ+2B1",
        wishes={"b@example.org": Wish("SUCCESS,DELAY", "rfc822;old@example.org")},
    )
    assert origin.listener == "door"


async def test_of_a_recipient_given_twice_the_first_wish_holds(start_daemon: Any) -> None:
    envelope, _ = await taken(
        await start_daemon(**CAPTURE),
        "MAIL FROM:<a@example.com>",
        "RCPT TO:<b@Example.org> NOTIFY=DELAY",
        "RCPT TO:<b@example.org> NOTIFY=NEVER",
        "RCPT TO:<B@example.org> NOTIFY=SUCCESS",
    )

    assert envelope.recipients == ("b@Example.org", "B@example.org")
    assert envelope.wishes == {"b@Example.org": Wish("DELAY"), "B@example.org": Wish("SUCCESS")}
    assert envelope.wish("b@example.org") == Wish()


async def test_after_helo_the_parameters_are_taken_as_well(start_daemon: Any) -> None:
    envelope, origin = await taken(
        await start_daemon(**CAPTURE),
        "MAIL FROM:<a@example.com> RET=FULL BODY=8BITMIME SIZE=10",
        "RCPT TO:<b@example.org> NOTIFY=NEVER",
        hello="HELO scanner",
    )

    assert (envelope.ret, envelope.wishes) == ("FULL", {"b@example.org": Wish("NEVER")})
    assert origin.protocol == "SMTP"


async def test_the_next_message_begins_without_the_wishes_of_the_last(start_daemon: Any) -> None:
    envelope, _ = await taken(
        await start_daemon(**CAPTURE),
        "MAIL FROM:<a@example.com> RET=HDRS ENVID=1",
        "RCPT TO:<b@example.org> NOTIFY=NEVER",
        "RSET",
        "MAIL FROM:<a@example.com>",
        "RCPT TO:<b@example.org>",
    )

    assert envelope == Envelope(reverse_path="a@example.com", recipients=("b@example.org",))
