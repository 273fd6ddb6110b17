"""The command as a process, with a state directory of its own and nothing of this machine's settings."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import signal
import smtplib
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from bridge.cli.app import app
from bridge.spool.opening import open_spool
from bridge.spool.sqlite import SqliteSpool
from tests.leaks import BODY, watch

COMMAND = (sys.executable, "-m", "bridge")
KEY = "sandbox-key"
CAPTURE = {
    "SMTP_BRIDGE_PROVIDER__KIND": "capture",
    "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": "127.0.0.1:0",
    "SMTP_BRIDGE_SPOOL__MIN_FREE": "0",
}


def variables(directory: Path, **more: str) -> dict[str, str]:
    watch.plant_variables(more, directory)
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


@contextmanager
def on_terminal(
    directory: Path, *arguments: str, stdout: int | None = None, **more: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Started on a terminal of 24 lines and 80 columns, standard output perhaps elsewhere; and our end of the terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    # The first terminal that the leader of a session opens is its own: a ^C that is typed there is a SIGINT.
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" <{os.ttyname(theirs)}', "sh", *COMMAND, *arguments],
        env=variables(directory, TERM="xterm", **more),
        cwd=directory,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    with process:
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


def read_until(terminal: int, words: str) -> str:
    """What comes until these words are among it, as it came."""
    found = b""
    deadline = time.monotonic() + 30
    while words.encode() not in found:
        assert time.monotonic() < deadline, found
        found += os.read(terminal, 65536)
    return _looked_at(found.decode(errors="replace"))


def read_all(terminal: int) -> str:
    found = b""
    try:
        while octets := os.read(terminal, 65536):
            found += octets
    except OSError:  # the other side is closed: Linux says EIO
        pass
    return _looked_at(found.decode())


def _looked_at(text: str) -> str:
    watch.look(text, "terminal")
    return text


def without_codes(text: str) -> str:
    """Without what moves the cursor and gives colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def in_spool(directory: Path, work: Callable[[SqliteSpool], Awaitable[Any]]) -> Any:
    """Do `work` on the spool of `directory` as its daemon, which is gone afterwards."""

    async def main() -> Any:
        spool = await open_spool(
            directory / "state/spool.db",
            max_bytes=1 << 40,
            min_free=0,
            history_s=86400,
            failed_s=86400,
            owner="test",
            now=time.time(),
        )
        try:
            return await work(spool)
        finally:
            await spool.close()

    return asyncio.run(main())


def events(log: Path) -> list[dict[str, Any]]:
    return [
        orjson.loads(line) for line in log.read_bytes().splitlines() if line.startswith(b"{") and line.endswith(b"}")
    ]


def send(port: int, sender: str, recipients: Sequence[str], subject: str = "hello") -> None:
    text = (
        f"From: {sender or 'daemon@example.com'}\r\nTo: {', '.join(recipients)}\r\nSubject: {subject}\r\n\r\n{BODY}\r\n"
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
