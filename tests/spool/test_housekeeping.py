"""What is finished goes in time, without keeping anybody waiting, and its room is used again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bridge.spool.sqlite import SqliteSpool

from .support import ANN, BOUNCED, NOW, SENT, message, tell_senders


async def test_mail_is_taken_while_thousands_are_pruned(spool: SqliteSpool) -> None:
    await asyncio.gather(*(spool.put_history(message(), {ANN: SENT}) for _ in range(3000)))
    await spool.stats()

    pruning = asyncio.create_task(spool.prune(now=NOW + 500, limit=3000))
    put = 0
    while not pruning.done():
        await spool.put(message())
        put += 1

    assert await pruning == 3000
    assert put >= 20  # one in between every few of its thirty transactions


async def test_the_room_of_what_was_pruned_is_used_again(spool: SqliteSpool, path: Path) -> None:
    async def once(at: float) -> int:
        for _ in range(300):
            await spool.put(message(raw=b"x" * 4000, at=at), results={ANN: BOUNCED})
        await tell_senders(spool, at)
        assert await spool.prune(now=at + 1000) == 300
        return path.stat().st_size

    await once(NOW)
    first = await once(NOW + 5000)
    sizes = [await once(NOW + 5000 * n) for n in range(2, 6)]

    assert max(sizes) <= first * 1.05
