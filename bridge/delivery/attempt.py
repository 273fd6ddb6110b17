"""One attempt: the calls that mail some recipients of one message, made within the provider's concurrency.

The same for mail whose client still waits and for mail from the spool, so that both share the provider's slots.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Literal

import structlog

from bridge.model import Addressing, Email, Envelope, Fault, Message, Outcome, idempotency_key
from bridge.providers.base import Provider
from bridge.reply import LOCAL_ERROR, Reply

log: Any = structlog.get_logger()

OFF_LOOP_SIZE = 64 * 1024  # octets of a message from which its addresses are sorted out in a thread
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
    """A running attempt. `outcomes` grows as calls end; `begun` is True from the moment a call may reach the provider.

    `waited`: a client waits for it, and its reply says what became of the message, so what was sent is not logged twice.
    """

    def __init__(
        self, message: Message, email: Email, groups: Sequence[tuple[str, ...]], *, number: int, waited: bool
    ) -> None:
        self.message = message
        self.email = email
        self.groups = groups
        self.number = number
        self.waited = waited
        self.recipients = tuple(r for group in groups for r in group)
        self.outcomes: dict[str, Outcome] = {}
        self.begun = False
        self.withdrawn = False
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None]

    def withdraw(self) -> bool:
        """Give it up if no call has begun; True when none ever will, also when a slot becomes free this very moment."""
        if not self.begun:
            self.withdrawn = True
            self.task.cancel()
        return self.withdrawn

    def close(self) -> None:
        """Begin no further call: what still waits for a slot is deferred, what was begun goes on to its end."""
        if not self._closed.done():
            self._closed.set_result(None)

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
        if self.withdrawn or self._closed.done():
            slots.release()
            return False
        return True

    @property
    def pending(self) -> tuple[str, ...]:
        return tuple(r for r in self.recipients if r not in self.outcomes)


class Dispatcher:
    """Makes attempts with one provider, `policy.concurrency` calls at once, and keeps their tasks."""

    def __init__(self, provider: Provider, *, degrade: bool = False) -> None:
        self.provider = provider
        self._degrade = degrade
        self._slots = asyncio.Semaphore(provider.policy.concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self._blocked = False

    def refusal(self, queue_id: str, email: Email, envelope: Envelope) -> Reply | None:
        """A reply when the provider cannot express this message (DESIGN 3.8), None when it can or may lose what it loses."""
        unfit = self.provider.unfit(email, envelope)
        if unfit is None:
            return None
        degraded = self._degrade and unfit.degradable
        event = "message.degraded" if degraded else "message.unfit"
        log.warning(event, queue_id=queue_id, provider=self.provider.name, losses=unfit.losses)
        return None if degraded else unfit.reply

    def begin(
        self,
        message: Message,
        email: Email,
        groups: Sequence[tuple[str, ...]],
        *,
        number: int = 1,
        waited: bool = False,
    ) -> Attempt:
        """Start an attempt for disjoint groups of recipients; a group's calls depend on nothing but the group (see `Claimed`)."""
        attempt = Attempt(message, email, groups, number=number, waited=waited)
        attempt.task = asyncio.create_task(self._run(attempt))
        self._tasks.add(attempt.task)
        attempt.task.add_done_callback(self._tasks.discard)
        return attempt

    async def drain(self, timeout: float) -> bool:
        """Wait for the running attempts; False when some were still running and have been cancelled."""
        if not self._tasks:
            return True
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return not late

    def tell(self, attempt: Attempt) -> None:
        """Nobody hears of it as a whole any more: log what was sent so far, and from now on each recipient as it comes."""
        attempt.waited = False
        for recipient, outcome in attempt.outcomes.items():
            if outcome.status == "sent":
                self._log(attempt, recipient, outcome)

    async def _run(self, attempt: Attempt) -> None:
        try:
            await self._calls(attempt)
        except asyncio.CancelledError:
            _give_up(attempt)
            raise
        except Exception:
            # A defect of ours must neither lose these recipients nor repeat them at once: they are deferred like any other.
            log.exception("attempt.error", queue_id=attempt.message.queue_id, provider=self.provider.name)
            _give_up(attempt)

    async def _calls(self, attempt: Attempt) -> None:
        large = len(attempt.message.raw) > OFF_LOOP_SIZE
        calls = await asyncio.to_thread(self._split, attempt) if large else self._split(attempt)
        if len(calls) == 1:
            await self._call(attempt, calls[0])
            return
        async with asyncio.TaskGroup() as tasks:
            for call in calls:
                tasks.create_task(self._call(attempt, call))

    def _split(self, attempt: Attempt) -> list[Addressing]:
        reverse_path = attempt.message.envelope.reverse_path
        return [call for group in attempt.groups for call in self.provider.calls(attempt.email, reverse_path, group)]

    async def _call(self, attempt: Attempt, call: Addressing) -> None:
        queue_id = attempt.message.queue_id
        if not await attempt.may_begin(self._slots):
            attempt.outcomes.update(dict.fromkeys(call.recipients, NO_SLOT))
            return
        try:
            attempt.begun = True
            started = time.monotonic()
            key = idempotency_key(queue_id, call.recipients)
            outcomes = await self.provider.send(attempt.email, call, queue_id=queue_id, key=key)
        finally:
            self._slots.release()
        duration_ms = round((time.monotonic() - started) * 1000, 1)
        for recipient in call.recipients:
            outcome = outcomes.get(recipient) or Outcome(status="unknown", reply=LOCAL_ERROR, fault=Fault.PROVIDER)
            attempt.outcomes[recipient] = outcome
            if not (attempt.waited and outcome.status == "sent"):
                self._log(attempt, recipient, outcome, duration_ms=duration_ms)
            self._note_account(outcome)

    def _log(self, attempt: Attempt, recipient: str, outcome: Outcome, **facts: Any) -> None:
        write = log.info if outcome.status in ("sent", "deferred") else log.warning
        optional = {
            "provider_message_id": outcome.provider_message_id,
            "fault": outcome.fault.value if outcome.fault else "",
            "detail": outcome.detail,
        }
        write(
            _EVENTS[outcome.status],
            queue_id=attempt.message.queue_id,
            recipient=recipient,
            provider=self.provider.name,
            code=outcome.reply.code,
            enhanced=outcome.reply.enhanced,
            text=outcome.reply.text,
            attempt=attempt.number,
            **facts,
            **{key: value for key, value in optional.items() if value},
        )

    def _note_account(self, outcome: Outcome) -> None:
        """Tell the operator once when the account is refused, and once when it is accepted again."""
        if outcome.fault is Fault.ACCOUNT and not self._blocked:
            self._blocked = True
            log.error("provider.blocked", provider=self.provider.name, text=outcome.reply.text, detail=outcome.detail)
        elif outcome.status == "sent" and self._blocked:
            self._blocked = False
            log.info("provider.unblocked", provider=self.provider.name)


def _give_up(attempt: Attempt) -> None:
    """Whoever reads the outcomes finds one for every recipient; of a call that may have gone out nothing is known."""
    status: Literal["unknown", "deferred"] = "unknown" if attempt.begun else "deferred"
    outcome = Outcome(status=status, reply=LOCAL_ERROR, fault=Fault.PROVIDER)
    attempt.outcomes.update(dict.fromkeys(attempt.pending, outcome))
