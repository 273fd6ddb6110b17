"""kill -9 and SIGTERM at random moments under load, with an API that comes and goes: what got its 250 arrives.

The sandbox is a process of its own and writes a journal, which is what is counted.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conftest import BridgeProcess, reserved_port
from tests.e2e.conftest import KEY, Smtp, eventually, rest

ROUNDS = 30
CLIENTS = 6


class Api:
    """The sandbox as a process; it forgets no message that it took."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.port = 0
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bridge.sandbox", "--port", str(self.port), "--key", KEY),
            *("--journal", str(self.journal)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout
        line = await asyncio.wait_for(self.process.stdout.readline(), 20)
        self.port = int(line.decode().rsplit(":", 1)[1])

    async def stop(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def plan(self, *failures: dict[str, Any]) -> None:
        """Replace the failure plan, over HTTP."""
        await self._request("DELETE", "/sandbox/fail")
        for failure in failures:
            await self._request("POST", "/sandbox/fail", orjson.dumps(failure))

    async def _request(self, method: str, path: str, body: bytes = b"") -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        assert (await reader.readline()).split()[1].startswith(b"2")
        writer.close()

    def arrived(self) -> collections.Counter[str]:
        """How often each subject was taken."""
        if not self.journal.exists():
            return collections.Counter()
        content = self.journal.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # a line may be half written at this moment
        return collections.Counter(orjson.loads(line)["subject"] for line in whole.splitlines())


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    running = Api(tmp_path / "journal")
    await running.start()
    yield running
    await running.stop()


class Load:
    """Clients that send as fast as they are answered, and remember which subjects got their 250."""

    def __init__(self, process: BridgeProcess) -> None:
        self.process = process
        self.acknowledged: set[str] = set()
        self.sent = 0
        self._stop = False

    def start(self) -> None:
        self._stop = False
        self.tasks = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self.tasks)

    async def _client(self) -> None:
        while not self._stop:
            client = Smtp(self.process.port)
            with contextlib.suppress(OSError, AssertionError, TimeoutError):
                await client.open()
                await self._talk(client)
            client.close()
            await asyncio.sleep(0.01)

    async def _talk(self, client: Smtp) -> None:
        while not self._stop:
            self.sent += 1
            subject = f"message {self.sent}"
            # Every fifth is large enough for a body file of its own.
            body = b"x" * 20_000 if self.sent % 5 == 0 else b"text"
            content = f"From: ann@example.com\r\nTo: bob@example.org\r\nSubject: {subject}\r\n\r\n".encode()
            reply = await client.send(content=content + body + b"\r\n")
            if reply.startswith("250"):
                self.acknowledged.add(subject)
            elif not reply:
                return


FLAPPING: tuple[tuple[dict[str, Any], ...], ...] = (
    (),
    ({"status": 503},),
    ({"mode": "slow", "seconds": 0.2},),
    (),
    ({"mode": "reset", "count": 5}, {"status": 503, "count": 5}, {"mode": "lost", "count": 3}),
    ({"status": 429, "retry_after": 0},),
)


async def rounds(api: Api, process: BridgeProcess, number: int, *, flapping: bool) -> Load:
    load = Load(process)
    chance = random.Random(2525)
    load.start()
    for round_ in range(ROUNDS):
        if flapping:
            await api.plan(*FLAPPING[round_ % len(FLAPPING)])
        await asyncio.sleep(chance.uniform(0.05, 0.4))
        status = await process.stop(number)
        assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        await process.start()
    await load.stop()
    await api.plan()
    return load


@pytest.fixture
def port() -> Iterator[int]:
    """Its clients never stop connecting, also while it is down: they must meet nobody else's daemon there."""
    with reserved_port() as port:
        yield port


def variables(api: Api, mode: str, port: int) -> dict[str, str]:
    return rest(
        f"http://127.0.0.1:{api.port}",
        SMTP_BRIDGE_SMTP__LISTENER__ADDRESS=f"127.0.0.1:{port}",
        SMTP_BRIDGE_RELAY__MODE=mode,
        SMTP_BRIDGE_RELAY__ATTEMPT_TIMEOUT="0.1s",
        SMTP_BRIDGE_PROVIDER__MAX_UNKNOWN="1000",
        SMTP_BRIDGE_PROVIDER__TIMEOUT="5s",
        SMTP_BRIDGE_SPOOL__FILE_THRESHOLD="4KiB",
        SMTP_BRIDGE_PROVIDER__IDEMPOTENCY_HEADER="",  # an API that forgives nothing: what is sent twice is seen twice
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["auto", "queue"])
async def test_every_message_that_got_its_250_survives_kill_9(
    mode: str, api: Api, port: int, bridge_process: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    process = await bridge_process(**variables(api, mode, port))

    load = await rounds(api, process, signal.SIGKILL, flapping=True)

    await eventually(lambda: load.acknowledged <= set(api.arrived()), 60)
    twice = sum(count - 1 for count in api.arrived().values())
    with capsys.disabled():
        print(
            f"\nkill -9, {mode}: {ROUNDS} rounds, {len(load.acknowledged)} acknowledged, all arrived, {twice} duplicates"
        )
    assert len(load.acknowledged) > ROUNDS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["auto", "queue"])
async def test_sigterm_loses_nothing_and_sends_nothing_twice(
    mode: str, api: Api, port: int, bridge_process: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    process = await bridge_process(**variables(api, mode, port))

    load = await rounds(api, process, signal.SIGTERM, flapping=False)

    await eventually(lambda: load.acknowledged <= set(api.arrived()), 60)
    twice = {subject: count for subject, count in api.arrived().items() if count > 1}
    with capsys.disabled():
        print(f"\nSIGTERM, {mode}: {ROUNDS} rounds, {len(load.acknowledged)} acknowledged, all arrived")
    assert twice == {}
    assert len(load.acknowledged) > ROUNDS
