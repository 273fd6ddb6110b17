"""The one door to the spool: every message comes through here, and what it answers is a promise.

250 is said when a provider took the message or the spool committed it, never before. The work runs in a task of its own, so
a client that hangs up cannot stop a commit that was promised, nor an attempt that has begun.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import structlog

from bridge import metrics, tracing
from bridge.budget import Exhausted, Hold
from bridge.clock import Clock
from bridge.content import Content, NoRoom, cost, footprint
from bridge.delivery import verdict
from bridge.delivery.attempt import NO_SLOT, Attempt
from bridge.delivery.choice import Dispatchers, Plan
from bridge.delivery.duplicates import Duplicates
from bridge.delivery.lanes import Lane
from bridge.delivery.preparation import Preparation, Prepared, Rules
from bridge.delivery.recorder import Recorder
from bridge.delivery.retry import Tried
from bridge.delivery.round import Round
from bridge.delivery.suppression import Suppressions
from bridge.mime.parse import Costly
from bridge.mime.sender import NO_SENDERS
from bridge.model import Answer, Email, Envelope, Fault, Message, Origin, Peer
from bridge.reply import LOCAL_ERROR, NO_MEMORY, SPOOL_FULL, Reply, queued
from bridge.spool.base import Lease, Result, Spool, SpoolError, SpoolFull

log: Any = structlog.get_logger()

OFF_LOOP_SIZE = 64 * 1024  # octets from which a message is parsed in a thread, so that the loop is not held up
_SOURCES = {"LMTP": "lmtp", "HTTP": "http"}  # by the first letters of the `with` word; anything else is SMTP
GONE = Reply(451, "4.4.2", "Connection lost before the message was safe")


class Submission:
    """Takes messages from the listeners. `waits_in` tells the runner in which lanes something was spooled."""

    def __init__(
        self,
        *,
        spool: Spool,
        dispatchers: Dispatchers,
        recorder: Recorder,
        rules: Rules,
        parse: Callable[..., Email],
        new_queue_id: Callable[[], str],
        clock: Clock,
        waits_in: Callable[..., None],
        suppressions: Suppressions | None = None,
    ) -> None:
        self._spool = spool
        self._dispatchers = dispatchers
        self._recorder = recorder
        self.rules = rules
        self._preparation = Preparation(dispatchers, parse, clock)
        self._new_queue_id = new_queue_id
        self._clock = clock
        self._waits_in = waits_in
        self._suppressions = suppressions
        self._duplicates = Duplicates(spool, clock)
        self.accepted = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._hurried: asyncio.Future[None] | None = None

    # --- for the listeners

    def submit(
        self,
        envelope: Envelope,
        content: Content,
        *,
        origin: Origin,
        peer: Peer,
        by_recipient: bool = False,
        queue_id: str = "",
        provider: str = "",
    ) -> asyncio.Task[Answer]:
        """Start taking one message; the task is kept here and never raises but when cancelled. The content is ours from here.

        `queue_id`: the one it shall have, for who must know it before. `provider`: the only one that may take it, whatever the
        routes say.
        """
        queue_id = queue_id or self._new_queue_id()
        return self._keep(self._take(queue_id, envelope, content, origin, peer, by_recipient, provider))

    async def gate(self) -> Reply | None:
        """At MAIL: a reply when a message could not be kept anyway (checklist: best said before DATA)."""
        if self.rules.mode == "queue" and not await self._spool.writable():
            return SPOOL_FULL
        return None

    def check_recipient(self, user: str, listener: str, sender: str, recipient: str) -> Reply | None:
        """At RCPT: the refusal of an address that must not be mailed, that a route refuses or that none takes.

        Where the sender is replaced, its route is known only when the header is; that of `<>` too.
        """
        if self._suppressions and (refusal := self._suppressions.refusal(recipient)):
            return refusal
        known = sender if self.rules.senders == NO_SENDERS else ""
        return self._dispatchers.refusal(user=user, listener=listener, sender=known, recipient=recipient)

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

    def _keep(self, work: Any, hold: Hold | None = None) -> asyncio.Task[Any]:
        """`hold` is of what the task works with, and given back after it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if hold:
            task.add_done_callback(lambda _: hold.release())
        return task

    # --- one message

    async def _take(
        self,
        queue_id: str,
        envelope: Envelope,
        content: Content,
        origin: Origin,
        peer: Peer,
        by_recipient: bool,
        provider: str,
    ) -> Answer:
        started, began = time.monotonic(), origin.began or tracing.tracer.now()
        answer = Answer(reply=LOCAL_ERROR)
        try:
            prepared = await self._prepare(queue_id, envelope, content, origin, peer, provider)
            if isinstance(prepared, Reply):
                answer = Answer(reply=prepared)
            else:
                deliver = functools.partial(self._deliver, prepared, peer, by_recipient, content.hold)
                answer = await self._duplicates.once(
                    prepared, deliver, window=self.rules.dedupe_window, whole=by_recipient
                )
        except (SpoolFull, NoRoom):
            answer = Answer(reply=SPOOL_FULL)
        except Exhausted:
            answer = Answer(reply=NO_MEMORY)
        except SpoolError as error:
            log.error("spool.error", queue_id=queue_id, error=str(error))
        except Exception:
            log.exception("submission.error", queue_id=queue_id)
        finally:
            content.abandon()
        self._log(queue_id, envelope, content.size, origin, answer, started)
        if began:
            _trace(queue_id, envelope, content.size, origin, answer.reply, began)
        return answer

    async def _prepare(
        self, queue_id: str, envelope: Envelope, content: Content, origin: Origin, peer: Peer, provider: str
    ) -> Prepared | Reply:
        """Everything that needs no network (DESIGN 3.10). Raises `budget.Exhausted`, NoRoom."""
        if await content.keep() and peer.gone:  # it has given up while we waited, and will send it again
            return GONE
        prepare = functools.partial(self._preparation, self.rules, queue_id, envelope, content, origin, only=provider)
        if content.size <= OFF_LOOP_SIZE:
            prepared = prepare()
        else:
            prepared = await self._prepare_long(prepare, content, peer)
        content.close()
        if isinstance(prepared, Prepared) and content.long:
            content.hold.resize(footprint(prepared.email))
        return prepared

    async def _prepare_long(
        self, prepare: Callable[..., Prepared | Reply], content: Content, peer: Peer
    ) -> Prepared | Reply:
        """Again from its beginning, with nothing held meanwhile, where it turns out to hold more than most."""
        has_all_there_is = content.hold.octets < cost(content.size)
        try:
            return await asyncio.to_thread(prepare, room=None if has_all_there_is else content.hold.octets)
        except Costly as costly:
            needed = costly.octets
        if await content.keep(needed) and peer.gone:
            return GONE
        return await asyncio.to_thread(prepare)

    # --- queue: safe first

    async def _deliver(self, prepared: Prepared, peer: Peer, by_recipient: bool, hold: Hold) -> Answer:
        if self._mode(prepared.plan) == "queue":
            return await self._queue(prepared.message, prepared.plan, prepared.email)
        return await self._attempt(prepared, peer, by_recipient, hold)

    def _mode(self, plan: Plan) -> Literal["auto", "queue", "direct"]:
        """What capture takes is kept by the act of taking it; there is nothing to queue."""
        first = (self._dispatchers.named(lane.names[0]) for lane in plan.lanes.values())
        return "auto" if any(one.provider.keeps_bodies for one in first if one) else self.rules.mode

    async def _queue(self, message: Message, plan: Plan, email: Email) -> Answer:
        await self._spool.put(message, results=_refused(plan), lanes=plan.texts)
        for _ in plan.refused:
            metrics.bounced.add(metrics.NOBODY)
        self._waits_in(plan.lanes.values(), arrived=(message.queue_id, email))
        if plan.refused:
            self._recorder.failed()
        return Answer(reply=queued(message.queue_id))

    # --- auto and direct: the provider's verdict becomes the reply

    async def _attempt(self, prepared: Prepared, peer: Peer, by_recipient: bool, hold: Hold) -> Answer:
        message, plan = prepared.message, prepared.plan
        attempts = Round(self._dispatchers, self._clock, message, prepared.email, plan)
        await self._wait(attempts, self._mode(plan))
        if attempts.done:
            return await self._verdict(message, plan, attempts, peer, by_recipient)
        return await self._leave(message, plan, attempts, peer, by_recipient, hold)

    async def _wait(self, attempts: Round, mode: str) -> None:
        """Until the attempts end, `attempt_timeout` passes or a shutdown hurries us.

        In direct mode no call is begun after that, and those that were are waited for: at most the provider's time-out more.
        """
        if attempts.task is None:
            return
        if self._hurried is None:
            self._hurried = asyncio.get_running_loop().create_future()
        either: set[asyncio.Future[Any]] = {attempts.task, self._hurried}
        await asyncio.wait(
            either,
            timeout=self.rules.attempt_timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if mode == "direct" and not attempts.done:
            attempts.close()
            await attempts.wait()

    async def _leave(
        self, message: Message, plan: Plan, attempts: Round, peer: Peer, by_recipient: bool, hold: Hold
    ) -> Answer:
        """Too slow: spool, say 250, and let the running attempts record their own results."""
        attempts.tell()
        if attempts.withdraw():  # they were still waiting for a slot: the message may as well wait in the queue
            return Answer(reply=GONE) if peer.gone else await self._queue(message, plan, attempts.email)
        if peer.gone:
            # Nobody was promised anything: whatever the attempts bring is the end of it.
            self._keep(self._finish_unspooled(message, attempts), hold.share())
            return Answer(reply=GONE)
        lease = self._spool.new_lease(self._clock.now() + self._recorder.lease_s)
        running, results = dict(attempts.running()), self._results(plan, attempts)
        leased = {recipient: attempt.provider.name for recipient, attempt in running.items()}
        lanes = {recipient: str(lane) for recipient, lane in attempts.lanes.items()}
        try:
            await self._spool.put(message, results=_decided(results), lease=lease, leased=leased, lanes=lanes)
        except (SpoolFull, SpoolError):  # nowhere to leave it: the provider may still take it
            await attempts.wait()
            return await self._verdict(message, plan, attempts, peer, by_recipient)
        self._recorder.tell(message.queue_id, results, wished=message.envelope.wants_success)
        self._waits_in(attempts.lanes.values())
        for attempt in dict.fromkeys(running.values()):
            # Those that were left: of some of them the result may have come during the commit.
            left = tuple(recipient for recipient, one in running.items() if one is attempt)
            self._keep(self._finish(message, attempts, attempt, lease, left), hold.share())
        return Answer(reply=queued(message.queue_id))

    async def _finish(
        self, message: Message, attempts: Round, attempt: Attempt, lease: Lease, pending: tuple[str, ...]
    ) -> None:
        await self._recorder.follow(message.queue_id, lease, attempt)
        results = {a: r for a, r in self._of(attempts, attempt).items() if a in pending}
        await self._recorder.record(message.queue_id, lease, results, wished=message.envelope.wants_success)
        untried = [a for a in pending if a not in results]
        if untried:  # a call that waited for its turn and was not begun
            later = Result(status="deferred", reply=NO_SLOT.reply, fault=Fault.PROVIDER, at=self._clock.now())
            await self._recorder.record(message.queue_id, lease, dict.fromkeys(untried, later))
        lanes = (Lane.parse(result.lane) for result in results.values() if result.lane)
        self._waits_in([*(lane for lane in lanes if lane), *_bound(results)])

    async def _finish_unspooled(self, message: Message, attempts: Round) -> None:
        await attempts.wait()
        await self._history(message, verdict.only_sent(self._results(Plan(), attempts)))

    def _of(self, attempts: Round, attempt: Attempt) -> dict[str, Result]:
        expires_at = self._clock.now() + self.rules.lifetime
        tried = Tried(attempts=attempt.number, expires_at=expires_at)
        return self._recorder.results(attempt, lambda _: tried, attempts.lanes.get)

    def _results(self, plan: Plan, attempts: Round) -> dict[str, Result]:
        """For every recipient that has one by now, in the order of the envelope; "queued" when nobody could be tried."""
        found = attempts.each(lambda attempt: self._of(attempts, attempt)) | _refused(plan)
        running = {recipient for recipient, _ in attempts.running()}
        waiting = Result(status="queued", reply=NO_SLOT.reply, fault=Fault.PROVIDER)
        idle = {r: waiting for r in plan.lanes if r not in found and r not in running}
        found |= idle
        return {r: found[r] for r in (*plan.lanes, *plan.refused, *found) if r in found}

    async def _verdict(self, message: Message, plan: Plan, attempts: Round, peer: Peer, by_recipient: bool) -> Answer:
        """The attempts have ended in time: one answer (DESIGN 3.7), or one for each recipient."""
        results = self._results(plan, attempts)
        wanted = any(message.envelope.wish(r).wants("SUCCESS") for r, one in results.items() if one.status == "sent")
        if all(r.status == "sent" for r in results.values()) and not wanted:
            await self._history(message, results)
            return verdict.answer(message.queue_id, results, {})
        attempts.tell()
        keep = verdict.to_keep(results, mode=self._mode(plan), gone=peer.gone, by_recipient=by_recipient)
        if wanted:
            keep |= verdict.only_sent(results)
        if keep:
            final = keep
            keep = await self._put_rest(message, keep, attempts.lanes, by_recipient)
            self._recorder.tell(message.queue_id, final, wished=wanted)
        if not keep:
            await self._history(message, verdict.only_sent(results))
        return verdict.answer(message.queue_id, results, keep)

    async def _put_rest(
        self, message: Message, keep: dict[str, Result], lanes: Mapping[str, Lane], by_recipient: bool
    ) -> dict[str, Result]:
        """What is then in the spool. Raises SpoolFull, SpoolError, but where each recipient can hear its own 4xx instead."""
        texts = {recipient: str(lanes[recipient]) for recipient in keep if recipient in lanes}
        try:
            await self._spool.put(_only_to(message, keep), results=_decided(keep), lanes=texts)
        except (SpoolFull, SpoolError) as error:
            if not by_recipient and any(result.status in verdict.OPEN for result in keep.values()):
                await self._history(message, verdict.only_sent(keep))
                raise
            # Nothing is open, or who is open hears it: a 4xx for all would only mail those again that were sent.
            log.error("spool.error", queue_id=message.queue_id, error=str(error))
            keep = {}
        else:
            moved = (Lane.parse(result.lane) for result in keep.values() if result.lane)
            self._waits_in([*lanes.values(), *(lane for lane in moved if lane), *_bound(keep)])
        return keep

    async def _history(self, message: Message, results: Mapping[str, Result]) -> None:
        if results:
            keeps = any(result.keep_body for result in results.values())
            await self._spool.put_history(_only_to(message, results), results, keep_body=keeps, durable=keeps)

    def _count(self, protocol: str, reply: Reply) -> None:
        source = _SOURCES.get(protocol[:4], "smtp")
        if reply.code == 250:
            self.accepted += 1
            metrics.received.add(source)
        else:
            metrics.rejected.add(source, reply.code)

    def _log(
        self, queue_id: str, envelope: Envelope, size: int, origin: Origin, answer: Answer, started: float
    ) -> None:
        reply = answer.reply
        self._count(origin.protocol, reply)
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


def _refused(plan: Plan) -> dict[str, Result]:
    """Those that no provider takes; of the others of the message nobody hears that."""
    return {r: Result(status="bounced", reply=reply, fault=Fault.MESSAGE) for r, reply in plan.refused.items()}


def _decided(results: Mapping[str, Result]) -> dict[str, Result]:
    """Without those that only wait for their first attempt: the spool knows them by having no result."""
    return {recipient: result for recipient, result in results.items() if result.status != "queued"}


def _bound(results: Mapping[str, Result]) -> list[Lane]:
    names = {result.provider for result in results.values() if result.unknown}
    return [Lane(names=(name,), bound=True) for name in names]


def _trace(queue_id: str, envelope: Envelope, size: int, origin: Origin, reply: Reply, began: int) -> None:
    tracing.tracer.ended(
        "http.submission" if origin.protocol == "HTTP" else "smtp.transaction",
        queue_id,
        began,
        first=True,
        failure="" if reply.code == 250 else f"{reply.code} {reply.enhanced}",  # its text may quote an address
        outcome=_event(reply, queue_id).removeprefix("message."),
        protocol=origin.protocol,
        listener=origin.listener,
        recipients=len(envelope.recipients),
        size=size,
        code=reply.code,
    )


def _event(reply: Reply, queue_id: str) -> str:
    if reply.code != 250:
        return "message.rejected"
    return "message.queued" if reply == queued(queue_id) else "message.sent"
