"""The PROXY header: what is one, that not an octet more is taken, and that the client it names is the client in everything."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import socket
import ssl
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from bridge.smtp.arrival import read_proxy_header
from bridge.smtp.proxy import MAX_V1, ProxyError, ProxyHeader, parse_proxy_header
from tests.delivery.conftest import every_line
from tests.smtp.raw import ENVELOPE, WHOLE, Raw, clients_end, trusting

__all__ = ["clients_end"]
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PRODUCT_OF = {4: b"\x11", 6: b"\x21"}


def v1(source: str) -> bytes:
    address = ipaddress.ip_address(source)
    here = "127.0.0.1" if address.version == 4 else "::1"
    return f"PROXY TCP{address.version} {source} {here} 56324 25\r\n".encode()


def block(source: str) -> bytes:
    packed = ipaddress.ip_address(source).packed
    return packed + packed + struct.pack("!HH", 56324, 25)


def v2(source: str, *, tlvs: bytes = b"") -> bytes:
    family = PRODUCT_OF[ipaddress.ip_address(source).version]
    return raw_v2(b"\x21" + family, block(source) + tlvs)


def raw_v2(kind: bytes, rest: bytes = b"") -> bytes:
    return SIGNATURE + kind + struct.pack("!H", len(rest)) + rest


TLVS = b"\x04\x00\x03abc" + b"\x20\x00\x05\x01\x00\x00\x00\x00"
LOCAL = raw_v2(b"\x20\x00")
GOOD = [
    (v1("192.0.2.7"), "192.0.2.7"),
    (v1("2001:db8::7"), "2001:db8::7"),
    (v1("::ffff:192.0.2.7"), "192.0.2.7"),
    (b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n", "ffff:" * 7 + "ffff"),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", ""),
    (v2("192.0.2.7"), "192.0.2.7"),
    (v2("2001:db8::7"), "2001:db8::7"),
    (v2("::ffff:192.0.2.7"), "192.0.2.7"),
    (v2("192.0.2.7", tlvs=TLVS), "192.0.2.7"),
    (v2("192.0.2.7", tlvs=b"\x04\x0f\x00" + bytes(3840)), "192.0.2.7"),
    (LOCAL, ""),
    (raw_v2(b"\x20\x11", block("192.0.2.7")), ""),  # LOCAL: the receiver must ignore the addresses
    (raw_v2(b"\x20\x77", b"xyz"), ""),
    (raw_v2(b"\x21\x00"), ""),
    (raw_v2(b"\x21\x00", TLVS), ""),
    (raw_v2(b"\x21\x31", b"/run/x.sock".ljust(108, b"\0") * 2), ""),
]


@pytest.mark.parametrize(("header", "source"), GOOD)
def test_a_header_names_the_client_and_ends_where_it_ends(header: bytes, source: str) -> None:
    assert parse_proxy_header(header) == ProxyHeader(len(header), source)
    assert parse_proxy_header(header + b"EHLO x\r\n\x16\x03\x01") == ProxyHeader(len(header), source)


def test_the_longest_line_of_version_1_is_107_octets() -> None:
    longest = b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 16) + b"\r\n"

    assert parse_proxy_header(longest) == ProxyHeader(107)
    for size in range(107):
        assert parse_proxy_header(longest[:size]) is None
    with pytest.raises(ProxyError):
        parse_proxy_header(longest[:-2] + b"x\r\n")


BAD = [
    b"EHLO client.example\r\n",
    b"\x16\x03\x01\x02\x00",
    b"proxy TCP4 192.0.2.7 127.0.0.1 1 2\r\n",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 1\r\n",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2 3\r\n",
    b"PROXY TCP4  192.0.2.7 127.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 1 65536\r\n",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 -1 2\r\n",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 01 2\r\n",
    "PROXY TCP4 192.0.2.7 127.0.0.1 ١ 2\r\n".encode(),
    b"PROXY TCP4 192.0.2.256 127.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2 127.0.0.1 1 2\r\n",
    b"PROXY TCP4 2001:db8::7 ::1 1 2\r\n",
    b"PROXY TCP6 192.0.2.7 127.0.0.1 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    b"PROXY UDP4 192.0.2.7 127.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\n",
    b"PROXY TCP4 \0 127.0.0.1 1 2\r\n",
    b"PROXY UNKNOWN \xff\r\n",
    b"PROXY TCP4 " + b"1" * 100,
    raw_v2(b"\x11\x11", block("192.0.2.7")),  # version 1 in a version 2 header
    raw_v2(b"\x22\x11", block("192.0.2.7")),  # no such command
    raw_v2(b"\x21\x12", block("192.0.2.7")),  # datagrams
    raw_v2(b"\x21\x41", block("192.0.2.7")),
    raw_v2(b"\x21\x11", block("192.0.2.7")[:-1]),
    raw_v2(b"\x21\x21", block("192.0.2.7")),
    raw_v2(b"\x21\x31", b"/run/x.sock"),
    raw_v2(b"\x21\x11", bytes(4097)),
    SIGNATURE + b"\x20\x00\xff\xff",  # said to be 64 KiB: not waited for
]


@pytest.mark.parametrize("data", BAD)
def test_what_is_no_header_is_an_error(data: bytes) -> None:
    with pytest.raises(ProxyError):
        parse_proxy_header(data)


@pytest.mark.parametrize(("header", "source"), GOOD)
def test_every_beginning_of_a_header_asks_for_more(header: bytes, source: str) -> None:
    assert all(parse_proxy_header(header[:size]) is None for size in range(len(header)))


GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda rest: SIGNATURE + rest),
    st.binary(max_size=200).map(lambda rest: b"PROXY " + rest),
    st.text("TCPUNKOW46 .:0123456789abf%\r\n\0", max_size=120).map(lambda text: b"PROXY TCP" + text.encode()),
    st.tuples(st.sampled_from(GOOD), st.integers(0, 60), st.binary(max_size=4)).map(
        lambda parts: parts[0][0][: parts[1]] + parts[2] + parts[0][0][parts[1] + len(parts[2]) :]
    ),
)


@given(GARBAGE)
def test_garbage_raises_nothing_else_and_what_it_names_is_an_address(data: bytes) -> None:
    try:
        header = parse_proxy_header(data)
    except ProxyError:
        return
    if header:
        assert 0 < header.size <= len(data)
        assert not header.source or str(ipaddress.ip_address(header.source)) == header.source
        assert parse_proxy_header(data[: header.size]) == header


@given(st.ip_addresses(), st.sampled_from([v1, v2]), st.binary(max_size=50), st.data())
def test_any_address_in_any_segments_is_read_as_it_was_meant(
    address: Any, make: Callable[[str], bytes], after: bytes, data: st.DataObject
) -> None:
    header = make(str(address))
    cut = data.draw(st.integers(0, len(header) - 1))

    assert parse_proxy_header(header[:cut]) is None
    mapped = getattr(address, "ipv4_mapped", None)
    assert parse_proxy_header(header + after) == ProxyHeader(len(header), str(mapped or address))


# --- reading it from a socket

FACTORIES = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=FACTORIES)
def loop_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def on(loop_kind: str, work: Any) -> Any:
    with asyncio.Runner(loop_factory=FACTORIES[loop_kind]) as runner:
        return runner.run(work)


@contextlib.contextmanager
def pair() -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


@pytest.mark.parametrize("header", [v1("192.0.2.7"), v2("192.0.2.7", tlvs=TLVS), LOCAL, b"PROXY UNKNOWN\r\n"])
def test_the_header_is_read_to_the_octet_wherever_it_is_split(header: bytes, loop_kind: str) -> None:
    hello = b"\x16\x03\x01\x02\x00 and more"

    async def read() -> None:
        for cut in range(len(header) + 1):
            with pair() as (ours, theirs):
                task = asyncio.create_task(read_proxy_header(ours))
                theirs.sendall(header[:cut])
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                theirs.sendall(header[cut:] + hello)
                assert (await task).size == len(header)
                assert ours.recv(100) == hello

    on(loop_kind, read())


def test_a_header_in_single_octets_and_one_longer_than_a_look_are_read(loop_kind: str) -> None:
    async def read() -> None:
        with pair() as (ours, theirs):
            task = asyncio.create_task(read_proxy_header(ours))
            for octet in v1("192.0.2.7"):
                theirs.sendall(bytes([octet]))
                await asyncio.sleep(0)
            assert (await task).source == "192.0.2.7"
            theirs.sendall(v2("192.0.2.8", tlvs=bytes(4084)) + b"EHLO")
            assert (await read_proxy_header(ours)).source == "192.0.2.8"
            assert ours.recv(100) == b"EHLO"

    on(loop_kind, read())


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 192.0.2.7", b"EHLO x\r\n"])
def test_an_end_before_the_header_is_an_error(sent: bytes, loop_kind: str) -> None:
    async def read() -> None:
        with pair() as (ours, theirs):
            theirs.sendall(sent)
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(ProxyError if sent else ConnectionError):
                await asyncio.wait_for(read_proxy_header(ours), 5)

    on(loop_kind, read())


# --- a listener behind a balancer

BALANCED = """
[smtp.listener]
address = "127.0.0.1:0"
proxy_protocol = true
proxy_networks = ["127.0.0.0/8"]
allowed_networks = ["127.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]
"""
LISTENER = BALANCED + 'tls = "none"\n'
CAPTURE = '[[provider]]\nkind = "capture"\n'
STRANGER = "198.51.100.9"
TAKEN = ("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")


@pytest.fixture
def start_port(loop_kind: str, start_daemon: Any, bridge_process: Any, tmp_path: Path) -> Any:
    """`await start_port(config)`: a daemon in this process on asyncio, or a process of its own on uvloop."""

    async def start(config: str) -> int:
        if loop_kind == "asyncio":
            return (await start_daemon(config=config + CAPTURE)).listeners[0].port
        (tmp_path / "config.toml").write_text(config + CAPTURE)
        return (await bridge_process()).port

    return start


async def proxied(port: int, header: bytes, *, after: bytes = b"EHLO client.example\r\n") -> Raw:
    raw = await Raw.connect(port)
    raw.send(header + after)
    return raw


async def greeted(port: int, header: bytes) -> Raw:
    raw = await proxied(port, header)
    await raw.expect("220", "250")
    return raw


async def test_the_client_in_the_header_is_who_may_relay(start_port: Any) -> None:
    """Header, EHLO and mail in one segment: what comes after the header is not lost, and the balancer's own address is
    no right."""
    port = await start_port(BALANCED)

    for header in (v1("192.0.2.7"), v2("192.0.2.7", tlvs=TLVS), v1("2001:db8::7"), v2("::ffff:192.0.2.7")):
        raw = await proxied(port, header, after=b"EHLO x\r\n" + WHOLE)
        await raw.expect("220", "250", *TAKEN)
    for header in (v1(STRANGER), v2(STRANGER), v2("2001:db9::7"), LOCAL, b"PROXY UNKNOWN\r\n", raw_v2(b"\x21\x00")):
        raw = await proxied(port, header, after=b"EHLO x\r\n" + ENVELOPE)
        await raw.expect("220", "250", "550 5.7.1 Relay access denied", "503")
    raw = await greeted(port, v1("192.0.2.7"))
    await raw.start_tls()
    raw.send(b"EHLO x\r\n" + WHOLE)
    await raw.expect("250", *TAKEN)


async def test_without_the_header_nothing_is_said_and_nothing_is_done(start_daemon: Any) -> None:
    port = (await start_daemon(config=LISTENER + CAPTURE)).listeners[0].port

    for sent in (
        b"EHLO x\r\n" + WHOLE,
        v2("192.0.2.7")[:-4] + b"\r\n",
        b"PROXY TCP4 x y 1 2\r\n" + WHOLE,
        b"\x16\x03\x01",
    ):
        raw = await Raw.connect(port)
        raw.send(sent)
        if sent.startswith(SIGNATURE):
            raw.writer.write_eof()
        await raw.expect_end()
    assert await (await greeted(port, v1("192.0.2.7"))).say("NOOP") == "250 2.0.0 Ok"


async def test_nobody_can_name_another_client_after_the_header(start_daemon: Any) -> None:
    raw = await greeted((await start_daemon(config=LISTENER + CAPTURE)).listeners[0].port, v1(STRANGER))

    assert (await raw.say(v1("192.0.2.7").decode().strip())).startswith("500 5.5.1")
    assert (await raw.say("XCLIENT ADDR=192.0.2.7")).startswith("500 5.5.1")
    assert (await raw.say("EHLO x")).startswith("250")
    assert not [line for line in raw.lines if line.startswith("XCLIENT")]
    assert (await raw.say("MAIL FROM:<ann@example.com>")).startswith("550 5.7.1")


def speak_tls(port: int, first: Callable[[bytes], list[bytes]]) -> str:
    """Shake hands by hand: `first` tells from the hello which segments go out. What is heard after EHLO and a mail."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        for segment in first(outgoing.read()):
            sock.sendall(segment)
            time.sleep(0.01)

        def until(work: Callable[[], Any]) -> Any:
            while True:
                try:
                    return work()
                except ssl.SSLWantReadError:
                    if out := outgoing.read():
                        sock.sendall(out)
                    incoming.write(sock.recv(65536))

        until(tls.do_handshake)
        tls.write(b"EHLO x\r\n" + WHOLE + b"QUIT\r\n")
        said = b""
        while b"221 " not in said:
            said += until(lambda: tls.read(65536))
        return said.decode()


async def test_the_header_and_a_tls_hello_in_one_segment(start_port: Any) -> None:
    """aiosmtpd's issue 559."""
    port = await start_port(BALANCED + 'tls = "implicit"\n')

    for header in (v1("192.0.2.7"), v2("192.0.2.7", tlvs=TLVS)):
        for segments in (
            lambda hello: [header + hello],  # noqa: B023 called at once
            lambda hello: [header, hello],  # noqa: B023
            lambda hello: [header[:20], header[20:] + hello[:1], hello[1:]],  # noqa: B023
        ):
            said = await asyncio.to_thread(speak_tls, port, segments)
            assert "\n250 2.0.0 Ok: " in said
    said = await asyncio.to_thread(speak_tls, port, lambda hello: [v1(STRANGER) + hello])
    assert "\n550 5.7.1 Relay access denied" in said


async def test_the_client_in_the_header_is_in_the_received_field_the_log_and_the_history(start_daemon: Any) -> None:
    daemon = await start_daemon(config=LISTENER + CAPTURE)
    raw = await greeted(daemon.listeners[0].port, v2("2001:db8::7"))

    with every_line() as lines:
        raw.send(WHOLE)
        reply = await raw.expect(*TAKEN)
    queue_id = reply.rsplit(" ", 1)[1]

    assert b"Received: from client.example ([IPv6:2001:db8::7])\r\n" in await daemon.spool.body(queue_id)
    assert {line["client"] for line in lines if "client" in line} == {"2001:db8::7"}
    assert [session.client for session in daemon.connections.sessions] == ["2001:db8::7"]


async def test_connections_are_counted_by_the_client_in_the_header(start_daemon: Any) -> None:
    daemon = await start_daemon(config=LISTENER + CAPTURE + "[smtp]\nmax_connections_per_client = 1\n")
    port = daemon.listeners[0].port
    first, second = await greeted(port, v1("192.0.2.7")), await greeted(port, v2("192.0.2.8"))

    third = await proxied(port, v2("192.0.2.7"))
    await third.expect("421 4.7.0 Too many connections")

    assert await first.say("NOOP") == await second.say("NOOP") == "250 2.0.0 Ok"
    first.send(b"QUIT\r\n")
    await first.expect("221")
    while len(daemon.connections.sessions) > 1:
        await asyncio.sleep(0.01)
    await greeted(port, v2("192.0.2.7"))


async def test_rates_are_counted_by_the_client_in_the_header(start_daemon: Any) -> None:
    daemon = await start_daemon(config=LISTENER + CAPTURE + '[smtp]\nrate_per_client = "1/h"\n')
    port = daemon.listeners[0].port

    for client in ("192.0.2.7", "192.0.2.8"):
        raw = await proxied(port, v1(client), after=b"EHLO x\r\n" + WHOLE)
        await raw.expect("220", "250", *TAKEN)
    raw = await greeted(port, v2("192.0.2.7"))
    assert (await raw.say("MAIL FROM:<ann@example.com>")).startswith("451 4.7.1")


async def test_a_connection_from_elsewhere_is_closed_at_once_whatever_it_says(start_daemon: Any) -> None:
    daemon = await start_daemon(config=LISTENER.replace('["127.0.0.0/8"]', '["192.0.2.0/24"]') + CAPTURE)

    with every_line() as lines:
        raw = await proxied(daemon.listeners[0].port, v1("192.0.2.7"))
        await raw.expect_end()

    (line,) = [line for line in lines if line["event"] == "connection.refused"]
    assert (line["client"], line["text"], line["log_level"]) == ("127.0.0.1", "not in proxy_networks", "warning")
    assert not daemon.connections.sessions


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"PROXY TCP4 192.0.2.7 ", "no PROXY header in time"),
        (b"", "no PROXY header in time"),
        (b"EHLO secret\r\n", "PROXY header: no PROXY header"),
    ],
)
async def test_a_balancer_that_brings_no_header_is_logged_without_its_words(
    sent: bytes, text: str, start_daemon: Any
) -> None:
    daemon = await start_daemon(config=LISTENER + CAPTURE)
    (service,) = daemon.services
    service.limits = dataclasses.replace(service.limits, proxy_header_timeout=0.05)

    with every_line() as lines:
        raw = await Raw.connect(daemon.listeners[0].port)
        raw.send(sent)
        await raw.expect_end()

    assert [line["text"] for line in lines if line["event"] == "connection.refused"] == [text]
    await greeted(daemon.listeners[0].port, v1("192.0.2.7"))


async def test_a_look_whether_the_port_is_open_is_no_warning(start_daemon: Any) -> None:
    daemon = await start_daemon(config=LISTENER + CAPTURE)

    with every_line() as lines:
        for end in (Raw.close, Raw.reset):
            end(await Raw.connect(daemon.listeners[0].port))
            lines.clear()
            async with asyncio.timeout(5):
                while not lines:
                    await asyncio.sleep(0.005)
            assert [(line["event"], line["log_level"]) for line in lines] == [("connection.closed", "debug")]


async def test_silent_connections_are_bounded_and_end_with_the_daemon(start_daemon: Any) -> None:
    daemon = await start_daemon(config=LISTENER + CAPTURE + "[smtp]\nmax_connections = 3\n")
    port = daemon.listeners[0].port
    silent = [await Raw.connect(port) for _ in range(3)]

    await (await Raw.connect(port)).expect_end()
    silent[0].send(v1("192.0.2.7") + b"EHLO x\r\n")
    await silent[0].expect("220", "250")
    await greeted(port, v1("192.0.2.8"))
    silent[0].send(b"QUIT\r\n")
    await daemon.stop()

    for raw in silent[1:]:
        await raw.expect_end()


async def test_whoever_may_connect_to_a_unix_socket_is_a_balancer(start_daemon: Any, tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"
    config = f"""
        [smtp.listener]
        address = "unix:{path}"
        proxy_protocol = true
        allowed_networks = ["192.0.2.0/24"]
        tls = "none"
    """
    await start_daemon(config=config + CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__ADDRESS=f"unix:{path}")

    for header, answer in ((v1("192.0.2.7"), "250 2.1.0"), (v1(STRANGER), "550 5.7.1"), (LOCAL, "550 5.7.1")):
        raw = Raw(*await asyncio.open_unix_connection(str(path)))
        raw.send(header + b"EHLO x\r\nMAIL FROM:<ann@example.com>\r\nRSET\r\n")
        await raw.expect("220", "250", answer, "250")


async def test_a_listener_without_the_setting_takes_no_header(start_daemon: Any) -> None:
    daemon = await start_daemon(config=CAPTURE + '[smtp.listener]\ntls = "none"\n')
    raw = await Raw.connect(daemon.listeners[0].port)

    raw.send(v1("192.0.2.7"))
    await raw.expect("220", "500 5.5.1")
    assert [session.client for session in daemon.connections.sessions] == ["127.0.0.1"]
