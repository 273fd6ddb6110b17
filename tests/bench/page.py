"""What people who look cost those who send: python -m tests.bench.page [messages] [rounds] [history].

One bridge with a history; rounds of SMTP in turn without anybody at the page and with two: one has the list open, which asks
again every 2 s as its script does, the other the status page, which does every 10 s. Both also search once a round. Printed: the
rates and the ratio of their medians. It should be 0.95 or more.
"""

from __future__ import annotations

import http.client
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.__main__ import Bridge, bridge_rate, free_port, process
from tests.bench.history import fill

LIST_S, STATUS_S = 2.0, 10.0


def look(port: int, every_s: float, path: str, stop: threading.Event, seen: list[int]) -> None:
    tag, connection = "", http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", f"{path}?q=invoice")
    connection.getresponse().read()
    while True:
        connection.request("GET", path, headers={"If-None-Match": tag} if tag else {})
        response = connection.getresponse()
        response.read()
        assert response.status in (200, 304), response.status
        tag = response.getheader("ETag", "")
        seen.append(response.status)
        if stop.wait(every_s):
            connection.close()
            return


@contextmanager
def looked_at(port: int, seen: list[int]) -> Iterator[None]:
    stop = threading.Event()
    people = [
        threading.Thread(target=look, args=(port, every_s, path, stop, seen))
        for every_s, path in ((LIST_S, "/list"), (STATUS_S, "/status"))
    ]
    for one in people:
        one.start()
    try:
        yield
    finally:
        stop.set()
        for one in people:
            one.join()


def main(messages: int, rounds: int, history: int) -> None:
    with tempfile.TemporaryDirectory() as name, process(sys.executable, "-m", "tests.bench.sink") as sink_process:
        assert sink_process.stdout
        sink, page = int(sink_process.stdout.readline()), free_port()
        state = Path(name, "state")
        state.mkdir()
        fill(state / "spool.db", history, time.time())
        bridge = Bridge(state, sink, "queue", SMTP_BRIDGE_HTTP__ADDRESS=f"127.0.0.1:{page}")
        rates: tuple[list[float], list[float]] = ([], [])
        seen: list[int] = []
        with bridge.running():
            bridge_rate(bridge, sink, messages, reused=True)
            for number in range(rounds):
                for looking in (False, True) if number % 2 else (True, False):
                    if looking:
                        with looked_at(page, seen):
                            rates[1].append(bridge_rate(bridge, sink, messages, reused=True))
                    else:
                        rates[0].append(bridge_rate(bridge, sink, messages, reused=True))
        alone, beside = map(statistics.median, rates)
        ratios = sorted(b / a for a, b in zip(*rates, strict=True))
        print(
            f"alone {alone:.0f}/s, looked at {beside:.0f}/s: {beside / alone:.3f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
        print(f"pages asked for: {len(seen)}, not changed: {seen.count(304)}")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [3000, 10, 100_000][len(given) :]))
