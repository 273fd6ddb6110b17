"""What systemd is told, on a socket as it opens one."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.notify import Notifier
from bridge.spool.writer import Operation
from tests.conftest import reserved_port
from tests.systemd.conftest import Told

CAPTURE = {"SMTP_BRIDGE_PROVIDER__KIND": "capture", "SMTP_BRIDGE_PROVIDER__NAME": "main"}


def names(lines: list[str]) -> list[str]:
    return [line.partition("=")[0] for line in lines]


def test_without_a_socket_nothing_is_said_and_no_watchdog_waits() -> None:
    notifier = Notifier({"WATCHDOG_USEC": "1000000"})

    with capture_logs() as logs:
        for say in (notifier.ready, notifier.reloading, notifier.watchdog):
            say()
        notifier.status("well")
        notifier.stopping(1.0)
    assert (notifier.used, notifier.watchdog_s, logs) == (False, None, [])


async def test_a_socket_in_the_abstract_namespace_is_told_too() -> None:
    told = Told(f"@smtp-bridge-{secrets.token_hex(8)}")

    Notifier({"NOTIFY_SOCKET": told.address}).ready()

    assert told.at_hand() == ["READY=1"]
    told.close()


def test_a_socket_that_is_gone_is_a_line_in_the_log_and_no_error(tmp_path: Path) -> None:
    with capture_logs() as logs:
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()

    assert [(line["event"], line["text"]) for line in logs] == [("systemd.not_told", "READY=1")]


async def test_a_status_is_one_line_and_said_once(told: Told) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": told.address})
    for text in ("a\nREADY=1", "a\nREADY=1", "b"):
        notifier.status(text)
    notifier.trouble("broken")
    notifier.status("c")
    notifier.trouble("")

    assert told.at_hand() == [
        "STATUS=a READY=1", "STATUS=b", "STATUS=broken; b", "STATUS=broken; c", "STATUS=c",
    ]  # fmt: skip


async def test_who_is_stopping_is_not_ready_again(told: Told) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": told.address})
    notifier.reloading()
    notifier.stopping(2.5)
    notifier.ready()
    notifier.reloading()

    assert names(told.at_hand()) == ["RELOADING", "MONOTONIC_USEC", "STOPPING", "EXTEND_TIMEOUT_USEC"]
    assert told.lines[-1] == "EXTEND_TIMEOUT_USEC=2500000"
    assert 0 <= time.monotonic() - int(told.lines[1].partition("=")[2]) / 1e6 < 60


@pytest.mark.parametrize(
    ("pid", "usec", "expected"),
    [
        ("own", "30000000", 30.0), ("", "30000000", 30.0), ("1", "30000000", None),
        ("own", "", None), ("own", "0", None), ("own", "soon", None),
    ],
)  # fmt: skip
def test_the_watchdog_is_that_of_this_process(pid: str, usec: str, expected: float | None) -> None:
    pid = str(os.getpid()) if pid == "own" else pid
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}

    assert Notifier(environ).watchdog_s == expected


async def test_the_life_of_a_daemon_as_systemd_hears_it(
    told: Told, bridge_process: Callable[..., Any], tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[[provider]]\nname = "main"\nkind = "capture"\n')
    starting = asyncio.create_task(bridge_process(NOTIFY_SOCKET=told.address, WATCHDOG_USEC="300000"))
    await told.until("READY=1")
    assert "WATCHDOG=1" not in told.lines[: told.lines.index("STATUS=opening the spool")]
    process = await starting
    with_port = f"STATUS=listening on 127.0.0.1:{process.port}; 0 queued, main: ok"
    if with_port not in told.lines:
        await told.until(with_port)
    for _ in range(3):
        await told.until("WATCHDOG=1", 5)

    config.write_text('[[provider]]\nname = "main"\nkind = "capturre"\n')
    told.lines.clear()
    process.process.send_signal(signal.SIGHUP)
    await told.until("READY=1")
    assert [name for name in names(told.lines) if name != "WATCHDOG"] == [
        "RELOADING", "MONOTONIC_USEC", "STATUS", "READY",
    ]  # fmt: skip
    assert with_port.replace("=", "=the new settings were refused, the old ones hold; ", 1) in told.lines

    config.write_text('[[provider]]\nname = "other"\nkind = "capture"\n')
    process.process.send_signal(signal.SIGHUP)
    await told.until("READY=1")
    assert with_port in told.lines
    await told.until(lambda line: line.endswith("other: ok"))

    told.lines.clear()
    assert await process.stop() == 0
    told.at_hand()
    said = [line for line in told.lines if not line.startswith(("WATCHDOG", "STATUS"))]
    assert said == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=40000000"]


async def test_ready_is_said_only_when_everything_is_listened_on(
    told: Told, bridge_process: Callable[..., Any]
) -> None:
    with reserved_port() as port:
        taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
        async with taken:
            given = {**CAPTURE, "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": f"127.0.0.1:{port}"}
            with pytest.raises(RuntimeError, match="cannot listen on"):
                await bridge_process(NOTIFY_SOCKET=told.address, **given)

    assert "READY=1" not in told.at_hand()
    assert "STATUS=opening the spool" in told.lines


async def test_the_sign_of_life_stops_while_the_writer_of_the_spool_hangs(
    told: Told, start_daemon: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", told.address)
    monkeypatch.setenv("WATCHDOG_USEC", "150000")
    daemon = await start_daemon(**CAPTURE)
    await told.until("WATCHDOG=1", 5)
    go_on = threading.Event()
    hanging = Operation("hang", lambda db, args: [go_on.wait(20) for _ in args])
    job = daemon.spool._writer.submit(hanging, None)
    await told.until(lambda line: line.endswith("; the spool does not answer, main: ok"), 5)
    told.at_hand()

    with pytest.raises(TimeoutError):
        await told.until("WATCHDOG=1", 0.5)  # more than three times what systemd waits for
    go_on.set()
    await told.until("WATCHDOG=1", 5)
    assert await job


async def test_a_full_spool_and_a_provider_that_refuses_the_account_are_said_and_are_signs_of_life(
    told: Told, start_daemon: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", told.address)
    monkeypatch.setenv("WATCHDOG_USEC", "150000")
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SPOOL__MIN_FREE=str(1 << 60))
    daemon.dispatchers.all[0].breaker.restore_blocked(0.0, "the key was refused")

    line = await told.until(lambda line: "blocked" in line)

    assert line.endswith("; 0 queued, the spool is full, main: blocked (the key was refused)")
    await told.until("WATCHDOG=1", 5)
