"""Which provider takes a message: the first in order that can carry it without loss (DESIGN 3.8).

LATER: routes, and another provider when one is down. Until then a provider that is down keeps its mail waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from bridge.delivery.dispatcher import Dispatcher
from bridge.model import Email, Envelope
from bridge.providers.base import Unfit
from bridge.reply import Reply
from bridge.spool.base import ClaimedRecipient

log: Any = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`place`: of the provider that takes the message, None when it is refused.

    `unfit`: what is lost with the one that takes it; refused: why the first cannot take it.
    """

    place: int | None
    passed_over: tuple[Unfit, ...] = ()  # of those before `place`
    unfit: Unfit | None = None


def choose(verdicts: Iterable[Unfit | None], *, degrade: bool) -> Choice:
    """From what each provider would lose, in order; those after the first that loses nothing are not asked."""
    unfits: list[Unfit] = []
    for place, unfit in enumerate(verdicts):
        if unfit is None:
            return Choice(place=place, passed_over=tuple(unfits))
        unfits.append(unfit)
    for place, unfit in enumerate(unfits):
        if degrade and unfit.degradable:
            return Choice(place=place, passed_over=tuple(unfits[:place]), unfit=unfit)
    return Choice(place=None, unfit=unfits[0])


def bound_to(recipient: ClaimedRecipient) -> str:
    """The provider a recipient may not leave, since it may have mailed it already (DESIGN 3.6); "" when it is free.

    BUG: the spool notes who was tried when the result is written, not when the attempt begins. After a crash in an attempt
    with a provider that is not the one tried before it, the earlier one is believed to be it; and where there was none, the
    choice is made again. Both matter only when the settings change between two attempts.
    """
    return recipient.provider if recipient.unknowns else ""


class Dispatchers:
    """The dispatchers in the order of the settings, and the choice among them, with its lines in the log."""

    def __init__(self, dispatchers: Sequence[Dispatcher], *, degrade: bool = False) -> None:
        self._all = tuple(dispatchers)
        self._by_name = {dispatcher.provider.name: dispatcher for dispatcher in dispatchers}
        self._degrade = degrade

    @property
    def first(self) -> Dispatcher:
        return self._all[0]

    @property
    def window(self) -> int:
        """Messages of the spool that are worth holding at once."""
        return sum(dispatcher.window for dispatcher in self._all)

    @property
    def max_batch(self) -> int:
        return max(dispatcher.provider.max_batch for dispatcher in self._all)

    @property
    def timeout(self) -> float:
        """The longest that a call may take with any of them."""
        return max(dispatcher.provider.policy.timeout for dispatcher in self._all)

    def named(self, name: str) -> Dispatcher | None:
        return self._by_name.get(name)

    def accept(self, queue_id: str, email: Email, envelope: Envelope) -> Dispatcher | Reply:
        """At DATA: who takes this message, or the refusal; what is special about it is logged here and at no retry."""
        choice = self._choose(self._all, queue_id, email, envelope)
        if isinstance(choice, Reply):
            return choice
        dispatcher, passed_over = choice
        provider = dispatcher.provider
        if passed_over:
            names = [d.provider.name for d in self._all[: len(passed_over)]]
            losses = list(dict.fromkeys(loss for unfit in passed_over for loss in unfit.losses))
            log.info("message.rerouted", queue_id=queue_id, provider=provider.name, passed_over=names, losses=losses)
        if repairs := provider.repairs(email, envelope):
            log.info("message.repaired", queue_id=queue_id, provider=provider.name, repairs=repairs)
        if hidden := provider.not_shown(email, envelope.recipients):
            log.info("message.addresses_not_shown", queue_id=queue_id, provider=provider.name, recipients=hidden)
        return dispatcher

    def again(
        self, queue_id: str, email: Email, envelope: Envelope, only: Dispatcher | None = None
    ) -> Dispatcher | Reply:
        """For mail from the spool, which may have come under other settings; `only`: the one that must keep it."""
        choice = self._choose((only,) if only else self._all, queue_id, email, envelope)
        return choice if isinstance(choice, Reply) else choice[0]

    def _choose(
        self, among: tuple[Dispatcher, ...], queue_id: str, email: Email, envelope: Envelope
    ) -> tuple[Dispatcher, tuple[Unfit, ...]] | Reply:
        choice = choose((one.provider.unfit(email, envelope) for one in among), degrade=self._degrade)
        taken = among[choice.place or 0]
        if choice.unfit:
            event = "message.unfit" if choice.place is None else "message.degraded"
            log.warning(event, queue_id=queue_id, provider=taken.provider.name, losses=choice.unfit.losses)
            if choice.place is None:
                return choice.unfit.reply
        return taken, choice.passed_over

    async def drain(self, timeout: float) -> bool:
        """Wait for the running attempts of all; False when some were still running and have been cancelled."""
        return all(await asyncio.gather(*(dispatcher.drain(timeout) for dispatcher in self._all)))
