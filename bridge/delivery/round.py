"""A round of attempts for a message whose client waits: each recipient with the first provider of its lane that is there, and
with the next one where that certainly did not take it.

Nothing is in the spool yet, so nothing has to be written between two providers. Once the message is left to the spool, a round
goes on to no further provider: the queue does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bridge.clock import Clock
from bridge.delivery.attempt import NO_SLOT, Attempt
from bridge.delivery.breaker import goes_on
from bridge.delivery.choice import Dispatchers, Plan
from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.lanes import Lane
from bridge.model import Email, Message, Outcome
from bridge.spool.base import Result


class Round:
    """`attempts`: those begun, in order; `lanes`: where each recipient would wait now."""

    def __init__(self, dispatchers: Dispatchers, clock: Clock, message: Message, email: Email, plan: Plan) -> None:
        self._dispatchers = dispatchers
        self._clock = clock
        self._message = message
        self.email = email
        self._staying = False
        self.lanes: dict[str, Lane] = dict(plan.lanes)
        self.attempts: list[Attempt] = []
        # The first attempts begin here and now, so that nothing can come between the look and the start.
        begun = [(lane, self._begin(lane, recipients)) for lane, recipients in plan.by_lane().items()]
        running = [(lane, attempt) for lane, attempt in begun if attempt]
        self.task: asyncio.Future[Any] | None = None
        if len(running) == 1 and len(running[0][0].names) == 1:
            self.task = running[0][1].task  # nobody to go on to: on the path of most mail a task is worth saving
        elif running:
            self.task = asyncio.ensure_future(asyncio.gather(*(self._follow(*one) for one in running)))

    @property
    def done(self) -> bool:
        return self.task is None or self.task.done()

    def _begin(self, lane: Lane, recipients: tuple[str, ...], only: Dispatcher | None = None) -> Attempt | None:
        dispatcher = only or self._dispatchers.ready_for(lane, self._clock.now())
        if dispatcher is None:
            return None
        self._dispatchers.tell_failover(self._message, self.email, lane, dispatcher.provider)
        attempt = dispatcher.begin(self._message, self.email, [recipients], waited=True, number=len(self.attempts) + 1)
        self.attempts.append(attempt)
        return attempt

    async def _follow(self, lane: Lane, attempt: Attempt) -> None:
        while True:
            await asyncio.wait({attempt.task})
            going_on = self._going_on(lane, attempt)
            if going_on is None:
                return
            lane, recipients, dispatcher = going_on
            following = self._begin(lane, recipients, dispatcher)
            if following is None:
                return
            attempt = following

    def _going_on(self, lane: Lane, attempt: Attempt) -> tuple[Lane, tuple[str, ...], Dispatcher] | None:
        """The recipients that somebody else may take now."""
        if self._staying or attempt.ended or not self._dispatchers.is_current(lane):
            return None
        open_ = tuple(r for r, outcome in attempt.outcomes.items() if _may_go_on(outcome, lane))
        following = self._dispatchers.onward(lane, attempt.provider.name, self._clock.now()) if open_ else None
        if following is None:
            return None
        dispatcher = self._dispatchers.named(following.names[following.start])
        if dispatcher is None or not dispatcher.ready(self._clock.now()):
            return None
        self.lanes |= dict.fromkeys(open_, following)
        return following, open_, dispatcher

    # --- as one attempt

    def stay(self) -> None:
        """No further provider is gone to; what runs goes on."""
        self._staying = True

    def close(self) -> None:
        """Begin no further call."""
        self.stay()
        for attempt in self.attempts:
            attempt.close()

    def tell(self) -> None:
        """Nobody hears of it as a whole any more: see `Attempt.tell`."""
        for attempt in self.attempts:
            attempt.tell()

    def withdraw(self) -> bool:
        """Give up what has not begun; True when nothing has, and nothing ever will."""
        self.stay()
        withdrawn = [attempt.withdraw() for attempt in self.attempts]  # each of them, also after one that could not be
        return all(withdrawn)

    async def wait(self) -> None:
        if self.task is not None:
            await asyncio.wait({self.task})

    def latest(self) -> dict[str, Attempt]:
        """The last attempt of each recipient that has one, whether it has ended or not; none that was never tried."""
        return {r: attempt for attempt in self.attempts for r in attempt.recipients if r not in attempt.untried}

    def running(self) -> Iterator[tuple[str, Attempt]]:
        """Recipients whose attempt has no outcome yet."""
        return ((r, attempt) for r, attempt in self.latest().items() if r not in attempt.outcomes)

    def each(self, results: Callable[[Attempt], Mapping[str, Result]]) -> dict[str, Result]:
        """The results of the last attempt of each recipient that has an outcome."""
        made = {id(attempt): results(attempt) for attempt in self.attempts}
        return {r: made[id(attempt)][r] for r, attempt in self.latest().items() if r in made[id(attempt)]}


def _may_go_on(outcome: Outcome, lane: Lane) -> bool:
    return outcome is not NO_SLOT and goes_on(outcome, risky=lane.risky)
