"""Sockets that somebody else holds: nobody is refused across a restart, and they are there afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import smtplib
import socket
import ssl
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import environment, reserved_port

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="systemd-socket-activate is not installed here (it comes with systemd)",
)

# What systemd does: it holds the sockets (descriptors 3 and on) and gives them to one daemon after the other. The process that
# systemd-socket-activate starts does that here: a daemon for each line it reads, one at a time.
HOLDER = 'while read -r line; do sh -c \'export LISTEN_PID=$$; exec "$@"\' sh "$@"; done'
LISTENERS = """
[[smtp.listener]]
address = "systemd:plain"
[[smtp.listener]]
address = "systemd:implicit"
tls = "implicit"
[[smtp.listener]]
address = "systemd:local"
[[provider]]
kind = "capture"
"""


class Held:
    """Two ports and a path, held by `systemd-socket-activate`, and the daemon that serves them."""

    def __init__(self, directory: Path, plain: int, implicit: int, local: Path) -> None:
        self.plain, self.implicit, self.local = plain, implicit, local
        self._directory = directory
        self._log = directory / "log"
        self.process: asyncio.subprocess.Process

    async def open(self) -> None:
        (self._directory / "config.toml").write_text(LISTENERS)
        variables = environment(self._directory)
        del variables["SMTP_BRIDGE_SMTP__LISTENER__ADDRESS"]
        pythonpath = str(Path(__file__).parents[2])
        given = [f"--setenv={name}={value}" for name, value in {**variables, "PYTHONPATH": pythonpath}.items()]
        with self._log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                "systemd-socket-activate",
                *(f"--listen={place}" for place in (f"127.0.0.1:{self.plain}", f"127.0.0.1:{self.implicit}", self.local)),
                "--fdname=plain:implicit:local",
                *given,
                *("/bin/sh", "-c", HOLDER, "sh", sys.executable, "-m", "bridge", "run"),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                start_new_session=True,
            )  # fmt: skip
        while not self.local.exists():  # the last to be listened on
            await asyncio.sleep(0.01)

    def start_daemon(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"\n")

    async def pid(self, *, after: int = 0) -> int:
        """Of the daemon, once it serves; another one than `after`."""
        import orjson

        for _ in range(2000):
            pid = 0
            for line in self._log.read_bytes().splitlines():
                with contextlib.suppress(orjson.JSONDecodeError):
                    event = orjson.loads(line)
                    pid = int(event["pid"]) if event["event"] == "daemon.started" else pid
                    if event["event"] == "daemon.ready" and pid != after:
                        return pid
            await asyncio.sleep(0.01)
        raise AssertionError(self._log.read_text())

    async def restart(self) -> int:
        """The pid of the next one."""
        pid = await self.pid()
        self.start_daemon()
        os.kill(pid, signal.SIGTERM)
        return await self.pid(after=pid)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[Held]:
    with reserved_port() as plain, reserved_port() as implicit, tempfile.TemporaryDirectory() as short:
        one = Held(tmp_path, plain, implicit, Path(short) / "smtp.sock")
        await one.open()
        yield one
        one.close()
        await one.process.wait()


class Clients(threading.Thread):
    """Connections one after another with a mail in each, until `stop`. What became of each is in `outcomes`."""

    def __init__(self, port: int, *, tls: bool = False) -> None:
        super().__init__()
        self._port, self._tls = port, tls
        self._enough = threading.Event()
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        while not self._enough.is_set():
            self.outcomes[self._send()] += 1

    def stop(self) -> None:
        self._enough.set()
        self.join()

    def _send(self) -> str:
        step = "connect"
        try:
            smtp = over_tls(self._port) if self._tls else smtplib.SMTP("127.0.0.1", self._port, timeout=30)
            step = "mail"
            smtp.sendmail("ann@example.com", ["bob@example.org"], "Subject: x\r\n\r\ntext\r\n")
        except smtplib.SMTPResponseException as error:
            return f"{step}: {error.smtp_code}"
        except (OSError, smtplib.SMTPException) as error:
            return f"{step}: {type(error).__name__}"
        smtp.close()
        return "sent"


def sent(clients: list[Clients]) -> int:
    return sum(client.outcomes["sent"] for client in clients)


async def until_sent(clients: list[Clients], most: int) -> None:
    async with asyncio.timeout(30):
        while sent(clients) < most:
            await asyncio.sleep(0.01)


async def test_no_connection_is_refused_across_a_restart(held: Held) -> None:
    clients = [*(Clients(held.plain) for _ in range(2)), *(Clients(held.implicit, tls=True) for _ in range(2))]
    held.start_daemon()
    for client in clients:
        client.start()  # the first of them has the holder started
    await until_sent(clients, 10)
    first = await held.pid()
    second = await held.restart()
    await until_sent(clients, sent(clients) + 10)
    for client in clients:
        client.stop()

    outcomes = sum((client.outcomes for client in clients), Counter())
    assert first != second
    assert all(client.outcomes["sent"] for client in clients)
    # Who is in the middle of a session sends his mail, who is in his handshake too; who connects waits for the next daemon.
    assert set(outcomes) == {"sent"}


def over_tls(port: int) -> smtplib.SMTP:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return smtplib.SMTP_SSL("127.0.0.1", port, timeout=30, context=context)


def greeting_over_tls(port: int) -> str:
    with over_tls(port) as smtp:
        return str(smtp.noop()[0])


def greeting_over_path(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        return sock.recv(3).decode()


async def test_each_listener_gets_the_socket_of_its_name_and_leaves_it_to_the_next_daemon(held: Held) -> None:
    held.start_daemon()
    first = (
        await asyncio.to_thread(greeting_over_path, held.local),
        await asyncio.to_thread(greeting_over_tls, held.implicit),
    )
    before = held.local.stat()
    await held.restart()
    second = (
        await asyncio.to_thread(greeting_over_path, held.local),
        await asyncio.to_thread(greeting_over_tls, held.implicit),
    )

    assert first == second == ("220", "250")
    assert (held.local.stat().st_ino, held.local.stat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
