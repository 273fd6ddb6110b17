"""CHUNKING and BINARYMIME (RFC 3030): what a raw socket can do with BDAT."""

from __future__ import annotations

import asyncio
import base64
import email
from typing import Any

import pytest

from tests.smtp.raw import CAPTURE, ENVELOPE, HEADER, Raw, bodies, clients_end, without_received

__all__ = ["clients_end"]

BINARY = bytes(range(256)) * 20 + b"\r\n.\r\n\r\n--b--\nBDAT 5 LAST\r\n"
PARTS = (
    b"From: ann@example.com\r\nDate: Mon, 23 Nov 2026 03:27:18 +0000\r\nMessage-ID: <1@example.com>\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="limit"\r\nContent-Transfer-Encoding: binary\r\n\r\n'
    b"--limit\r\nContent-Type: text/plain\r\n\r\nhello\r\n"
    b'--limit\r\nContent-Type: application/pdf; name="a.pdf"\r\nContent-Transfer-Encoding: BINARY\r\n\r\n'
    + BINARY
    + b"\r\n--limit--\r\n"
)


def port_of(daemon: Any) -> int:
    return int(daemon.listeners[0].port)


async def begun(daemon: Any, mail: bytes = ENVELOPE) -> Raw:
    raw = await Raw.greeted(port_of(daemon))
    raw.send(mail)
    await raw.expect("250 2.1.0", "250 2.1.5")
    return raw


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_chunks_of_any_size_are_one_message(start_daemon: Any, size: int) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await begun(daemon)
    content = HEADER + b".\r\n..\r\n.dot\r\nQUIT\r\nlast\r\n"

    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    for number, chunk in enumerate(chunks, 1):
        last = b" LAST" if number == len(chunks) else b""
        raw.send(b"BDAT %d%b\r\n%b" % (len(chunk), last, chunk))
    await raw.expect(*["250 2.0.0 Ok: chunk"] * (len(chunks) - 1), "250 2.0.0 Ok: sent")

    (body,) = await bodies(daemon)
    assert without_received(body) == content


async def test_segments_of_one_octet_are_the_same_as_one(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await begun(daemon)
    content = HEADER + b"a\r\n.\r\nb\r\n"

    await raw.send_apart(*(bytes([octet]) for octet in b"BDAT %d LAST\r\n%bNOOP\r\n" % (len(content), content)))
    await raw.expect("250 2.0.0 Ok: sent", "250 2.0.0")

    (body,) = await bodies(daemon)
    assert without_received(body) == content


async def test_a_crlf_that_two_chunks_share_is_one_and_a_bare_one_becomes_crlf(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await begun(daemon)

    for chunk in (HEADER + b"a\r", b"\nb\r", b"c\n", b"d\r"):
        raw.send(b"BDAT %d\r\n%b" % (len(chunk), chunk))
    raw.send(b"BDAT 0 LAST\r\n")
    await raw.expect(*["250 2.0.0 Ok: chunk"] * 4, "250 2.0.0 Ok: sent")

    (body,) = await bodies(daemon)
    assert without_received(body) == HEADER + b"a\r\nb\r\nc\r\nd\r\n"


async def test_a_bare_newline_is_refused_after_the_last_chunk_where_the_listener_says_so(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__BARE_NEWLINES="reject")
    raw = await begun(daemon)

    raw.send(b"BDAT 3 LAST\r\na\nb")
    await raw.expect("550 5.5.2")
    raw.send(ENVELOPE + b"BDAT 4 LAST\r\na\r\nb")
    await raw.expect("250", "250", "250 2.0.0")

    assert len(await bodies(daemon)) == 1


async def test_a_message_that_grows_too_large_is_refused_and_its_chunks_are_no_commands(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__MAX_MESSAGE_SIZE="1000B")
    raw = await begun(daemon)

    chunk = b"BDAT 600\r\n" + b"QUIT\r\n" * 100
    raw.send(chunk * 4 + b"BDAT 6 LAST\r\nQUIT\r\n" + ENVELOPE)
    await raw.expect("250 2.0.0", *["552 5.3.4"] * 4, "250 2.1.0", "250 2.1.5")

    assert await bodies(daemon) == []


async def test_many_chunks_of_a_refused_message_are_no_errors_of_the_client(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__MAX_MESSAGE_SIZE="10B")
    raw = await begun(daemon)

    raw.send(b"BDAT 20\r\n" + b"x" * 20 + b"BDAT 2\r\nab" * 60 + b"BDAT 2 LAST\r\nabNOOP\r\n")

    await raw.expect(*["552 5.3.4"] * 62, "250 2.0.0")


async def test_half_a_message_is_nothing(start_daemon: Any) -> None:
    """RFC 5321 4.1.1.4: a client gone before the last chunk has sent nothing."""
    daemon = await start_daemon(**CAPTURE)
    raw = await begun(daemon)

    raw.send(b"BDAT 5\r\na: b\r")
    await raw.expect("250 2.0.0")
    raw.send(b"BDAT 500 LAST\r\nabc")
    raw.writer.write_eof()
    await raw.expect_end()

    assert await bodies(daemon) == []
    assert daemon.budget.used == 0


async def test_lmtp_answers_the_last_chunk_for_each_recipient(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__PROTOCOL="lmtp")
    raw = await Raw.connect(port_of(daemon))
    raw.send(b"LHLO x\r\n" + ENVELOPE + b"RCPT TO:<cat@example.org>\r\n")
    await raw.expect("220", "250", "250", "250", "250")

    raw.send(b"BDAT 4\r\na: bBDAT 4 LAST\r\n\r\nx\n")

    await raw.expect("250 2.0.0 Ok: chunk", "250 2.0.0 Ok: sent", "250 2.0.0 Ok: sent")


async def test_binary_parts_arrive_to_the_octet_as_base64(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await begun(daemon, ENVELOPE.replace(b"com>\r\n", b"com> BODY=BINARYMIME\r\n", 1))

    raw.send(b"BDAT %d LAST\r\n%b" % (len(PARTS), PARTS))
    await raw.expect("250 2.0.0 Ok: sent")

    (body,) = await bodies(daemon)
    read = email.message_from_bytes(body)
    text, file = read.get_payload()
    assert read["Content-Transfer-Encoding"] == "8bit"
    assert file["Content-Transfer-Encoding"] == "base64"
    assert base64.b64decode(file.get_payload()) == BINARY
    assert text.get_payload() == "hello"


async def test_binary_content_that_is_signed_cannot_be_converted(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await begun(daemon, ENVELOPE.replace(b"com>\r\n", b"com> BODY=BINARYMIME\r\n", 1))
    signed = PARTS.replace(b"multipart/mixed", b"multipart/signed")

    raw.send(b"BDAT %d LAST\r\n%b" % (len(signed), signed))

    await raw.expect("554 5.6.3")
    assert await bodies(daemon) == []


async def test_a_large_message_in_one_chunk_arrives_to_the_octet(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await begun(daemon)
    content = HEADER + b"".join(b"%078d\r\n" % number for number in range(30_000))

    raw.send(b"BDAT %d LAST\r\n%b" % (len(content), content))
    await raw.expect("250 2.0.0 Ok: sent")

    (body,) = await bodies(daemon)
    assert without_received(body) == content
    assert daemon.budget.used == 0


async def test_chunks_that_come_in_time_but_never_end_are_cut(start_daemon: Any) -> None:
    """The least rate is that of the message, not of each chunk."""
    limits = {"SMTP_BRIDGE_SMTP__TIMEOUT": "0.3s", "SMTP_BRIDGE_SMTP__MIN_DATA_RATE": "1000B"}
    daemon = await start_daemon(**CAPTURE, **limits)
    raw = await begun(daemon)

    reply = "250 2.0.0"
    for _ in range(40):
        raw.send(b"BDAT 1\r\nx")
        reply = await raw.reply()
        if not reply.startswith("250 2.0.0"):
            break
        await asyncio.sleep(0.05)

    assert reply.startswith("421 4.4.2")


async def test_before_tls_a_chunk_is_refused_and_is_no_commands(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__REQUIRE_TLS="true")
    raw = await Raw.greeted(port_of(daemon))

    raw.send(ENVELOPE + b"BDAT 23 LAST\r\nEHLO smuggled\r\nNOOP 1\r\nNOOP\r\n")

    await raw.expect("530 5.7.0", "530 5.7.0", "530 5.7.0", "250 2.0.0")
    assert raw.lines == ["2.0.0 Ok"]


async def test_lmtp_without_memory_answers_the_last_chunk_for_each_recipient(start_daemon: Any) -> None:
    settings = {"SMTP_BRIDGE_SMTP__LISTENER__PROTOCOL": "lmtp", "SMTP_BRIDGE_SMTP__MEMORY_WAIT": "0.05s"}
    daemon = await start_daemon(**CAPTURE, **settings)
    daemon.budget.charge(daemon.budget.total)
    raw = await Raw.connect(port_of(daemon))
    raw.send(b"LHLO x\r\n" + ENVELOPE + b"RCPT TO:<cat@example.org>\r\nBDAT 4 LAST\r\na: bNOOP\r\n")

    await raw.expect("220", "250", "250", "250", "250", "452 4.3.1", "452 4.3.1", "250 2.0.0")
