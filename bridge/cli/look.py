"""One look at the queue for `queue watch`: what waits, what the daemon last said of itself, and how fast things go."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from bridge.spool.base import Stats
from bridge.spool.sqlite import SqliteSpool

AGES_S = (60.0, 600.0, 3600.0, 4 * 3600.0, 86400.0)
COUNTERS = ("received", "sent", "deferred", "bounced")
FAILURES = 10
STATUS = "daemon.status"  # the name under which the daemon notes where it stands
WRITTEN_EVERY_S = 2.0  # while something changes
SILENT_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """What the daemon said of itself at `at`; its counters run since `started_at`. `said` is all of it."""

    at: float
    started_at: float
    pid: int
    counters: Mapping[str, float]
    providers: tuple[Mapping[str, Any], ...]
    alerts: tuple[Mapping[str, Any], ...]
    said: Mapping[str, Any] = field(repr=False)

    def silent(self, now: float) -> bool:
        return now - self.at > SILENT_S


def parse_daemon(text: str) -> Daemon | None:
    """None for what no daemon wrote. Another version's may lack something, or have more."""
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(said, dict) or number(said.get("at")) is None:
        return None
    return Daemon(
        at=number(said["at"]) or 0.0,
        started_at=number(said.get("started_at")) or 0.0,
        pid=int(number(said.get("pid")) or 0),
        counters={name: number(said.get(name)) or 0.0 for name in COUNTERS},
        providers=_tables(said.get("providers")),
        alerts=_tables(said.get("alerts")),
        said=said,
    )


def number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _tables(value: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """`ages`: messages that wait, by `AGES_S` and older. `providers`: recipients that wait, by whose turn it is first; "" is
    not known yet. `rates` in things a second, by counter; None when nothing is known yet."""

    at: float
    stats: Stats
    ages: Sequence[int]
    providers: Mapping[str, int]
    failures: Sequence[Mapping[str, Any]]
    daemon: Daemon | None
    rates: Mapping[str, float] | None


class Rates:
    """From the counters of two looks. A daemon that has nothing to note does not write, so time without a change counts."""

    def __init__(self) -> None:
        self._before: Daemon | None = None
        self._looked_at = 0.0
        self._rates: Mapping[str, float] | None = None

    def see(self, daemon: Daemon | None, now: float) -> Mapping[str, float] | None:
        before, looked_at = self._before, self._looked_at
        self._before, self._looked_at = daemon, now
        if daemon is None or before is None or _restarted(before, daemon):
            self._rates = None
        elif daemon.at > before.at:
            # Up to the last look but for a moment nothing had changed, however long ago it was written.
            seconds = daemon.at - max(before.at, min(looked_at - WRITTEN_EVERY_S, daemon.at - WRITTEN_EVERY_S))
            self._rates = {n: (daemon.counters[n] - before.counters[n]) / seconds for n in COUNTERS}
        elif now - daemon.at > 2 * WRITTEN_EVERY_S:
            self._rates = dict.fromkeys(COUNTERS, 0.0)
        return self._rates


def _restarted(before: Daemon, after: Daemon) -> bool:
    smaller = any(after.counters[name] < before.counters[name] for name in COUNTERS)
    return smaller or after.started_at != before.started_at


async def take_look(spool: SqliteSpool, rates: Rates) -> Look:
    now = time.time()
    text = (await spool.recall(STATUS)).get(STATUS, "")
    daemon = parse_daemon(text) if text else None
    return Look(
        at=now,
        stats=await spool.stats(),
        ages=await spool.ages(now=now, bounds=AGES_S),
        providers=by_provider(await spool.depth()),
        failures=await spool.last_failures(limit=FAILURES),
        daemon=daemon,
        rates=rates.see(daemon, now),
    )


def by_provider(depth: Mapping[str, int]) -> dict[str, int]:
    """From lanes to providers: a lane counts for its first one."""
    from bridge.delivery.lanes import Lane

    found: dict[str, int] = {}
    for text, count in depth.items():
        lane = Lane.parse(text)
        name = lane.names[0] if lane else ""
        found[name] = found.get(name, 0) + count
    return found


def as_facts(look: Look) -> dict[str, Any]:
    """For programs."""
    bounds: list[float | None] = [*AGES_S, None]
    daemon = look.daemon
    return {
        "at": look.at,
        "waiting": {
            "by_age": [{"up_to_s": b, "messages": n} for b, n in zip(bounds, look.ages, strict=True)],
            "by_provider": look.providers,
            "oldest": look.stats.oldest,
        },
        "by_status": look.stats.by_status,
        "bytes": look.stats.bytes,
        "daemon": None if daemon is None else {**daemon.said, "silent": daemon.silent(look.at)},
        "rates": look.rates,
        "failures": look.failures,
    }
