"""What most tests need: a daemon in this process, and one as a process, each with a spool of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.config.load import load_settings
from bridge.daemon import Daemon
from bridge.smtp.tls import self_signed
from tests.leaks import pytest_fixture_setup, pytest_runtest_setup, pytest_runtest_teardown, quietly, watch

__all__ = ["pytest_fixture_setup", "pytest_runtest_setup", "pytest_runtest_teardown"]  # of the plugin, for all tests

quietly()


@pytest.fixture(scope="session")
def secret_hash() -> str:
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("secret")


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port of 127.0.0.1 that the system gives to nobody meanwhile. Who connects is refused; who names it may listen on it.

    A port that was listened on is free once that ends, and the next who asks for any may be another test, run beside this one.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


@functools.cache
def _certificate() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as name:
        cert, key = self_signed(Path(name), "bridge.example")
        return cert.read_bytes(), key.read_bytes()


def keep_certificate(state: Path) -> None:
    """Of an earlier start, as a daemon's state has it: to make one takes longer than all the rest of a start."""
    state.mkdir(parents=True, exist_ok=True, mode=0o750)
    for name, content in zip(("self-signed.crt", "self-signed.key"), _certificate(), strict=True):
        if not (state / name).exists():
            (state / name).write_bytes(content)
            (state / name).chmod(0o600)


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    """Variables for a daemon whose state is in `tmp_path`, listening on a port the system chooses."""
    if "STATE_DIRECTORY" not in variables:
        keep_certificate(tmp_path / "state")
    return {
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "HOME": str(tmp_path),
        "SMTP_BRIDGE_SMTP__HOSTNAME": "bridge.example",
        "SMTP_BRIDGE_SMTP__AUTH_DELAY": "10ms",
        "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": "127.0.0.1:0",
        "SMTP_BRIDGE_SPOOL__MIN_FREE": "0",
        **variables,
    }


StartDaemon = Callable[..., Any]


@pytest.fixture
async def start_daemon(tmp_path: Path) -> AsyncIterator[StartDaemon]:
    """`await start_daemon(SMTP_BRIDGE_PROVIDER__KIND="capture", ...)` -> a running Daemon in this loop.

    `config`: the text of a settings file, for what variables cannot say.
    """
    running: list[Daemon] = []

    async def start(clock: Any = None, *, config: str = "", **variables: str) -> Daemon:
        if config:
            (tmp_path / "config.toml").write_text(config)
        settings = load_settings(environ=environment(tmp_path, **variables), cwd=tmp_path)
        daemon = Daemon(settings, clock=clock)
        await daemon.start()
        running.append(daemon)
        return daemon

    yield start
    for daemon in running:
        await daemon.stop()


class BridgeProcess:
    """`smtp-bridge run` as a process. `port` is known when it has started to listen."""

    def __init__(self, directory: Path, variables: dict[str, str]) -> None:
        self.directory = directory
        self.environ = {**os.environ, **environment(directory, **variables)}
        watch.plant_variables(variables, directory)
        self.log_path = directory / "bridge.log"
        self.port = 0
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log_path.open("ab") as log_file:
            before = log_file.tell()
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bridge", "run", env=self.environ, cwd=self.directory, stderr=log_file
            )
        await self._find_port(before)

    async def _find_port(self, before: int) -> None:
        """`before`: where in the log this start begins; what earlier ones wrote is long, and read often here."""
        import orjson

        assert self.process
        for _ in range(1000):
            for line in reversed(_from(self.log_path, before).splitlines()):
                with contextlib.suppress(orjson.JSONDecodeError):
                    event = orjson.loads(line)
                    ours = event.get("event") == "daemon.listening" and event.get("pid") == self.process.pid
                    if ours and event.get("protocol") != "http":
                        self.port = int(event["port"])
                        return
            if self.process.returncode is not None:
                raise RuntimeError(self.log_path.read_text())
            await asyncio.sleep(0.01)
        raise RuntimeError("the daemon did not start")

    async def stop(self, number: int = signal.SIGTERM, timeout: float = 40.0) -> int:
        assert self.process
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), timeout)

    def events(self, name: str) -> list[dict[str, Any]]:
        import orjson

        found = []
        for line in self.log_path.read_bytes().splitlines():
            with contextlib.suppress(orjson.JSONDecodeError):
                event = orjson.loads(line)
                if event.get("event") == name:
                    found.append(event)
        return found


def _from(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


@pytest.fixture
async def bridge_process(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await bridge_process(SMTP_BRIDGE_PROVIDER__KIND="capture")` -> a started BridgeProcess."""
    processes: list[BridgeProcess] = []

    async def start(**variables: str) -> BridgeProcess:
        process = BridgeProcess(tmp_path, variables)
        processes.append(process)
        await process.start()
        return process

    yield start
    for process in processes:
        await process.stop(signal.SIGKILL)
