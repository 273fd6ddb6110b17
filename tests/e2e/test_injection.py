"""Evil mail through the whole path: a client's octets, the daemon, a provider's strict twin over real HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.sandbox import Sandbox
from tests.e2e.conftest import Smtp, eventually, statuses
from tests.e2e.test_catalogue import settings

SENDER, ANN, EVE = "shop@example.com", "ann@example.org", "eve@evil.example"
# Octets of an argument of MAIL or RCPT, with what a client hears.
ARGUMENTS = {
    b"MAIL FROM:<shop\r@example.com>": "501",
    b"MAIL FROM:<shop\0@example.com>": "501",
    b"MAIL FROM:<shop@example.com>\x0bSIZE=1": "501",
    b"MAIL FROM:<shop@example.com> ENVID=a\rb": "501",
    b"MAIL FROM:<shop@example.com> ENVID=a\0": "501",
    b"MAIL FROM:<a\xe2\x80\xa8b@example.com> SMTPUTF8": "501",
    b"MAIL FROM:<a\xc2\x85b@example.com> SMTPUTF8": "501",
    b'RCPT TO:<"a\rb"@example.org>': "501",
    b"RCPT TO:<ann\0@example.org>": "501",
    b"RCPT TO:<ann@example.org\x0c>": "501",
    b"RCPT TO:<ann@example.org> ORCPT=rfc822;a\rb": "501",
    b"RCPT TO:<ann@example.org> NOTIFY=NEVER\0": "501",
    b'RCPT TO:<"a\xe2\x80\xa9b"@example.org>': "501",
}
# A line feed within a command begins the next one, which is none and names nobody.
SPLIT = {
    b"MAIL FROM:<shop\n@example.com>": ["50", "50"],
    b"RCPT TO:<ann\n@example.org>": ["50", "50"],
}
EVIL = (
    b"=?utf-8?q?x=0D=0ABcc=3A_eve=40evil.example=0D=0A?=",
    b"=?utf-8?b?eA0KVG86IGV2ZUBldmlsLmV4YW1wbGU=?=",
    b"x\rBcc: eve@evil.example",
    b"x\x00\x0b\xc2\x85\xe2\x80\xa8Bcc: eve@evil.example",
    b"=?utf-8?q?=22=3E?=\r\n =?utf-8?q?=2C?= <eve@evil.example",
)
KINDS = ("sendgrid", "mailgun", "gmail")  # JSON, a form with a message, a message whose header names the recipients


async def say(client: Smtp, line: bytes) -> str:
    client.writer.write(line + b"\r\n")
    return await client.reply()


async def test_no_argument_with_a_control_is_taken_and_nothing_is_sent(
    start_daemon: Any, connect: Any, sandbox: Sandbox, tmp_path: Path
) -> None:
    daemon = await start_daemon(**settings("sendgrid", sandbox, tmp_path))
    for line, reply in ARGUMENTS.items():
        client = await connect(daemon.listeners[0].port)
        if line.startswith(b"RCPT"):
            assert (await say(client, b"MAIL FROM:<shop@example.com> SMTPUTF8")).startswith("250")
        assert (await say(client, line)).startswith(reply), line
        assert (await say(client, b"DATA")).startswith(("503", "554")), line

    assert await statuses(daemon) == {}
    assert not sandbox.messages


async def test_a_line_feed_in_an_argument_names_nobody(
    start_daemon: Any, connect: Any, sandbox: Sandbox, tmp_path: Path
) -> None:
    daemon = await start_daemon(**settings("sendgrid", sandbox, tmp_path))
    for line, replies in SPLIT.items():
        client = await connect(daemon.listeners[0].port)
        if line.startswith(b"RCPT"):
            assert (await say(client, b"MAIL FROM:<shop@example.com>")).startswith("250")
        client.writer.write(line + b"\r\nDATA\r\n")
        heard = [await client.reply() for _ in range(2)]
        assert [answer[:2] for answer in heard] == replies, (line, heard)

    assert await statuses(daemon) == {}
    assert not sandbox.messages


@pytest.mark.parametrize("kind", KINDS)
async def test_evil_mail_mails_its_envelope_and_nobody_else(
    kind: str, start_daemon: Any, connect: Any, sandbox: Sandbox, tmp_path: Path
) -> None:
    daemon = await start_daemon(**settings(kind, sandbox, tmp_path))
    client = await connect(daemon.listeners[0].port)
    for evil in EVIL:
        name = b"x" if b"\r" in evil.replace(b"\r\n", b"") else evil  # a From cut in two has no address
        content = (
            b"From: %b <shop@example.com>\r\nTo: %b <ann@example.org>\r\nSubject: %b\r\nX-Order: %b\r\n"
            b"Reply-To: %b <shop@example.com>\r\n"
            b'X-Bridge-Tag: %b\r\nX-SMTPAPI: {"category": "x\\r\\nBcc: eve@evil.example", "to": ["eve@evil.example"]}\r\n'
            b"Bcc: eve@evil.example\r\n\r\ntext\r\n"
        ) % (name, *(evil,) * 5)
        assert (await client.send(ANN, sender=SENDER, content=content)).startswith("250"), evil

    await eventually(lambda: len(sandbox.received(kind)) == len(EVIL))
    for received in sandbox.received(kind):
        mail = received.mail
        assert mail is not None
        assert mail.recipients == (ANN,)
        assert "bcc" not in {name.lower() for name, _ in mail.headers}
        assert "\n" not in "".join(mail.tags)
        # Whom a MIME message shows is not who is mailed.
        assert EVE not in {address for address, _ in (*mail.to, *mail.cc)} or mail.raw
