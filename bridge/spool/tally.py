"""What happened in the last hour and day, in numbers: small rings in memory, kept as a value of the spool over a restart.

For the loop's thread. Messages are counted when they are accepted, recipients when something becomes of them.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from typing import Any

from bridge.spool.base import Result

KEY = "tally"  # its name in the table `state`
MINUTES, QUARTERS, ERRORS = 60, 96, 50
MINUTE_S, QUARTER_S = 60, 900
_WORDS = ("accepted", "sent", "deferred", "bounced")
_ACCEPTED, _SENT, _DEFERRED, _BOUNCED = range(len(_WORDS))
_PLACE_OF = {
    "sent": _SENT,
    "delivered": _SENT,
    "deferred": _DEFERRED,
    "held": _DEFERRED,
    "bounced": _BOUNCED,
    "expired": _BOUNCED,
}
# Upper bounds of what a latency is counted under, in seconds: from a millisecond to two days, each a quarter more.
_BOUNDS = [0.001 * 1.25**n for n in range(84)]
_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class Tally:
    def __init__(self) -> None:
        self._minutes: dict[int, list[int]] = {}
        self._quarters: dict[int, list[int]] = {}
        self._latency: dict[int, dict[int, int]] = {}  # minute -> place in _BOUNDS -> recipients
        self._errors: deque[dict[str, Any]] = deque(maxlen=ERRORS)
        self._minute: int | None = None  # the one of these two
        self._in_minute: list[int] = []
        self._in_quarter: list[int] = []

    def accepted(self, at: float) -> None:
        self._count(_ACCEPTED, at)

    def result(self, queue_id: str, address: str, result: Result, *, at: float, took_s: float | None) -> None:
        """`took_s`: since the message came."""
        place = _DEFERRED if result.unknown else _PLACE_OF.get(result.status)
        if place is None:
            return
        self._count(place, at)
        if place == _SENT:
            if took_s is not None:
                counts = self._latency.setdefault(int(at // MINUTE_S), {})
                slot = min(bisect_left(_BOUNDS, took_s), len(_BOUNDS) - 1)
                counts[slot] = counts.get(slot, 0) + 1
            return
        reply = result.reply
        self._errors.append(
            {
                "at": at,
                "queue_id": queue_id,
                "address": address,
                "status": "unknown" if result.unknown else result.status,
                "provider": result.provider,
                "code": reply.code if reply else None,
                "enhanced": reply.enhanced if reply else "",
                "text": reply.text if reply else "",
            }
        )

    def _count(self, place: int, at: float) -> None:
        """On the path of every message: two additions while the minute lasts."""
        minute = int(at // MINUTE_S)
        if minute != self._minute:
            self._turn(minute, int(at // QUARTER_S))
        self._in_minute[place] += 1
        self._in_quarter[place] += 1

    def _turn(self, minute: int, quarter: int) -> None:
        self._minute = minute
        self._in_minute = self._minutes.setdefault(minute, [0] * len(_WORDS))
        self._in_quarter = self._quarters.setdefault(quarter, [0] * len(_WORDS))
        _forget(self._minutes, minute - MINUTES)
        _forget(self._latency, minute - MINUTES)
        _forget(self._quarters, quarter - QUARTERS)

    def numbers(self, now: float) -> dict[str, Any]:
        """`minutes` (60) and `quarters` (96), oldest first, each {"at", "accepted", "sent", "deferred", "bounced"}, the last
        of them not over yet; `latency` of the last hour, in seconds from when a message came until it was sent, {"count",
        "p50", "p90", "p99"}, None where nothing was; `errors`, newest first."""
        return {
            "minutes": _series(self._minutes, now, MINUTE_S, MINUTES),
            "quarters": _series(self._quarters, now, QUARTER_S, QUARTERS),
            "latency": self._percentiles(now),
            "errors": list(reversed(self._errors)),
        }

    def _percentiles(self, now: float) -> dict[str, Any]:
        counts = [0] * len(_BOUNDS)
        for minute, found in self._latency.items():
            if minute > now // MINUTE_S - MINUTES:
                for place, number in found.items():
                    counts[place] += number
        total = sum(counts)
        return {"count": total, **{name: _share(counts, share * total) for name, share in _SHARES.items()}}

    # Over a restart

    def text(self) -> str:
        return json.dumps([self._minutes, self._quarters, self._latency, list(self._errors)])

    def restore(self, text: str) -> None:
        """What another version wrote otherwise is forgotten."""
        self._minute = None
        try:
            minutes, quarters, latency, errors = json.loads(text)
            self._minutes = {int(at): list(map(int, counts[: len(_WORDS)])) for at, counts in minutes.items()}
            self._quarters = {int(at): list(map(int, counts[: len(_WORDS)])) for at, counts in quarters.items()}
            self._latency = {
                int(at): {int(p): int(n) for p, n in found.items() if int(p) < len(_BOUNDS)}
                for at, found in latency.items()
            }
            self._errors.extend({**error} for error in errors)
        except (ValueError, TypeError, AttributeError):
            self._minutes, self._quarters, self._latency = {}, {}, {}
            self._errors.clear()


def _forget(ring: dict[int, Any], before: int) -> None:
    for number in [number for number in ring if number <= before]:
        del ring[number]


def _series(ring: Mapping[int, list[int]], now: float, span: int, length: int) -> list[dict[str, int]]:
    last, nothing = int(now // span), [0] * len(_WORDS)
    return [
        {"at": number * span, **dict(zip(_WORDS, ring.get(number, nothing), strict=True))}
        for number in range(last - length + 1, last + 1)
    ]


def _share(counts: list[int], number: float) -> float | None:
    seen = 0
    for bound, count in zip(_BOUNDS, counts, strict=True):
        seen += count
        if count and seen >= number:
            return round(bound, 4)
    return None
