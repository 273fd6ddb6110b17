"""One attempt: the calls that mail some recipients of one message with one provider, and what came of them.

The same for mail whose client still waits and for mail from the spool, so that both share the provider's slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from bridge.model import Email, Fault, Message, Outcome
from bridge.providers.base import Provider
from bridge.reply import LOCAL_ERROR, Reply

log: Any = structlog.get_logger()

_EVENTS = {
    "sent": "attempt.sent",
    "deferred": "attempt.deferred",
    "bounced": "attempt.bounced",
    "unknown": "attempt.unknown",
}


NO_SLOT = Outcome(
    status="deferred", reply=Reply(451, "4.4.5", "Mail service is busy, try again later"), fault=Fault.PROVIDER
)


class Attempt:
    """A running attempt. `outcomes` grows as calls end; `begun` is True from the moment a call may reach the provider,
    `batched` when one has left in a request with others: under another key than a later call will have.

    `waited`: a client waits for it, and its reply says what became of the message, so what was sent is not logged twice.
    `alone`: its calls never share a request with those of other messages. `probe`: the number with which it finds out whether
    the provider is back, 0 for any other.
    """

    def __init__(
        self,
        provider: Provider,
        message: Message,
        email: Email,
        groups: Sequence[tuple[str, ...]],
        *,
        number: int = 1,
        waited: bool = False,
        alone: bool = False,
        probe: int = 0,
    ) -> None:
        self.provider = provider
        self.message = message
        self.email = email
        self.groups = groups
        self.number = number
        self.waited = waited
        self.alone = alone or waited or bool(probe)
        self.probe = probe
        self.recipients = tuple(r for group in groups for r in group)
        self.outcomes: dict[str, Outcome] = {}
        self.begun = False
        self.batched = False
        self.withdrawn = False
        self.ending = asyncio.Event()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None]

    def withdraw(self) -> bool:
        """Give it up if no call has begun; True when none ever will, also when a slot becomes free this very moment."""
        if not self.begun:
            self.withdrawn = True
            self.ending.set()
            self.task.cancel()
        return self.withdrawn

    def close(self) -> None:
        """Begin no further call: what still waits for a slot is deferred, what was begun goes on to its end."""
        self.ending.set()
        if not self._closed.done():
            self._closed.set_result(None)

    @property
    def ended(self) -> bool:
        """Withdrawn or closed: no call may begin any more."""
        return self.withdrawn or self._closed.done()

    async def may_begin(self, slots: asyncio.Semaphore) -> bool:
        """Wait for a slot, which the caller then holds; False, and none is held, when the attempt is closed or withdrawn."""
        if slots.locked():
            waiting = asyncio.create_task(slots.acquire())
            either: set[asyncio.Future[Any]] = {waiting, self._closed}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                waiting.add_done_callback(lambda task: None if task.cancelled() else slots.release())
                waiting.cancel()
                raise
            if not waiting.done():
                waiting.cancel()
                return False
        else:
            await slots.acquire()
        if self.ended:
            slots.release()
            return False
        return True

    @property
    def pending(self) -> tuple[str, ...]:
        return tuple(r for r in self.recipients if r not in self.outcomes)

    @property
    def untried(self) -> tuple[str, ...]:
        """Recipients of whom no call was made: they wait as if nothing had been."""
        if self.withdrawn:
            return self.recipients
        return tuple(r for r, outcome in self.outcomes.items() if outcome is NO_SLOT)

    def give_up(self, otherwise: Outcome = NO_SLOT) -> None:
        """Whoever reads the outcomes finds one for every recipient: of a call that may have gone out nothing is known, and
        where none was begun it is `otherwise`."""
        lost = Outcome(status="unknown", reply=LOCAL_ERROR, fault=Fault.PROVIDER, keyless=self.batched)
        self.outcomes.update(dict.fromkeys(self.pending, lost if self.begun else otherwise))

    def add(self, recipient: str, outcome: Outcome, **facts: Any) -> None:
        """The outcome of a call for one recipient, with a line in the log; `facts` are told with it."""
        self.outcomes[recipient] = outcome
        if not (self.waited and outcome.status == "sent"):
            self._log(recipient, outcome, **facts)

    def tell(self) -> None:
        """Nobody hears of it as a whole any more: log what was sent so far, and from now on each recipient as it comes."""
        self.waited = False
        for recipient, outcome in self.outcomes.items():
            if outcome.status == "sent":
                self._log(recipient, outcome)

    def _log(self, recipient: str, outcome: Outcome, **facts: Any) -> None:
        write = log.info if outcome.status in ("sent", "deferred") else log.warning
        optional = {
            "provider_message_id": outcome.provider_message_id,
            "fault": outcome.fault.value if outcome.fault else "",
            "detail": outcome.detail,
        }
        write(
            _EVENTS[outcome.status],
            queue_id=self.message.queue_id,
            recipient=recipient,
            provider=self.provider.name,
            code=outcome.reply.code,
            enhanced=outcome.reply.enhanced,
            text=outcome.reply.text,
            attempt=self.number,
            **facts,
            **{key: value for key, value in optional.items() if value},
        )
