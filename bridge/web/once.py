"""The same request again (`Idempotency-Key`): answered as the first time, and not sent again.

Only an answer that promised something is kept; after any other the same request is tried anew, under the same queue id, by
which a provider that knows it already will not mail twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import structlog

from bridge.clock import Clock
from bridge.spool.base import Asked, SpoolError, SpoolFull, Store
from bridge.web.errors import Problem

log: Any = structlog.get_logger()

KEPT_S = 86400.0
HEADER = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: its status, its body, and its own headers. `again`: it was said before."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    again: bool = False

    @property
    def promised(self) -> bool:
        return self.status < 300


Work = Callable[[str], Awaitable[Said]]


def scoped(owner: str, key: str) -> bytes:
    """Keys of one owner say nothing about those of another."""
    return hashlib.sha256(f"{owner}\0{key}".encode()).digest()


class Once:
    """One run for each key at a time; whoever comes meanwhile waits for its answer. For the loop's thread."""

    def __init__(self, spool: Store, clock: Clock, new_queue_id: Callable[[], str]) -> None:
        self._spool = spool
        self._clock = clock
        self._new_queue_id = new_queue_id
        self._running: dict[bytes, tuple[bytes, asyncio.Task[Said]]] = {}

    def is_running(self, key: bytes) -> bool:
        """Whether who comes with it now waits for the answer of another."""
        return key in self._running

    async def run(
        self, key: bytes, body: bytes, work: Work, *, field: str, admit: Callable[[], None] = lambda: None
    ) -> Said:
        """`work` gets the queue id. `field`: where the key stood. `admit` raises Problem for what is not even to be noted.
        Raises Problem, SpoolError, SpoolFull."""
        if key in self._running:
            first, task = self._running[key]
            _same(first, body, field)
            return replace(await asyncio.shield(task), again=True)
        task = asyncio.create_task(self._run(key, body, work, field, admit))
        self._running[key] = (body, task)
        task.add_done_callback(lambda _: self._running.pop(key))
        return await asyncio.shield(task)  # who hangs up ends nothing

    async def _run(self, key: bytes, body: bytes, work: Work, field: str, admit: Callable[[], None]) -> Said:
        known = await self._spool.find_request(key, since=self._clock.now() - KEPT_S)
        if known:
            _same(known.body, body, field)
            if known.status:
                return Said(known.status, orjson.loads(known.answer), again=True)
            if found := await self._spool.show(known.queue_id):  # a crash came between
                return await self._keep(known, replace(found_said(found), again=True))
        admit()
        asked = known or Asked(key, body, self._new_queue_id())
        if not known:
            await self._spool.note_request(asked, now=self._clock.now())
        said = await work(asked.queue_id)
        return await self._keep(asked, said) if said.promised else said

    async def _keep(self, asked: Asked, said: Said) -> Said:
        """What was promised stands, whether it can be noted or not."""
        answered = replace(asked, status=said.status, answer=orjson.dumps(said.body).decode())
        try:
            await self._spool.note_request(answered, now=self._clock.now())
        except (SpoolError, SpoolFull) as error:
            log.error("spool.error", where="idempotency", error=str(error))
        return said


def found_said(message: Mapping[str, Any]) -> Said:
    """The answer for a message that stands in the spool."""
    statuses = {recipient["status"] for recipient in message["recipients"]}
    taken = bool(statuses & {"sent", "delivered"}) and not statuses & {"queued", "deferred", "held"}
    return Said(200 if taken else 202, {"id": message["queue_id"], "status": "sent" if taken else "queued"})


def _same(first: bytes, body: bytes, field: str) -> None:
    if first != body:
        raise Problem(422, "This key was used for another request", code="idempotency_key_reused", field=field)
