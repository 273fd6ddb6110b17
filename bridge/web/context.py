"""What the handlers work with: the daemon's parts and a few values of its settings. `daemon.py` fills it in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bridge.budget import Hold, MemoryBudget
from bridge.clock import Clock
from bridge.content import Content
from bridge.delivery.choice import Dispatchers
from bridge.delivery.events import Events
from bridge.delivery.suppression import Suppressions
from bridge.model import Answer
from bridge.providers.events.base import Fetch, Hook
from bridge.reply import Reply
from bridge.spool.base import Store
from bridge.web.callers import Callers
from bridge.web.clients import Network
from bridge.web.keys import Keys
from bridge.web.visits import Visits

BODIES_OCTETS = 32 * 1024 * 1024
Submit = Callable[..., "asyncio.Task[Answer]"]  # as `submission.submit`


class Listening(Protocol):
    """A listener of mail. `where`: its address, with the port that was in fact bound."""

    where: str

    @property
    def up(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Values of the settings; other ones after a reload. Octets, seconds."""

    hostname: str = "localhost"
    max_message_size: int = 25 * 1024 * 1024
    max_recipients: int = 1000
    capture: bool = False  # nothing leaves this machine
    addresses: tuple[str, ...] = ()  # of the SMTP listeners, as they are listened on


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a provider tells of its mail. `hook` None: not until the key `wanted` is set."""

    provider: str
    hook: Hook | None = None
    wanted: str = ""


@dataclass(slots=True, kw_only=True)
class Webhooks:
    """`places`: by the name in the address. `max_size`: octets of a body. `budget`: what bodies may take in memory, apart from
    the mail's, since anybody can call; of who is not known to have the secret, one client has a part of it (`unverified`)."""

    places: Mapping[str, Place]
    events: Events
    fetch: Fetch
    max_size: int = 1 << 20
    budget: MemoryBudget = field(default_factory=lambda: MemoryBudget(BODIES_OCTETS, wait_s=0))
    unverified: Callers = field(default_factory=Callers)


@dataclass(slots=True, kw_only=True)
class Web:
    """`begin`: where the content of a message goes, raises `budget.Exhausted`. `hold`: as
    `MemoryBudget.hold`, for what a request holds. `check_recipient`: (user, listener, sender,
    recipient) -> the reply that refuses it. `operator_was_here`: the queue was changed. `loopback`: nobody else can connect.
    `proxies`: whose word is taken for who the client is. `bodies`: the time-outs of those that are being read.
    """

    clock: Clock
    rules: Rules
    keys: Keys
    spool: Store
    dispatchers: Dispatchers
    suppressions: Suppressions
    submit: Submit
    begin: Callable[[], Awaitable[Content]]
    hold: Callable[..., Awaitable[Hold]]
    new_queue_id: Callable[[], str]
    check_recipient: Callable[[str, str, str, str], Reply | None]
    operator_was_here: Callable[[], None]
    listeners: Sequence[Listening] = ()
    budget: MemoryBudget | None = None
    loopback: bool = True
    stopping: bool = False
    webhooks: Webhooks | None = None
    visits: Visits = field(default_factory=Visits)
    proxies: Sequence[Network] = ()
    bodies: set[asyncio.Timeout] = field(default_factory=set)

    def stop(self) -> None:
        """No request is begun any more, and of who still sends his nothing more is waited for."""
        self.stopping = True
        for body in self.bodies:
            if not body.expired():  # in this very turn of the loop; it cannot be asked to end again
                body.reschedule(0.0)

    @property
    def open(self) -> bool:
        """Without keys everybody on this machine may look."""
        return self.loopback and not self.keys
