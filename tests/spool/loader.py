"""A process that loads a spool until it is killed: prints what was promised and what was done, one line each."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bridge.spool.base import Result
from bridge.spool.ids import new_queue_id
from bridge.spool.opening import open_spool
from bridge.spool.sqlite import SqliteSpool

NOW = 1_700_000_000.0


def say(*words: str) -> None:
    print(*words, flush=True)


async def putter(spool: SqliteSpool, number: int) -> None:
    from bridge.model import Envelope, Message

    while True:
        queue_id = new_queue_id()
        raw = queue_id.encode() * (2000 if number % 4 == 0 else 300)
        envelope = Envelope(reverse_path="a@example.org", recipients=("r@example.com",))
        mail = Message(queue_id=queue_id, envelope=envelope, raw=raw, created_at=NOW, expires_at=NOW + 999)
        await spool.put(mail)
        say("put", queue_id)


async def runner(spool: SqliteSpool) -> None:
    while True:
        for item in await spool.claim(owner="child", now=NOW, lease_s=9999, limit=5):
            say("claimed", item.message.queue_id)
            sent = {one.address: Result(status="sent") for one in item.recipients}
            await spool.record(item.message.queue_id, item.lease, sent, now=NOW)
            say("sent", item.message.queue_id)
        await asyncio.sleep(0)


async def main(path: str) -> None:
    spool = await open_spool(
        Path(path),
        max_bytes=1 << 30,
        min_free=0,
        history_s=999,
        failed_s=999,
        file_threshold=10_000,
        owner="child",
        now=NOW,
    )
    say("ready")
    await asyncio.gather(*(putter(spool, n) for n in range(20)), runner(spool))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
