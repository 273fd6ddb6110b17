"""Where the daemon stands: counters, breakers and limits, kept in the spool for those who look (`queue watch`) and for the next
start."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import structlog

from bridge.clock import Clock
from bridge.delivery.alerts import Alert
from bridge.delivery.choice import Dispatchers
from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.ratelimit import Counted
from bridge.spool.base import Spool, SpoolError, SpoolFull

log: Any = structlog.get_logger()

STATUS = "daemon.status"
COUNTED = "counted."  # and the provider's name: what was sent today and this month
BLOCKED = "blocked."  # and the provider's name: since when the account is refused, and why


class Standing:
    """`restore` at a start, `keep` every few seconds."""

    def __init__(
        self, spool: Spool, dispatchers: Dispatchers, clock: Clock, received: Callable[[], int] = lambda: 0
    ) -> None:
        self._spool = spool
        self._dispatchers = dispatchers
        self._clock = clock
        self._started_at = clock.now()
        self._kept: dict[str, str] = {}
        self._received = received
        self._earlier = {"sent": 0, "deferred": 0, "bounced": 0}  # by dispatchers that are gone

    async def restore(self) -> None:
        """What was counted before. Raises SpoolError."""
        for name, text in (await self._spool.recall(COUNTED)).items():
            if dispatcher := self._dispatchers.named(name.removeprefix(COUNTED)):
                dispatcher.limiter.restore(Counted.parse(text))
        for name, text in (await self._spool.recall(BLOCKED)).items():
            if dispatcher := self._dispatchers.named(name.removeprefix(BLOCKED)):
                since, _, reason = text.partition(" ")
                if re.fullmatch(r"[0-9.]{1,20}", since):
                    dispatcher.breaker.restore_blocked(float(since), reason)

    def retire(self, dispatcher: Dispatcher) -> None:
        """It was replaced after a reload; its counts stay in the sums."""
        for name in self._earlier:
            self._earlier[name] += getattr(dispatcher, name)

    async def keep(self, alerts: Mapping[str, Alert]) -> None:
        """Written only when something has changed. An error is only logged: nothing that was promised depends on it."""
        values = {STATUS: orjson.dumps(self.status(alerts)).decode()}
        for one in self._dispatchers.all:
            values[COUNTED + one.provider.name] = one.limiter.counted.text()
            blocked = f"{one.breaker.since} {one.breaker.reason}" if one.breaker.blocked else ""
            values[BLOCKED + one.provider.name] = blocked
        if values == self._kept:
            return
        now = self._clock.now()
        timed = {**values, STATUS: orjson.dumps({"at": now, **self.status(alerts)}).decode()}
        try:
            await self._spool.remember(timed, now=now)
        except (SpoolError, SpoolFull) as error:
            log.warning("spool.error", where="standing", error=str(error))
            return
        self._kept = values

    def status(self, alerts: Mapping[str, Alert]) -> dict[str, Any]:
        all_ = self._dispatchers.all
        sums = {name: before + sum(getattr(one, name) for one in all_) for name, before in self._earlier.items()}
        return {
            "pid": os.getpid(),
            "started_at": self._started_at,
            "received": self._received(),
            **sums,
            "providers": [_of(one) for one in all_],
            "alerts": [
                {"kind": a.kind, "subject": a.subject, "text": a.text, "since": a.since} for a in alerts.values()
            ],
        }


def _of(one: Dispatcher) -> dict[str, Any]:
    breaker, limiter = one.breaker, one.limiter
    return {
        "name": one.provider.name,
        "kind": one.provider.kind,
        "state": breaker.state,
        "reason": "" if breaker.closed else breaker.reason,
        "since": breaker.since,
        "until": None if breaker.closed else breaker.until,
        "paused_until": limiter.paused_until or None,
        "running": one.running,
        "sent": one.sent,
        "deferred": one.deferred,
        "bounced": one.bounced,
        "sent_today": limiter.counted.today,
        "max_per_day": limiter.policy.max_per_day,
    }
