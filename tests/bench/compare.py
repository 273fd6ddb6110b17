"""This tree beside another one, in turn, so that what the machine does meanwhile hits both.

`python -m tests.bench.compare TREE [--messages N] [--rounds N]` prints rates and ratios: above 1 this tree is faster.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.__main__ import LARGE, Bridge, bridge_rate, count, greeting, load, process, wait_for

HERE = Path(__file__).parents[2]


@contextmanager
def running(tree: Path, state: Path, sink: int, mode: str) -> Iterator[Bridge]:
    bridge = Bridge(state, sink, mode, PYTHONPATH=str(tree))
    started = time.perf_counter()
    with process(sys.executable, "-P", "-m", "bridge", "run", env=bridge.environment) as daemon:
        bridge.pid = daemon.pid
        bridge.start_up = greeting(bridge.port, started)
        yield bridge


def large_rate(bridge: Bridge, sink: int, messages: int) -> float:
    """MB/s."""
    before, started = count(sink), time.perf_counter()
    sent = load(bridge.port, messages, LARGE, attachment=True, connections=4)
    wait_for(lambda: count(sink) - before >= messages)
    return float(messages * sent["size"] / (time.perf_counter() - started) / 1e6)


def compare(name: str, measure: Callable[[Bridge], float], bridges: list[Bridge], rounds: int) -> None:
    rates: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            found = measure(bridges[which])
            if number:  # the first round only warms up
                rates[which].append(found)
    ours, theirs = (statistics.median(found) for found in rates)
    ratios = sorted(a / b for a, b in zip(*rates, strict=True))
    shown = f"{ours:9.0f} {theirs:9.0f}   {ours / theirs:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    print(f"{name:<28} {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compare")
    parser.add_argument("tree", type=Path)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--large-messages", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    commits = [
        subprocess.run(
            ("git", "-C", str(tree), "rev-parse", "--short", "HEAD"), capture_output=True, text=True
        ).stdout.strip()
        for tree in (HERE, options.tree)
    ]
    print(f"{'':<28} {commits[0]:>9} {commits[1]:>9}   ratio")
    with tempfile.TemporaryDirectory() as name, process(sys.executable, "-m", "tests.bench.sink") as sink_process:
        assert sink_process.stdout
        sink = int(sink_process.stdout.readline())
        for mode in ("auto", "queue"):
            with ExitStack() as stack:
                bridges = [
                    stack.enter_context(running(tree.resolve(), Path(name) / f"{mode}{number}", sink, mode))
                    for number, tree in enumerate((HERE, options.tree))
                ]
                for reused in (True, False):
                    kind = "reused" if reused else "new"
                    measure = lambda bridge, r=reused: bridge_rate(bridge, sink, options.messages, reused=r)  # noqa: E731
                    compare(f"5 kB a second, {mode}, {kind}", measure, bridges, options.rounds)
                compare(
                    f"10 MB in MB/s, {mode}",
                    lambda bridge: large_rate(bridge, sink, options.large_messages),
                    bridges,
                    max(options.rounds // 2, 1),
                )
                for bridge, commit in zip(bridges, commits, strict=True):
                    print(f"  peak memory of {commit}, {mode}: {bridge.memory('VmHWM'):.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
