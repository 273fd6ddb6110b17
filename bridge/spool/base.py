"""What the stages ask of a spool. The contract every back-end is tested against.

Status lives on the recipient; only unresolved recipients (queued, deferred) are claimed. Times are seconds since the
epoch. A lease is (owner, epoch): results are recorded only by whoever holds it. The attempt is written (claim) before
it is made; a recipient whose lease ran out, or whose owner died, with no result recorded is claimed as `interrupted`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from bridge.model import Event, Fault, Message, RecipientStatus, Wish
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
    not one does not count towards expiry. `unknown`: the answer was lost; the recipient keeps its group (see Claimed), and
    its lane becomes that of `provider` alone. `lane`: where it waits from now on; None leaves that as it is.
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
    lane: str | None = None
    passed_on: bool = False  # what the sender wants to be told was asked of the next system (RFC 3461 5.2.1)
    keep_body: bool = False  # the body stays as long as the history (capture)


def bound_lane(provider: str) -> str:
    """The lane of a recipient that this provider may have mailed already: nobody else may take it (DESIGN 3.6)."""
    return f"={provider}"


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
    lane: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    message: Message
    lease: Lease
    recipients: tuple[ClaimedRecipient, ...]


NoticeKind = Literal["failure", "delay", "success"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A recipient of whom the sender is still to be told. `reply`: the last one; `provider`: who gave it."""

    address: str
    kind: NoticeKind
    status: str
    wish: Wish
    reply: Reply | None
    fault: str
    provider: str
    provider_message_id: str
    attempts: int
    expires_at: float
    tried_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A message some of whose recipients are still to be told of. `raw` is empty when the body is lost."""

    message: Message
    recipients: tuple[Told, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """A POST to a web address, still to be made. `target`: bounce, alert or events; `body` is JSON."""

    id: str
    target: str
    body: str
    attempts: int = 0
    created_at: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with an Idempotency-Key. `key` and `body` are hashes; `queue_id`: of the message that is made of it; `status`
    and `answer` (JSON): what was said, 0 and "" while that is not known."""

    key: bytes
    body: bytes
    queue_id: str
    status: int = 0
    answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedEvent:
    """What a provider told, and what follows: `reply` bounces the recipient (None: it does not), `suppression` is the reason
    why the address is not mailed again ("": it is)."""

    event: Event
    reply: Reply | None = None
    suppression: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What came of an event. `known`: it had come before. `queue_id` and `address`: whom it is about, "" for nobody we know;
    `status`: what the recipient is now, "" when the event changed nothing; `reply`: what its sender is told then, if anything."""

    event: Event
    provider: str = ""
    known: bool = False
    queue_id: str = ""
    address: str = ""
    status: str = ""
    reply: Reply | None = None
    suppressed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Queue depth in recipients by status, the oldest unresolved message's `created_at`, and bytes used."""

    by_status: Mapping[str, int]
    oldest: float | None
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """By status (queued, deferred, held): how many recipients, counted up to a limit, and when the oldest one's message came."""

    recipients: Mapping[str, int]
    oldest: Mapping[str, float]
    bytes: int


class Spool(Protocol):
    """All methods are coroutines; none blocks the loop. Writes return after their commit (fsync) unless said otherwise."""

    async def put(
        self,
        message: Message,
        *,
        results: Mapping[str, Result] | None = None,
        lease: Lease | None = None,
        leased: Mapping[str, str] | Sequence[str] = (),
        provider: str = "",
        lanes: Mapping[str, str] | None = None,
    ) -> None:
        """Commit a message with all its recipients, durably. Raises SpoolFull, SpoolError.

        `lanes`: recipient -> lane. `leased` may name the provider of each. Of what failed the sender is told, and of what was
        sent where that was asked for.

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

    async def claim(
        self,
        *,
        owner: str,
        now: float,
        lease_s: float,
        limit: int,
        lanes: Sequence[str] | None = None,
        provider: str = "",
        sorting: bool = False,
        octets: int | None = None,
    ) -> Sequence[Claimed]:
        """Take at most `limit` due messages with all their due recipients in `lanes` (None: in all); attempts + 1, leased.

        It is committed before anything is tried. The sources take turns, lane by lane; within a source the oldest message
        comes first. `provider`: who will try them, noted so that after a crash it is known who may have mailed them.
        `sorting`: nothing will be tried, so no attempt is counted. `octets`: of bodies that are read, at most, or one of any
        size; the rest is given back.
        """

    async def renew(self, queue_id: str, lease: Lease, until: float) -> bool:
        """Move the end of a lease; False when it is no longer ours."""

    async def record(self, queue_id: str, lease: Lease, results: Mapping[str, Result], *, now: float) -> frozenset[str]:
        """Write results; returns the addresses that were written (those still under this lease). An event per recipient."""

    async def give_back(
        self,
        queue_id: str,
        lease: Lease,
        *,
        now: float,
        lanes: Mapping[str, str] | None = None,
        sorting: bool = False,
    ) -> int:
        """Undo a claim of which no attempt was begun: attempts - 1, due now, not interrupted; how many recipients.

        `lanes`: where these recipients wait from now on; `sorting` as it was in the claim.
        """

    async def next_due(self, lanes: Sequence[str] | None = None) -> float | None:
        """When the next recipient in `lanes` (None: in all) is due, None when there is none; one of another lane that waits
        for a moment counts too, since only then its lane is looked at."""

    async def lanes(self, *, ready_only: bool = False) -> Sequence[str]:
        """The lanes in which somebody waits; `ready_only`: for his turn, not for a moment. Those cost a step each."""

    async def resume(self, lanes: Sequence[str], *, now: float, blocked_s: float = 0.0) -> int:
        """Everything in these lanes that waits for a moment because of its provider is due now; how many recipients.

        `blocked_s`: by so much all their lifetimes become longer, since the account was blocked so long.
        """

    async def expire(self, lanes: Sequence[str], *, now: float, limit: int = 500) -> Mapping[str, Mapping[str, Result]]:
        """End what has outlived its time in lanes in which nothing is attempted; queue id -> address -> result."""

    # what senders and the operator are to be told

    async def note_late(self, *, now: float, after: float, limit: int = 1000) -> int:
        """Mark the recipients that have waited longer than `after` seconds, each once, so that `notices` brings them."""

    async def notices(self, *, limit: int = 50) -> Sequence[Due]:
        """Messages whose senders are still to be told something; fewer where they are large."""

    async def settle_notices(
        self, due: Due, *, messages: Sequence[tuple[Message, str]] = (), posts: Sequence[Post] = (), now: float
    ) -> None:
        """The sender is told by these messages, each with its lane, and never again of the same; one transaction."""

    async def due_posts(self, *, now: float, limit: int = 20, target: str = "") -> Sequence[Post]:
        """Those that are to be made now, to one target or (empty) to any, longest due first."""

    async def settle_post(self, post: Post, *, next_attempt_at: float | None) -> None:
        """None: it is done with."""

    # what providers tell

    async def expect_events(self, wanted: bool) -> None:
        """Messages can be found by what their provider calls them, which costs each that is sent something: without it
        `take_events` and `rejoin_events` raise SpoolError. It lasts over a restart."""

    async def take_events(
        self,
        provider: str,
        events: Sequence[NotedEvent],
        *,
        now: float,
        posts: Callable[[Sequence[Heard]], Sequence[Post]] = lambda heard: (),
    ) -> Sequence[Heard]:
        """Keep them and do what follows, in one transaction with the posts made of those that are new. Raises SpoolFull."""

    async def rejoin_events(
        self,
        *,
        since: float,
        now: float,
        note: Callable[[Event], NotedEvent],
        limit: int = 500,
        posts: Callable[[Sequence[Heard]], Sequence[Post]] = lambda heard: (),
    ) -> Sequence[Heard]:
        """All those of no message, from `since` on, once more: the answer to a call may come later than its event.
        `limit`: looked at in one go; what else waits is done in between. `posts`: made of those that have a
        message now, in one transaction with what they change."""

    async def prune_events(self, *, now: float, limit: int = 500) -> int:
        """Forget up to `limit` of them that are older than the history; how many."""

    # what is remembered

    async def remember(
        self, values: Mapping[str, str], *, now: float, durable: bool = False, posts: Sequence[Post] = ()
    ) -> None:
        """Keep values by name over a restart, an empty one is forgotten; with `posts` to be made, in one transaction."""

    async def recall(self, prefix: str = "") -> Mapping[str, str]: ...

    async def note_seen(self, fingerprint: bytes, reply: str, *, now: float) -> None:
        """This message got a 250."""

    async def find_seen(self, fingerprint: bytes, *, since: float) -> str | None:
        """The reply it got, when that was not before `since`."""

    async def forget(self, *, seen_before: float, limit: int = 500) -> int:
        """Drop what is remembered of messages that came before."""

    async def note_request(self, asked: Asked, *, now: float) -> None:
        """Durable when it has an answer; before that a crash of this process alone leaves it."""

    async def find_request(self, key: bytes, *, since: float) -> Asked | None:
        """What was noted last, when that was not before `since`."""

    async def forget_requests(self, *, before: float, limit: int = 500) -> int:
        """Drop requests that were noted before."""

    async def suppressions(self) -> Mapping[str, str]:
        """Address, lower-case -> the reason."""

    async def suppress(self, address: str, reason: str, *, provider: str = "", now: float) -> bool:
        """False when it was suppressed already."""

    async def prune(self, *, now: float, limit: int = 500) -> int:
        """Delete up to `limit` messages past `history` or `failed`; returns how many."""

    async def summarize(self, *, now: float) -> bool:
        """Make a search of what came some time before `now` quick, a little of it; True when there is more to do."""

    async def save_numbers(self, *, now: float) -> None:
        """Keep the counts of the last day over a restart."""

    async def stats(self) -> Stats: ...

    async def queue_depth(self) -> Depth:
        """For who looks every few seconds: at a bounded cost."""
        ...

    async def oldest_waiting(self) -> float | None:
        """When the message came that waits longest, those on hold not counted; None when none waits."""

    async def free_bytes(self) -> int:
        """Free on the disk the spool is on, in octets."""
        ...

    async def writable(self) -> bool:
        """False while below the floor (min_free, max_bytes): `auto` then behaves as `direct`."""

    async def close(self) -> None: ...


# The operator's side (CLI, later the API), on the same spool while the daemon runs.
ListStatus = Literal[
    "queued", "deferred", "held", "sent", "delivered", "bounced", "expired", "dropped", "failed", "active"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Which messages: all of what is given. Without case; a message passes when one of its recipients is all of what is said
    of recipients.

    `text`: words, each of which begins a word of the sender, a recipient or the subject, or is its queue id, Message-ID or
    the provider's id. `address`: the same in sender and recipients; `ann@example.com` whole or its beginning,
    `@example.com` a domain. `subject`: words that begin words of it. `id`: one of the three ids, whole.
    `status`: a ListStatus. `since`, `until`: seconds since the epoch; when it came, as its queue id has it.
    """

    text: str = ""
    address: str = ""
    subject: str = ""
    id: str = ""
    status: str = ""
    provider: str = ""
    since: float = 0.0
    until: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Messages, newest first. `more`: there may be further ones, from `before` on: the page was full, or the time was up."""

    rows: Sequence[Mapping[str, Any]]
    more: bool
    before: str


Action = Literal["retry", "hold", "release", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What an action would do. Numbers of recipients: `before`: all, by status; `changed`: those it would change, by status;
    `left`: those it would not, by the reason. `unknown`: queue ids that are not there (any more)."""

    messages: int
    before: Mapping[str, int]
    changed: Mapping[str, int]
    left: Mapping[str, int]
    unknown: int


class StoredBody(Protocol):
    """A body to be read piece by piece, until `close`. `held`: octets of it that are in memory."""

    size: int

    @property
    def held(self) -> int: ...
    def pieces(self, most: int = sys.maxsize) -> Iterator[bytes]:
        """Its first octets, at most so many. Blocks; raises OSError."""
        ...

    def close(self) -> None: ...


class Operator(Protocol):
    async def search(
        self, wanted: Search, *, limit: int = 50, before: str = "", after: str = "", recipients: int | None = None
    ) -> Page:
        """Newest first, those before and after these queue ids. Never takes long: see Page. `recipients`: the first so many of
        each message, with `recipients_total`, `recipients_by_status` and `trouble`; None: all; 0: only `queue_id`."""
        ...

    async def messages(self, queue_ids: Sequence[str]) -> Sequence[Mapping[str, Any]]: ...
    async def mailed_to(self, queue_ids: Sequence[str], words: Sequence[str]) -> Collection[str]:
        """Those of these messages that have each of the words in some recipient's address."""
        ...

    async def forecast(
        self, action: Action, queue_ids: Sequence[str], *, now: float, provider: str = "", force: bool = False
    ) -> Forecast: ...
    async def reroute(
        self, queue_ids: Sequence[str], *, provider: str, lane: str, force: bool = False, now: float
    ) -> int: ...
    async def numbers(self, *, now: float) -> Mapping[str, Any]: ...
    async def depth(self) -> Mapping[str, int]: ...
    async def ages(self, *, now: float, bounds: Sequence[float]) -> Sequence[int]: ...
    async def list_suppressions(self, *, limit: int = 1000, after: str = "") -> Sequence[Mapping[str, Any]]: ...
    async def find_suppressions(
        self, typed: str, *, limit: int = 100, after: str = ""
    ) -> tuple[Sequence[Mapping[str, Any]], str]:
        """Those with this in the address or the reason, by address; and after which one to go on, "" at the end. Never takes
        long: what is found until then is given."""
        ...

    async def unsuppress(self, address: str) -> bool: ...
    async def list_messages(
        self, *, status: str = "", limit: int = 100, before: str = ""
    ) -> Sequence[Mapping[str, Any]]: ...
    async def show(self, queue_id: str) -> Mapping[str, Any] | None: ...
    async def show_part(self, queue_id: str, *, limit: int, skip: int = 0) -> Mapping[str, Any] | None:
        """With `limit` recipients after the first `skip`, and their events."""
        ...

    async def body(self, queue_id: str) -> bytes | None: ...
    async def open_body(self, queue_id: str) -> StoredBody | None: ...
    async def provider_events(self, queue_id: str, *, limit: int = 500) -> Sequence[Mapping[str, Any]]: ...
    async def unjoined_events(self, *, limit: int = 100) -> Sequence[Mapping[str, Any]]: ...
    async def count_unjoined(self) -> int: ...
    async def retry(self, queue_ids: Sequence[str], *, now: float) -> int: ...
    async def hold(self, queue_ids: Sequence[str], *, now: float) -> int: ...
    async def release(self, queue_ids: Sequence[str], *, now: float) -> int: ...
    async def drop(self, queue_ids: Sequence[str], *, now: float) -> int: ...
    def export(self, *, status: str = "") -> AsyncIterator[tuple[Mapping[str, Any], bytes | None]]: ...


class Store(Spool, Operator, Protocol):
    """Both sides of it, for who shows and changes what he works with."""
