"""DATA over a real socket: only CRLF.CRLF ends it, however it is cut into segments, and what is kept is what was sent."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.smtp.raw import CAPTURE, ENVELOPE, HEADER, WHOLE, Raw, bodies, clients_end, without_received

__all__ = ["clients_end"]

# CVE-2023-51764, -51765, -51766, CVE-2024-27305: what some other system takes for the end of DATA.
LOOK_ALIKES = [
    b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\r\n.\r\r\n", b"\n.\r", b"\r.\n", b"\n\n.\r\n",
    b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n.\r\0\n", b"\r\r\n.\n", b"\r\n .\r\n", b"\r\n. \r\n", b"\r\n\t.\r\n", b"\r\n..\r\n",
    b"\r\n\x0b.\r\n", b"\r\n\xe2\x80\xa8.\n", b"\n\r.\n\r",
]  # fmt: skip
SMUGGLED = b"MAIL FROM:<eve@example.com>\r\nRCPT TO:<eve@example.org>\r\nDATA\r\nsmuggled\r\n"


@pytest.fixture
async def port(start_daemon: Any) -> int:
    return (await start_daemon(**CAPTURE)).listeners[0].port


def normalized(content: bytes) -> bytes:
    return re.sub(rb"\r\n|\r|\n", b"\r\n", content)


def on_the_wire(content: bytes) -> bytes:
    """RFC 5321 4.5.2: a dot before a line that begins with one, then the end marker."""
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
    return stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n")


@pytest.mark.parametrize(("bare_newlines", "reply"), [("normalize", "250 2.0.0"), ("reject", "550 5.5.2")])
async def test_no_look_alike_of_the_end_marker_ends_data(bare_newlines: str, reply: str, start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__BARE_NEWLINES=bare_newlines)
    raw = await Raw.greeted(daemon.listeners[0].port)
    assert len(set(LOOK_ALIKES)) == 21

    for look_alike in LOOK_ALIKES:
        await raw.begin_data()
        raw.send(HEADER + b"text" + look_alike + SMUGGLED + b".\r\n")
        answer = await raw.reply()
        has_bare = re.search(rb"(?<!\r)\n|\r(?!\n)", look_alike) is not None
        assert answer.startswith(reply if has_bare else "250 2.0.0"), (look_alike, answer)
        assert await raw.say("NOOP") == "250 2.0.0 Ok", look_alike
    kept = await bodies(daemon)
    assert all(b"smuggled" in body for body in kept)
    assert "eve@example.org" not in str(await daemon.spool.list_messages())


async def test_the_end_is_found_wherever_the_segments_are_cut(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(daemon.listeners[0].port)
    content = HEADER[:-2] + b"\r\n..dots\r\n..\r\n...\r\n.\r\r\n x\r\n.\r\n"

    for cut in range(len(HEADER) - 4, len(content)):
        await raw.begin_data()
        await raw.send_apart(content[:cut], content[cut:])
        await raw.expect("250 2.0.0")
    kept = {without_received(body) for body in await bodies(daemon)}
    assert kept == {HEADER + b".dots\r\n.\r\n..\r\n\r\n\r\n x\r\n"}


async def test_data_of_one_octet_at_a_time_is_the_same_message(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(daemon.listeners[0].port)
    await raw.begin_data()

    await raw.send_apart(*(bytes([octet]) for octet in HEADER + b"..\r\n.x\r\n.\r\n"))
    await raw.expect("250 2.0.0")

    assert [without_received(body) for body in await bodies(daemon)] == [HEADER + b".\r\nx\r\n"]


async def test_what_comes_behind_the_dot_in_its_segment_is_commands(port: int) -> None:
    raw = await Raw.greeted(port)

    raw.send(WHOLE + WHOLE + b"NOOP\r\nQUIT\r\nNOOP\r\n")

    await raw.expect(*["250 2.1.0", "250 2.1.5", "354", "250 2.0.0"] * 2, "250 2.0.0", "221 2.0.0")
    await raw.expect_end()


@pytest.mark.parametrize(
    "content", [b"", b".", b"..", b"\r\n", b".\r\n", b"\r\n.\r\n", b"x", b".x", b"\r\n.", b"\n.\n"]
)
async def test_small_contents_arrive_as_they_are(content: bytes, start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(daemon.listeners[0].port)
    await raw.begin_data()

    raw.send(on_the_wire(content))
    await raw.expect("250 2.0.0")
    assert await raw.say("NOOP") == "250 2.0.0 Ok"

    (body,) = await bodies(daemon)
    ended = content if content.endswith(b"\r\n") else content + b"\r\n"
    assert body.endswith(normalized(ended).removeprefix(b"\r\n"))


PIECES = st.sampled_from(
    [b"\r\n", b".", b"\r\n.", b"\r\n.\r\n", b"\r", b"\n", b"\0", b"a", b"\xff", b"..", b" ", b"From "]
)
CONTENTS = st.lists(PIECES | st.binary(max_size=6), max_size=30).map(b"".join)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=CONTENTS, cut=st.integers(0, 200))
async def test_what_is_kept_is_what_was_sent_with_crlf_line_ends(content: bytes, cut: int, start_daemon: Any) -> None:
    daemon = DAEMONS.get(id(start_daemon)) or await start_daemon(**CAPTURE)
    DAEMONS.clear()
    DAEMONS[id(start_daemon)] = daemon
    raw = await Raw.greeted(daemon.listeners[0].port)
    await raw.begin_data()
    wire = on_the_wire(HEADER + content)

    await raw.send_apart(wire[:cut], wire[cut:])
    reply = await raw.expect("250 2.0.0")

    body = await daemon.spool.body(reply.rsplit(" ", 1)[1])
    ended = content if (HEADER + content).endswith(b"\r\n") else content + b"\r\n"
    assert without_received(body) == normalized(HEADER + ended)


DAEMONS: dict[int, Any] = {}  # one daemon for all examples of a test


async def test_lines_of_ten_kilobytes_are_kept_whole(start_daemon: Any) -> None:
    """RFC 5321 4.5.3.1.6 allows 998; HTML generators write more, and an API takes it."""
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(daemon.listeners[0].port)
    await raw.begin_data()
    lines = b"".join(b"%d" % n * 10_000 + b"\r\n" for n in range(5))

    raw.send(HEADER + lines + b".\r\n")
    await raw.expect("250 2.0.0")

    assert without_received((await bodies(daemon))[0]) == HEADER + lines


async def test_a_message_one_octet_over_the_limit_is_552_and_its_dots_do_not_count(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__MAX_MESSAGE_SIZE="100000")
    raw = await Raw.greeted(daemon.listeners[0].port)
    lines = HEADER + b".\r\n" * ((100_000 - len(HEADER)) // 3 - 5)
    exact = lines + b"x" * (100_000 - len(lines) - 2) + b"\r\n"

    for content, reply in ((exact, "250 2.0.0"), (b"y" + exact, "552 5.3.4"), (exact, "250 2.0.0")):
        await raw.begin_data()
        raw.send(on_the_wire(content))
        await raw.expect(reply)


def resident_kib(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.M)
    assert found
    return int(found[1])


async def test_a_line_of_120_megabytes_is_552_in_bounded_memory_and_the_session_goes_on(bridge_process: Any) -> None:
    process = await bridge_process(**CAPTURE, SMTP_BRIDGE_SMTP__MAX_MESSAGE_SIZE="5MiB")
    raw = await Raw.greeted(process.port)
    before = resident_kib(process.process.pid, "VmRSS")
    await raw.begin_data()

    block = b"x" * 1_000_000
    for _ in range(120):
        raw.send(block)
        await raw.writer.drain()
    raw.send(b"\r\n.\r\n")
    await raw.expect("552 5.3.4")

    assert resident_kib(process.process.pid, "VmHWM") - before < 24 * 1024
    raw.send(WHOLE)
    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")


@pytest.mark.serial
async def test_a_large_message_does_not_hold_up_other_clients(bridge_process: Any) -> None:
    process = await bridge_process(**CAPTURE)
    raw, other = await Raw.greeted(process.port), await Raw.greeted(process.port)
    await raw.begin_data()
    await other.say("MAIL FROM:<ann@example.com>")
    loop = asyncio.get_running_loop()
    worst = 0.0

    line = b"x" * 76 + b"\r\n"
    raw.send(HEADER + line * (15_000_000 // len(line)) + b".\r\n")
    answer = asyncio.create_task(raw.reply())
    while not answer.done():
        asked = loop.time()
        assert await other.say("RCPT TO:<x@example.org>") == "250 2.1.5 Ok"
        worst = max(worst, loop.time() - asked)
        await asyncio.sleep(0.02)

    assert answer.result().startswith("250 2.0.0")
    assert worst < 1.0


async def test_a_client_that_leaves_in_the_middle_of_data_has_sent_nothing(start_daemon: Any) -> None:
    """RFC 5321 4.1.1.4."""
    daemon = await start_daemon(**CAPTURE)
    for leave in (Raw.close, Raw.reset):
        for part in (HEADER, HEADER + b"text\r\n.", HEADER + b"text\r\n.\r"):
            raw = await Raw.greeted(daemon.listeners[0].port)
            await raw.begin_data()
            await raw.send_apart(part)
            leave(raw)
    while daemon.connections.sessions:
        await asyncio.sleep(0.01)

    assert await bodies(daemon) == []


async def test_a_null_reverse_path_is_kept_as_null(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(daemon.listeners[0].port)

    raw.send(WHOLE.replace(b"<ann@example.com>", b"<>", 1))
    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")

    (row,) = await daemon.spool.list_messages()
    assert row["sender"] == ""


async def test_equal_recipients_are_one_and_a_received_field_is_on_top(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(daemon.listeners[0].port)

    raw.send(ENVELOPE + b"RCPT TO:<bob@EXAMPLE.org>\r\nRCPT TO:<Bob@example.org>\r\nDATA\r\n" + HEADER + b".\r\n")
    await raw.expect("250 2.1.0", *["250 2.1.5"] * 3, "354", "250 2.0.0")

    (row,) = await daemon.spool.list_messages()
    assert [r["address"] for r in row["recipients"]] == ["bob@example.org", "Bob@example.org"]
    (body,) = await bodies(daemon)
    assert body.startswith(b"Received: from client.example ([127.0.0.1])\r\n\tby bridge.example with ESMTP id ")
