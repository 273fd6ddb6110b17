"""What the status page shows: the numbers of the API (`bridge.web.numbers`), in the words and the order of a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.web import numbers
from bridge.web.context import Web

AGES: Mapping[str, str] = {
    "1 minute": "up to a minute",
    "5 minutes": "1 to 5 minutes",
    "1 hour": "5 to 60 minutes",
    "6 hours": "1 to 6 hours",
    "1 day": "6 to 24 hours",
    numbers.OLDER: "more than a day",
}
ERRORS = 20  # the newest
_WAITS = ("queued", "deferred", "held")
# What a page says of a breaker, and how bad it is.
_STATES: Mapping[str, tuple[str, str]] = {
    "closed": ("in use", "good"),
    "open": ("failing", "bad"),
    "half-open": ("being tried", "bad"),
    "blocked": ("blocked", "bad"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """`word`: for the eye, good, wait or bad. `since`, `until`: of what the state says, seconds since the epoch, None where it
    says nothing. `told`: as `numbers.providers` has it."""

    state: str
    word: str
    reason: str
    since: float | None
    until: float | None
    told: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """`told`: as `numbers.status`. `elsewhere`: recipients that wait for no provider of the settings. `listeners`: with whether
    they are up. Octets, seconds."""

    told: Mapping[str, Any]
    providers: tuple[Provider, ...]
    elsewhere: int
    listeners: tuple[tuple[str, bool], ...]
    memory_used: int
    memory_total: int

    @property
    def by_status(self) -> dict[str, int]:
        return {status: self.told["queue"]["by_status"].get(status, 0) for status in _WAITS}

    @property
    def waiting(self) -> int:
        return sum(self.by_status.values())

    @property
    def oldest_s(self) -> float | None:
        oldest = self.told["queue"]["oldest"]
        return None if oldest is None else max(0.0, self.told["at"] - oldest)

    @property
    def ages(self) -> list[tuple[str, int]]:
        return [(AGES[name], count) for name, count in self.told["queue"]["by_age"].items()]

    def last_hour(self, word: str) -> int:
        return sum(one[word] for one in self.told["minutes"])

    def last_day(self, word: str) -> int:
        return sum(one[word] for one in self.told["quarters"])


async def gather(web: Web) -> Numbers:
    """Raises SpoolError."""
    told = await numbers.status(web)
    names = {one["name"] for one in told["providers"]}
    return Numbers(
        told=told,
        providers=tuple(_provider(one, told["at"]) for one in told["providers"]),
        elsewhere=sum(count for name, count in told["queue"]["by_provider"].items() if name not in names),
        listeners=tuple((one.where, one.up) for one in web.listeners),
        memory_used=web.budget.used if web.budget else 0,
        memory_total=web.budget.total if web.budget else 0,
    )


def _provider(told: Mapping[str, Any], now: float) -> Provider:
    state, word = _STATES[told["state"]]
    reason, since, until = told["reason"], told["since"], told["until"]
    if word == "good":
        since = None
        until = told["paused_until"] if (told["paused_until"] or 0) > now else None
        state, word, reason = ("paused", "wait", "it asked for less") if until else (state, word, "")
    return Provider(
        state=state, word=word, reason=reason, since=since, until=until if (until or 0) > now else None, told=told
    )
