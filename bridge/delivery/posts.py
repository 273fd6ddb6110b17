"""Posts to the operator's own web addresses (`bounce.webhook`, `alert.webhook`, `events.webhook`), kept in the spool until
one was taken.

Signed in the style of Standard Webhooks (https://www.standardwebhooks.com): `webhook-id`, `webhook-timestamp` and
`webhook-signature`, "v1," and the base64 of HMAC-SHA256 over `id.timestamp.body`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from bridge.clock import Clock
from bridge.spool.base import Post, Spool, SpoolError, SpoolFull

log: Any = structlog.get_logger()

TARGETS = ("bounce", "alert", "events")
POLL_S = 30.0
FIRST_S = 5.0
FACTOR = 4.0
LONGEST_S = 6 * 3600.0
GIVEN_UP_AFTER_S = 3 * 86400.0
GONE = 410  # who answers so wants no more of it

# (address, headers, body) -> the status, or None and why there was none
Send = Callable[[str, Mapping[str, str], bytes], Awaitable[tuple[int | None, str]]]


@dataclass(frozen=True, slots=True)
class Target:
    """Where posts of one kind go. `key` is empty when they are not signed."""

    url: str = field(repr=False)
    key: bytes = field(default=b"", repr=False)


def signed(post: Post, key: bytes, now: float) -> dict[str, str]:
    """The headers of a post made now."""
    stamp = str(int(now))
    headers = {"Content-Type": "application/json", "webhook-id": post.id, "webhook-timestamp": stamp}
    if key:
        digest = hmac.new(key, f"{post.id}.{stamp}.{post.body}".encode(), hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def pause_after(attempts: int) -> float:
    """Seconds until the next try, after so many."""
    return min(FIRST_S * FACTOR ** min(max(attempts - 1, 0), 20), LONGEST_S)


class Posts:
    """`run` for ever; `wake` when there is a new one. One target that hangs or refuses keeps no other waiting."""

    def __init__(self, spool: Spool, send: Send, targets: Mapping[str, Target], clock: Clock) -> None:
        self._spool = spool
        self._send = send
        self._clock = clock
        self._wakes = {name: asyncio.Event() for name in TARGETS}
        self.targets = targets

    def wake(self) -> None:
        for event in self._wakes.values():
            event.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for name in TARGETS:
                tasks.create_task(self._serve(name))

    async def _serve(self, name: str) -> None:
        while True:
            self._wakes[name].clear()
            try:
                pause = await self._post_due(name)
            except (SpoolError, SpoolFull) as error:
                log.error("spool.error", where="posts", error=str(error))
                pause = POLL_S
            # After a failure the others of this target wait too: what comes next would fare no better.
            wake = self._wakes[name] if pause == POLL_S else asyncio.Event()
            await self._clock.wait(wake, pause)

    async def _post_due(self, name: str) -> float:
        """Seconds until the next look."""
        while due := await self._spool.due_posts(now=self._clock.now(), target=name):
            for post in due:
                if not await self._post(post):
                    return FIRST_S
        return POLL_S

    async def _post(self, post: Post) -> bool:
        """False when it failed and is to be made again."""
        target = self.targets.get(post.target)
        if target is None:  # the address was taken out of the settings
            await self._spool.settle_post(post, next_attempt_at=None)
            return True
        now = self._clock.now()
        status, why = await self._send(target.url, signed(post, target.key, now), post.body.encode())
        if status is not None and 200 <= status <= 299:
            await self._spool.settle_post(post, next_attempt_at=None)
            return True
        facts = {"target": post.target, "id": post.id, "attempt": post.attempts + 1, "detail": why or f"HTTP {status}"}
        if status == GONE or now - post.created_at >= GIVEN_UP_AFTER_S:
            log.error("webhook.given_up", **facts)
            await self._spool.settle_post(post, next_attempt_at=None)
            return True
        pause = pause_after(post.attempts + 1)
        log.warning("webhook.deferred", **facts, next_in_s=pause)
        await self._spool.settle_post(post, next_attempt_at=self._clock.now() + pause)
        return False
