"""Who takes a message: the route of each recipient, those of its providers that can carry it (DESIGN 3.8), and who is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.lanes import Lane
from bridge.delivery.routing import NO_ROUTE, Route, Routes
from bridge.model import Email, Envelope, Message, Origin
from bridge.providers.base import Provider, Unfit
from bridge.reply import Reply
from bridge.spool.base import ClaimedRecipient, bound_lane

log: Any = structlog.get_logger()

Tell = Callable[..., None]


def untold(event: str, **facts: Any) -> None:
    """For mail that was told of before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`places`: of the providers that may take the message, () when it is refused.

    `unfit`: what is lost with the one that takes it; refused: why the first cannot take it.
    """

    places: tuple[int, ...]
    passed_over: tuple[Unfit, ...] = ()  # of those before the first of `places`
    unfit: Unfit | None = None


def choose(verdicts: Sequence[Unfit | None], *, degrade: bool) -> Choice:
    """From what each provider would lose, in order: all that lose nothing, else the first that may lose it."""
    fit = tuple(place for place, unfit in enumerate(verdicts) if unfit is None)
    if fit:
        return Choice(places=fit, passed_over=tuple(unfit for unfit in verdicts[: fit[0]] if unfit))
    unfits = [unfit for unfit in verdicts if unfit]
    for place, unfit in enumerate(unfits):
        if degrade and unfit.degradable:
            return Choice(places=(place,), passed_over=tuple(unfits[:place]), unfit=unfit)
    return Choice(places=(), unfit=unfits[0])


def bound_to(recipient: ClaimedRecipient) -> str:
    """The provider a recipient may not leave, since it may have mailed it already (DESIGN 3.6); "" when it is free."""
    return recipient.provider if recipient.unknowns or recipient.interrupted else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """For each recipient its lane, or why nobody takes it."""

    lanes: Mapping[str, Lane] = field(default_factory=dict)
    refused: Mapping[str, Reply] = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        return {recipient: str(lane) for recipient, lane in self.lanes.items()}

    def by_lane(self) -> dict[Lane, tuple[str, ...]]:
        found: dict[Lane, list[str]] = {}
        for recipient, lane in self.lanes.items():
            found.setdefault(lane, []).append(recipient)
        return {lane: tuple(recipients) for lane, recipients in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What one set of settings comes to. Whoever sorts a message takes it once, so that a reload in between changes nothing."""

    all: tuple[Dispatcher, ...]
    by_name: Mapping[str, Dispatcher]
    routes: Routes
    degrade: bool
    mark: str


class Dispatchers:
    """The dispatchers in the order of the settings, the routes, and the choice among them.

    `mark`: a fingerprint of the settings that lanes depend on.
    """

    def __init__(
        self,
        dispatchers: Sequence[Dispatcher],
        *,
        routes: Routes | None = None,
        degrade: bool = False,
        mark: str = "0",
    ) -> None:
        names = [dispatcher.provider.name for dispatcher in dispatchers]
        self.reload(dispatchers, routes=routes or Routes((), names), degrade=degrade, mark=mark)

    def reload(self, dispatchers: Sequence[Dispatcher], *, routes: Routes, degrade: bool, mark: str) -> None:
        """From now on by these settings; attempts that run with the earlier dispatchers go on."""
        by_name = {dispatcher.provider.name: dispatcher for dispatcher in dispatchers}
        self._state = _State(all=tuple(dispatchers), by_name=by_name, routes=routes, degrade=degrade, mark=mark)

    @property
    def all(self) -> tuple[Dispatcher, ...]:
        return self._state.all

    @property
    def first(self) -> Dispatcher:
        return self._state.all[0]

    def lane_of(self, name: str) -> str:
        """Of mail that is to go through this provider alone, as the operator wants it: bound, so that it is judged before the
        attempt whether this one can express it, and another set of settings changes nothing."""
        return bound_lane(name)

    @property
    def degrades(self) -> bool:
        return self._state.degrade

    @property
    def timeout(self) -> float:
        """The longest that a call may take with any of them."""
        return max(dispatcher.provider.policy.timeout for dispatcher in self._state.all)

    def named(self, name: str) -> Dispatcher | None:
        return self._state.by_name.get(name)

    # --- which lane

    def refusal(self, *, user: str, listener: str, sender: str, recipient: str) -> Reply | None:
        """At RCPT; see `Routes.refusal`."""
        return self._state.routes.refusal(user=user, listener=listener, sender=sender, recipient=recipient)

    def accept(self, queue_id: str, email: Email, envelope: Envelope, origin: Origin, *, only: str = "") -> Plan:
        """At DATA; what is special about the message is logged here and at no retry. `only`: the provider that is to take it."""
        return self._plan(queue_id, email, envelope, origin, log.info, log.warning, only=only)

    def again(self, message: Message, email: Email) -> Plan:
        """For mail that was put under other settings."""
        return self._plan(message.queue_id, email, message.envelope, message.origin, untold, log.warning)

    def notice(
        self, queue_id: str, email: Email, envelope: Envelope, origin: Origin, *, sender: str, degrade: bool
    ) -> Plan:
        """For a notice of ours, by the route of `sender`; several forms of it are tried, so a refusal is not told."""
        return self._plan(queue_id, email, envelope, origin, untold, untold, sender=sender, degrade=degrade)

    def _plan(
        self,
        queue_id: str,
        email: Email,
        envelope: Envelope,
        origin: Origin,
        tell: Tell,
        warn: Tell,
        *,
        sender: str = "",
        degrade: bool = False,
        only: str = "",
    ) -> Plan:
        state, sender = self._state, sender or envelope.reverse_path or email.sender.email
        routes: dict[Route | Reply, list[str]] = {}
        for recipient in envelope.recipients:
            facts = {"user": origin.user, "listener": origin.listener, "sender": sender}
            chosen = _to(state, only) if only else state.routes.choose(**facts, recipient=recipient)
            routes.setdefault(chosen, []).append(recipient)
        lanes: dict[str, Lane] = {}
        refused: dict[str, Reply] = {}
        for route, recipients in routes.items():
            if isinstance(route, Reply):
                refused |= dict.fromkeys(recipients, route)
                continue
            # Each is judged by its own recipients: another's address is no reason against it.
            alone = len(recipients) == len(envelope.recipients)
            theirs = envelope if alone else replace(envelope, recipients=tuple(recipients))
            found = _lane(state, route, queue_id, email, theirs, tell, warn, degrade=degrade or state.degrade)
            if isinstance(found, Lane):
                lanes |= dict.fromkeys(recipients, found)
            else:
                refused |= dict.fromkeys(recipients, found)
        return Plan(lanes=lanes, refused=refused)

    def is_current(self, lane: Lane | None) -> bool:
        """Whether what waits there may be attempted; else it is to be sorted again."""
        if lane is None:
            return False
        if lane.bound:
            return lane.names[0] in self._state.by_name
        return lane.mark == self._state.mark and all(name in self._state.by_name for name in lane.names)

    def tell_failover(self, message: Message, email: Email, lane: Lane, provider: Provider) -> None:
        """Another than the first of its lane takes it; what is mended for that one was not told at DATA."""
        if lane.bound or lane.names[0] == provider.name:
            return
        log.info("message.failover", queue_id=message.queue_id, provider=provider.name, passed_over=lane.names[0])
        if repairs := provider.repairs(email, message.envelope):
            log.info("message.repaired", queue_id=message.queue_id, provider=provider.name, repairs=repairs)

    # --- who is there

    def next_for(self, lane: Lane, now: float) -> Dispatcher | None:
        """The first that is available, from the one whose turn it is."""
        return self._first_available(lane.order, now)

    def onward(self, lane: Lane, name: str, now: float) -> Lane | None:
        """Where a recipient goes on that `name` certainly did not take; None when nobody is left in this round."""
        if lane.bound or name not in lane.names:
            return None
        following = self._first_available(lane.after(name), now)
        return lane.at(following.provider.name) if following else None

    def ready_for(self, lane: Lane, now: float) -> Dispatcher | None:
        """Who may begin at this moment: the first available if it is ready, else one that is to be probed."""
        available = self.next_for(lane, now)
        probed = next((one for one in self._in(lane.order) if not one.breaker.closed and one.ready(now)), None)
        if probed and (
            available is None or lane.order.index(probed.provider.name) < lane.order.index(available.provider.name)
        ):
            return probed
        return available if available and available.ready(now) else None

    def _first_available(self, names: Iterable[str], now: float) -> Dispatcher | None:
        return next((one for one in self._in(names) if one.available(now)), None)

    def _in(self, names: Iterable[str]) -> Iterable[Dispatcher]:
        return (self._state.by_name[name] for name in names if name in self._state.by_name)

    async def drain(self, timeout: float) -> bool:
        """Wait for the running attempts of all; False when some were still running and have been cancelled."""
        return all(await asyncio.gather(*(dispatcher.drain(timeout) for dispatcher in self._state.all)))


def _to(state: _State, name: str) -> Route | Reply:
    return Route(providers=(name,)) if name in state.by_name else NO_ROUTE


def _lane(
    state: _State,
    route: Route,
    queue_id: str,
    email: Email,
    envelope: Envelope,
    tell: Tell,
    warn: Tell,
    *,
    degrade: bool,
) -> Lane | Reply:
    among = [state.by_name[name] for name in route.providers]
    choice = choose([one.provider.unfit(email, envelope) for one in among], degrade=degrade)
    taken = among[choice.places[0] if choice.places else 0].provider
    if choice.unfit:
        event = "message.degraded" if choice.places else "message.unfit"
        warn(event, queue_id=queue_id, provider=taken.name, losses=choice.unfit.losses)
        if not choice.places:
            return choice.unfit.reply
    if choice.passed_over:
        names = [one.provider.name for one in among[: choice.places[0]]]
        losses = list(dict.fromkeys(loss for unfit in choice.passed_over for loss in unfit.losses))
        tell("message.rerouted", queue_id=queue_id, provider=taken.name, passed_over=names, losses=losses)
    if repairs := taken.repairs(email, envelope):
        tell("message.repaired", queue_id=queue_id, provider=taken.name, repairs=repairs)
    if hidden := taken.not_shown(email, envelope.recipients):
        tell("message.addresses_not_shown", queue_id=queue_id, provider=taken.name, recipients=hidden)
    names_left = tuple(among[place].provider.name for place in choice.places)
    return Lane(names=names_left, risky=route.failover_unknown, mark=state.mark)
