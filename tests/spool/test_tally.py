"""The numbers of the last hour and day: counted where results are recorded, bounded, and kept over a restart."""

from __future__ import annotations

import time
from typing import Any

from bridge.spool.sqlite import SqliteSpool
from bridge.spool.tally import ERRORS, MINUTES, QUARTERS, Tally

from .support import ANN, BOB, BOUNCED, LOST, NOW, SENT, OpenSpool, claim_one, deferred, message, record


def sums(series: list[dict[str, Any]]) -> dict[str, int]:
    return {word: sum(one[word] for one in series) for word in ("accepted", "sent", "deferred", "bounced")}


async def test_what_is_put_recorded_and_noted_is_counted(spool: SqliteSpool) -> None:
    await spool.put_history(message(), {ANN: SENT})
    await spool.put_history(message(), {ANN: BOUNCED})  # refused at DATA: never accepted
    await spool.put(message(ANN, BOB), results={ANN: SENT, BOB: deferred(NOW)})
    claimed = await claim_one(spool)
    await record(spool, claimed, BOUNCED, NOW + 61)
    await record(spool, claimed, SENT, NOW + 61)  # nothing is written under a lease that is over

    numbers = await spool.numbers(now=NOW + 70)
    assert (
        sums(numbers["minutes"]) == sums(numbers["quarters"]) == {"accepted": 2, "sent": 2, "deferred": 1, "bounced": 2}
    )
    assert [one["bounced"] for one in numbers["minutes"]][-2:] == [1, 1]
    assert numbers["latency"]["count"] == 2
    assert [(one["address"], one["status"], one["code"]) for one in numbers["errors"]] == [
        (BOB, "bounced", 550),
        (BOB, "deferred", 451),
        (ANN, "bounced", 550),
    ]


async def test_a_lost_answer_is_an_error_and_is_deferred(spool: SqliteSpool) -> None:
    await spool.put(message(), results={ANN: LOST})

    numbers = await spool.numbers(now=NOW)
    assert sums(numbers["minutes"])["deferred"] == 1
    assert numbers["errors"][0]["status"] == "unknown"


async def test_the_numbers_are_kept_over_a_restart(opened: OpenSpool) -> None:
    spool = await opened()
    await spool.put(message(), results={ANN: BOUNCED})
    await spool.put(message(), results={ANN: SENT})
    told = await spool.numbers(now=NOW)
    await spool.close()

    assert await (await opened()).numbers(now=NOW) == told


async def test_they_are_written_only_when_they_changed(spool: SqliteSpool) -> None:
    await spool.put(message(), results={ANN: SENT})
    await spool.save_numbers(now=NOW)
    commits = spool.commits + spool.relaxed_commits
    await spool.save_numbers(now=NOW + 60)
    assert spool.commits + spool.relaxed_commits == commits
    await spool.put(message())
    await spool.save_numbers(now=NOW + 120)
    assert spool.commits + spool.relaxed_commits > commits


def test_the_rings_are_bounded_and_forget_what_is_old() -> None:
    tally = Tally()
    start = time.perf_counter()
    for n in range(5000):
        tally.accepted(NOW + 60 * n)
        tally.result("Q", ANN, BOUNCED, at=NOW + 60 * n, took_s=1.0)
        tally.result("Q", ANN, SENT, at=NOW + 60 * n, took_s=1.0)
    assert time.perf_counter() - start < 5

    assert len(tally._minutes) <= MINUTES + 1
    assert len(tally._quarters) <= QUARTERS + 1
    assert len(tally._latency) <= MINUTES + 1
    last = NOW + 60 * 4999
    numbers = tally.numbers(last)
    assert len(numbers["minutes"]) == sums(numbers["minutes"])["sent"] == MINUTES
    assert len(numbers["quarters"]) == QUARTERS
    assert len(numbers["errors"]) == ERRORS
    assert len(tally.text()) < 40_000
    assert sums(tally.numbers(last + 3600)["minutes"])["sent"] == 0
    assert tally.numbers(last + 3600)["latency"] == {"count": 0, "p50": None, "p90": None, "p99": None}


def test_latencies_are_told_within_a_quarter() -> None:
    tally = Tally()
    for n in range(1, 101):
        tally.result("Q", ANN, SENT, at=NOW, took_s=n / 10)
    tally.result("Q", ANN, SENT, at=NOW, took_s=None)
    tally.result("Q", ANN, SENT, at=NOW, took_s=-1.0)

    found = tally.numbers(NOW)["latency"]
    assert found["count"] == 101
    assert 4.9 <= found["p50"] <= 5 * 1.25
    assert 9 * 0.99 <= found["p90"] <= 9 * 1.25
    assert 9.8 <= found["p99"] <= 10 * 1.25


def test_numbers_that_cannot_be_read_are_forgotten() -> None:
    for text in (
        "",
        "x",
        "[]",
        "[1, 2, 3, 4]",
        '{"a": 1}',
        '[{"a": [1]}, {}, {}, []]',
        "[{}, {}, {}, 5]",
        "[{}, {}, {}, [5]]",
    ):
        tally = Tally()
        tally.restore(text)
        assert sums(tally.numbers(NOW)["minutes"])["sent"] == 0
        assert tally.numbers(NOW)["errors"] == []
