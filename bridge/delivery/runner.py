"""The runner: takes due messages from the spool, attempts them, records what came of it.

It holds no more of the queue than the providers have use for, in messages and in bytes. It is woken by event (something was
spooled, a slot is free, the operator changed something) and polls as a safety net.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from bridge.clock import Clock
from bridge.delivery.attempt import Attempt
from bridge.delivery.choice import Dispatchers, bound_to
from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.recorder import Recorder
from bridge.delivery.retry import Tried, may_try_again
from bridge.model import Email, Fault
from bridge.reply import Reply
from bridge.spool.base import Claimed, ClaimedRecipient, Result, Spool, SpoolError, SpoolFull

log: Any = structlog.get_logger()

POLL_S = 5.0
REFUSED_S = 1.0  # until the next look at a spool that refuses to be written
PARSE_OFF_LOOP = 64 * 1024
# While works hold this much nothing is claimed, however few they are: a window of batches may be thousands of messages. One
# claim may go over it by its own limit; the parsed mail is about as large again.
MAX_BYTES = 64 << 20
INTERRUPTED = Reply(451, "4.4.2", "The attempt was interrupted, whether it was sent is not known")

Parse = Callable[[bytes], Email]


class Runner:
    """`run` until `stop`. `wake` may be called at any time from the loop's thread."""

    def __init__(
        self, *, spool: Spool, dispatchers: Dispatchers, recorder: Recorder, parse: Parse, clock: Clock, owner: str
    ) -> None:
        self._spool = spool
        self._dispatchers = dispatchers
        self._recorder = recorder
        self._parse = parse
        self._clock = clock
        self._owner = owner
        self._works: dict[asyncio.Task[None], int] = {}  # with the octets each holds
        self._bytes = 0
        self._backlog = False
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        """Claim no more; `drain` then waits for what runs."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            claimed = await self._claim()
            for item in claimed or ():
                self._start(item)
            if claimed is None:
                await self._clock.wait(asyncio.Event(), REFUSED_S)
            elif not claimed:
                await self._clock.wait(self._wake, await self._pause())

    async def drain(self, timeout: float) -> None:
        """Wait for running works; those that are late are cancelled and stay leased, so that the next start finds them."""
        if self._works:
            _, late = await asyncio.wait(set(self._works), timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # --- how much to hold

    async def _claim(self) -> Sequence[Claimed] | None:
        """None when the spool refuses: the next look must not come at once, however much is due."""
        if self._recorder.stuck:
            return None
        room = self._room()
        if room <= 0:
            return ()
        try:
            claimed = await self._spool.claim(
                owner=self._owner, now=self._clock.now(), lease_s=self._recorder.lease_s, limit=room
            )
        except (SpoolError, SpoolFull) as error:  # what cannot be written is not attempted
            log.error("spool.claim_failed", error=str(error))
            return None
        self._backlog = len(claimed) >= room
        return claimed

    def _room(self) -> int:
        """Messages to claim at most; 0 until works have ended.

        While more is due than fits, a whole batch is claimed or nothing: else works that end one by one would be followed one
        by one, and a queue once out of step would go out in single calls.
        """
        if self._bytes >= MAX_BYTES:
            return 0
        room = self._dispatchers.window - len(self._works)
        return room if not self._backlog or room >= self._dispatchers.max_batch else 0

    async def _pause(self) -> float:
        """Seconds until something is due; a full window waits for a work to end, which wakes us."""
        if self._room() <= 0:
            return POLL_S
        try:
            due = await self._spool.next_due()
        except SpoolError:
            return POLL_S
        return POLL_S if due is None else min(max(due - self._clock.now(), 0.0), POLL_S)

    def _start(self, item: Claimed) -> None:
        task = asyncio.create_task(self._work(item))
        self._works[task] = len(item.message.raw)
        self._bytes += len(item.message.raw)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._bytes -= self._works.pop(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            # Its lease runs out and it is found as interrupted; the others are not held up by it.
            log.error("runner.error", exc_info=error)

    # --- one message

    async def _work(self, item: Claimed) -> None:
        queue_id, raw = item.message.queue_id, item.message.raw
        by_address = {recipient.address: recipient for recipient in item.recipients}
        attempts: list[Attempt] = []
        try:
            email = await asyncio.to_thread(self._parse, raw) if len(raw) > PARSE_OFF_LOOP else self._parse(raw)
            settled, shares = self._share_out(item, email)
            await self._recorder.record(queue_id, item.lease, settled)
            attempts += [self._begin(item, email, dispatcher, share) for dispatcher, share in shares.items()]
            for attempt in attempts:
                await self._recorder.follow(queue_id, item.lease, attempt)
                results = self._recorder.results(attempt, lambda a: _tried(by_address[a]))
                await self._recorder.record(queue_id, item.lease, results)
        except asyncio.CancelledError:
            withdrawn = [attempt.withdraw() for attempt in attempts]
            if all(withdrawn):
                await self._recorder.give_back(item)
            for attempt in attempts:
                attempt.task.cancel()
            raise

    def _begin(
        self, item: Claimed, email: Email, dispatcher: Dispatcher, recipients: Iterable[ClaimedRecipient]
    ) -> Attempt:
        groups: dict[int | None, list[str]] = {}
        for recipient in recipients:
            groups.setdefault(recipient.group, []).append(recipient.address)
        # A call whose answer was lost is made again with its own key, which a request of several would not carry.
        repeated = dispatcher.provider.idempotent and any(group is not None for group in groups)
        number = max(recipient.attempts for recipient in recipients)
        return dispatcher.begin(item.message, email, [tuple(g) for g in groups.values()], number=number, alone=repeated)

    def _share_out(
        self, item: Claimed, email: Email
    ) -> tuple[dict[str, Result], dict[Dispatcher, list[ClaimedRecipient]]]:
        """The recipients that are not to be tried, each with its result, and who tries the others."""
        settled: dict[str, Result] = {}
        shares: dict[Dispatcher, list[ClaimedRecipient]] = {}
        bound: dict[str, list[ClaimedRecipient]] = {}
        for recipient in item.recipients:
            bound.setdefault(bound_to(recipient), []).append(recipient)
        for name, recipients in bound.items():
            owner = self._dispatchers.named(name)
            if name and owner is None:
                settled |= _left_behind(item.message.queue_id, name, recipients)
                continue
            # It may have been spooled under other settings; what would be lost is refused as it would have been at DATA.
            chosen = self._dispatchers.again(item.message.queue_id, email, item.message.envelope, owner)
            judge = (owner or self._dispatchers.first) if isinstance(chosen, Reply) else chosen
            for recipient in recipients:
                if _must_be_held(recipient, judge):
                    settled[recipient.address] = _held(recipient)
                elif isinstance(chosen, Reply):
                    settled[recipient.address] = Result(
                        status="bounced", reply=chosen, fault=Fault.MESSAGE, provider=judge.provider.name
                    )
                else:
                    shares.setdefault(chosen, []).append(recipient)
        return settled, shares


def _must_be_held(recipient: ClaimedRecipient, dispatcher: Dispatcher) -> bool:
    """Its attempt was interrupted, and another without the operator is one too many. The loss was counted at the claim."""
    provider = dispatcher.provider
    # In a batch it had another key than the one it gets now, so it may be mailed twice.
    same_key = provider.idempotent and provider.max_batch < 2
    return recipient.interrupted and not may_try_again(recipient.unknowns, provider.policy, idempotent=same_key)


def _held(recipient: ClaimedRecipient, detail: str = "") -> Result:
    reply = recipient.last_reply or INTERRUPTED
    return Result(status="held", reply=reply, provider=recipient.provider, detail=detail)


def _left_behind(queue_id: str, name: str, recipients: Sequence[ClaimedRecipient]) -> dict[str, Result]:
    """Who may have mailed them is no longer in the settings, and nobody else does so without being told to."""
    addresses = [recipient.address for recipient in recipients]
    log.error("provider.missing", queue_id=queue_id, provider=name, recipients=addresses)
    detail = f"it may have been sent by {name}, which is no longer configured"
    return {recipient.address: _held(recipient, detail) for recipient in recipients}


def _tried(recipient: ClaimedRecipient) -> Tried:
    return Tried(attempts=recipient.attempts, unknowns=recipient.unknowns, expires_at=recipient.expires_at)
