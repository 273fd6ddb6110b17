"""The same mail again (`relay.dedupe_window`): what got its 250 is answered so again, and not sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from bridge.clock import Clock
from bridge.delivery.preparation import Prepared
from bridge.model import Answer
from bridge.reply import LOCAL_ERROR, Reply, parse_reply
from bridge.spool.base import Spool, SpoolError, SpoolFull

log: Any = structlog.get_logger()


class Duplicates:
    """One delivery for each fingerprint at a time; whoever comes meanwhile waits for its answer."""

    def __init__(self, spool: Spool, clock: Clock) -> None:
        self._spool = spool
        self._clock = clock
        self._deciding: dict[bytes, asyncio.Future[Answer]] = {}

    async def once(
        self, prepared: Prepared, deliver: Callable[[], Awaitable[Answer]], *, window: float, whole: bool
    ) -> Answer:
        """`window` in seconds. Only a message that got 250 counts; after any other answer the next is new.

        `whole`: each recipient hears a reply of its own (LMTP), so all of them must have got it.
        """
        same = prepared.fingerprint
        if not same:
            return await deliver()
        while same in self._deciding:
            answer = await asyncio.shield(self._deciding[same])
            if _accepted(answer, whole):
                return self._known(prepared, answer.reply)
        decided: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._deciding[same] = decided
        answer = Answer(reply=LOCAL_ERROR)
        try:
            answer = await self._seen(prepared, window) or await deliver()
            if _accepted(answer, whole):
                await self._note(prepared, answer)
        finally:
            del self._deciding[same]
            decided.set_result(answer)
        return answer

    async def _seen(self, prepared: Prepared, window: float) -> Answer | None:
        try:
            known = await self._spool.find_seen(prepared.fingerprint, since=self._clock.now() - window)
        except SpoolError as error:  # rather twice than not at all
            log.error("spool.error", where="duplicates", error=str(error))
            return None
        return self._known(prepared, parse_reply(known)) if known else None

    async def _note(self, prepared: Prepared, answer: Answer) -> None:
        """What was promised stands, whether it can be noted or not."""
        try:
            await self._spool.note_seen(prepared.fingerprint, str(answer.reply), now=self._clock.now())
        except (SpoolError, SpoolFull) as error:
            log.error("spool.error", where="duplicates", error=str(error))

    def _known(self, prepared: Prepared, reply: Reply) -> Answer:
        log.info("message.duplicate", queue_id=prepared.message.queue_id, text=reply.text)
        return Answer(reply=reply)


def _accepted(answer: Answer, whole: bool) -> bool:
    each = answer.by_recipient.values() if whole else ()
    return answer.reply.code == 250 and all(reply.code == 250 for reply in each)
