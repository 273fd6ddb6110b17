"""How fast the SQLite spool is, and what a call costs the event loop: python tests/bench/spool_rates.py [directory].

Each figure is taken twice: with an idle loop, and with a loop that is busy with other work (300 us of Python per message,
as parsing and HTTP cost), because the writer's thread then has to win Python's lock from it at every statement.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bridge.model import Envelope, Message
from bridge.reply import Reply
from bridge.spool.base import Result
from bridge.spool.ids import new_queue_id
from bridge.spool.opening import open_spool
from bridge.spool.sqlite import SqliteSpool

BODY = b"x" * 5000
PUTTERS = 20
EACH = 300
SENT = Result(status="sent", reply=Reply(250, "2.0.0", "Ok: sent"), provider="main", provider_message_id="id-1")


def message(number: int) -> Message:
    now = time.time()
    return Message(
        queue_id=new_queue_id(),
        envelope=Envelope(reverse_path="a@example.com", recipients=(f"r{number}@example.com",)),
        raw=BODY,
        created_at=now,
        expires_at=now + 86400,
        subject="A subject of usual length",
        message_id="<20240101120000.12345@example.com>",
    )


def work(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(100))


async def measure(name: str, count: int, run: Callable[[], Awaitable[object]], spool: SqliteSpool) -> None:
    commits, cpu, start = spool.commits, time.thread_time(), time.perf_counter()
    await run()
    took, used = time.perf_counter() - start, time.thread_time() - cpu
    print(
        f"{name:<34} {count / took:>8.0f}/s  {1e6 * used / count:>6.1f} us of the loop each"
        f"  {spool.commits - commits:>5} commits  {1e6 * took / max(1, spool.commits - commits):>7.0f} us a commit"
    )


async def put_all(spool: SqliteSpool, busy_s: float) -> None:
    async def putter(n: int) -> None:
        for number in range(EACH):
            if busy_s:
                work(busy_s)
            await spool.put(message(n * EACH + number))

    await asyncio.gather(*(putter(n) for n in range(PUTTERS)))


async def history_all(spool: SqliteSpool, busy_s: float) -> None:
    for number in range(PUTTERS * EACH):
        if busy_s:
            work(busy_s)
        if number % 20 == 0:
            await asyncio.sleep(0)
        await spool.put_history(message(number), {f"r{number}@example.com": SENT})


async def claim_and_record(spool: SqliteSpool, busy_s: float) -> None:
    spent = [0.0, 0.0]
    now = time.time() + 10
    while True:
        start = time.perf_counter()
        claimed = await spool.claim(owner="bench", now=now, lease_s=600, limit=100)
        spent[0] += time.perf_counter() - start
        if not claimed:
            break

        async def one(item: object) -> None:
            if busy_s:
                work(busy_s)
            results = {r.address: SENT for r in item.recipients}  # type: ignore[attr-defined]
            await spool.record(item.message.queue_id, item.lease, results, now=now)  # type: ignore[attr-defined]

        start = time.perf_counter()
        await asyncio.gather(*(one(item) for item in claimed))
        spent[1] += time.perf_counter() - start
    count = PUTTERS * EACH
    print(f"    of which claim {count / spent[0]:.0f}/s, record {count / spent[1]:.0f}/s")


async def main(directory: str) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as place:
        spool = await open_spool(
            Path(place, "spool.db"), max_bytes=10 << 30, min_free=0, history_s=86400, failed_s=86400, owner="b", now=0.0
        )
        count = PUTTERS * EACH
        start = time.thread_time()
        for number in range(count):
            message(number)
        print(f"making a message costs {1e6 * (time.thread_time() - start) / count:.1f} us of the figures below")
        for busy_s in (0.0, 0.0003):
            label = f", loop busy {busy_s * 1e6:.0f} us" if busy_s else ""
            await measure(f"put{label}", count, lambda b=busy_s: put_all(spool, b), spool)  # type: ignore[misc]
            await measure(f"claim + record{label}", count, lambda b=busy_s: claim_and_record(spool, b), spool)  # type: ignore[misc]
            await measure(f"history{label}", count, lambda b=busy_s: history_all(spool, b), spool)  # type: ignore[misc]
            await spool.stats()
        print("batch sizes", dict(sorted(spool.batch_sizes.items())), "relaxed commits", spool.relaxed_commits)
        await spool.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir()))
