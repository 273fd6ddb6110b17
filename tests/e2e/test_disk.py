"""A disk that fills up under a running daemon: new mail is answered 452, what is queued goes out, and it recovers by itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.sandbox import Sandbox
from tests.e2e.conftest import eventually, rest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    place = tmp_path / "small"
    place.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place))
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield place
    subprocess.run(("umount", "--lazy", str(place)), check=True)


@pytest.mark.parametrize("mode", ["auto", "queue"])
async def test_a_full_disk_is_452_and_passes(
    mode: str, small_disk: Path, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(
        **rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE=mode, STATE_DIRECTORY=str(small_disk / "state"))
    )
    client = await connect(daemon.listeners[0].port)
    sandbox.fail("503")
    taken, refusal = await fill(client)

    assert refusal.startswith("452 4.3.1")
    assert taken > 5
    sandbox.recover()
    await eventually(lambda: all_sent(daemon), 30)
    assert len(sandbox.messages) == taken
    await eventually(lambda: sends_again(client), 30)


async def fill(client: Any) -> tuple[int, str]:
    """How many messages of 400 kB were taken, and the first refusal."""
    content = b"From: ann@example.com\r\nTo: bob@example.org\r\nSubject: x\r\n\r\n" + b"x" * 78 * 5000 + b"\r\n"
    for taken in range(100):
        first = await client.say("MAIL FROM:<ann@example.com>")
        if not first.startswith("250"):
            return taken, first
        await client.say("RCPT TO:<bob@example.org>")
        await client.say("DATA")
        client.writer.write(content + b".\r\n")
        reply = await client.reply()
        if not reply.startswith("250"):
            return taken, reply
    raise AssertionError("the disk never filled up")


async def all_sent(daemon: Any) -> bool:
    return {row["status"] for row in await daemon.spool.list_messages()} == {"sent"}


async def sends_again(client: Any) -> bool:
    await asyncio.sleep(0.1)
    await client.say("RSET")
    reply = await client.say("MAIL FROM:<ann@example.com>")
    if not reply.startswith("250"):
        return False
    await client.say("RCPT TO:<bob@example.org>")
    await client.say("DATA")
    client.writer.write(b"Subject: again\r\n\r\nx\r\n.\r\n")
    return str(await client.reply()).startswith("250")
