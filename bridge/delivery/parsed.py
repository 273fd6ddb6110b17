"""Short messages as they were parsed on arrival, for the attempt that usually follows at once.

A shortcut only: what is not here, because there is no room or it waited too long, is parsed again from the spool.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from bridge.budget import Hold, MemoryBudget
from bridge.content import SHORT, cost
from bridge.model import Email, Message

SHARE = 16  # the part of the budget that they may hold
FRESH_S = 10.0  # what was not attempted until then waits for something


@dataclass(frozen=True, slots=True)
class _Kept:
    email: Email
    until: float
    hold: Hold


class Parsed:
    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._most = budget.total // SHARE
        self._octets = 0
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the oldest first

    def keep(self, queue_id: str, email: Email, now: float) -> None:
        """Not when those that came before have all the room: what is oldest is attempted first."""
        if len(email.raw) > SHORT:
            return
        octets = cost(len(email.raw))
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._forget(next(iter(self._kept)))
        if self._octets + octets <= self._most and (hold := self._budget.take(octets)):
            self._octets += octets
            self._kept[queue_id] = _Kept(email, now + FRESH_S, hold)

    def take(self, message: Message) -> Email | None:
        """It is not kept any longer."""
        if message.queue_id not in self._kept:
            return None
        email = self._forget(message.queue_id)
        return email if email.raw == message.raw else None

    def _forget(self, queue_id: str) -> Email:
        kept = self._kept.pop(queue_id)
        self._octets -= kept.hold.octets
        kept.hold.release()
        return kept.email
