"""Posts to the operator's own web addresses (`bounce.webhook`, `alert.webhook`), kept in the spool until one was taken.

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
    """`run` for ever; `wake` when there is a new one."""

    def __init__(self, spool: Spool, send: Send, targets: Mapping[str, Target], clock: Clock) -> None:
        self._spool = spool
        self._send = send
        self._clock = clock
        self._wake = asyncio.Event()
        self.targets = targets

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            try:
                while due := await self._spool.due_posts(now=self._clock.now()):
                    for post in due:
                        await self._post(post)
            except (SpoolError, SpoolFull) as error:
                log.error("spool.error", where="posts", error=str(error))
            await self._clock.wait(self._wake, POLL_S)

    async def _post(self, post: Post) -> None:
        target = self.targets.get(post.target)
        if target is None:  # the address was taken out of the settings
            await self._spool.settle_post(post, next_attempt_at=None)
            return
        now = self._clock.now()
        status, why = await self._send(target.url, signed(post, target.key, now), post.body.encode())
        if status is not None and 200 <= status <= 299:
            await self._spool.settle_post(post, next_attempt_at=None)
            return
        facts = {"target": post.target, "id": post.id, "attempt": post.attempts + 1, "detail": why or f"HTTP {status}"}
        if status == GONE or now - post.created_at >= GIVEN_UP_AFTER_S:
            log.error("webhook.given_up", **facts)
            await self._spool.settle_post(post, next_attempt_at=None)
            return
        pause = pause_after(post.attempts + 1)
        log.warning("webhook.deferred", **facts, next_in_s=pause)
        await self._spool.settle_post(post, next_attempt_at=self._clock.now() + pause)
