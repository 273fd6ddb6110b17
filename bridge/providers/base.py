"""What a provider is to the rest: it says what it can carry, splits a message into calls, and makes one call at a time.

An adapter is pure where it can be (`build_request`, `parse_response`); the I/O and the mapping of every httpx exception
to an outcome are done once, in `http.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bridge.model import Addressing, Email, Envelope, Outcome
from bridge.reply import Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings every kind of provider has. `timeout` is seconds for one call, `concurrency` calls at once."""

    concurrency: int = 10
    timeout: float = 30.0
    on_unknown: Literal["retry", "hold"] = "retry"
    max_unknown: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """Why a provider cannot express a message: the reply the sender hears, and the losses for the log.

    `degradable`: it could be sent without what is lost, when `relay.degrade` allows that (too large a message could not).
    """

    reply: Reply
    losses: tuple[str, ...]
    degradable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One message for the recipients of one call. `key` is the idempotency key: the same for every retry."""

    email: Email
    addressing: Addressing
    queue_id: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What `check --online` found out: `ok` None where the API has no call that would tell; `text` is for people."""

    ok: bool | None
    text: str


class Provider(ABC):
    """One configured provider. `idempotent`: a call repeated with the same key is done once, so `unknown` may be retried."""

    kind: str
    idempotent: bool = False
    keeps_bodies: bool = False  # capture: what it "sends" stays in the spool with its body, committed before the 250
    max_batch: int = 1  # messages in one request, at most
    max_batch_bytes: int = 0  # octets of the messages in one request, at most; 0: no limit known

    passes_wishes: bool = False  # it may hand on what the client asked for by RFC 3461
    remote: str = ""  # the host that is spoken to, for notices
    # What the API last said of its rate: calls left, and seconds until there are more; None when it said nothing.
    allowance: tuple[int, float] | None = None

    def __init__(self, name: str, policy: Policy) -> None:
        self.name = name
        self.policy = policy

    @abstractmethod
    def unfit(self, email: Email, envelope: Envelope) -> Unfit | None:
        """None when the message can be carried without loss; needs no network (DESIGN 3.8, 3.10)."""

    def repairs(self, email: Email, envelope: Envelope) -> tuple[str, ...]:
        """What is changed without loss so that the provider takes the mail, each for the log; () for nothing."""
        return ()

    def not_shown(self, email: Email, recipients: tuple[str, ...]) -> tuple[str, ...]:
        """Addresses of To and Cc that the readers will not see, because they are not in the envelope (DESIGN 3.4)."""
        return ()

    @abstractmethod
    def calls(self, email: Email, reverse_path: str, recipients: tuple[str, ...]) -> tuple[Addressing, ...]:
        """The calls that mail exactly these recipients, each recipient in exactly one; deterministic."""

    @abstractmethod
    async def send(self, email: Email, addressing: Addressing, *, queue_id: str, key: str) -> Mapping[str, Outcome]:
        """Make one call. An outcome for every recipient of `addressing`; never raises but CancelledError.

        The call ends within `policy.timeout` seconds; `key` is the idempotency key.
        """

    def batch_key(self, call: Call) -> Hashable | None:
        """Calls whose keys are equal and not None may be made as one request, `max_batch` of them at most."""
        return None

    async def send_many(self, calls: Sequence[Call]) -> Sequence[Mapping[str, Outcome]]:
        """Make calls of one `batch_key` as one request; for each what `send` would return, in order. Never raises either."""
        raise NotImplementedError(f"{self.kind} takes one message at a time")

    async def verify(self) -> Verified:
        """Whether the credentials are accepted, by a call that sends nothing. Never raises but CancelledError."""
        return Verified(ok=None, text="this kind has no call that would tell")

    async def aclose(self) -> None:
        """Give back connections."""
        return
