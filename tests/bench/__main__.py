"""`make bench`: what the bridge does in a second, beside Postfix and stock aiosmtpd on the same machine in the same run.

End to end: from the first connection until the API has the last message. Run it alone: the machine's cores are the
measure. Figures are rates; what counts are the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.postfix import Postfix, is_installed

SMALL = 5 * 1024
LARGE = 10 * 1024 * 1024
CONNECTIONS = 20
STOCK = """
import asyncio, sys
from aiosmtpd.smtp import SMTP
class Handler:
    async def handle_DATA(self, server, session, envelope):
        return "250 OK"
async def main():
    loop = asyncio.get_running_loop()
    make = lambda: SMTP(Handler(), data_size_limit=50_000_000, loop=loop)
    server = await loop.create_server(make, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
import uvloop
uvloop.run(main())
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def process(*command: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen(
        command, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()


def greeting(port: int, started: float) -> float:
    """Seconds from `started` until the 220. Raises TimeoutError."""
    while time.perf_counter() - started < 30:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as sock:
                if sock.recv(100).startswith(b"220"):
                    return time.perf_counter() - started
        except OSError:
            time.sleep(0.002)
    raise TimeoutError(f"no greeting on port {port}")


class Bridge:
    def __init__(self, directory: Path, sink: int, mode: str, **more: str) -> None:
        self.port = free_port()
        self.environment = {
            "STATE_DIRECTORY": str(directory),
            "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": f"127.0.0.1:{self.port}",
            "SMTP_BRIDGE_PROVIDER__KIND": "rest",
            "SMTP_BRIDGE_PROVIDER__URL": f"http://127.0.0.1:{sink}/send-email",
            "SMTP_BRIDGE_PROVIDER__CONCURRENCY": str(CONNECTIONS),
            "SMTP_BRIDGE_RELAY__MODE": mode,
            "SMTP_BRIDGE_SPOOL__MIN_FREE": "0",
            "SMTP_BRIDGE_LOG__FORMAT": "json",
            **more,
        }

    @contextmanager
    def running(self) -> Iterator[Bridge]:
        started = time.perf_counter()
        with process(sys.executable, "-m", "bridge", "run", env=self.environment) as running:
            self.pid = running.pid
            self.start_up = greeting(self.port, started)
            yield self

    def memory(self, key: str) -> float:
        """VmRSS or VmHWM in MiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) / 1024
        raise KeyError(key)


def count(sink: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{sink}/count", timeout=30) as answer:
        return int(answer.read().split()[0])


def smtp_source(port: int, messages: int, size: int, *, reused: bool) -> None:
    if not shutil.which("smtp-source"):
        load(port, messages, size, reused=reused)
        return
    subprocess.run(
        [
            *("smtp-source", *(["-d"] if reused else []), "-s", str(CONNECTIONS), "-m", str(messages)),
            *("-l", str(size), "-f", "ann@example.com", "-t", "bob@example.org", f"127.0.0.1:{port}"),
        ],
        check=True,
    )


def load(
    port: int,
    messages: int,
    size: int,
    *,
    reused: bool = True,
    connections: int = CONNECTIONS,
    attachment: bool = False,
) -> dict[str, Any]:
    arguments = [str(port), str(messages), str(connections), str(size), "reused" if reused else "new"]
    if attachment:
        arguments.append("attachment")
    done = subprocess.run([sys.executable, "-m", "tests.bench.load", *arguments], check=True, capture_output=True)
    return dict(json.loads(done.stdout))


def rate(send: Callable[[], Any], arrived: Callable[[], bool], messages: int) -> float:
    started = time.perf_counter()
    send()
    wait_for(arrived)
    return messages / (time.perf_counter() - started)


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > deadline:
            raise TimeoutError("the last message did not arrive")
        time.sleep(0.01)


def bridge_rate(bridge: Bridge, sink: int, messages: int, *, reused: bool) -> float:
    before = count(sink)
    return rate(
        lambda: smtp_source(bridge.port, messages, SMALL, reused=reused),
        lambda: count(sink) - before >= messages,
        messages,
    )


def small(directory: Path, sink: int, messages: int, rounds: int, report: dict[str, Any]) -> None:
    """The bridge and Postfix in turn, so that what the machine does meanwhile hits both."""
    postfix = Postfix(directory / "postfix", free_port(), free_port()) if is_installed() else None
    rates: dict[str, list[float]] = {}
    if postfix:
        postfix.start()
        greeting(postfix.port, time.perf_counter())
    try:
        for mode in ("auto", "queue"):
            with Bridge(directory / mode, sink, mode).running() as bridge:
                for _ in range(rounds):
                    for reused in (True, False):
                        kind = "reused" if reused else "new"
                        rates.setdefault(f"{mode} {kind}", []).append(
                            bridge_rate(bridge, sink, messages, reused=reused)
                        )
                        if postfix:
                            send = lambda p=postfix, r=reused: smtp_source(p.port, messages, SMALL, reused=r)  # noqa: E731
                            rates.setdefault(f"postfix {kind}", []).append(rate(send, postfix.is_empty, messages))
                latency = load(bridge.port, messages, SMALL)
                report[f"latency {mode}, 20 connections"] = (
                    f"p50 {latency['p50'] * 1e3:.1f} ms, p99 {latency['p99'] * 1e3:.1f} ms"
                )
                report[f"peak memory {mode}, small messages"] = f"{bridge.memory('VmHWM'):.0f} MiB"
    finally:
        if postfix:
            postfix.stop()
    for name, values in rates.items():
        median = statistics.median(values)
        report[f"5 kB, {name}"] = f"{median:.0f} /s"
        base = rates.get(f"postfix {name.split()[1]}")
        if base and not name.startswith("postfix"):
            report[f"5 kB, {name}"] += f" ({median / statistics.median(base):.2f} of Postfix)"


def large(directory: Path, sink: int, messages: int, rounds: int, report: dict[str, Any]) -> None:
    """10 MB with an attachment, against stock aiosmtpd that throws them away."""
    port = free_port()
    rates: dict[str, list[float]] = {}
    with process(sys.executable, "-c", STOCK, str(port)):
        greeting(port, time.perf_counter())
        for mode in ("auto", "queue"):
            with Bridge(directory / f"large-{mode}", sink, mode).running() as bridge:
                for _ in range(rounds):
                    stock = load(port, messages, LARGE, attachment=True, connections=4)
                    rates.setdefault("stock", []).append(messages * stock["size"] / stock["seconds"] / 1e6)
                    before = count(sink)
                    started = time.perf_counter()
                    sent = load(bridge.port, messages, LARGE, attachment=True, connections=4)
                    wait_for(lambda b=before: count(sink) - b >= messages)  # type: ignore[misc]
                    rates.setdefault(mode, []).append(messages * sent["size"] / (time.perf_counter() - started) / 1e6)
                report[f"peak memory {mode}, 10 MB messages, 4 connections"] = f"{bridge.memory('VmHWM'):.0f} MiB"
    base = statistics.median(rates.pop("stock"))
    report["10 MB, stock aiosmtpd receives"] = f"{base:.0f} MB/s"
    for mode, values in rates.items():
        median = statistics.median(values)
        report[f"10 MB, {mode}, end to end"] = f"{median:.0f} MB/s ({median / base:.2f} of stock aiosmtpd's receiving)"


def start_up(directory: Path, sink: int, report: dict[str, Any]) -> None:
    times, idle = [], 0.0
    for _ in range(5):
        with Bridge(directory / "start", sink, "auto").running() as bridge:
            times.append(bridge.start_up)
            load(bridge.port, 20, SMALL)  # the HTTP engine is loaded at the first message
            time.sleep(0.5)
            idle = max(idle, bridge.memory("VmRSS"))
    report["start-up to the greeting"] = f"{statistics.median(times):.2f} s"
    report["idle memory after 20 messages"] = f"{idle:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--large-messages", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["start", "small", "large"])
    options = parser.parse_args()
    report: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="bridge-bench-") as name,
        process(sys.executable, "-m", "tests.bench.sink") as sink_process,
    ):
        assert sink_process.stdout
        sink = int(sink_process.stdout.readline())
        directory = Path(name)
        directory.chmod(0o755)  # Postfix's own users must get through
        if options.only in (None, "start"):
            start_up(directory, sink, report)
        if options.only in (None, "small"):
            small(directory, sink, options.messages, options.rounds, report)
        if options.only in (None, "large"):
            large(directory, sink, options.large_messages, options.rounds, report)
    if not is_installed():
        report["postfix"] = "not measured: needs root and Postfix with smtp-source and smtp-sink"
    for key, value in report.items():
        print(f"{key:<48} {value}")


if __name__ == "__main__":
    main()
