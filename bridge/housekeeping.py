"""What the daemon does beside the mail, at intervals: ends what is too old, prunes, takes new certificates and
secrets, looks for alerts, notes where it stands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from bridge.clock import Clock
from bridge.delivery.alerts import Alerts, Facts
from bridge.delivery.choice import Dispatchers
from bridge.delivery.events import Events
from bridge.delivery.recorder import Recorder
from bridge.delivery.runner import Runner
from bridge.delivery.standing import Standing
from bridge.spool.base import Spool, SpoolError, SpoolFull

log: Any = structlog.get_logger()

STANDING_EVERY_S = 2.0
ALERTS_EVERY_S = 10.0
HOUSE_EVERY_S = 60.0
SUMMARIZE_EVERY_S = 1.0
SUMMARIZE_TIMES = 4
RENEW_EVERY_S = 60.0
SECRETS_EVERY_S = 10.0  # the old one may be revoked already
PRUNE_BATCH = 500
EXPIRE_BATCH = 500
REQUESTS_S = 86400.0  # an Idempotency-Key is known so long


class Housekeeping:
    def __init__(
        self,
        *,
        spool: Spool,
        runner: Runner,
        recorder: Recorder,
        dispatchers: Dispatchers,
        alerts: Alerts,
        standing: Standing,
        events: Events,
        clock: Clock,
        dedupe_window: float,
        renew: Callable[[], Awaitable[None]],
        look_at_secrets: Callable[[], Awaitable[None]],
    ) -> None:
        """`renew`: takes certificates whose files have changed; `look_at_secrets`: the same for secrets."""
        self._spool = spool
        self._runner = runner
        self._recorder = recorder
        self._dispatchers = dispatchers
        self._alerts = alerts
        self._standing = standing
        self._events = events
        self._clock = clock
        self.dedupe_window = dedupe_window
        self._renew = renew
        self._look_at_secrets = look_at_secrets

    async def run(self) -> None:
        never = asyncio.Event()
        due = dict.fromkeys((self.house, self.renew, self.secrets, self.look, self.stand, self.summarize), 0.0)
        every = {
            self.house: HOUSE_EVERY_S,
            self.renew: RENEW_EVERY_S,
            self.secrets: SECRETS_EVERY_S,
            self.look: ALERTS_EVERY_S,
            self.stand: STANDING_EVERY_S,
            self.summarize: SUMMARIZE_EVERY_S,
        }
        while True:
            for work, at in due.items():
                if self._clock.now() >= at:
                    await self._safely(work)
                    due[work] = self._clock.now() + every[work]
            await self._clock.wait(never, max(min(due.values()) - self._clock.now(), 0.0))

    async def _safely(self, work: Any) -> None:
        try:
            await work()
        except (SpoolError, SpoolFull) as error:  # a full or broken disk is told by those who need it; this tries again
            log.warning("spool.error", where=work.__name__, error=str(error))
        except Exception:
            log.exception("housekeeping.error", where=work.__name__)

    async def house(self) -> None:
        """A few at a time, so that what else waits is written in between."""
        now = self._clock.now()
        lanes = self._runner.idle_lanes(now)
        while lanes and (ended := await self._spool.expire(lanes, now=now, limit=EXPIRE_BATCH)):
            for queue_id, results in ended.items():
                self._recorder.tell(queue_id, results)
        while await self._spool.prune(now=now, limit=PRUNE_BATCH) == PRUNE_BATCH:
            pass
        await self._events.rejoin()
        while await self._spool.prune_events(now=now, limit=PRUNE_BATCH) == PRUNE_BATCH:
            pass
        while await self._spool.forget(seen_before=now - self.dedupe_window, limit=PRUNE_BATCH) == PRUNE_BATCH:
            pass
        while await self._spool.forget_requests(before=now - REQUESTS_S, limit=PRUNE_BATCH) == PRUNE_BATCH:
            pass

        await self._spool.save_numbers(now=now)

    async def summarize(self) -> None:
        """For searches; what came with an upgrade is done bit by bit. Queue ids are by this machine's clock."""
        for _ in range(SUMMARIZE_TIMES):
            if not await self._spool.summarize(now=time.time()):
                break

    async def renew(self) -> None:
        await self._renew()

    async def secrets(self) -> None:
        await self._look_at_secrets()

    async def look(self) -> None:
        blocked = {one.provider.name: one.breaker.reason for one in self._dispatchers.all if one.breaker.blocked}
        untried = {one.provider.name for one in self._dispatchers.all if not (one.sent or one.bounced or one.deferred)}
        oldest, free = await self._spool.oldest_waiting(), await self._spool.free_bytes()
        await self._alerts.check(
            Facts(now=self._clock.now(), blocked=blocked, untried=frozenset(untried), oldest=oldest, free=free)
        )

    async def stand(self) -> None:
        await self._standing.keep(self._alerts.active)
