"""What old devices and careless programs send, and what the API gets of it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from bridge.sandbox import Sandbox
from tests.e2e.conftest import rest
from tests.smtp.raw import Raw, clients_end

__all__ = ["clients_end"]

SCAN = "scanner@example.com"


async def device(start_daemon: Any, sandbox: Sandbox, dialogue: list[tuple[bytes, str]], **more: str) -> dict[str, Any]:
    """Says each part, wants each reply, and gives the payload that arrived."""
    daemon = await start_daemon(**rest(sandbox.url, **more))
    raw = await Raw.connect(daemon.listeners[0].port)
    await raw.expect("220")
    for said, wanted in dialogue:
        raw.send(said)
        await raw.expect(wanted)
    (message,) = sandbox.messages
    payload: dict[str, Any] = message.payload
    return payload


def mail(content: bytes, *, hello: bytes = b"HELO scanner", sender: bytes = b"MAIL FROM:<scanner@example.com>") -> Any:
    return [
        (hello + b"\r\n", "250"),
        (sender + b"\r\n", "250 2.1.0"),
        (b"RCPT TO:<bob@example.org>\r\n", "250 2.1.5"),
        (b"DATA\r\n", "354"),
        (content + b"\r\n.\r\n", "250 2.0.0 Ok: sent"),
    ]


async def test_helo_alone_and_content_without_any_header(sandbox: Sandbox, start_daemon: Any) -> None:
    got = await device(start_daemon, sandbox, mail(b"Toner is low\r\nin tray 2"))

    assert got == {"to": "bob@example.org", "from": SCAN, "subject": "", "body": "Toner is low\nin tray 2\n"}


async def test_nothing_at_all_is_a_mail_too(sandbox: Sandbox, start_daemon: Any) -> None:
    got = await device(start_daemon, sandbox, mail(b""))

    assert (got["to"], got["from"], got["subject"]) == ("bob@example.org", SCAN, "")


async def test_an_empty_subject_and_no_from(sandbox: Sandbox, start_daemon: Any) -> None:
    got = await device(start_daemon, sandbox, mail(b"Subject:\r\nTo: bob@example.org\r\n\r\n"))

    assert (got["to"], got["from"], got["subject"]) == ("bob@example.org", SCAN, "")


@pytest.mark.parametrize(
    ("subject", "name"),
    [("Störung".encode("latin-1"), "Müller".encode("latin-1")), ("Störung".encode(), "Müller".encode())],
    ids=["latin-1", "utf-8"],
)
async def test_eight_bit_headers_without_mime(sandbox: Sandbox, start_daemon: Any, subject: bytes, name: bytes) -> None:
    content = b"From: %b <scanner@example.com>\r\nSubject: %b\r\n\r\nGr\xfc\xdfe" % (name, subject)
    got = await device(start_daemon, sandbox, mail(content))

    assert (got["subject"], got["from"]) == ("Störung", "Müller <scanner@example.com>")
    assert got["body"] == "Grüße\n"


async def test_bare_lf_everywhere_but_in_the_end_mark(sandbox: Sandbox, start_daemon: Any) -> None:
    dialogue = [
        (b"HELO scanner\nMAIL FROM:<scanner@example.com>\nRCPT TO:<bob@example.org>\nDATA\n", "250"),
        (b"", "250"),
        (b"", "250"),
        (b"", "354"),
        (b"Subject: scan\nTo: bob@example.org\n\nfirst\n.second\nthird\r\n.\r\n", "250 2.0.0"),
    ]
    got = await device(start_daemon, sandbox, dialogue)

    assert (got["subject"], got["body"]) == ("scan", "first\n.second\nthird\n")


@pytest.mark.parametrize("sender", [b"MAIL FROM: <scanner@example.com>", b"mail from:<scanner@example.com>   "])
async def test_blanks_around_the_path(sandbox: Sandbox, start_daemon: Any, sender: bytes) -> None:
    got = await device(start_daemon, sandbox, mail(b"Subject: x\r\n\r\ntext", sender=sender))

    assert got["from"] == SCAN


@pytest.mark.parametrize(
    "sender",
    [b"MAIL FROM:scanner@example.com", b"MAIL FROM: scanner@example.com SIZE=100 BODY=8BITMIME"],
)
async def test_a_path_without_brackets_where_the_listener_allows_it(
    sandbox: Sandbox, start_daemon: Any, sender: bytes
) -> None:
    got = await device(
        start_daemon,
        sandbox,
        mail(b"Subject: x\r\n\r\ntext", hello=b"EHLO scanner", sender=sender),
        SMTP_BRIDGE_SMTP__LISTENER__BARE_ADDRESSES="true",
    )
    assert got["from"] == SCAN


@pytest.mark.parametrize("line", [b"MAIL FROM:scanner@example.com", b"MAIL FROM:", b"MAIL FROM:scanner@example.com>"])
async def test_a_path_without_brackets_is_a_syntax_error_elsewhere(start_daemon: Any, line: bytes) -> None:
    daemon = await start_daemon(SMTP_BRIDGE_PROVIDER__KIND="capture")
    raw = await Raw.greeted(daemon.listeners[0].port)

    raw.send(line + b"\r\n")
    await raw.expect("501 5.5.4")


@pytest.mark.parametrize("line", [b"MAIL FROM:", b"MAIL FROM:scanner@example.com>", b"RCPT TO:"])
async def test_where_brackets_may_be_missing_the_rest_is_still_read_strictly(start_daemon: Any, line: bytes) -> None:
    settings = {"SMTP_BRIDGE_PROVIDER__KIND": "capture", "SMTP_BRIDGE_SMTP__LISTENER__BARE_ADDRESSES": "true"}
    daemon = await start_daemon(**settings)
    raw = await Raw.greeted(daemon.listeners[0].port)
    if line.startswith(b"RCPT"):
        await raw.say("MAIL FROM:<>")

    raw.send(line + b"\r\n")
    await raw.expect("501 5.5.4")


@pytest.mark.parametrize(
    ("header", "sender"),
    [
        (b"scanner@office <scanner@example.com>", '"scanner@office" <scanner@example.com>'),
        (b"scanner@example.com <scanner@example.com>", '"scanner@example.com" <scanner@example.com>'),
        (b"Scan @ Office <scanner@example.com>", '"Scan @ Office" <scanner@example.com>'),
    ],
)
async def test_a_name_with_an_at_sign_that_nobody_quoted(
    sandbox: Sandbox, start_daemon: Any, header: bytes, sender: str
) -> None:
    got = await device(start_daemon, sandbox, mail(b"From: " + header + b"\r\nSubject: x\r\n\r\ntext"))

    assert got["from"] == sender


async def test_auth_login_with_the_name_on_the_same_line(sandbox: Sandbox, start_daemon: Any, secret_hash: str) -> None:
    name, password = base64.b64encode(b"scanner"), base64.b64encode(b"secret")
    dialogue = [
        (b"EHLO scanner\r\n", "250"),
        (b"auth login " + name + b"\r\n", "334 UGFzc3dvcmQ6"),
        (password + b"\r\n", "235 2.7.0"),
        *mail(b"Subject: scan\r\n\r\ntext", hello=b"NOOP"),
    ]
    got = await device(
        start_daemon,
        sandbox,
        dialogue,
        SMTP_BRIDGE_USER__NAME="scanner",
        SMTP_BRIDGE_USER__PASSWORD_HASH=secret_hash,
        SMTP_BRIDGE_SMTP__LISTENER__AUTH_WITHOUT_TLS="true",
        SMTP_BRIDGE_SMTP__LISTENER__REQUIRE_AUTH="true",
    )
    assert got["subject"] == "scan"
