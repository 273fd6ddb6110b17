"""DATA on real sockets: what a smarthost reads, and what is held meanwhile."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import socket
import ssl
import struct
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import aiosmtplib
import pytest
from aiosmtpd.smtp import SMTP
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.mime.parse import parse
from bridge.mime.pieces import PIECE, Joined, Slice, pieces_of
from bridge.model import Addressing, Email, Fault, Mailbox, Outcome, Pieces
from bridge.providers.base import Policy
from bridge.providers.smtp import SmtpProvider, SmtpSettings
from bridge.providers.smtp_data import is_ascii, lines, send_data, size_of, stuffed

ANN = "ann@example.org"
TO_ANN = Addressing(reverse_path="shop@example.com", to=(Mailbox(ANN),))
HEAD = b"From: shop@example.com\r\nTo: ann@example.org\r\nBcc: cat@example.org\r\nMIME-Version: 1.0\r\n"
FILE = b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"
LINE = base64.b64encode(bytes(range(57))) + b"\r\n"
BUFFERED = 2**16 + 2 * PIECE  # octets: the transport's high-water mark, and the block that goes beyond it


def large(octets: int) -> bytes:
    return HEAD + FILE + LINE * (octets // len(LINE))


def ended(message: bytes) -> bytes:
    """With CRLF for every line end and at the end."""
    crlf = re.sub(rb"\r\n|\r|\n", b"\r\n", message)
    return crlf if crlf.endswith(b"\r\n") else crlf + b"\r\n"


def doubled(message: bytes) -> bytes:
    return b"".join(b"." + line if line.startswith(b".") else line for line in message.splitlines(keepends=True))


# --- without a socket

PIECES = st.lists(st.text("a.\r\n", max_size=6).map(str.encode), max_size=6)


@given(PIECES)
@example([])
@example([b"a\r\n", b".", b".\r\n"])
@example([b"a\r", b"\n.", b"\r", b".\r", b"\r"])
@example([b"\r", b"", b"\n"])
def test_borders_between_pieces_change_nothing(pieces: list[bytes]) -> None:
    whole = ended(b"".join(pieces))

    blocks = list(lines(pieces))

    assert b"".join(blocks) == whole
    sent = b"".join(stuffed(blocks))
    assert sent == doubled(whole)
    assert b"\r\n.\r\n" not in b"\r\n" + sent


@pytest.mark.parametrize("shift", range(-4, 3))
def test_a_dot_at_the_border_of_a_real_piece(shift: int) -> None:
    message = b"x" * (PIECE + shift) + b"\r\n.\r\n" + b"y" * PIECE + b"\r\n"

    assert b"".join(stuffed(lines(pieces_of(message)))) == doubled(message)


def test_eight_bit_octets_are_found_in_pieces() -> None:
    plain, other = b"a" * (2 * PIECE), b"a" * (2 * PIECE) + b"\xfc"

    assert is_ascii(plain)
    assert not is_ascii(other)
    assert is_ascii(Joined((plain, Slice(other, 0, len(plain)))))
    assert not is_ascii(Joined((plain, Slice(other, 0, len(other)))))


# --- a stock aiosmtpd


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "message",
    [
        b"",
        b".",
        b"\n.\n",
        b"Subject: x\r\n\r\nno line end",
        b"Subject: x\r\n\r\n.\r\n..\r\n. a\r\n.\r\n",
        b"Subject: x\n\nbare\n.\nline ends\r.\r\n",
        b"Subject: x\r\n\r\n" + b".dot\r\n" * 100_000,
    ],
    ids=["empty", "dot", "only a dot", "unended", "dots", "bare", "large"],
)
async def test_it_arrives_as_it_is(message: bytes, tls: bool, certificates: tuple[ssl.SSLContext, str]) -> None:
    context, ca_file = certificates
    found: list[bytes] = []

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            found.append(envelope.original_content)
            return "250 2.0.0 Ok"

    def protocol() -> SMTP:
        return SMTP(Handler(), hostname="smart.example", loop=asyncio.get_running_loop())

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, ssl=context if tls else None)
    port = server.sockets[0].getsockname()[1]
    client = aiosmtplib.SMTP(
        hostname="localhost", port=port, use_tls=tls, start_tls=False, timeout=5, tls_context=trusting(ca_file)
    )
    ends: list[bool] = []
    await client.connect()
    for _ in range(2):  # the connection is good for more
        await client.mail("shop@example.com")
        await client.rcpt(ANN)
        await send_data(client, message, before_end=lambda: ends.append(True))
    await client.quit()
    server.close()

    assert found == [ended(message)] * 2
    assert len(ends) == 2
    assert await size_of(message) == len(ended(message))


def trusting(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


# --- one that does what it is told once the content comes


@dataclass
class Smarthost:
    """`on_data`: called when DATA is answered, `on_content` for what comes after it. `mail`: what MAIL said."""

    on_data: Callable[[Peer], None] = lambda peer: None
    on_content: Callable[[Peer], None] = lambda peer: None
    extensions: tuple[str, ...] = ("8BITMIME", "SIZE 99999999")
    go_on: str = "354 go on"
    mail: list[str] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)


class Peer(asyncio.Protocol):
    """`octets` and `digest` of the content, which is not kept; `tail`: its last octets."""

    transport: asyncio.Transport

    def __init__(self, host: Smarthost) -> None:
        self.host = host
        self.in_data = False
        self.octets = 0
        self.digest = hashlib.sha256()
        self.tail = b""
        self.commands = b""
        self.lost = asyncio.Event()
        host.peers.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are of no such class
        self.reply("220 smart")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def reply(self, text: str) -> None:
        self.transport.write(f"{text}\r\n".encode())

    def data_received(self, data: bytes) -> None:
        if self.in_data:
            self.content(data)
            return
        *commands, self.commands = (self.commands + data).split(b"\r\n")
        for command in commands:
            self.command(command.decode())

    def command(self, text: str) -> None:
        if text.startswith("EHLO"):
            self.reply("\r\n".join(f"250-{word}" for word in ("smart", *self.host.extensions)) + "\r\n250 HELP")
        elif text == "DATA":
            self.in_data = True
            self.reply(self.host.go_on)
            self.host.on_data(self)
        else:
            if text.startswith("MAIL"):
                self.host.mail.append(text)
            self.reply("250 Ok")

    def content(self, data: bytes) -> None:
        self.octets += len(data)
        self.digest.update(data)
        self.tail = (self.tail + data[-5:])[-5:]
        self.host.on_content(self)
        if self.tail == b"\r\n.\r\n":
            self.in_data = False
            self.reply("250 2.0.0 Ok")


Start = Callable[..., Awaitable[SmtpProvider]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    servers: list[asyncio.Server] = []
    providers: list[SmtpProvider] = []
    hosts: list[Smarthost] = []

    async def begin(host: Smarthost, timeout: float = 10.0) -> SmtpProvider:
        server = await asyncio.get_running_loop().create_server(lambda: Peer(host), "127.0.0.1", 0)
        servers.append(server)
        hosts.append(host)
        settings = SmtpSettings(host="127.0.0.1", port=server.sockets[0].getsockname()[1], tls="none")
        providers.append(SmtpProvider("smart", Policy(timeout=timeout), settings))
        return providers[-1]

    yield begin
    for provider in providers:
        await provider.aclose()
    for server in servers:
        server.close()
    for peer in [peer for host in hosts for peer in host.peers]:
        peer.transport.abort()


async def send(provider: SmtpProvider, email: Email) -> Outcome:
    return (await provider.send(email, TO_ANN, queue_id="Q1", key="K"))[ANN]


def told(outcome: Outcome) -> tuple[str, str, Fault | None]:
    return outcome.status, f"{outcome.reply.code} {outcome.reply.enhanced}", outcome.fault


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not found():
            await asyncio.sleep(0.005)


async def test_a_large_message_costs_a_block_not_a_copy(start: Start) -> None:
    host = Smarthost()
    provider = await start(host)
    email = parse(large(20_000_000))
    without_bcc = email.raw.replace(b"Bcc: cat@example.org\r\n", b"")
    expected = hashlib.sha256(without_bcc + b".\r\n").digest()
    size = len(without_bcc)
    del without_bcc

    tracemalloc.start()
    try:
        outcome = await send(provider, email)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert outcome.status == "sent"
    assert host.peers[0].digest.digest() == expected
    assert f"SIZE={size}" in host.mail[0].split()
    assert peak < 2_000_000


async def begun(provider: SmtpProvider) -> tuple[aiosmtplib.SMTP, asyncio.WriteTransport]:
    """A connection that waits for DATA."""
    client = await provider._connection()
    await client.mail("shop@example.com")
    await client.rcpt(ANN)
    return client, cast(asyncio.WriteTransport, client.transport)


async def test_a_slow_reader_is_waited_for(start: Start) -> None:
    """Without the wait all would be in the transport's buffer."""
    host = Smarthost(on_data=lambda peer: peer.transport.pause_reading())
    client, transport = await begun(await start(host))
    ends: list[bool] = []

    message = large(20_000_000)
    sending = asyncio.create_task(send_data(client, message, before_end=lambda: ends.append(True)))
    await until(lambda: transport.get_write_buffer_size() > 2**16)
    for _ in range(50):  # turns of the loop in which it could write more
        await asyncio.sleep(0)
        assert transport.get_write_buffer_size() <= BUFFERED
    assert not ends
    host.peers[0].transport.resume_reading()
    answer = await sending
    client.close()

    assert answer.code == 250
    assert host.peers[0].octets == len(message) + len(b".\r\n")


async def test_what_is_cancelled_waits_for_no_reader(start: Start) -> None:
    """Closed in the ordinary way the connection would stay as long as the peer reads nothing."""
    host = Smarthost(on_data=lambda peer: peer.transport.pause_reading())
    client, transport = await begun(await start(host))

    sending = asyncio.create_task(send_data(client, large(20_000_000), before_end=lambda: None))
    await until(lambda: transport.get_write_buffer_size() > 2**16)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    client.close()

    await until(lambda: not transport.get_write_buffer_size())


def refuse_and_stop(peer: Peer) -> None:
    if peer.octets > 1_000_000 and not peer.transport.is_closing():
        peer.transport.pause_reading()
        peer.reply("552 5.3.4 Message too big")


def refuse_and_close(peer: Peer) -> None:
    """What still comes is read to its end, as a careful one does: else the reset may overtake the reply."""
    if peer.octets > 1_000_000 and peer.transport.can_write_eof():
        peer.host.on_content = lambda peer: None
        peer.reply("552 5.3.4 Message too big")
        peer.transport.write_eof()


@pytest.mark.parametrize("refuse", [refuse_and_stop, refuse_and_close])
async def test_a_refusal_in_the_middle_is_the_verdict(start: Start, refuse: Callable[[Peer], None]) -> None:
    host = Smarthost(on_content=refuse)
    provider = await start(host)

    outcome = await send(provider, parse(large(20_000_000)))

    assert told(outcome) == ("bounced", "552 5.3.4", Fault.MESSAGE)
    assert host.peers[0].octets < 20_000_000
    host.on_content = lambda peer: None
    assert (await send(provider, parse(large(1000)))).status == "sent"
    assert len(host.peers) == 2  # the first cannot be used again


def cut(peer: Peer) -> None:
    if peer.octets > 1_000_000:
        peer.transport.abort()


def take_a_part(peer: Peer) -> None:
    """A reply that no message has earned yet."""
    if peer.octets > 1_000_000:
        peer.reply("250 2.0.0 Ok")
        peer.transport.abort()


@pytest.mark.parametrize("break_off", [cut, take_a_part])
async def test_a_connection_lost_before_the_end_is_no_message(start: Start, break_off: Callable[[Peer], None]) -> None:
    outcome = await send(await start(Smarthost(on_content=break_off)), parse(large(20_000_000)))

    assert told(outcome) == ("deferred", "451 4.4.1", Fault.PROVIDER)


def take_too_early(peer: Peer) -> None:
    if peer.octets > 1_000_000:
        peer.host.on_content = lambda peer: None
        peer.reply("250 2.0.0 Scanner connected")


async def test_a_reply_before_the_end_is_no_verdict_and_none_on_the_next_message(start: Start) -> None:
    host = Smarthost(on_content=take_too_early)
    provider = await start(host)

    outcome = await send(provider, parse(large(20_000_000)))

    assert told(outcome) == ("deferred", "451 4.4.1", Fault.PROVIDER)
    assert (await send(provider, parse(large(1000)))).status == "sent"
    assert len(host.peers) == 2


def cut_after_the_end(peer: Peer) -> None:
    if peer.tail == b"\r\n.\r\n":
        peer.transport.abort()


async def test_a_connection_lost_after_the_end_is_unknown(start: Start) -> None:
    outcome = await send(await start(Smarthost(on_content=cut_after_the_end)), parse(large(1_000_000)))

    assert outcome.status == "unknown"


async def test_a_time_out_in_the_middle_is_no_message(start: Start) -> None:
    host = Smarthost(on_data=lambda peer: peer.transport.pause_reading())
    tasks = asyncio.all_tasks()

    outcome = await send(await start(host, timeout=0.3), parse(large(20_000_000)))

    assert told(outcome) == ("deferred", "451 4.4.1", Fault.PROVIDER)
    assert asyncio.all_tasks() == tasks
    await gone_without_the_end(host)


async def test_cancelled_in_the_middle_nothing_is_left(start: Start) -> None:
    reached = asyncio.Event()

    def stop_reading(peer: Peer) -> None:
        if peer.octets > 1_000_000:
            peer.transport.pause_reading()
            reached.set()

    host = Smarthost(on_content=stop_reading)
    provider = await start(host)
    tasks = asyncio.all_tasks()

    sending = asyncio.create_task(send(provider, parse(large(20_000_000))))
    await asyncio.wait_for(reached.wait(), 5)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending

    assert asyncio.all_tasks() == tasks
    await gone_without_the_end(host)


async def gone_without_the_end(host: Smarthost) -> None:
    """Whatever of it was on its way, the connection ends in the middle of the content."""
    (peer,) = host.peers
    host.on_content = lambda peer: None
    peer.transport.resume_reading()
    async with asyncio.timeout(5):
        await peer.lost.wait()
    assert peer.in_data


# --- a refusal that comes at a bad moment


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ("354 go on\r\n554 5.7.1 I changed my mind", "bounced 554 5.7.1"),
        ("354-go\r\n354 on\r\n452-4.3.1 No\r\n452 4.3.1 room", "deferred 452 4.3.1"),
        ("354 go on\r\n250 2.0.0 Ok", "deferred 451 4.4.1"),
        ("354 go on\r\nnonsense", "deferred 451 4.4.1"),
        ("nonsense", "deferred 451 4.4.1"),
        ("354 " + "x" * 40_000, "deferred 451 4.4.1"),
    ],
)
async def test_what_comes_with_the_reply_to_data_is_heard(start: Start, said: str, reply: str) -> None:
    """In one segment. It was found after the message, or at the time-out."""

    host = Smarthost(go_on=said, on_content=lambda peer: peer.transport.pause_reading())
    provider = await start(host)
    async with asyncio.timeout(5):
        outcome = await send(provider, parse(large(20_000_000)))

    assert f"{outcome.status} {outcome.reply.code} {outcome.reply.enhanced}" == reply


class Halting(Pieces):
    """Its second half is made when the server has hung up, and nobody has had a turn since."""

    def __init__(self, there: threading.Event, gone: threading.Event) -> None:
        self.there, self.gone = there, gone

    def __len__(self) -> int:
        return 4 * PIECE

    def __iter__(self) -> Iterator[bytes]:
        for number in range(4):
            if number == 2:
                self.there.set()
                assert self.gone.wait(5)
            yield LINE * (PIECE // len(LINE))


def refuse_and_reset(server: socket.socket, context: ssl.SSLContext | None, halting: Halting) -> None:
    """In a thread. What it has not read makes the kernel reset the connection when it closes it."""
    raw, _ = server.accept()
    connection = context.wrap_socket(raw, server_side=True) if context else raw
    with connection:
        connection.sendall(b"220 smart\r\n")
        read = connection.makefile("rb")
        while (line := read.readline()) != b"DATA\r\n":
            assert line
            connection.sendall(b"250 Ok\r\n")
        connection.sendall(b"354 go on\r\n")
        assert halting.there.wait(5)
        connection.sendall(b"552 5.3.4 Message too big\r\n")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        read.close()
    halting.gone.set()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_refusal_is_heard_though_the_connection_is_reset(
    tls: bool, certificates: tuple[ssl.SSLContext, str]
) -> None:
    """Both are there when we write. The write that fails took the reply with it."""
    context, ca_file = certificates
    halting = Halting(threading.Event(), threading.Event())
    with socket.create_server(("127.0.0.1", 0)) as server:
        work = asyncio.create_task(asyncio.to_thread(refuse_and_reset, server, context if tls else None, halting))
        client = aiosmtplib.SMTP(
            hostname="localhost", port=server.getsockname()[1], use_tls=tls, start_tls=False, timeout=5,
            tls_context=trusting(ca_file) if tls else None,
        )  # fmt: skip
        await client.connect()
        await client.mail("shop@example.com")
        await client.rcpt(ANN)
        with pytest.raises(aiosmtplib.SMTPDataError) as refused:
            await send_data(client, halting, before_end=lambda: None)
        client.close()
        await work

    assert refused.value.code == 552


# --- SIZE


@pytest.mark.parametrize(
    ("extensions", "body"),
    [
        (("SIZE", "8BITMIME"), "gr\u00fc\u00dfe\r\n.dot\r\nend"),
        (("SIZE", "8BITMIME"), "bare\n.line\rends\r\n"),
        (("SIZE",), "gr\u00fc\u00dfe\r\n.dot\r\nend"),
        (("SIZE",), ("gr\u00fc\u00dfe " * 9 + "\r\n") * 10_000),
    ],
    ids=["8-bit", "bare", "made 7-bit", "large, made 7-bit"],
)
async def test_size_is_what_is_sent(start: Start, extensions: tuple[str, ...], body: str) -> None:
    host = Smarthost(extensions=extensions)
    found = bytearray()

    class Keeping(Peer):
        def content(self, data: bytes) -> None:
            found.extend(data)
            super().content(data)

    server = await asyncio.get_running_loop().create_server(lambda: Keeping(host), "127.0.0.1", 0)
    settings = SmtpSettings(host="127.0.0.1", port=server.sockets[0].getsockname()[1], tls="none")
    provider = SmtpProvider("smart", Policy(timeout=5), settings)
    head = HEAD + b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
    outcome = await send(provider, parse(head + body.encode()))
    await provider.aclose()
    server.close()

    assert outcome.status == "sent"
    content = re.sub(rb"(?m)^\.", b"", bytes(found).removesuffix(b".\r\n"))
    assert f"SIZE={len(content)}" in host.mail[0].split()
    assert "8BITMIME" in extensions or content.isascii()
