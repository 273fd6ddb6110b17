"""What the stages ask of a spool. The contract every back-end is tested against.

Status lives on the recipient; only unresolved recipients (queued, deferred) are claimed. Times are seconds since the
epoch. A lease is (owner, epoch): results are recorded only by whoever holds it. The attempt is written (claim) before
it is made; a recipient whose lease ran out, or whose owner died, with no result recorded is claimed as `interrupted`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from bridge.model import Fault, Message, RecipientStatus
from bridge.reply import Reply


class SpoolFull(Exception):
    """No room for another message (disk below its floor, max_bytes reached, ENOSPC): answered 452 4.3.1."""


class SpoolError(Exception):
    """The spool cannot be used as asked (newer version, locked by another daemon, unwritable); the text says why."""


class SpoolBusy(SpoolError):
    """Another daemon owns this spool: exit 75."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What is to be written for one recipient after an attempt, or at once when it never goes through an attempt.

    `at`: when the next attempt is due (deferred). `blocked`: an ACCOUNT fault, so the time until the next result that is
    not one does not count towards expiry. `unknown`: the answer was lost; the recipient keeps its group (see Claimed).
    """

    status: RecipientStatus
    reply: Reply | None = None
    fault: Fault | None = None
    at: float | None = None
    provider: str = ""
    provider_message_id: str = ""
    detail: str = ""
    unknown: bool = False
    blocked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Held over the claimed recipients of one message. `until` may be moved by `renew`."""

    owner: str
    epoch: int
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRecipient:
    """`attempts` counts the one now begun. `group`: recipients that were in one lost call carry the same number and must
    be sent together again, so that the idempotency key stays; None otherwise. `interrupted`: the previous attempt was begun
    and never recorded. `unknowns`: how often that or a lost answer happened so far. `provider`: who was last tried.
    `last_reply`: of the last recorded attempt, None when there was none."""

    address: str
    attempts: int
    expires_at: float  # already moved on by the time blocked or held
    group: int | None = None
    interrupted: bool = False
    unknowns: int = 0
    provider: str = ""
    last_reply: Reply | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    message: Message
    lease: Lease
    recipients: tuple[ClaimedRecipient, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Queue depth in recipients by status, the oldest unresolved message's `created_at`, and bytes used."""

    by_status: Mapping[str, int]
    oldest: float | None
    bytes: int


class Spool(Protocol):
    """All methods are coroutines; none blocks the loop. Writes return after their commit (fsync) unless said otherwise."""

    async def put(
        self,
        message: Message,
        *,
        results: Mapping[str, Result] | None = None,
        lease: Lease | None = None,
        leased: Sequence[str] = (),
        provider: str = "",
    ) -> None:
        """Commit a message with all its recipients, durably. Raises SpoolFull, SpoolError.

        `results`: recipients already decided in the attempt made while the client waited (sent, bounced, deferred);
        `leased`: recipients still in the caller's running attempt with `provider`, under `lease`; the others are due now.
        The message is unresolved while any recipient is; its body is kept until then, with a failed one for `spool.failed`,
        with `kind` capture results for `spool.history`.
        """

    async def put_history(
        self, message: Message, results: Mapping[str, Result], *, keep_body: bool = False, durable: bool = False
    ) -> None:
        """Note a message that never needed the queue. Not durable: returns at once, is committed without fsync, and an
        error in it is only logged. Durable (`capture`): as `put`."""

    def new_lease(self, until: float) -> Lease:
        """A lease of this daemon's with an epoch that was never used, for `put`."""
        ...

    async def claim(self, *, owner: str, now: float, lease_s: float, limit: int) -> Sequence[Claimed]:
        """Take at most `limit` due messages with all their due recipients, oldest due first; attempts + 1, leased, committed."""

    async def renew(self, queue_id: str, lease: Lease, until: float) -> bool:
        """Move the end of a lease; False when it is no longer ours."""

    async def record(self, queue_id: str, lease: Lease, results: Mapping[str, Result], *, now: float) -> frozenset[str]:
        """Write results; returns the addresses that were written (those still under this lease). An event per recipient."""

    async def give_back(self, queue_id: str, lease: Lease, *, now: float) -> int:
        """Undo a claim of which no attempt was begun (shutdown): attempts - 1, due now, not interrupted; how many recipients."""

    async def next_due(self) -> float | None:
        """When the next recipient is due, None for an empty queue."""

    async def prune(self, *, now: float, limit: int = 500) -> int:
        """Delete up to `limit` messages past `history` or `failed`; returns how many."""

    async def stats(self) -> Stats: ...

    async def writable(self) -> bool:
        """False while below the floor (min_free, max_bytes): `auto` then behaves as `direct`."""

    async def close(self) -> None: ...


# The operator's side (CLI, later the API), on the same spool while the daemon runs.
ListStatus = Literal[
    "queued", "deferred", "held", "sent", "delivered", "bounced", "expired", "dropped", "failed", "active"
]


class Operator(Protocol):
    async def list_messages(
        self, *, status: str = "", limit: int = 100, before: str = ""
    ) -> Sequence[Mapping[str, Any]]: ...
    async def show(self, queue_id: str) -> Mapping[str, Any] | None: ...
    async def body(self, queue_id: str) -> bytes | None: ...
    async def retry(self, queue_ids: Sequence[str], *, now: float) -> int: ...
    async def hold(self, queue_ids: Sequence[str], *, now: float) -> int: ...
    async def release(self, queue_ids: Sequence[str], *, now: float) -> int: ...
    async def drop(self, queue_ids: Sequence[str], *, now: float) -> int: ...
    def export(self, *, status: str = "") -> AsyncIterator[tuple[Mapping[str, Any], bytes | None]]: ...
