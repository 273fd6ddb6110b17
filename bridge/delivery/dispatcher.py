"""The dispatcher of one provider: makes its attempts, `policy.concurrency` calls at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from bridge.delivery.attempt import NO_SLOT, Attempt
from bridge.delivery.batch import Batches, Made
from bridge.model import Email, Fault, Message, Outcome, idempotency_key
from bridge.providers.base import Call, Provider
from bridge.reply import LOCAL_ERROR

log: Any = structlog.get_logger()

OFF_LOOP_SIZE = 64 * 1024  # octets of a message from which its addresses are sorted out in a thread
NO_OUTCOME = Outcome(status="unknown", reply=LOCAL_ERROR, fault=Fault.PROVIDER)


class Dispatcher:
    """Makes attempts with one provider and keeps their tasks."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self._slots = asyncio.Semaphore(provider.policy.concurrency)
        self._batches = Batches(provider, self._slots)
        self._tasks: set[asyncio.Task[None]] = set()
        self._blocked = False

    @property
    def window(self) -> int:
        """Messages from the spool worth holding at once: what its slots carry, or a batch under way and one that fills."""
        batch = self.provider.max_batch
        return max(self.provider.policy.concurrency, 2 * batch if batch > 1 else 0)

    def begin(
        self,
        message: Message,
        email: Email,
        groups: Sequence[tuple[str, ...]],
        *,
        number: int = 1,
        waited: bool = False,
        alone: bool = False,
    ) -> Attempt:
        """Start an attempt for disjoint groups of recipients; a group's calls depend on nothing but the group (see `Claimed`)."""
        attempt = Attempt(self.provider, message, email, groups, number=number, waited=waited, alone=alone)
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
        await self._batches.settle()
        return not late

    async def _run(self, attempt: Attempt) -> None:
        try:
            await self._calls(attempt)
        except asyncio.CancelledError:
            attempt.give_up()
            raise
        except Exception:
            # A defect of ours must neither lose these recipients nor repeat them at once: they are deferred like any other.
            log.exception("attempt.error", queue_id=attempt.message.queue_id, provider=self.provider.name)
            attempt.give_up()

    async def _calls(self, attempt: Attempt) -> None:
        large = len(attempt.message.raw) > OFF_LOOP_SIZE
        calls = await asyncio.to_thread(self._split, attempt) if large else self._split(attempt)
        if len(calls) == 1:
            await self._call(attempt, *calls[0])
            return
        async with asyncio.TaskGroup() as tasks:
            for call, batch_key in calls:
                tasks.create_task(self._call(attempt, call, batch_key))

    def _split(self, attempt: Attempt) -> list[tuple[Call, Hashable | None]]:
        """The calls, each with the key of those it may share a request with; None for a request of its own."""
        message, email = attempt.message, attempt.email
        found: list[tuple[Call, Hashable | None]] = []
        for group in attempt.groups:
            for addressing in self.provider.calls(email, message.envelope.reverse_path, group):
                key = idempotency_key(message.queue_id, addressing.recipients)
                call = Call(email=email, addressing=addressing, queue_id=message.queue_id, key=key)
                single = attempt.alone or self.provider.max_batch < 2
                found.append((call, None if single else self.provider.batch_key(call)))
        return found

    async def _call(self, attempt: Attempt, call: Call, batch_key: Hashable | None) -> None:
        if batch_key is None:
            made = await self._make(attempt, call)
        else:
            made = await self._batches.make(attempt, call, batch_key)
        if made is None:
            attempt.outcomes.update(dict.fromkeys(call.addressing.recipients, NO_SLOT))
            return
        facts = {"batch": made.batch} if made.batch > 1 else {}
        for recipient in call.addressing.recipients:
            outcome = made.outcomes.get(recipient) or replace(NO_OUTCOME, keyless=made.batch > 1)
            attempt.add(recipient, outcome, duration_ms=made.duration_ms, **facts)
            self._note_account(outcome)

    async def _make(self, attempt: Attempt, call: Call) -> Made | None:
        if not await attempt.may_begin(self._slots):
            return None
        try:
            attempt.begun = True
            started = time.monotonic()
            outcomes = await self.provider.send(attempt.email, call.addressing, queue_id=call.queue_id, key=call.key)
        finally:
            self._slots.release()
        return Made(outcomes, round((time.monotonic() - started) * 1000, 1))

    def _note_account(self, outcome: Outcome) -> None:
        """Tell the operator once when the account is refused, and once when it is accepted again."""
        if outcome.fault is Fault.ACCOUNT and not self._blocked:
            self._blocked = True
            log.error("provider.blocked", provider=self.provider.name, text=outcome.reply.text, detail=outcome.detail)
        elif outcome.status == "sent" and self._blocked:
            self._blocked = False
            log.info("provider.unblocked", provider=self.provider.name)
