"""What the status page shows, gathered from the parts. The one place where the page asks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.lanes import Lane
from bridge.spool.base import SpoolError, Stats
from bridge.web.context import Web

# Upper bounds in seconds, and beyond the last of them.
AGES: Mapping[float, str] = {
    60.0: "up to a minute",
    600.0: "1 to 10 minutes",
    3600.0: "10 to 60 minutes",
    6 * 3600.0: "1 to 6 hours",
    86400.0: "6 to 24 hours",
}
OLDER = "more than a day"
HOUR, QUARTER = 3600, 900
ERRORS = 20  # the newest
WAITS = ("queued", "deferred", "held")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """`word`: for the eye, good, wait or bad. `since`, `until`: of what the state says, seconds since the epoch, None where it
    says nothing. `waiting`: recipients whose turn it is with it."""

    name: str
    kind: str
    state: str
    word: str
    reason: str = ""
    since: float | None = None
    until: float | None = None
    running: int = 0
    waiting: int = 0
    sent: int = 0
    deferred: int = 0
    bounced: int = 0
    today: int = 0
    most_a_day: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Octets and seconds. `tally`: as `spool.numbers`. `elsewhere`: recipients that wait for no provider of the settings."""

    now: float
    stats: Stats
    tally: Mapping[str, Any]
    ages: tuple[tuple[str, int], ...]
    providers: tuple[Provider, ...]
    elsewhere: int
    free: int
    writable: bool
    listeners: tuple[tuple[str, bool], ...]
    memory_used: int
    memory_total: int

    @property
    def waiting(self) -> int:
        return sum(self.stats.by_status.get(status, 0) for status in WAITS)

    @property
    def oldest_s(self) -> float | None:
        return None if self.stats.oldest is None else max(0.0, self.now - self.stats.oldest)

    def last_hour(self, word: str) -> int:
        return sum(one[word] for one in self.tally["minutes"])

    def last_day(self, word: str) -> int:
        return sum(one[word] for one in self.tally["quarters"])


async def gather(web: Web) -> Numbers:
    """Raises SpoolError."""
    now, spool = web.clock.now(), web.spool
    counts = await spool.ages(now=now, bounds=tuple(AGES))
    waiting, elsewhere = _by_provider(web, await spool.depth())
    try:
        free, writable = await spool.free_bytes(), await spool.writable()
    except SpoolError:
        free, writable = 0, False
    return Numbers(
        now=now,
        stats=await spool.stats(),
        tally=await spool.numbers(now=now),
        ages=tuple(zip([*AGES.values(), OLDER], counts, strict=True)),
        providers=tuple(_provider(one, waiting.get(one.provider.name, 0), now) for one in web.dispatchers.all),
        elsewhere=elsewhere,
        free=free,
        writable=writable,
        listeners=tuple((one.address, one.up) for one in web.listeners),
        memory_used=web.budget.used if web.budget else 0,
        memory_total=web.budget.total if web.budget else 0,
    )


def _by_provider(web: Web, depth: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """From lanes to the provider that is next; the rest waits for one that is gone, or to be sorted."""
    found: dict[str, int] = {}
    elsewhere = 0
    for text, count in depth.items():
        lane = Lane.parse(text)
        name = lane.order[0] if lane else ""
        if web.dispatchers.named(name):
            found[name] = found.get(name, 0) + count
        else:
            elsewhere += count
    return found, elsewhere


def _provider(one: Dispatcher, waiting: int, now: float) -> Provider:
    breaker, limiter = one.breaker, one.limiter
    state, word, reason = "in use", "good", ""
    since: float | None = None
    until: float | None = None
    if not breaker.closed:
        state, word = ("blocked", "bad") if breaker.blocked else ("failing", "bad")
        reason, since = breaker.reason, breaker.since
        until = breaker.until if breaker.until > now else None
    elif limiter.paused_until and limiter.paused_until > now:
        state, word, reason, until = "paused", "wait", "it asked for less", limiter.paused_until
    elif limiter.wait(now) > 1:
        state, word, reason, until = "at its limit", "wait", "a limit of the settings", now + limiter.wait(now)
    return Provider(
        name=one.provider.name,
        kind=one.provider.kind,
        state=state,
        word=word,
        reason=reason,
        since=since,
        until=until,
        running=one.running,
        waiting=waiting,
        sent=one.sent,
        deferred=one.deferred,
        bounced=one.bounced,
        today=limiter.counted.today,
        most_a_day=limiter.policy.max_per_day,
    )
