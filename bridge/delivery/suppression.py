"""Addresses that must not be mailed: entered by hand, or because a provider said that they do not exist."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from bridge.clock import Clock
from bridge.delivery.dispatcher import Dispatcher
from bridge.model import Outcome, mailbox_key
from bridge.reply import Reply
from bridge.spool.base import Spool, SpoolError, SpoolFull

log: Any = structlog.get_logger()

# RFC 3463: no such mailbox, no such system, mailbox moved, no MX.
_HARD = frozenset({"5.1.1", "5.1.2", "5.1.6", "5.1.10"})
_SUPPRESSED = (
    "5.7.1"  # on the provider's own list; of a smarthost it may be about us (a block list), not about the recipient
)


class Suppressions:
    """The list in memory, so that RCPT waits for no disk; `load` brings what the spool has. `names`: providers that add to it."""

    def __init__(self, spool: Spool, clock: Clock, names: frozenset[str] = frozenset()) -> None:
        self._spool = spool
        self._clock = clock
        self._reasons: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.names = names

    async def load(self) -> None:
        """Raises SpoolError."""
        self._reasons = dict(await self._spool.suppressions())

    def reload_soon(self) -> None:
        self._keep(asyncio.create_task(self._reload()))

    async def _reload(self) -> None:
        try:
            await self.load()
        except SpoolError as error:
            log.error("spool.error", error=str(error))

    def refusal(self, address: str) -> Reply | None:
        reason = self._reasons.get(mailbox_key(address)) if self._reasons else None
        return None if reason is None else Reply.safe(550, "5.7.1", f"Recipient is suppressed: {reason}")

    def add(self, address: str, reason: str) -> None:
        """The spool has it already."""
        self._reasons.setdefault(mailbox_key(address), reason)

    def note(self, dispatcher: Dispatcher, recipient: str, outcome: Outcome) -> None:
        """A provider refused this recipient; kept when it is one that is asked to, and the refusal is for good."""
        name, key, status = dispatcher.provider.name, mailbox_key(recipient), outcome.reply.enhanced
        hard = status in _HARD or (status == _SUPPRESSED and dispatcher.provider.kind != "smtp")
        if name not in self.names or not hard or key in self._reasons:
            return
        self._reasons[key] = reason = str(outcome.reply)
        self._keep(asyncio.create_task(self._write(recipient, reason, name)))

    async def _write(self, recipient: str, reason: str, name: str) -> None:
        try:
            await self._spool.suppress(recipient, reason, provider=name, now=self._clock.now())
        except (SpoolError, SpoolFull) as error:  # known until the next start, and the provider says it again
            log.error("spool.error", error=str(error))
            return
        log.warning("recipient.suppressed", recipient=recipient, provider=name, text=reason)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
