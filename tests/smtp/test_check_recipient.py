"""What is asked at RCPT of those who know more than the syntax: a suppressed address, one that no route takes."""

from __future__ import annotations

import base64
from typing import Any

from bridge.reply import Reply
from tests.delivery.conftest import every_line
from tests.smtp.raw import CAPTURE, HEADER, Raw, clients_end
from tests.smtp.test_limits import port_of

__all__ = ["clients_end"]
SUPPRESSED = Reply(550, "5.7.1", "Recipient is suppressed")
LISTENER = "SMTP_BRIDGE_SMTP__LISTENER__"


def check_with(daemon: Any, refused: dict[str, Reply]) -> list[tuple[str, str, str, str]]:
    """Those refused from now on, by address; the list grows with what is asked."""
    asked: list[tuple[str, str, str, str]] = []

    def check(user: str, listener: str, sender: str, recipient: str) -> Reply | None:
        asked.append((user, listener, sender, recipient))
        return refused.get(recipient)

    daemon.listeners[0].service.check_recipient = check
    return asked


async def test_who_sends_where_and_to_whom_is_asked_after_the_syntax(start_daemon: Any, secret_hash: str) -> None:
    daemon = await start_daemon(
        **CAPTURE,
        **{f"{LISTENER}NAME": "office", f"{LISTENER}AUTH_WITHOUT_TLS": "true"},
        SMTP_BRIDGE_USER__NAME="shop",
        SMTP_BRIDGE_USER__PASSWORD_HASH=secret_hash,
    )
    asked = check_with(daemon, {})
    raw = await Raw.greeted(port_of(daemon))

    await raw.say("MAIL FROM:<>")
    assert (await raw.say("RCPT TO:<bob>")).startswith("553 5.1.3")
    assert (await raw.say("RCPT TO:<b@example.org> NOTIFY=NEVER")).startswith("250 2.1.5")
    await raw.say("RSET")
    await raw.say(f"AUTH PLAIN {base64.b64encode(b'%cshop%csecret' % (0, 0)).decode()}")
    await raw.say("MAIL FROM:<a@example.com>")
    await raw.say("RCPT TO:<Postmaster>")
    await raw.say("RSET")

    assert asked == [
        ("", "office", "", "b@example.org"),
        ("shop", "office", "a@example.com", "Postmaster@bridge.example"),
    ]


async def test_a_refused_recipient_hears_why_and_the_others_get_their_mail(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    check_with(daemon, {"b@example.org": SUPPRESSED})
    raw = await Raw.greeted(port_of(daemon))
    await raw.say("MAIL FROM:<a@example.com>")

    with every_line() as logs:
        assert await raw.say("RCPT TO:<b@example.org>") == "550 5.7.1 Recipient is suppressed"
    assert (await raw.say("RCPT TO:<c@example.org>")).startswith("250 2.1.5")
    raw.send(b"DATA\r\n" + HEADER + b"text\r\n.\r\n")
    await raw.expect("354", "250 2.0.0")

    (line,) = [line for line in logs if line["event"] == "message.rejected"]
    assert (line["recipient"], line["reverse_path"], line["code"]) == ("b@example.org", "a@example.com", 550)
    (message,) = await daemon.spool.list_messages()
    assert "b@example.org" not in str(message)


async def test_where_all_are_refused_there_is_no_data(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    check_with(daemon, {"b@example.org": SUPPRESSED})
    raw = await Raw.greeted(port_of(daemon))
    await raw.say("MAIL FROM:<a@example.com>")
    await raw.say("RCPT TO:<b@example.org>")

    assert await raw.say("DATA") == "554 5.5.1 No valid recipients"
    await raw.say("RSET")


async def test_refused_recipients_count_as_errors(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__MAX_ERRORS="3")
    check_with(daemon, {"b@example.org": SUPPRESSED})
    raw = await Raw.greeted(port_of(daemon))
    await raw.say("MAIL FROM:<a@example.com>")

    for _ in range(3):
        assert (await raw.say("RCPT TO:<b@example.org>")).startswith("550")

    await raw.expect("421 4.7.0 Too many errors")
    await raw.expect_end()


async def test_a_check_that_fails_is_451_and_ends_the_transaction(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    daemon.listeners[0].service.check_recipient = lambda *args: 1 / 0
    raw = await Raw.greeted(port_of(daemon))
    await raw.say("MAIL FROM:<a@example.com>")

    assert (await raw.say("RCPT TO:<b@example.org>")).startswith("451 4.3.0")
    assert (await raw.say("MAIL FROM:<a@example.com>")).startswith("250 2.1.0")
    await raw.say("RSET")
