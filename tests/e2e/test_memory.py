"""Many large messages at once, a small budget: everybody is served, and the process stays as small as it was told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.sandbox import Sandbox
from tests.bench.load import message, run
from tests.e2e.conftest import eventually, rest

MIB = 1024 * 1024
CLIENTS, SIZE, BUDGET = 16, 8 * MIB, 40


def resident(pid: int, key: str) -> float:
    """VmRSS or VmHWM in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


@pytest.mark.parametrize("mode", ["auto", "queue"])
async def test_the_peak_is_bounded_by_the_budget(mode: str, sandbox: Sandbox, bridge_process: Any) -> None:
    daemon = await bridge_process(
        **rest(
            sandbox.url,
            SMTP_BRIDGE_RELAY__MODE=mode,
            SMTP_BRIDGE_RELAY__ATTEMPT_TIMEOUT="60s",
            SMTP_BRIDGE_SMTP__MEMORY_BUDGET=f"{BUDGET}MiB",
        )
    )
    before = resident(daemon.process.pid, "VmRSS")

    times = await run(daemon.port, CLIENTS, CLIENTS, message(SIZE, attachment=True), reused=True)
    await eventually(lambda: len(sandbox.messages) == CLIENTS, 30)

    # Twice as much in flight as the budget has, and without it far more: the rest is what the API's answers and threads take.
    assert len(times) == CLIENTS
    assert resident(daemon.process.pid, "VmHWM") < before + BUDGET + 30
