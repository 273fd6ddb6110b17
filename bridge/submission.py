"""The one door to the spool: every message comes through here, and what it answers is a promise.

250 is said when a provider took the message or the spool committed it, never before. The work runs in a task of its own, so
a client that hangs up cannot stop a commit that was promised, nor an attempt that has begun.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from bridge.clock import Clock
from bridge.delivery import verdict
from bridge.delivery.attempt import Attempt
from bridge.delivery.choice import Dispatchers
from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.recorder import Recorder
from bridge.delivery.retry import Tried
from bridge.mime.fields import header_exceeds, summary
from bridge.mime.trace import count_received, normalize_newlines, received_field, rfc5322_date, stamp
from bridge.model import Answer, Email, Envelope, Message, Origin, Peer
from bridge.providers.base import Provider
from bridge.reply import LOCAL_ERROR, SPOOL_FULL, TOO_MANY_HOPS, Reply, queued
from bridge.spool.base import Lease, Result, Spool, SpoolError, SpoolFull

log: Any = structlog.get_logger()

OFF_LOOP_SIZE = 64 * 1024  # octets from which a message is parsed in a thread, so that the loop is not held up
HEADER_TOO_LARGE = Reply(554, "5.6.0", "Message header is too large")
GONE = Reply(451, "4.4.2", "Connection lost before the message was safe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings of `[relay]` and what a message may not exceed. Times in seconds."""

    mode: Literal["auto", "queue", "direct"] = "auto"
    attempt_timeout: float = 10.0
    lifetime: float = 2 * 86400.0
    max_hops: int = 50
    max_header_size: int = 1024 * 1024
    hostname: str = "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    message: Message
    email: Email
    dispatcher: Dispatcher


class Submission:
    """Takes messages from the listeners. `wake` tells the runner that something was spooled."""

    def __init__(
        self,
        *,
        spool: Spool,
        dispatchers: Dispatchers,
        recorder: Recorder,
        rules: Rules,
        parse: Callable[[bytes], Email],
        new_queue_id: Callable[[], str],
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._spool = spool
        self._dispatchers = dispatchers
        self._recorder = recorder
        self._rules = rules
        self._parse = parse
        self._new_queue_id = new_queue_id
        self._clock = clock
        self._wake = wake
        self._tasks: set[asyncio.Task[Any]] = set()
        self._hurried: asyncio.Future[None] | None = None

    # --- for the listeners

    def submit(
        self, envelope: Envelope, content: bytes, *, origin: Origin, peer: Peer, by_recipient: bool = False
    ) -> asyncio.Task[Answer]:
        """Start taking one message; the task is kept here and never raises but when cancelled."""
        return self._keep(self._take(envelope, content, origin, peer, by_recipient))

    async def gate(self) -> Reply | None:
        """At MAIL: a reply when a message could not be kept anyway (checklist: best said before DATA)."""
        if self._rules.mode == "queue" and not await self._spool.writable():
            return SPOOL_FULL
        return None

    def hurry(self) -> None:
        """Shutdown: whoever waits for an attempt gets its message spooled now."""
        if self._hurried is None:
            self._hurried = asyncio.get_running_loop().create_future()
        if not self._hurried.done():
            self._hurried.set_result(None)

    async def drain(self, timeout: float) -> None:
        """Wait for running submissions and for the attempts they left behind."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)

    def abandon(self) -> None:
        """The end: what still runs is cut off. What was promised is in the spool, under a lease that the next start voids."""
        for task in self._tasks:
            task.cancel()

    def _keep(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- one message

    async def _take(self, envelope: Envelope, content: bytes, origin: Origin, peer: Peer, by_recipient: bool) -> Answer:
        started = time.monotonic()
        queue_id = self._new_queue_id()
        answer = Answer(reply=LOCAL_ERROR)
        try:
            prepared = await self._prepare(queue_id, envelope, content, origin)
            if isinstance(prepared, Reply):
                answer = Answer(reply=prepared)
            elif self._mode(prepared.dispatcher.provider) == "queue":
                answer = await self._queue(prepared.message)
            else:
                answer = await self._attempt(prepared, peer, by_recipient)
        except SpoolFull:
            answer = Answer(reply=SPOOL_FULL)
        except SpoolError as error:
            log.error("spool.error", queue_id=queue_id, error=str(error))
        except Exception:
            log.exception("submission.error", queue_id=queue_id)
        self._log(queue_id, envelope, len(content), origin, answer, started)
        return answer

    async def _prepare(self, queue_id: str, envelope: Envelope, content: bytes, origin: Origin) -> _Prepared | Reply:
        """Everything that needs no network (DESIGN 3.10)."""
        if len(content) > OFF_LOOP_SIZE:
            return await asyncio.to_thread(self._prepare_here, queue_id, envelope, content, origin)
        return self._prepare_here(queue_id, envelope, content, origin)

    def _prepare_here(self, queue_id: str, envelope: Envelope, content: bytes, origin: Origin) -> _Prepared | Reply:
        if header_exceeds(content, self._rules.max_header_size):
            return HEADER_TOO_LARGE
        content = normalize_newlines(content)
        if count_received(content) > self._rules.max_hops:
            return TOO_MANY_HOPS
        now = self._clock.now()
        raw = self._stamp(queue_id, envelope, content, origin, now)
        email = self._parse(raw)
        chosen = self._dispatchers.accept(queue_id, email, envelope)
        if isinstance(chosen, Reply):
            return chosen
        message_id, subject = (email.message_id, email.subject[:200]) if email.message_id else summary(raw)
        message = Message(
            queue_id=queue_id,
            envelope=envelope,
            raw=raw,
            created_at=now,
            expires_at=now + self._rules.lifetime,
            origin=origin,
            message_id=message_id,
            subject=subject,
        )
        return _Prepared(message=message, email=email, dispatcher=chosen)

    def _stamp(self, queue_id: str, envelope: Envelope, content: bytes, origin: Origin, now: float) -> bytes:
        hostname = self._rules.hostname
        only = envelope.recipients[0] if len(envelope.recipients) == 1 else ""
        received = received_field(origin, hostname=hostname, queue_id=queue_id, now=now, recipient=only, tls=origin.tls)
        return stamp(
            content,
            received=received,
            date=rfc5322_date(now),
            message_id=f"<{queue_id}@{hostname}>",
        )

    def _mode(self, provider: Provider) -> Literal["auto", "queue", "direct"]:
        """What capture takes is kept by the act of taking it; there is nothing to queue."""
        return "auto" if provider.keeps_bodies else self._rules.mode

    async def _queue(self, message: Message) -> Answer:
        await self._spool.put(message)
        self._wake()
        return Answer(reply=queued(message.queue_id))

    # --- auto and direct: the provider's verdict becomes the reply

    async def _attempt(self, prepared: _Prepared, peer: Peer, by_recipient: bool) -> Answer:
        message = prepared.message
        attempt = prepared.dispatcher.begin(message, prepared.email, [message.envelope.recipients], waited=True)
        await self._wait(attempt)
        if attempt.task.done():
            return await self._verdict(message, attempt, peer, by_recipient)
        return await self._leave(message, attempt, peer, by_recipient)

    async def _wait(self, attempt: Attempt) -> None:
        """Until the attempt ends, `attempt_timeout` passes or a shutdown hurries us.

        In direct mode no call is begun after that, and those that were are waited for: at most the provider's time-out more.
        """
        if self._hurried is None:
            self._hurried = asyncio.get_running_loop().create_future()
        await asyncio.wait(
            {attempt.task, self._hurried},
            timeout=self._rules.attempt_timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self._mode(attempt.provider) == "direct" and not attempt.task.done():
            attempt.close()
            await asyncio.wait({attempt.task})

    async def _leave(self, message: Message, attempt: Attempt, peer: Peer, by_recipient: bool) -> Answer:
        """Too slow: spool, say 250, and let the running attempt record its own result."""
        attempt.tell()
        if attempt.withdraw():  # it was still waiting for a slot: it may as well wait in the queue
            return Answer(reply=GONE) if peer.gone else await self._queue(message)
        if peer.gone:
            # Nobody was promised anything: whatever the attempt brings is the end of it.
            self._keep(self._finish_unspooled(message, attempt))
            return Answer(reply=GONE)
        lease = self._spool.new_lease(self._clock.now() + self._recorder.lease_s)
        pending, results = attempt.pending, self._results(attempt)
        try:
            await self._spool.put(message, results=results, lease=lease, leased=pending, provider=attempt.provider.name)
        except (SpoolFull, SpoolError):  # nowhere to leave it: the provider may still take it
            await asyncio.wait({attempt.task})
            return await self._verdict(message, attempt, peer, by_recipient)
        self._recorder.tell(message.queue_id, results)
        self._keep(self._finish(message, attempt, lease, pending))
        return Answer(reply=queued(message.queue_id))

    async def _finish(self, message: Message, attempt: Attempt, lease: Lease, pending: tuple[str, ...]) -> None:
        await self._recorder.follow(message.queue_id, lease, attempt)
        results = {a: r for a, r in self._results(attempt).items() if a in pending}
        await self._recorder.record(message.queue_id, lease, results)
        self._wake()

    async def _finish_unspooled(self, message: Message, attempt: Attempt) -> None:
        await asyncio.wait({attempt.task})
        await self._history(message, attempt.provider, verdict.only_sent(self._results(attempt)))

    def _results(self, attempt: Attempt) -> dict[str, Result]:
        expires_at = self._clock.now() + self._rules.lifetime
        return self._recorder.results(attempt, lambda _: Tried(expires_at=expires_at))

    async def _verdict(self, message: Message, attempt: Attempt, peer: Peer, by_recipient: bool) -> Answer:
        """The attempt has ended in time: one answer (DESIGN 3.7), or one for each recipient."""
        results = self._results(attempt)
        if all(r.status == "sent" for r in results.values()):
            await self._history(message, attempt.provider, results)
            return verdict.answer(message.queue_id, results, {})
        attempt.tell()
        keep = verdict.to_keep(results, mode=self._mode(attempt.provider), gone=peer.gone, by_recipient=by_recipient)
        if keep:
            final = keep
            keep = await self._put_rest(message, attempt.provider, keep, by_recipient)
            self._recorder.tell(message.queue_id, final)
        if not keep:
            await self._history(message, attempt.provider, verdict.only_sent(results))
        return verdict.answer(message.queue_id, results, keep)

    async def _put_rest(
        self, message: Message, provider: Provider, keep: dict[str, Result], by_recipient: bool
    ) -> dict[str, Result]:
        """What is then in the spool. Raises SpoolFull, SpoolError, but where each recipient can hear its own 4xx instead."""
        try:
            await self._spool.put(_only_to(message, keep), results=keep, provider=provider.name)
        except (SpoolFull, SpoolError) as error:
            await self._history(message, provider, verdict.only_sent(keep))
            if not by_recipient and any(result.status in verdict.OPEN for result in keep.values()):
                raise
            # Nothing is open, or who is open hears it: a 4xx for all would only mail those again that were sent.
            log.error("spool.error", queue_id=message.queue_id, error=str(error))
            keep = {}
        else:
            self._wake()
        return keep

    async def _history(self, message: Message, provider: Provider, results: Mapping[str, Result]) -> None:
        if results:
            keeps = provider.keeps_bodies
            await self._spool.put_history(_only_to(message, results), results, keep_body=keeps, durable=keeps)

    def _log(
        self, queue_id: str, envelope: Envelope, size: int, origin: Origin, answer: Answer, started: float
    ) -> None:
        reply = answer.reply
        log.info(
            _event(reply, queue_id),
            queue_id=queue_id,
            client=origin.client,
            user=origin.user,
            reverse_path=envelope.reverse_path,
            recipients=envelope.recipients,
            size=size,
            code=reply.code,
            enhanced=reply.enhanced,
            text=reply.text,
            duration_ms=round((time.monotonic() - started) * 1000, 1),
        )


def _only_to(message: Message, recipients: Collection[str]) -> Message:
    """A recipient in the spool that has no result there is one that is to be tried."""
    if len(recipients) == len(message.envelope.recipients):
        return message
    envelope = dataclasses.replace(message.envelope, recipients=tuple(recipients))
    return dataclasses.replace(message, envelope=envelope)


def _event(reply: Reply, queue_id: str) -> str:
    if reply.code != 250:
        return "message.rejected"
    return "message.queued" if reply == queued(queue_id) else "message.sent"
