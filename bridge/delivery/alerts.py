"""Alerts: what the operator must know, told once when it begins and once when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from bridge import metrics
from bridge.clock import Clock
from bridge.mime.trace import iso8601
from bridge.spool.base import Post, Spool, SpoolError, SpoolFull

log: Any = structlog.get_logger()

REMEMBERED = "alert."  # names in the spool's memory begin so
AMPLE = 1.1  # times the limit must be free again before it is over


@dataclass(frozen=True, slots=True)
class Alert:
    """`kind`: provider_blocked, queue_age or disk. `subject`: which provider, "" where there is only one of it."""

    kind: str
    subject: str
    text: str
    since: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.subject}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRules:
    """The settings of `[alert]`; 0: never. `queue_age` in seconds, `disk_free` in octets."""

    queue_age: float = 3600.0
    disk_free: int = 1 << 30
    webhook: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What there is to be judged. `blocked`: provider -> reason; `untried`: those of which nothing is known yet; `oldest`: when
    the message came that waits longest."""

    now: float
    blocked: Mapping[str, str]
    untried: frozenset[str] = frozenset()
    oldest: float | None
    free: int


def judge(facts: Facts, rules: AlertRules, active: Mapping[str, Alert]) -> list[Alert]:
    """The alerts that hold now."""
    found = [Alert("provider_blocked", name, reason) for name, reason in sorted(facts.blocked.items())]
    if rules.queue_age and facts.oldest is not None and facts.now - facts.oldest >= rules.queue_age:
        minutes = int((facts.now - facts.oldest) // 60)
        found.append(Alert("queue_age", "", f"the oldest message has waited {minutes} minutes"))
    limit = rules.disk_free * (AMPLE if "disk:" in active else 1)
    if rules.disk_free and facts.free < limit:
        found.append(Alert("disk", "", f"{facts.free >> 20} MiB are free on the spool's disk"))
    return found


class Alerts:
    """`check` now and then. What is active survives a restart, so that nothing is told twice."""

    def __init__(self, spool: Spool, rules: AlertRules, clock: Clock, posted: Callable[[], None]) -> None:
        self._spool = spool
        self._clock = clock
        self._posted = posted
        self._checking = asyncio.Lock()
        self.rules = rules
        self.active: dict[str, Alert] = {}

    async def load(self) -> None:
        """Raises SpoolError."""
        for name, value in (await self._spool.recall(REMEMBERED)).items():
            alert = Alert(*orjson.loads(value))
            self.active[alert.key] = alert
            metrics.alert.set(1, alert.kind, alert.subject)
            assert name == REMEMBERED + alert.key

    async def check(self, facts: Facts) -> None:
        """One at a time, or two looks at once would tell the same twice."""
        async with self._checking:
            await self._check(facts)

    async def _check(self, facts: Facts) -> None:
        found = {alert.key: alert for alert in judge(facts, self.rules, self.active)}
        for key in found.keys() - self.active.keys():
            alert = found[key]
            await self._tell(Alert(alert.kind, alert.subject, alert.text, facts.now), over=False)
        for key in self.active.keys() - found.keys():
            alert = self.active[key]
            if alert.kind == "provider_blocked" and alert.subject in facts.untried:
                continue  # a start is no answer of the provider's: the episode is not over
            await self._tell(alert, over=True)

    async def _tell(self, alert: Alert, *, over: bool) -> None:
        """Written with its post before it is told: what cannot be written is told at the next check."""
        now = self._clock.now()
        value = "" if over else orjson.dumps([alert.kind, alert.subject, alert.text, alert.since]).decode()
        posts = [_post(alert, over=over, now=now)] if self.rules.webhook else []
        try:
            await self._spool.remember({REMEMBERED + alert.key: value}, now=now, durable=True, posts=posts)
        except (SpoolError, SpoolFull) as error:
            log.error("spool.error", where="alerts", error=str(error))
            return
        if over:
            del self.active[alert.key]
        else:
            self.active[alert.key] = alert
        metrics.alert.set(0 if over else 1, alert.kind, alert.subject)
        facts = {"kind": alert.kind, "subject": alert.subject, "text": alert.text}
        if over:
            log.info("alert.over", **facts, after_s=round(now - alert.since))
        else:
            log.error("alert.raised", **facts)
        self._posted()


def _post(alert: Alert, *, over: bool, now: float) -> Post:
    data = {"kind": alert.kind, "subject": alert.subject, "text": alert.text, "since": iso8601(alert.since)}
    body = {"type": "alert.over" if over else "alert.raised", "timestamp": iso8601(now), "data": data}
    post_id = f"msg_{alert.kind}_{alert.subject or '-'}_{int(alert.since * 1000)}_{'over' if over else 'raised'}"
    return Post(id=post_id, target="alert", body=orjson.dumps(body).decode(), created_at=now)
