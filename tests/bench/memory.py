"""How much memory a hundred clients cost that send 25 MB each at the same time; by mode and kind of provider.

`python -m tests.bench.memory [CLIENTS [MEBIBYTES]]` prints the daemon's peak (VmHWM) and what it held before.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.__main__ import Bridge, count, load, process

MIB = 1024 * 1024
KINDS = (("auto", "full"), ("queue", "full"), ("auto", "raw"))


def measure(mode: str, shape: str, clients: int, size: int) -> None:
    with process(sys.executable, "-m", "tests.bench.sink") as sink, tempfile.TemporaryDirectory() as state:
        assert sink.stdout is not None
        port = int(sink.stdout.readline())
        bridge = Bridge(
            Path(state),
            port,
            mode,
            SMTP_BRIDGE_PROVIDER__SHAPE=shape,
            SMTP_BRIDGE_PROVIDER__MAX_SIZE="0",
            SMTP_BRIDGE_SMTP__MAX_MESSAGE_SIZE="40MiB",
            SMTP_BRIDGE_SMTP__MEMORY_WAIT="5m",
            SMTP_BRIDGE_RELAY__ATTEMPT_TIMEOUT="60s",
        )
        with bridge.running():
            idle, started = bridge.memory("VmRSS"), time.perf_counter()
            load(bridge.port, clients, size, connections=clients, attachment=True)
            accepted = time.perf_counter() - started
            while count(port) < clients and time.perf_counter() - started < 600:
                time.sleep(0.2)
            took = time.perf_counter() - started
            peak, rate = bridge.memory("VmHWM"), clients * size / MIB / took
            sys.stdout.write(
                f"{mode:6} {shape:5} {clients} x {size / MIB:.0f} MiB: idle {idle:.0f} MiB, peak {peak:.0f} MiB,"
                f" accepted in {accepted:.1f} s, sent in {took:.1f} s ({rate:.0f} MiB/s)\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    clients = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    size = int(float(sys.argv[2]) * MIB) if len(sys.argv) > 2 else 25 * MIB
    for mode, shape in KINDS:
        try:
            measure(mode, shape, clients, size)
        except subprocess.CalledProcessError as error:
            sys.stdout.write(f"{mode} {shape}: the load failed: {error}\n")
