"""The words the stages share. Values only: frozen, self-checking, importing nothing of ours but `reply`.

*envelope* is not *email*: the envelope says who is mailed, the email is what they read.
"""

from __future__ import annotations

import base64
import enum
import functools
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from bridge.reply import Reply


class Fault(enum.StrEnum):
    """Who is to blame decides what happens (a refused recipient never blocks a provider; a bad key never bounces mail)."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    PROVIDER = "provider"
    ACCOUNT = "account"


# The life of one recipient. queued: not tried yet. sent: a provider took it; delivered: it told us so.
RecipientStatus = Literal["queued", "deferred", "held", "sent", "delivered", "bounced", "expired", "dropped"]
UNRESOLVED: frozenset[str] = frozenset({"queued", "deferred", "held"})
FAILED: frozenset[str] = frozenset({"bounced", "expired"})


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address with its display name, both decoded text without control characters."""

    email: str
    name: str = ""


def split_address(address: str) -> tuple[str, str]:
    """`"Ann@X.org"` -> ("Ann", "X.org"); the domain is "" where there is none (Postmaster)."""
    local, at, domain = address.rpartition("@")
    return (local, domain) if at else (domain, "")


def same_recipient_key(address: str) -> str:
    """Equal for addresses that are the same recipient: domain without case, local part exactly (RFC 5321 2.4)."""
    local, domain = split_address(address)
    return f"{local}@{domain.lower()}" if domain else local


def mailbox_key(address: str) -> str:
    """Equal for what is the same mailbox in practice: without case, needless quotes and the dot that ends a domain."""
    local, domain = split_address(address)
    return f"{unquoted(local)}@{domain.rstrip('.')}".lower()


def unquoted(local: str) -> str:
    """A local part without its quotes and backslashes, which say nothing about the mailbox (RFC 5321 4.1.2)."""
    return re.sub(r"\\(.)", r"\1", local[1:-1]) if len(local) > 1 and local[0] == local[-1] == '"' else local


def merge_recipients(addresses: Iterable[str]) -> tuple[str, ...]:
    """Equal recipients merged, the first spelling kept, order kept; `Ann@x` and `ann@x` stay two."""
    merged: dict[str, str] = {}
    for address in addresses:
        merged.setdefault(same_recipient_key(address), address)
    return tuple(merged.values())


@functools.lru_cache(maxsize=1024)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(word) for word in pattern.split("*")), re.IGNORECASE | re.DOTALL)


def matches(pattern: str, address: str) -> bool:
    """Whether a pattern of the settings, `*` for any run of characters, is this address; without case."""
    return _pattern(pattern).fullmatch(address) is not None


@dataclass(frozen=True, slots=True)
class Wish:
    """What the client asked for one recipient (RFC 3461 4.1, 4.2).

    `notify`: "" (not said: failures and delays), "NEVER", or some of SUCCESS, FAILURE and DELAY, upper-case, separated by
    commas. `orcpt`: `type;address` as it was sent, the address in xtext; "" when not given.
    """

    notify: str = ""
    orcpt: str = ""

    def wants(self, what: Literal["SUCCESS", "FAILURE", "DELAY"]) -> bool:
        return what != "SUCCESS" if not self.notify else what in self.notify.split(",")


NO_WISH = Wish()


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Who sends and who is mailed. `reverse_path` is "" for the null one; `recipients` are merged and keep their order.

    `ret`: "", "FULL" or "HDRS"; `envid`: in xtext, as it was sent (RFC 3461 4.3, 4.4). `wishes`: by recipient, those that
    have any.
    """

    reverse_path: str
    recipients: tuple[str, ...]
    smtputf8: bool = False
    binary: bool = False  # BODY=BINARYMIME: its line ends may be none (RFC 3030); of content that is still to be taken
    ret: str = ""
    envid: str = ""
    wishes: Mapping[str, Wish] = field(default_factory=dict)

    def wish(self, recipient: str) -> Wish:
        return self.wishes.get(recipient, NO_WISH)

    @property
    def wants_success(self) -> bool:
        """Whether the sender is to be told of what was sent, of some recipient at least."""
        return any(wish.wants("SUCCESS") for wish in self.wishes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a message came from: for the log, the Received header and the history."""

    client: str = ""  # "192.0.2.7" or "unix"
    helo: str = ""
    user: str = ""
    listener: str = ""  # its name in the settings
    protocol: str = "ESMTP"  # the `with` word of Received: SMTP, ESMTP, ESMTPS, ESMTPA, ESMTPSA, LMTP, HTTP
    began: int = 0  # when its transaction did, in nanoseconds since the epoch; 0: nobody wants to know
    tls: str = ""  # "TLSv1.3 with cipher ... (256/256 bits)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message we may have to answer for: raw bytes are the truth, everything parsed is derived again.

    `raw` has CRLF line ends, our Received header, and a Date and Message-ID. Times are seconds since the epoch (UTC).
    """

    queue_id: str
    envelope: Envelope
    raw: bytes = field(repr=False)
    created_at: float
    expires_at: float
    origin: Origin = Origin()
    message_id: str = ""  # the header's value, for the log and the list
    subject: str = ""  # decoded, shortened, for the list
    source: str = ""  # whose turn it is when many messages wait: a user, or a client
    kind: Literal["mail", "dsn"] = "mail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one attempt meant for one recipient."""

    status: Literal["sent", "deferred", "bounced", "unknown"]
    reply: Reply  # safe to show to a client
    fault: Fault | None = None
    detail: str = ""  # for the log only
    provider_message_id: str = ""
    retry_after: float | None = None  # seconds the provider asked us to wait
    quota: bool = False  # a used-up quota may wait up to a day, other waits up to retry.maximum
    passed_on: bool = False  # the next system was asked to tell the sender what it wants to be told (RFC 3461 5.2.1)
    keyless: bool = (
        False  # unknown, and another attempt would carry a key the provider does not know: it may mail twice
    )


EventKind = Literal[
    "sent", "delivered", "deferred", "bounced", "complained", "opened", "clicked", "unsubscribed", "rejected"
]
EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a provider tells, later, of a message it took. Empty where it says nothing.

    `event_id`: the same for the same event, however often it is told. `final`: it tries no more, the mail does not arrive.
    `permanent`: and never will at this address. `raw`: the event as it came, as JSON. `at`: when it happened.
    """

    kind: EventKind
    event_id: str
    recipient: str = ""
    provider_message_id: str = ""
    queue_id: str = ""
    at: float | None = None
    final: bool = False
    permanent: bool = False
    code: int | None = None
    enhanced: str = ""
    text: str = ""
    raw: str = field(default="", repr=False)


class Pieces(ABC):
    """Bytes that are made when they are wanted: iterating gives them piece by piece, anew each time. `len`: of them all."""

    __slots__ = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[bytes]: ...

    def __bytes__(self) -> bytes:
        return b"".join(self)


Content = bytes | Pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One attached or inline part. `encoded` is the payload in clean base64 without line breaks (ASCII bytes); `Pieces` where
    the message is large (`bridge/mime/pieces.py`), and `bytes(encoded)` is a copy then.

    `filename` is decoded, without control characters and path separators, "" when the mail gives none;
    `content_id` comes without angle brackets; `parameters` are the other Content-Type parameters (method, charset ...).
    """

    filename: str
    content_type: str
    encoded: Content = field(repr=False)
    size: int
    disposition: Literal["attachment", "inline"] = "attachment"
    content_id: str = ""
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def content(self) -> bytes:
        return base64.b64decode(bytes(self.encoded))


@dataclass(frozen=True, slots=True, kw_only=True)
class Email:
    """The content as people read it. Text is valid Unicode without NUL; header values are one line each.

    `headers` are those with no field of their own, in order: never Bcc or Resent-Bcc, nor the MIME ones.
    `alternatives` are further members of multipart/alternative (a calendar, AMP), (content type with parameters, text).
    """

    sender: Mailbox  # From; email "" when there is none
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    reply_to: tuple[Mailbox, ...] = ()
    subject: str = ""
    date: str = ""
    message_id: str = ""
    text: str = ""
    html: str = ""
    alternatives: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Attachment, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    raw: bytes = field(default=b"", repr=False)  # the whole message as stored; Bcc is stripped when it is sent
    protections: tuple[str, ...] = ()  # types of its signed or encrypted parts (multipart/signed ...), outermost first
    defects: tuple[str, ...] = ()  # what was odd, for the log
    beyond: Literal["", "header", "depth", "parts"] = ""  # the limit of its structure that it does not keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressing:
    """One call to a provider: who sees whom, and who is mailed. `recipients` = to + cc + bcc in the envelope's spelling."""

    reverse_path: str
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...] = ()
    bcc: tuple[str, ...] = ()
    envelope: Envelope | None = None  # of the message, for what only SMTP can pass on

    @property
    def recipients(self) -> tuple[str, ...]:
        return (*(m.email for m in self.to), *(m.email for m in self.cc), *self.bcc)


def idempotency_key(queue_id: str, recipients: Iterable[str]) -> str:
    """Stable over retries: the queue id and the set of recipients of the call, 16 + 1 + 32 characters or so."""
    digest = hashlib.sha256("\n".join(sorted(recipients)).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{queue_id}-{digest}"


@dataclass(slots=True)
class Peer:
    """The client of one running transaction. `gone`: nobody listens for the answer any more."""

    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client hears for one message: one reply, or by recipient where the protocol can say so (LMTP)."""

    reply: Reply
    by_recipient: Mapping[str, Reply] = field(default_factory=dict)
