"""The state of the daemon in numbers: the queue, rates, latency, providers, the spool. For the API and the page."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.lanes import Lane
from bridge.web.context import Web

AGES = {"1 minute": 60.0, "5 minutes": 300.0, "1 hour": 3600.0, "6 hours": 21_600.0, "1 day": 86_400.0}
OLDER = "more"


async def status(web: Web) -> dict[str, Any]:
    """`at`: now. `queue`: {"by_status" (recipients), "by_provider" (recipients that wait, "" for those not sorted yet),
    "by_age" (messages not over yet that are at most so old, and "more"), "oldest": when the oldest one came, or null}.
    `minutes`, `quarters`, `latency`, `errors`: as `Tally.numbers` has them. `spool`: {"bytes", "free", "writable"}.
    `providers`: see `providers`. `listeners`: the addresses of SMTP. Times are seconds since the epoch, sizes octets."""
    now, spool = web.clock.now(), web.spool
    stats, ages, numbers, free, writable, depth = await asyncio.gather(
        spool.stats(),
        spool.ages(now=now, bounds=tuple(AGES.values())),
        spool.numbers(now=now),
        spool.free_bytes(),
        spool.writable(),
        spool.depth(),
    )
    waiting = by_provider(depth)
    return {
        "at": now,
        "queue": {
            "by_status": dict(stats.by_status),
            "by_provider": waiting,
            "by_age": dict(zip([*AGES, OLDER], ages, strict=True)),
            "oldest": stats.oldest,
        },
        **numbers,
        "spool": {"bytes": stats.bytes, "free": free, "writable": writable},
        "providers": [_provider(one, waiting) for one in web.dispatchers.all],
        "listeners": list(web.rules.addresses),
    }


async def providers(web: Web) -> list[dict[str, Any]]:
    """In the order of the settings: `name`, `kind`; `state` (closed, open, half-open, blocked), with its `reason`, `since` and
    `until` (when it is tried again) or null; `blocked_since`: when the account was blocked; `paused_until`: as it asked;
    `rate`, `max_per_day`, `sent_today`; `running` attempts, `waiting` recipients; `sent`, `deferred`, `bounced` since the
    start."""
    waiting = by_provider(await web.spool.depth())
    return [_provider(one, waiting) for one in web.dispatchers.all]


def by_provider(depth: Mapping[str, int]) -> dict[str, int]:
    """Recipients by whose turn it is, from those by lane."""
    found: dict[str, int] = {}
    for text, number in depth.items():
        lane = Lane.parse(text)
        name = lane.order[0] if lane else ""
        found[name] = found.get(name, 0) + number
    return found


def _provider(one: Dispatcher, waiting: Mapping[str, int]) -> dict[str, Any]:
    breaker, limiter = one.breaker, one.limiter
    policy = limiter.policy
    return {
        "name": one.provider.name,
        "kind": one.provider.kind,
        "state": breaker.state,
        "reason": "" if breaker.closed else breaker.reason,
        "since": None if breaker.closed else breaker.since,
        "until": None if breaker.closed else breaker.until,
        "blocked_since": breaker.since if breaker.blocked else None,
        "paused_until": limiter.paused_until or None,
        "rate": str(policy.rate) if policy.rate else "",
        "max_per_day": policy.max_per_day,
        "sent_today": limiter.counted.today,
        "running": one.running,
        "waiting": waiting.get(one.provider.name, 0),
        "sent": one.sent,
        "deferred": one.deferred,
        "bounced": one.bounced,
    }
