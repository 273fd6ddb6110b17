"""What a 250 promises, seen from outside: it is said after the message is on disk, and never while it is not."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge.sandbox import Failure, Sandbox
from tests.e2e.conftest import eventually, rest, statuses
from tests.mime.samples import ODD
from tests.smtp.raw import HEADER, WHOLE, Raw, clients_end

__all__ = ["clients_end"]
TO_THE_DOT = ("250 2.1.0", "250 2.1.5", "354")


async def test_250_is_not_said_while_the_message_is_not_committed(
    sandbox: Sandbox, start_daemon: Any, tmp_path: Path
) -> None:
    """Another process holds the database, as a backup may."""
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE="queue"))
    raw = await Raw.greeted(daemon.listeners[0].port)
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "spool.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        raw.send(WHOLE)
        await raw.expect(*TO_THE_DOT)
        answer = asyncio.create_task(raw.reply())
        done, _ = await asyncio.wait({answer}, timeout=0.3)
        assert not done
        other.execute("ROLLBACK")

    assert (await answer).startswith("250 2.0.0 Ok: queued as ")
    await eventually(lambda: sandbox.messages)


@contextlib.asynccontextmanager
async def system_calls(pid: int, log: Path) -> AsyncIterator[None]:
    """strace of a process: what it syncs and what it sends."""
    calls = "trace=fsync,fdatasync,sendto,sendmsg,write,writev"
    process = await asyncio.create_subprocess_exec(
        "strace", "-f", "-y", "-s", "64", "-e", calls, "-o", str(log), "-p", str(pid), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr
    line = await asyncio.wait_for(process.stderr.readline(), 10)
    if b"attached" not in line:
        await process.wait()
        pytest.skip(f"strace may not look here: {line.decode().strip()}")
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
async def test_the_disk_has_been_told_to_keep_the_message_before_250_is_sent(
    sandbox: Sandbox, bridge_process: Any, tmp_path: Path
) -> None:
    process = await bridge_process(
        **rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE="queue", SMTP_BRIDGE_SPOOL__FILE_THRESHOLD="10KiB")
    )
    sandbox.fail(Failure(status=503))
    raw = await Raw.greeted(process.port)
    synced: dict[int, str] = {}

    for lines in (10, 1000):  # in a row, in a file
        await raw.begin_data()
        log = tmp_path / f"strace-{lines}.log"
        async with system_calls(process.process.pid, log):
            raw.send(HEADER + (b"x" * 76 + b"\r\n") * lines + b".\r\n")
            await raw.expect("250 2.0.0 Ok: queued as ")
        before, said, _ = log.read_text().partition('"250 2.0.0 Ok: queued')
        assert said
        synced[lines] = " ".join(re.findall(r"(?:fsync|fdatasync)\(\d+<([^>]*)>", before))

    assert "/spool.db-wal" in synced[10]
    assert re.search(r"/spool\.db\.d/(\w\w)/\w+\.tmp .*/spool\.db\.d/\1 .*/spool\.db-wal", synced[1000]), synced


async def test_two_hundred_messages_of_twenty_clients_at_once_arrive_once_each(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url))
    clients = [await connect(daemon.listeners[0].port) for _ in range(20)]

    async def send(number: int, client: Any) -> list[str]:
        return [await client.send(subject=f"{number} {message}") for message in range(10)]

    replies = await asyncio.gather(*(send(number, client) for number, client in enumerate(clients)))

    assert {reply[:9] for some in replies for reply in some} == {"250 2.0.0"}
    wanted = sorted(f"{number} {message}" for number in range(20) for message in range(10))
    await eventually(lambda: len(sandbox.messages) >= len(wanted))
    assert sorted(received.subject for received in sandbox.messages) == wanted


@pytest.mark.parametrize(("shape", "path"), [("simple", "/send-email"), ("full", "/send-full"), ("raw", "/send-raw")])
async def test_odd_mail_arrives_or_is_refused_and_is_never_accepted_and_lost(
    shape: str, path: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(
        **rest(
            sandbox.url,
            SMTP_BRIDGE_PROVIDER__URL=sandbox.url + path,
            SMTP_BRIDGE_PROVIDER__SHAPE=shape,
            SMTP_BRIDGE_RELAY__DEGRADE="true",
        )
    )
    client = await connect(daemon.listeners[0].port)
    client.writer.write(b"EHLO \xff\xfe\r\n")  # goes into the Received field and the log
    assert (await client.reply()).startswith("250")
    taken = []
    for number, content in enumerate(ODD.values()):
        recipient = f"odd{number}@example.org"
        ended = content if content.endswith(b"\r\n") else content + b"\r\n"
        reply = await client.send(recipient, content=(b"\r\n" + ended).replace(b"\r\n.", b"\r\n..")[2:])
        assert reply.startswith(("250 2.0.0 Ok: sent", "554 5.6.")), (list(ODD)[number], reply)
        taken += [recipient] * reply.startswith("250")

    assert len(taken) > len(ODD) - 4
    assert [recipient for received in sandbox.messages for recipient in received.recipients] == taken
    assert set((await statuses(daemon)).values()) == {"sent"}
