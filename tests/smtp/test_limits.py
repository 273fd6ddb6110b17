"""What one client may cost: connections, time, memory; and that the others are served meanwhile."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any, cast

import pytest
import structlog

from bridge.smtp.listener import Connections
from bridge.smtp.policy import Limits
from bridge.smtp.session import Session
from tests.delivery.conftest import every_line
from tests.smtp.raw import CAPTURE, ENVELOPE, HEADER, WHOLE, Raw, bodies, clients_end, open_sockets, without_received

__all__ = ["clients_end"]


async def settled(daemon: Any, count: int = 0) -> None:
    """Until so many sessions are left."""
    async with asyncio.timeout(10):
        while len(daemon.connections.sessions) != count:
            await asyncio.sleep(0.005)


def port_of(daemon: Any) -> int:
    return int(daemon.listeners[0].port)


@pytest.mark.parametrize(
    ("key", "loopback"), [("MAX_CONNECTIONS_PER_CLIENT", "127.0.0.1"), ("MAX_CONNECTIONS", "127.0.0.1")]
)
async def test_one_connection_too_many_is_421_and_there_is_room_again_afterwards(
    key: str, loopback: str, start_daemon: Any
) -> None:
    daemon = await start_daemon(**CAPTURE, **{f"SMTP_BRIDGE_SMTP__{key}": "3"})
    raws = [await Raw.greeted(port_of(daemon)) for _ in range(3)]

    refused = await Raw.connect(port_of(daemon))
    await refused.expect("421 4.7.0 Too many connections")
    await refused.expect_end()

    assert await raws[0].say("NOOP") == "250 2.0.0 Ok"
    raws[0].close()
    await settled(daemon, 2)
    await Raw.greeted(port_of(daemon))


async def test_the_limit_per_client_leaves_room_for_other_clients(start_daemon: Any) -> None:
    daemon = await start_daemon(
        **CAPTURE,
        SMTP_BRIDGE_SMTP__MAX_CONNECTIONS_PER_CLIENT="1",
        SMTP_BRIDGE_SMTP__LISTENER__ADDRESS="0.0.0.0:0",
    )
    await Raw.greeted(port_of(daemon))

    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(daemon), local_addr=("127.0.0.2", 0))
    other = Raw(reader, writer)
    await other.expect("220")


async def test_three_hundred_aborted_connections_leave_no_descriptor_behind(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__MAX_CONNECTIONS_PER_CLIENT="1000")
    await (await Raw.greeted(port_of(daemon))).say("QUIT")
    await settled(daemon)
    before = open_sockets()

    for number in range(300):
        sock = socket.create_connection(("127.0.0.1", port_of(daemon)))
        sock.send((b"", b"EHLO x\r\n", ENVELOPE, ENVELOPE + b"DATA\r\n" + HEADER)[number % 4])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        if number % 20 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while open_sockets() > before or daemon.connections.sessions:
            await asyncio.sleep(0.01)

    assert not daemon.connections._by_client


# --- time


async def test_an_idle_client_hears_421_4_4_2(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__TIMEOUT="0.2s")
    raws = [await Raw.greeted(port_of(daemon)) for _ in range(3)]
    await raws[1].say("MAIL FROM:<ann@example.com>")
    await raws[2].begin_data()

    for raw in raws:
        await raw.expect("421 4.4.2")
        await raw.expect_end()
    await settled(daemon)


async def test_a_command_line_that_trickles_does_not_extend_the_time_out(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__TIMEOUT="0.3s")
    raw = await Raw.greeted(port_of(daemon))
    started = time.monotonic()

    while not raw.reader.at_eof() and time.monotonic() - started < 5 and not raw.reader._buffer:  # type: ignore[attr-defined]
        raw.send(b"x")
        await asyncio.sleep(0.02)

    await raw.expect("421 4.4.2")
    assert time.monotonic() - started < 1.5


@pytest.mark.serial
async def test_data_that_flows_is_not_cut_however_long_it_takes(start_daemon: Any) -> None:
    """RFC 5321 4.5.3.2.5: the time-out is for a block, not for the message."""
    limits = {"SMTP_BRIDGE_SMTP__TIMEOUT": "0.3s", "SMTP_BRIDGE_SMTP__MIN_DATA_RATE": "100B"}
    daemon = await start_daemon(**CAPTURE, **limits)
    raw = await Raw.greeted(port_of(daemon))
    await raw.begin_data()

    raw.send(HEADER)
    for _ in range(16):
        await asyncio.sleep(0.05)
        raw.send(b"x\r\n")
    raw.send(b".\r\n")

    await raw.expect("250 2.0.0")


@pytest.mark.parametrize("command", ["DATA", "BDAT 5000"])
async def test_content_that_trickles_slower_than_the_least_rate_is_cut(start_daemon: Any, command: str) -> None:
    """Each block comes in time, and the whole would take for ever (Postfix: smtpd_min_data_rate)."""
    limits = {"SMTP_BRIDGE_SMTP__TIMEOUT": "0.3s", "SMTP_BRIDGE_SMTP__MIN_DATA_RATE": "1000B"}
    daemon = await start_daemon(**CAPTURE, **limits)
    raw = await Raw.greeted(port_of(daemon))
    raw.send(ENVELOPE + command.encode() + b"\r\n")
    await raw.expect("250 2.1.0", "250 2.1.5", *(["354"] if command == "DATA" else []))

    async def trickle() -> None:
        while True:
            raw.send(b"x\r\n")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    try:
        await raw.expect("421 4.4.2")
    finally:
        trickling.cancel()
    assert await bodies(daemon) == []


async def test_the_time_out_does_not_run_while_we_are_the_ones_who_take_long(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__TIMEOUT="0.2s")
    (provider,) = daemon.providers
    send = provider.send

    async def slow(*args: Any, **named: Any) -> Any:
        await asyncio.sleep(0.7)
        return await send(*args, **named)

    provider.send = slow
    raw = await Raw.connect(port_of(daemon))

    raw.send(b"EHLO x\r\n" + WHOLE + b"QUIT\r\n")

    await raw.expect("220", "250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "221")


async def test_a_client_that_reads_nothing_is_cut_off_after_the_time_out(start_daemon: Any) -> None:
    daemon = await start_daemon(
        **CAPTURE, SMTP_BRIDGE_SMTP__TIMEOUT="0.3s", SMTP_BRIDGE_SMTP__MAX_JUNK_COMMANDS="100000000"
    )
    raw = await Raw.connect(port_of(daemon), rcvbuf=4096)
    raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(0.01)
    (session,) = daemon.connections.sessions

    written = 0
    while session in daemon.connections.sessions and written < 200_000_000:
        raw.send(b"HELP\r\n" * 10_000)
        written += 60_000
        await asyncio.sleep(0.001)
    await Raw.greeted(port_of(daemon))

    assert written < 200_000_000
    async with asyncio.timeout(5):
        while session.transport is not None:
            await asyncio.sleep(0.01)
    assert len(session._buffer) < 1_000_000


@pytest.mark.serial
async def test_slow_clients_do_not_hold_up_the_others(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__SHUTDOWN_TIMEOUT="1s")
    slow = [await Raw.greeted(port_of(daemon)) for _ in range(60)]
    for number, raw in enumerate(slow):
        raw.send((b"MAIL", ENVELOPE + b"DATA\r\nx", b"STARTTLS\r\n")[number % 3])
    started = time.monotonic()

    other = await Raw.greeted(port_of(daemon))
    other.send(WHOLE)
    await other.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")

    assert time.monotonic() - started < 1.0


async def test_the_limit_of_a_command_is_not_raised_by_repeating_ehlo(start_daemon: Any) -> None:
    """aiosmtpd adds to a limit of the class at each EHLO of any session."""
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(port_of(daemon))
    for _ in range(40):
        await raw.say("EHLO x")

    assert (await raw.say("NOOP " + "x" * 600)).startswith("500 5.5.2")
    assert (await raw.say("MAIL FROM:<ann@example.com> ENVID=" + "x" * 3000)).startswith("500 5.5.2")


# --- the end of a connection


async def test_a_client_that_closes_its_writing_side_still_hears_everything(start_daemon: Any) -> None:
    """`printf ... | nc -N`."""
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.connect(port_of(daemon))

    raw.send(b"EHLO x\r\n" + WHOLE + WHOLE)
    raw.writer.write_eof()

    await raw.expect("220", "250", *["250 2.1.0", "250 2.1.5", "354", "250 2.0.0"] * 2)
    await raw.expect_end()
    await settled(daemon)
    assert len(await daemon.spool.list_messages()) == 2


async def test_half_a_message_and_the_end_of_the_stream_is_no_message(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.connect(port_of(daemon))

    raw.send(b"EHLO x\r\n" + ENVELOPE + b"DATA\r\n" + HEADER + b"text\r\n.")
    raw.writer.write_eof()

    await raw.expect("220", "250", "250 2.1.0", "250 2.1.5", "354")
    await raw.expect_end()
    assert await daemon.spool.list_messages() == []


async def test_after_a_defect_of_ours_the_client_hears_451_without_its_text_and_may_go_on(
    start_daemon: Any,
) -> None:
    """aiosmtpd says 500 with the text of the exception, and `503 nested MAIL` to the next message."""
    daemon = await start_daemon(**CAPTURE)
    parse = daemon.submission._preparation._parse

    def broken(raw: bytes) -> Any:
        raise RuntimeError("secret detail")

    raw = await Raw.greeted(port_of(daemon))
    daemon.submission._preparation._parse = broken
    raw.send(WHOLE)
    with structlog.testing.capture_logs() as logs:
        answer = await raw.expect("250 2.1.0", "250 2.1.5", "354", "451 4.3.0")
    assert answer == "451 4.3.0 Local error, try again later"
    daemon.submission._preparation._parse = parse
    raw.send(WHOLE)

    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
    assert "submission.error" in {line["event"] for line in logs}


async def test_a_defect_in_a_command_is_451_and_ends_the_transaction(
    start_daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(port_of(daemon))
    await raw.say("MAIL FROM:<ann@example.com>")

    with monkeypatch.context() as patch:
        patch.setattr("bridge.smtp.session.parse_rcpt", lambda *args, **named: 1 / 0)
        with structlog.testing.capture_logs() as logs:
            answer = await raw.say("RCPT TO:<bob@example.org>")
    assert answer == "451 4.3.0 Local error, try again later"
    raw.send(WHOLE)

    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
    assert "session.error" in {line["event"] for line in logs}


async def test_eight_bit_content_needs_no_parameter_and_stays(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(port_of(daemon))
    content = HEADER + bytes(range(128, 256)) + b"\r\n"

    raw.send(ENVELOPE + b"DATA\r\n" + content + b".\r\n")
    reply = await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")

    assert without_received(await daemon.spool.body(reply.rsplit(" ", 1)[1])) == content


async def test_ehlo_tells_what_is_honoured(start_daemon: Any) -> None:
    raw = await Raw.greeted(port_of(await start_daemon(**CAPTURE)))

    words = ["PIPELINING", f"SIZE {25 * 1024**2}", "STARTTLS", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "DSN"]
    words += ["CHUNKING", "BINARYMIME", "LIMITS RCPTMAX=1000"]
    assert raw.lines == ["bridge.example", *words]


async def test_ends_and_silence_are_the_same_on_uvloop(bridge_process: Any) -> None:
    """The tests above run on asyncio's own loop; `smtp-bridge run` uses uvloop where it is installed."""
    process = await bridge_process(
        **CAPTURE, SMTP_BRIDGE_SMTP__TIMEOUT="0.4s", SMTP_BRIDGE_SMTP__MAX_JUNK_COMMANDS="100000000"
    )
    idle, cut = await Raw.greeted(process.port), await Raw.greeted(process.port)
    await cut.begin_data()
    half = await Raw.connect(process.port)
    half.send(b"EHLO x\r\n" + WHOLE)
    half.writer.write_eof()
    deaf = await Raw.connect(process.port, rcvbuf=4096)
    deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]

    await half.expect("220", "250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
    await half.expect_end()
    await idle.expect("421 4.4.2")
    await cut.expect("421 4.4.2")
    async with asyncio.timeout(10):
        while not deaf.writer.transport.is_closing():  # what is written to a reset connection fails
            deaf.send(b"HELP\r\n" * 10_000)
            await asyncio.sleep(0.002)
    again = await Raw.greeted(process.port)
    again.reset()
    await Raw.greeted(process.port)
    assert await process.stop() == 0
    log = process.log_path.read_text()
    assert "Traceback" not in log
    assert "session.error" not in log


class Somebody:
    def __init__(self, client: str) -> None:
        self.client = client


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("unix", "unix", True),
    ],
)
def test_connections_are_counted_by_network(one: str, other: str, same: bool) -> None:
    """Of IPv6 one customer has a /64 at least, which would be 2**64 clients."""
    connections = Connections(Limits(max_connections_per_client=1))
    first, second = cast(Session, Somebody(one)), cast(Session, Somebody(other))
    assert connections.admit(first) is None

    assert (connections.admit(second) is not None) is same
    connections.leave(first)
    if same:
        assert connections.admit(second) is None
    connections.leave(second)
    assert not connections._by_client


@pytest.mark.parametrize("flood", [b"BAD\r\n" * 80_000, b"QUIT\r\n" + b"NOOP\r\n" * 50_000])
async def test_a_client_that_pipelines_beyond_the_end_hears_every_reply_before_it(
    start_daemon: Any, flood: bytes
) -> None:
    """Closed with input unread, the kernel would answer with a reset, and replies be lost."""
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(port_of(daemon))

    raw.send(flood)
    expected = ["500 5.5.1"] * 10 + ["421 4.7.0"] if flood.startswith(b"BAD") else ["221 2.0.0"]
    await raw.expect(*expected)

    await raw.expect_end()
    raw.close()
    async with asyncio.timeout(10):
        while daemon.connections.sessions:
            await asyncio.sleep(0.01)


# --- on the loop that the daemon runs on


async def test_who_resets_the_connection_gets_no_right_by_it(bridge_process: Any) -> None:
    """uvloop asks for the peer's name late; a connection that is reset has none any more, and its octets can still be read."""
    settings = {"SMTP_BRIDGE_SMTP__LISTENER__ALLOWED_NETWORKS": "10.0.0.0/8"}
    daemon = await bridge_process(**CAPTURE, **settings)

    for _ in range(60):
        with socket.create_connection(("127.0.0.1", daemon.port)) as sock:
            sock.sendall(b"EHLO x\r\n" + WHOLE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with socket.create_connection(("127.0.0.1", daemon.port)) as sock, sock.makefile("rb") as lines:
        sock.sendall(b"HELO x\r\nMAIL FROM:<ann@example.com>\r\n")
        assert [lines.readline()[:3] for _ in range(3)] == [b"220", b"250", b"550"]

    assert not daemon.events("message.sent")
    assert {event["client"] for event in daemon.events("message.rejected")} <= {"127.0.0.1"}


async def test_a_connection_counts_until_it_is_gone(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__MAX_CONNECTIONS_PER_CLIENT="3")
    for _ in range(3):
        raw = await Raw.greeted(port_of(daemon))
        raw.send(b"QUIT\r\nNOOP\r\n")  # with more than is read, and it does not close
        await raw.expect("221")

    late = await Raw.connect(port_of(daemon))
    await late.expect("421 4.7.0")
    async with asyncio.timeout(10):
        while daemon.connections.sessions:
            await asyncio.sleep(0.05)


async def test_who_pipelines_commands_does_not_have_the_loop_for_himself(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__MAX_RECIPIENTS="1")
    busy, other = await Raw.greeted(port_of(daemon)), await Raw.greeted(port_of(daemon))
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        if session._commands < 2900:
            asyncio.get_running_loop().call_soon(turn)

    session = next(
        one
        for one in daemon.connections.sessions
        if one.transport.get_extra_info("peername")[1] == busy.writer.get_extra_info("sockname")[1]
    )
    busy.send(ENVELOPE + b"RCPT TO:<x@example.org>\r\n" * 3000)
    asyncio.get_running_loop().call_soon(turn)
    await busy.expect(*["250"] * 2, *["452 4.5.3"] * 3000)

    assert turns > 2900 // 32
    assert (await other.say("NOOP")).startswith("250")


async def test_many_recipients_are_memory_too(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    daemon.budget.charge(daemon.budget.total)
    raw = await Raw.greeted(port_of(daemon))

    raw.send(b"MAIL FROM:<ann@example.com>\r\n" + b"".join(b"RCPT TO:<r%d@example.org>\r\n" % n for n in range(300)))
    await raw.expect("250")
    replies = [(await raw.reply())[:9] for _ in range(300)]

    taken = replies.index("452 4.3.1")
    assert 50 < taken < 200
    assert replies == ["250 2.1.5"] * taken + ["452 4.3.1"] * (300 - taken)


async def test_a_client_that_is_put_off_again_and_again_is_one_line_in_the_log(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__RATE_PER_CLIENT="1/h")
    raw = await Raw.greeted(port_of(daemon))
    raw.send(WHOLE)
    await raw.expect("250", "250", "354", "250")

    with every_line() as lines:
        raw.send(b"MAIL FROM:<ann@example.com>\r\n" * 50)
        await raw.expect(*["451 4.7.1"] * 50)

    assert [line["log_level"] for line in lines if line["event"] == "message.rejected"] == ["warning", *["debug"] * 49]


async def test_after_a_defect_in_the_middle_of_content_the_rest_is_no_commands(
    start_daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start_daemon(**CAPTURE)

    async def broken(self: Any, block: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr("bridge.content.Content.write", broken)
    raw = await Raw.greeted(port_of(daemon))
    await raw.begin_data()
    raw.send(b"x" * 70_000 + b"\r\n" + WHOLE)

    await raw.expect("421 4.3.0")
    await raw.expect_end()
    assert daemon.budget.used == 0


async def test_a_client_that_hangs_up_is_noticed_also_after_a_large_message(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    (provider,) = daemon.providers
    seen = []

    async def slow(*args: Any, **named: Any) -> Any:
        (session,) = daemon.connections.sessions
        peer = session._peer
        raw.reset()
        async with asyncio.timeout(5):
            while not peer.gone:
                await asyncio.sleep(0.01)
        seen.append(True)
        raise RuntimeError

    provider.send = slow
    raw = await Raw.greeted(port_of(daemon))
    await raw.begin_data()
    raw.send(HEADER + b"long line\r\n" * 60_000 + b".\r\n")
    async with asyncio.timeout(10):
        while not seen:
            await asyncio.sleep(0.01)
