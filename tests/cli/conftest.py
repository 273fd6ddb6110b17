"""The command as a process, with a state directory of its own and nothing of this machine's settings."""

from __future__ import annotations

import os
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from bridge.cli.app import app

COMMAND = (sys.executable, "-m", "bridge")
KEY = "sandbox-key"
CAPTURE = {
    "SMTP_BRIDGE_PROVIDER__KIND": "capture",
    "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": "127.0.0.1:0",
    "SMTP_BRIDGE_SPOOL__MIN_FREE": "0",
}


def variables(directory: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SMTP_BRIDGE_", "COLUMNS"))}
    state = {"STATE_DIRECTORY": str(directory / "state"), "HOME": str(directory)}
    return {**kept, **state, "PYTHONPATH": str(Path(__file__).parents[2]), **more}


def smtp_bridge(directory: Path, *arguments: str, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run to the end: stdout, stderr, exit status."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=variables(directory, **more),
        cwd=directory,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
    )


def invoke(directory: Path, *arguments: str, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """The same within this process, which takes a tenth of the time."""
    environ = variables(directory, **more)
    missing: dict[str, str | None] = dict.fromkeys(set(os.environ) - set(environ))
    with chdir(directory):
        result = CliRunner().invoke(app, arguments, env={**environ, **missing}, input=given, prog_name="smtp-bridge")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What went wrong, which must be a single line beside the log, and no traceback."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@contextmanager
def running(directory: Path, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """Started, and killed at the end if it still runs; stderr goes to `directory/stderr`."""
    with (directory / "stderr").open("ab") as log:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=variables(directory, **more),
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def bridge(directory: Path, **more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A running daemon and its port."""
    with running(directory, "run", **{**CAPTURE, **more}) as process:
        yield process, port_of(process, directory / "stderr")


def port_of(process: subprocess.Popen[str], log: Path) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        for event in events(log):
            if event["event"] == "daemon.listening" and event["pid"] == process.pid:
                return int(event["port"])
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def events(log: Path) -> list[dict[str, Any]]:
    return [
        orjson.loads(line) for line in log.read_bytes().splitlines() if line.startswith(b"{") and line.endswith(b"}")
    ]


def send(port: int, sender: str, recipients: Sequence[str], subject: str = "hello") -> None:
    text = (
        f"From: {sender or 'daemon@example.com'}\r\nTo: {', '.join(recipients)}\r\nSubject: {subject}\r\n\r\ntext\r\n"
    )
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail(sender, list(recipients), text)


@contextmanager
def sandbox(directory: Path, *arguments: str) -> Iterator[str]:
    """The URL of `smtp-bridge sandbox`."""
    with running(directory, "sandbox", "--port", "0", "--key", KEY, *arguments) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("sandbox API on "), line
        yield line.split()[-1]


def to_sandbox(url: str, **more: str) -> dict[str, str]:
    return {
        "SMTP_BRIDGE_PROVIDER__KIND": "rest",
        "SMTP_BRIDGE_PROVIDER__URL": f"{url}/send-email",
        "SMTP_BRIDGE_PROVIDER__AUTH": "bearer",
        "SMTP_BRIDGE_PROVIDER__TOKEN": KEY,
        **more,
    }


def interrupt(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGINT)
    return process.wait(30)


@pytest.fixture
def taken_port() -> Iterator[int]:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])
