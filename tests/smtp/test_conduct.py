"""What strangers and crowds get: other protocols on the port, many recipients, many connections, connections that break off."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from typing import Any

import pytest

from bridge.smtp.session import Session
from tests.smtp.raw import CAPTURE, ENVELOPE, HEADER, WHOLE, Raw, clients_end

__all__ = ["clients_end"]


def port_of(daemon: Any) -> int:
    return int(daemon.listeners[0].port)


def client_hello() -> bytes:
    """What a client that takes this for an implicit TLS port sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="mail.example").do_handshake()
    return outgoing.read()


VERBS = ("GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "CONNECT", "PATCH", "TRACE", "get")


@pytest.mark.parametrize("greeted", [False, True], ids=["first", "after EHLO"])
async def test_another_protocol_on_the_port_is_cut_off_and_nothing_of_it_is_run(
    start_daemon: Any, greeted: bool
) -> None:
    """ALPACA: a browser is made to send SMTP commands in the body of a request, or in a TLS hello."""
    daemon = await start_daemon(**CAPTURE)
    firsts = {f"{verb} / HTTP/1.1\r\nHost: bridge.example\r\n\r\n".encode(): "421 4.7.0" for verb in VERBS}
    firsts[client_hello()] = "500 5.5.2"
    for first, reply in firsts.items():
        raw = await Raw.connect(port_of(daemon))
        await raw.expect("220")
        if greeted:
            assert (await raw.say("EHLO x")).startswith("250")

        raw.send(first + b"\r\nEHLO evil.example\r\n" + WHOLE)

        await raw.expect(reply)
        await raw.expect_end()
    assert await daemon.spool.list_messages() == []


async def test_a_thousand_recipients_are_taken_and_the_next_is_told_to_come_in_another_message(
    start_daemon: Any,
) -> None:
    """RFC 5321 4.5.3.1.8, 4.5.3.1.10."""
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(port_of(daemon))

    raw.send(b"MAIL FROM:<ann@example.com>\r\n")
    raw.send(b"".join(b"RCPT TO:<b%d@example.org>\r\n" % number for number in range(1003)))
    raw.send(b"DATA\r\n" + HEADER + b".\r\n")
    await raw.expect("250 2.1.0", *["250 2.1.5"] * 1000, *["452 4.5.3"] * 3, "354", "250 2.0.0")

    (row,) = await daemon.spool.list_messages()
    assert [one["address"] for one in row["recipients"]] == [f"b{number}@example.org" for number in range(1000)]


async def test_a_crowd_from_one_address_is_capped_and_other_clients_are_served(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__ADDRESS="0.0.0.0:0")
    crowd = [await Raw.connect(port_of(daemon)) for _ in range(250)]
    heard = [await raw.reply() for raw in crowd]

    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(daemon), local_addr=("127.0.0.2", 0))
    other = Raw(reader, writer)
    other.send(b"EHLO x\r\n" + WHOLE)
    await other.expect("220", "250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0")

    assert [reply[:9] for reply in heard] == ["220 bridg"] * 100 + ["421 4.7.0"] * 150
    await crowd[-1].expect_end()
    assert await crowd[0].say("NOOP") == "250 2.0.0 Ok"


async def test_of_a_connection_that_breaks_off_nothing_is_remembered(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    before = sessions_in_memory()  # of other tests
    hello = b"EHLO x\r\n"
    moments = (b"", hello, hello + ENVELOPE, hello + ENVELOPE + b"DATA\r\n" + HEADER, hello + b"STARTTLS\r\n\x16")
    for number in range(100):
        sock = socket.create_connection(("127.0.0.1", port_of(daemon)))
        sock.send(moments[number % len(moments)])
        if number % 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await asyncio.sleep(0.001)
        sock.close()

    async with asyncio.timeout(10):
        while daemon.connections.sessions or sessions_in_memory() > before:
            await asyncio.sleep(0.05)

    assert daemon.budget.used == 0
    assert await daemon.spool.list_messages() == []


def sessions_in_memory() -> int:
    gc.collect()
    return sum(isinstance(one, Session) for one in gc.get_objects())
