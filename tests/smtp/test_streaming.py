"""Content that comes in blocks: the borders between them are nowhere to be seen, and memory is asked for before it is taken."""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bridge.smtp.wire
from tests.smtp.raw import CAPTURE, ENVELOPE, HEADER, Raw, bodies, clients_end, without_received

__all__ = ["clients_end"]

PIECES = st.sampled_from(
    [b"\r\n", b".", b"\r\n.", b"\r\n..", b"\r", b"\n", b"\r\r\n", b"a", b"\xff", b"\r\n.\r", b"bcd"]
)
CONTENTS = st.lists(PIECES, max_size=40).map(b"".join).filter(lambda content: b"\r\n.\r\n" not in content + b"\r\n")


def port_of(daemon: Any) -> int:
    return int(daemon.listeners[0].port)


def expected(sent: bytes) -> bytes:
    """By the rules, over the whole: unstuffed, then every lone CR or LF is a CRLF."""
    unstuffed = (b"\r\n" + sent).replace(b"\r\n.", b"\r\n")[2:]
    return re.sub(rb"\r\n|\r|\n", b"\r\n", unstuffed)


@pytest.fixture
async def kept(start_daemon: Any) -> Any:
    return await start_daemon(**CAPTURE, SMTP_BRIDGE_SPOOL__FILE_THRESHOLD="50B")


@pytest.mark.parametrize("block", [1, 3])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=CONTENTS, cuts=st.lists(st.integers(1, 90), max_size=3))
async def test_blocks_of_any_size_give_the_same_message(
    content: bytes, cuts: list[int], kept: Any, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge.smtp.wire, "BLOCK", block)
    raw = await Raw.greeted(port_of(kept))
    await raw.begin_data()
    sent = HEADER + b"x" + content + b"\r\n"  # "x": a dot at the very beginning is another test's

    places = sorted({0, len(sent), *(cut + len(HEADER) for cut in cuts if cut < len(content))})
    await raw.send_apart(*(sent[a:b] for a, b in itertools.pairwise(places)), b".\r\n")
    await raw.expect("250 2.0.0 Ok: sent")
    assert await raw.say("NOOP") == "250 2.0.0 Ok"
    raw.close()

    body = (await bodies(kept))[0]
    assert without_received(body) == expected(sent)


@pytest.mark.parametrize("block", [1, 3, 64 * 1024])
@pytest.mark.parametrize("content", [b"", b".", b"..", b".x\r\n", b".\r", b"\r\n", b".\n"])
async def test_the_very_beginning(kept: Any, content: bytes, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.smtp.wire, "BLOCK", block)
    raw = await Raw.greeted(port_of(kept))
    await raw.begin_data()

    sent = b"" if not content else content if content.endswith(b"\r\n") else content + b"\r\n"
    if sent == b".\r\n":
        sent = b""  # this is the end mark
    await raw.send_apart(*(bytes([octet]) for octet in sent + b".\r\n"))
    await raw.expect("250 2.0.0 Ok: sent")

    assert await raw.say("NOOP") == "250 2.0.0 Ok"
    (body,) = await bodies(kept)
    assert body.endswith(expected(sent))


async def test_without_memory_data_is_452_and_the_session_goes_on(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__MEMORY_WAIT="0.05s")
    everything = daemon.budget.charge(daemon.budget.total)
    raw = await Raw.greeted(port_of(daemon))

    raw.send(ENVELOPE + b"DATA\r\n")
    await raw.expect("250 2.1.0", "250 2.1.5", "452 4.3.1")
    raw.send(ENVELOPE + b"BDAT 6 LAST\r\nQUIT\r\n")
    await raw.expect("250 2.1.0", "250 2.1.5", "452 4.3.1")
    everything.release()
    await raw.begin_data()
    raw.send(b"x\r\n.\r\n")
    await raw.expect("250 2.0.0")


@pytest.mark.parametrize("end", ["read on", "hang up"])
async def test_commands_that_are_not_read_yet_are_memory_too(start_daemon: Any, end: str) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__MAX_JUNK_COMMANDS="100000")
    (provider,) = daemon.providers
    send, go_on, asked = provider.send, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **named: Any) -> Any:
        asked.set()
        await go_on.wait()
        return await send(*args, **named)

    provider.send = slow
    raw = await Raw.greeted(port_of(daemon))
    await raw.begin_data()
    raw.send(HEADER + b"short\r\n.\r\n")
    await asked.wait()
    with_the_message = daemon.budget.used
    raw.send(b"RSET\r\n" * 10_000)
    async with asyncio.timeout(10):
        while daemon.budget.used < with_the_message + 50_000:
            await asyncio.sleep(0.005)

    if end == "hang up":
        raw.reset()
    go_on.set()
    if end == "read on":
        await raw.expect("250 2.0.0", *["250"] * 10_000)
        assert len(daemon.connections.sessions) == 1
    async with asyncio.timeout(10):
        while daemon.budget.used:
            await asyncio.sleep(0.005)


async def test_who_waits_for_memory_goes_on_when_there_is_some(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    everything = daemon.budget.charge(daemon.budget.total)
    raw = await Raw.greeted(port_of(daemon))

    raw.send(ENVELOPE + b"DATA\r\n")
    await raw.expect("250 2.1.0", "250 2.1.5")
    other = await Raw.greeted(port_of(daemon))
    everything.release()

    await raw.expect("354")
    assert (await other.say("NOOP")).startswith("250")
    raw.send(b".\r\n")
    await raw.expect("250 2.0.0")


async def test_a_long_message_waits_for_memory_and_short_ones_pass_it(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    long_ones = daemon.budget.charge(daemon.budget.most_large, large=True)
    raw, other = await Raw.greeted(port_of(daemon)), await Raw.greeted(port_of(daemon))
    await raw.begin_data()
    raw.send(HEADER + b"long line\r\n" * 40_000 + b".\r\n")
    await other.begin_data()
    other.send(HEADER + b"short\r\n.\r\n")
    await other.expect("250 2.0.0")

    long_ones.release()
    await raw.expect("250 2.0.0")
    raw.close()
    other.close()
    assert daemon.budget.used == 0
    assert {len(body) > 400_000 for body in await bodies(daemon)} == {True, False}


async def test_a_long_message_that_finds_no_memory_is_452(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__MEMORY_WAIT="0.05s")
    long_ones = daemon.budget.charge(daemon.budget.most_large, large=True)
    raw = await Raw.greeted(port_of(daemon))
    await raw.begin_data()

    raw.send(HEADER + b"long line\r\n" * 40_000 + b".\r\n")
    await raw.expect("452 4.3.1 Insufficient memory")

    long_ones.release()
    assert daemon.budget.used == 0
    assert await bodies(daemon) == []


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_client_that_leaves_in_the_middle_leaves_nothing(start_daemon: Any, end: str) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(port_of(daemon))
    await raw.begin_data()
    raw.send(HEADER + b"long line\r\n" * 100_000)
    await raw.writer.drain()

    getattr(raw, end)()
    async with asyncio.timeout(10):
        while daemon.connections.sessions or daemon.budget.used:
            await asyncio.sleep(0.01)

    assert await bodies(daemon) == []


async def test_a_message_too_large_is_read_to_its_end_without_keeping_it(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__MAX_MESSAGE_SIZE="1MiB")
    raw = await Raw.greeted(port_of(daemon))
    await raw.begin_data()

    raw.send(HEADER + b"long line\r\n" * 400_000 + b".\r\n")
    await raw.expect("552 5.3.4")

    assert await raw.say("NOOP") == "250 2.0.0 Ok"
    assert daemon.budget.used == 0


MULTIPART = b'From: ann@example.com\r\nContent-Type: multipart/mixed; boundary="%b"\r\n\r\n'


@pytest.mark.parametrize(
    "bomb",
    [
        MULTIPART % b"b" + b"--b\r\n\r\nx\r\n" * 100_000,
        b"".join(MULTIPART % (b"b%d" % n) + b"--b%d\r\n" % n for n in range(5000)),
        MULTIPART % b"b"
        + b"".join(b"--b\r\nX: " + b"y" * 900 + b"\r\n\r\nx\r\n" for _ in range(900))
        + b"a: b\r\n" * 200_000,
        b"X: " + b"y" * (1 << 20) + b"\r\n\r\nx\r\n",
    ],
    ids=["parts", "depth", "parts at the limit", "header"],
)
async def test_a_bomb_is_refused_in_bounded_time_while_others_are_served(start_daemon: Any, bomb: bytes) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw, other = await Raw.greeted(port_of(daemon)), await Raw.greeted(port_of(daemon))
    await raw.begin_data()

    raw.send(bomb + b".\r\n")
    answer = asyncio.create_task(raw.reply())
    slowest = 0.0
    while not answer.done():
        asked = asyncio.get_running_loop().time()
        await other.say("VRFY x")
        slowest = max(slowest, asyncio.get_running_loop().time() - asked)
        await asyncio.sleep(0.02)

    assert (await answer)[:9] == ("250 2.0.0" if bomb.endswith(b"a: b\r\n") else "554 5.6.0")
    assert slowest < 2
