"""What /metrics asks of the queue is bounded: a count ends at a limit, and no question walks the table."""

from __future__ import annotations

import sqlite3

import pytest

from bridge.spool import waiting
from bridge.spool.sqlite import SqliteSpool

from .support import ANN, BOB, message


async def test_a_count_ends_at_its_limit(spool: SqliteSpool) -> None:
    for _ in range(3):
        await spool.put(message(ANN, BOB))

    assert (await spool._reader.run(waiting.depth, limit=5)).recipients["queued"] == 5


@pytest.mark.parametrize(("query", "values"), [(waiting._COUNT, ("queued", 5)), (waiting._FIRST, ("queued",))])
async def test_only_the_index_of_what_is_open_is_read(
    spool: SqliteSpool, query: str, values: tuple[object, ...]
) -> None:
    def plan(db: sqlite3.Connection) -> list[str]:
        return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", values)]

    steps = [step for step in await spool._reader.run(plan) if "recipient" in step or "message" in step]

    assert any("SEARCH recipient USING COVERING INDEX recipient_open (status=?)" in step for step in steps)
    assert not any(step.startswith("SCAN") for step in steps)
