"""The runner: takes due messages from the spool, attempts them, records what came of it.

For each provider it claims what waits in the lanes that are its turn, and no more than the provider has use for; a provider
that is left alone has nothing claimed, so nothing burns attempts meanwhile. It is woken by event (something was spooled, a slot
is free, the operator changed something) and polls as a safety net.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from bridge.budget import QUEUE_SHARE, Hold, MemoryBudget
from bridge.clock import Clock
from bridge.content import LONG_COST, cost, footprint
from bridge.delivery.attempt import Attempt
from bridge.delivery.breaker import Change
from bridge.delivery.choice import Dispatchers, bound_to
from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.lanes import Lane
from bridge.delivery.parsed import Parsed
from bridge.delivery.recorder import Recorder
from bridge.delivery.retry import Tried, dispose, may_try_again
from bridge.delivery.routing import NO_ROUTE, REFUSED_BY_ROUTE
from bridge.mime.parse import Costly
from bridge.mime.pieces import LARGE
from bridge.model import Email, Fault, Message, Outcome
from bridge.providers.base import Provider
from bridge.reply import LOCAL_ERROR, Reply
from bridge.spool.base import Claimed, ClaimedRecipient, Result, Spool, SpoolError, SpoolFull, bound_lane

log: Any = structlog.get_logger()

POLL_S = 5.0
REFUSED_S = 1.0  # until the next look at a spool that refuses to be written
OFF_LOOP_SIZE = 64 * 1024
SORTED_AT_ONCE = 50  # messages that were put under other settings
GATHER_S = 0.002
NO_MEMORY_S = 0.2  # until the next look when the budget is used up
INTERRUPTED = Reply(451, "4.4.2", "The attempt was interrupted, whether it was sent is not known")

Parse = Callable[..., Email]  # (raw, room=): see bridge/mime/parse.py


@dataclass(frozen=True, slots=True)
class Work:
    """What a claimed message holds while it is worked on."""

    hold: Hold
    dispatcher: Dispatcher | None


class Runner:
    """`run` until `stop`. `wake` may be called at any time from the loop's thread."""

    def __init__(
        self,
        *,
        spool: Spool,
        dispatchers: Dispatchers,
        recorder: Recorder,
        parse: Parse,
        clock: Clock,
        owner: str,
        budget: MemoryBudget,
    ) -> None:
        self._spool = spool
        self._dispatchers = dispatchers
        self._recorder = recorder
        self._parse = parse
        self._clock = clock
        self._owner = owner
        self._works: dict[asyncio.Task[None], Work] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._budget = budget
        self._arrived = Parsed(budget)
        self._held_octets = 0
        self._reserve()
        self._backlog: set[str] = set()  # providers for which more was due than fitted
        self._lanes: dict[str, Lane | None] = {}  # those in which somebody may wait
        self._look_at = 0.0  # when lanes that the spool has and we do not know are looked for again
        self._sort_at = 0.0  # when lanes of other settings are looked at again
        self._wake = asyncio.Event()
        self._stopping = False
        self._claiming = asyncio.Lock()

    # --- from outside

    def wake(self) -> None:
        self._wake.set()

    def waits_in(self, lanes: Iterable[Lane], arrived: tuple[str, Email] | None = None) -> None:
        """Something was spooled in these lanes: the message of this queue id as it was parsed, if that is at hand."""
        if arrived:
            self._arrived.keep(*arrived, self._clock.now())
        for lane in lanes:
            self._lanes.setdefault(str(lane), lane)
            if not self._dispatchers.is_current(lane):  # planned before a reload, and put after it
                self._sort_at = 0.0
        self.wake()

    def hurry(self) -> None:
        """The operator did something: who is left alone is tried once, now."""
        for dispatcher in self._dispatchers.all:
            dispatcher.breaker.hurry()
            dispatcher.limiter.hurry()
        self._look_at = 0.0
        self.wake()

    def stop(self) -> None:
        """Claim no more; `drain` then waits for what runs."""
        self._stopping = True
        self._wake.set()

    def changed(self, dispatcher: Dispatcher, change: Change) -> None:
        """A breaker opened or closed. Before anything is claimed again, all that it deferred is made due."""
        if change == "closed":
            dispatcher.resuming = True
            task = asyncio.create_task(self._resume(dispatcher))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.wake()

    async def run(self) -> None:
        await self._look_for_lanes(await_all=True)
        while not self._stopping:
            self._wake.clear()
            if self._clock.now() >= self._look_at:
                await self._look_for_lanes()
            # Works that end together make one claim, and so one transaction.
            await asyncio.sleep(GATHER_S if self._works else 0)
            claimed = await self._claim()
            if claimed is None:
                await self._clock.wait(asyncio.Event(), REFUSED_S)
            elif not claimed:
                await self._clock.wait(self._wake, await self._pause())

    async def drain(self, timeout: float) -> None:
        """Wait for running works; those that are late are cancelled and stay leased, so that the next start finds them."""
        async with self._claiming:  # what is being claimed right now is a work then
            pass
        if self._works:
            _, late = await asyncio.wait(set(self._works), timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for task in tuple(self._tasks):
            task.cancel()

    # --- lanes

    async def _look_for_lanes(self, *, await_all: bool = False) -> None:
        """Those of an earlier run, those that the operator's changes made, and those of leases that ran out.

        Now and then those in which somebody waits for his turn, which costs a step for each; `await_all`: at a start also those
        in which all wait for a moment.
        """
        self._look_at = self._clock.now() + POLL_S
        try:
            found = await self._spool.lanes(ready_only=not await_all)
        except SpoolError as error:
            log.error("spool.claim_failed", error=str(error))
            return
        for text in found:
            lane = self._lanes.setdefault(text, Lane.parse(text))
            if not self._dispatchers.is_current(lane):
                self._sort_at = 0.0

    def _assigned(self, now: float) -> tuple[dict[Dispatcher, list[str]], list[str]]:
        """For each provider the lanes whose turn it is to serve; and those that are to be sorted again."""
        # Somebody may at any time be left to one provider alone, by a lease that ran out.
        turns = {one: [bound_lane(one.provider.name)] for one in self._dispatchers.all if one.ready(now)}
        foreign = []
        for text, lane in self._lanes.items():
            if lane is None or not self._dispatchers.is_current(lane):
                foreign.append(text)
                continue
            if lane.bound:
                continue
            served = {self._dispatchers.ready_for(lane, now), self._dispatchers.next_for(lane, now)}
            for dispatcher in served - {None}:
                assert dispatcher is not None
                turns.setdefault(dispatcher, []).append(text)
        return turns, foreign

    def idle_lanes(self, now: float) -> list[str]:
        """Lanes in which nothing is attempted for the time being, through no fault of the account."""
        found = []
        for text, lane in self._known().items():
            if lane is None or not self._dispatchers.is_current(lane):
                continue
            among = [one for name in lane.names if (one := self._dispatchers.named(name))]
            if not any(one.available(now) or one.breaker.blocked for one in among):
                found.append(text)
        return found

    def _known(self) -> dict[str, Lane | None]:
        """With those that a lease which ran out may fill at any time."""
        bound = (Lane(names=(one.provider.name,), bound=True) for one in self._dispatchers.all)
        return {**self._lanes, **{str(lane): lane for lane in bound}}

    async def release(self, dispatcher: Dispatcher, now: float) -> None:
        """It is no longer used: what it deferred is due now, with the time it was blocked on top. Raises SpoolError."""
        name, breaker = dispatcher.provider.name, dispatcher.breaker
        lanes = [text for text, lane in self._known().items() if lane and name in lane.names]
        await self._spool.resume(lanes, now=now, blocked_s=now - breaker.since if breaker.blocked else 0.0)

    async def _resume(self, dispatcher: Dispatcher) -> None:
        name, now = dispatcher.provider.name, self._clock.now()
        lanes = [text for text, lane in self._known().items() if lane and name in lane.names]
        alone = [text for text in lanes if not self._others_available(text, name, now)]
        blocked_s = now - dispatcher.breaker.since if dispatcher.breaker.was_blocked else 0.0
        try:
            await self._spool.resume([text for text in lanes if text not in alone], now=now)
            due = await self._spool.resume(alone, now=now, blocked_s=blocked_s)
            log.info("provider.resumed", provider=name, recipients=due)
        except (SpoolError, SpoolFull) as error:  # they come due by themselves, later
            log.error("spool.resume_failed", provider=name, error=str(error))
        finally:
            dispatcher.resuming = False
            self.wake()

    def _others_available(self, text: str, name: str, now: float) -> bool:
        lane = Lane.parse(text)
        others = (self._dispatchers.named(other) for other in (lane.names if lane else ()) if other != name)
        return any(one.available(now) for one in others if one)

    # --- how much to hold

    async def _claim(self) -> int | None:
        """Messages taken; None when the spool refuses: the next look must not come at once, however much is due."""
        if self._recorder.stuck:
            return None
        if self._octets_left() <= 0:
            return 0
        now = self._clock.now()
        turns, foreign = self._assigned(now)
        claims: list[tuple[Dispatcher | None, list[str], int]] = [
            (one, lanes, room) for one, lanes in turns.items() if (room := self._room(one, now))
        ]
        if foreign and now >= self._sort_at and not self._held(None):
            self._sort_at = now + POLL_S
            claims.append((None, foreign, SORTED_AT_ONCE))
        claimed = 0
        try:
            for one, lanes, room in claims:  # one after the other: what one takes is no longer there for the next
                if claimed and self._octets_left() <= 0:
                    break
                async with self._claiming:
                    if self._stopping:
                        break
                    claimed += await self._claim_for(one, lanes, room, now)
        except (SpoolError, SpoolFull) as error:  # what cannot be written is not attempted
            log.error("spool.claim_failed", error=str(error))
            return None
        return claimed

    async def _claim_for(self, dispatcher: Dispatcher | None, lanes: list[str], room: int, now: float) -> int:
        name = dispatcher.provider.name if dispatcher else ""
        claimed = await self._spool.claim(
            owner=self._owner,
            now=now,
            lease_s=self._recorder.lease_s,
            limit=room,
            lanes=sorted(lanes),
            provider=name,
            sorting=dispatcher is None,
            octets=max(self._octets_left(), 0) // LONG_COST,
        )
        (self._backlog.add if len(claimed) >= room else self._backlog.discard)(name)
        if claimed and dispatcher is None:
            self._sort_at = 0.0
        for item in claimed:
            self._start(item, dispatcher)
        return len(claimed)

    def _octets_left(self) -> int:
        """Of the budget: what nobody holds, our share at least. However few messages they are: a window of batches may be
        thousands. One message may go over it."""
        share = self._budget.total // QUEUE_SHARE - self._held_octets
        return max(share, self._budget.most_large - self._budget.large)

    def _reserve(self) -> None:
        self._budget.reserved = max(self._budget.total // QUEUE_SHARE - self._held_octets, 0)

    def _held(self, dispatcher: Dispatcher | None) -> int:
        return sum(work.dispatcher is dispatcher for work in self._works.values())

    def _room(self, dispatcher: Dispatcher, now: float) -> int:
        """Messages to claim at most; 0 until works have ended.

        While more is due than fits, a whole batch is claimed or nothing: else works that end one by one would be followed one
        by one, and a queue once out of step would go out in single calls.
        """
        room = dispatcher.room(now, self._held(dispatcher))
        behind = dispatcher.provider.name in self._backlog and dispatcher.steady
        return room if not behind or room >= dispatcher.provider.max_batch else 0

    async def _pause(self) -> float:
        """Seconds until something is due; a full window waits for a work to end, which wakes us."""
        now = self._clock.now()
        turns, _ = self._assigned(now)
        lanes = [text for one, texts in turns.items() if self._room(one, now) for text in texts]
        waits = [until - now for one in self._dispatchers.all if (until := one.waits_until(now)) is not None]
        try:
            due = await self._spool.next_due(sorted(lanes)) if lanes else None
        except SpoolError:
            due = None
        if due is not None:
            waits.append(max(due - self._clock.now(), 0.0 if self._octets_left() > 0 else NO_MEMORY_S))
        return min(max(min(waits, default=POLL_S), 0.0), POLL_S)

    def _start(self, item: Claimed, dispatcher: Dispatcher | None) -> None:
        task = asyncio.create_task(self._work(item, dispatcher) if dispatcher else self._sort(item))
        hold = self._budget.charge(cost(len(item.message.raw)), large=True)
        self._works[task] = Work(hold, dispatcher)
        self._held_octets += hold.octets
        self._reserve()
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        hold = self._works.pop(task).hold
        self._held_octets -= hold.octets
        self._reserve()
        hold.release()
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            # Its lease runs out and it is found as interrupted; the others are not held up by it.
            log.error("runner.error", exc_info=error)

    def _holds(self, octets: int) -> None:
        """It is known now what the message of this task holds: there may be room for another. More than was thought is taken
        whatever is left."""
        task = asyncio.current_task()
        hold = self._works[task].hold if task in self._works else None
        if hold and (less := hold.octets - octets):
            self._held_octets -= less
            self._reserve()
            hold.resize(octets)
            if less > 0:
                self._wake.set()

    # --- one message

    async def _parsed(self, message: Message) -> Email:
        raw = message.raw
        if email := self._arrived.take(message):
            return email
        if len(raw) <= OFF_LOOP_SIZE:
            return self._parse(raw)
        try:
            return await asyncio.to_thread(self._parse, raw, room=cost(len(raw)))
        except Costly as costly:
            self._holds(costly.octets)
        return await asyncio.to_thread(self._parse, raw)

    async def _work(self, item: Claimed, dispatcher: Dispatcher) -> None:
        queue_id, attempt = item.message.queue_id, None
        by_address = {recipient.address: recipient for recipient in item.recipients}
        try:
            email = await self._parsed(item.message)
            if len(item.message.raw) > LARGE:
                self._holds(footprint(email))
            settled = await self._not_to_be_tried(item, email, dispatcher)
            await self._recorder.record(queue_id, item.lease, settled)
            rest = [recipient for recipient in item.recipients if recipient.address not in settled]
            if not rest:
                return
            if lane := self._lane(rest[0]):
                self._dispatchers.tell_failover(item.message, email, lane, dispatcher.provider)
            attempt = self._begin(item, email, dispatcher, rest)
            await self._recorder.follow(queue_id, item.lease, attempt)
            await self._record(item, attempt, by_address)
        except asyncio.CancelledError:
            if attempt is None or attempt.withdraw():
                await self._recorder.give_back(item)
            if attempt is not None:
                attempt.task.cancel()
            raise
        except Exception as error:
            if attempt is not None:
                raise
            log.error("runner.error", queue_id=queue_id, exc_info=error)
            await self._recorder.record(queue_id, item.lease, self._put_off(item, dispatcher.provider))

    def _put_off(self, item: Claimed, provider: Provider) -> dict[str, Result]:
        """After a defect of ours before any call: it waits longer each time, and not beyond its lifetime. Whether a lost answer
        was a yes is as unknown as before."""
        chance = random.random()  # noqa: S311 no secret; those of one lost call come due together
        return {
            recipient.address: dispose(
                _tried(recipient),
                Outcome(status="unknown" if recipient.group is not None else "deferred", reply=LOCAL_ERROR),
                now=self._clock.now(),
                retry=self._recorder.retry,
                provider=provider.name,
                policy=provider.policy,
                idempotent=provider.idempotent,
                chance=lambda: chance,
            )
            for recipient in item.recipients
        }

    async def _record(self, item: Claimed, attempt: Attempt, by_address: dict[str, ClaimedRecipient]) -> None:
        results = self._recorder.results(attempt, lambda a: _tried(by_address[a]), lambda a: self._lane(by_address[a]))
        for result in results.values():
            if result.lane:
                self._lanes.setdefault(result.lane, Lane.parse(result.lane))
            elif result.unknown:
                self._lanes.setdefault(bound_lane(result.provider), Lane.parse(bound_lane(result.provider)))
        wished = item.message.envelope.wants_success
        await self._recorder.record(item.message.queue_id, item.lease, results, wished=wished)
        if attempt.untried:  # what was recorded is no longer under the lease
            await self._recorder.give_back(item)

    def _lane(self, recipient: ClaimedRecipient) -> Lane | None:
        return Lane.parse(recipient.lane)

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

    async def _not_to_be_tried(self, item: Claimed, email: Email, dispatcher: Dispatcher) -> dict[str, Result]:
        """Those whose attempt was interrupted and who may not be tried without the operator; and those bound to a provider
        that would now lose something, since it has other settings."""
        held = {r.address: _held(r) for r in item.recipients if _must_be_held(r, dispatcher)}
        bound = [r for r in item.recipients if r.address not in held and r.lane == bound_lane(dispatcher.provider.name)]
        if not bound:
            return held
        large = len(item.message.raw) > OFF_LOOP_SIZE
        # Only they are judged: another recipient's address is no reason against them.
        judge, envelope = (
            dispatcher.provider,
            replace(item.message.envelope, recipients=tuple(r.address for r in bound)),
        )
        unfit = await asyncio.to_thread(judge.unfit, email, envelope) if large else judge.unfit(email, envelope)
        if unfit is None or (self._dispatchers.degrades and unfit.degradable):
            return held
        refused = Result(status="bounced", reply=unfit.reply, fault=Fault.MESSAGE, provider=judge.name)
        return held | {r.address: refused for r in bound}

    # --- mail that was put under other settings

    async def _sort(self, item: Claimed) -> None:
        """After a defect of ours it is sorted again when its lease has run out, and not beyond its lifetime."""
        try:
            await self._find_lanes(item)
        except Exception as error:
            log.error("runner.error", queue_id=item.message.queue_id, exc_info=error)
            late = [recipient for recipient in item.recipients if recipient.expires_at <= self._clock.now()]
            over = {r.address: Result(status="expired", reply=r.last_reply or LOCAL_ERROR) for r in late}
            await self._recorder.record(item.message.queue_id, item.lease, over)

    async def _find_lanes(self, item: Claimed) -> None:
        """What nobody takes any more is refused as it would have been at DATA."""
        email = await self._parsed(item.message)
        large = len(item.message.raw) > OFF_LOOP_SIZE
        plan_again = self._dispatchers.again
        plan = await asyncio.to_thread(plan_again, item.message, email) if large else plan_again(item.message, email)
        settled: dict[str, Result] = {}
        lanes: dict[str, str] = {}
        for recipient in item.recipients:
            owner = bound_to(recipient)
            if owner and self._dispatchers.named(owner) is None:
                settled |= _left_behind(item.message.queue_id, owner, [recipient])
            elif owner:
                lanes[recipient.address] = bound_lane(owner)
            elif recipient.address in plan.refused:
                settled[recipient.address] = _refused(item.message.queue_id, recipient, plan.refused[recipient.address])
            else:
                lanes[recipient.address] = str(plan.lanes[recipient.address])
        await self._recorder.record(item.message.queue_id, item.lease, settled)
        for text in lanes.values():
            self._lanes.setdefault(text, Lane.parse(text))
        if lanes:
            await self._recorder.give_back(item, lanes, sorted_=True)


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


def _refused(queue_id: str, recipient: ClaimedRecipient, reply: Reply) -> Result:
    """Nobody takes it any more. Where that is a matter of routes it was promised under others: the operator is to see it."""
    if reply in (NO_ROUTE, REFUSED_BY_ROUTE):
        log.error("message.no_route", queue_id=queue_id, recipient=recipient.address, text=reply.text)
        detail = "no route" if reply == NO_ROUTE else "refused by a route"
        detail += " under these settings"
        return Result(status="held", reply=reply, provider=recipient.provider, detail=detail)
    return Result(status="bounced", reply=reply, fault=Fault.MESSAGE)


def _tried(recipient: ClaimedRecipient) -> Tried:
    return Tried(attempts=recipient.attempts, unknowns=recipient.unknowns, expires_at=recipient.expires_at)
