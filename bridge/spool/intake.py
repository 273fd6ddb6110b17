"""Writing new messages: what is queued, and the history of what never had to be."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bridge.model import FAILED, NO_WISH, UNRESOLVED, Event, Message, Wish
from bridge.reply import Reply
from bridge.spool.base import Lease, Result, SpoolError, bound_lane
from bridge.spool.summaries import outdate
from bridge.spool.values import Row, insert

MESSAGE = (
    "queue_id", "reverse_path", "smtputf8", "size", "kind", "created_at", "expires_at", "client", "helo", "user",
    "protocol", "message_id", "subject", "listener", "ret", "envid", "body", "crc", "keep_body", "failed", "resolved_at",
)  # fmt: skip
RECIPIENT = (
    "queue_id", "address", "position", "status", "attempts", "next_attempt_at", "leased_until", "lease_owner", "epoch",
    "begun", "unknown_group", "unknowns", "provider", "provider_message_id", "code", "enhanced", "text", "fault",
    "expires_at", "due_at", "blocked_at", "lane", "source", "ready", "notify", "orcpt", "notice",
)  # fmt: skip
EVENT = ("queue_id", "seq", "at", "event", "address", "provider", "code", "enhanced", "text", "detail")

# Order of events within a message: unique in this process, and never the number of another one's event of the same message.
_sequence = itertools.count(time.time_ns())


@dataclass(frozen=True, slots=True)
class Retention:
    """How long finished messages stay: metadata for `history_s`, failed ones with their bodies for `failed_s`."""

    history_s: float
    failed_s: float


@dataclass(frozen=True, slots=True)
class Intake:
    """One message to be written. `raw` is None when its body is a file (`crc`) or is not kept (`crc` None)."""

    head: Row  # see `head`
    recipients: tuple[str, ...]
    expires_at: float
    now: float
    raw: bytes | None
    crc: int | None
    results: Mapping[str, Result]
    lease: Lease | None = None
    leased: Mapping[str, str] = field(default_factory=dict)  # address -> provider
    provider: str = ""
    lanes: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    wishes: Mapping[str, Wish] = field(default_factory=dict)
    keep_body: bool = False
    queue: bool = True  # False: history, every recipient is resolved


def head(message: Message) -> Row:
    """The first columns of MESSAGE, without the body: what the history keeps waiting must not hold bodies in memory."""
    origin = message.origin
    return (
        message.queue_id, message.envelope.reverse_path, int(message.envelope.smtputf8), len(message.raw), message.kind,
        message.created_at, message.expires_at, origin.client, origin.helo, origin.user, origin.protocol,
        message.message_id, message.subject, origin.listener, message.envelope.ret, message.envelope.envid,
    )  # fmt: skip


def new_entry(message: Message, lanes: Mapping[str, str]) -> Intake:
    return Intake(
        head=head(message),
        recipients=message.envelope.recipients,
        expires_at=message.expires_at,
        now=message.created_at,
        raw=message.raw,
        crc=None,
        results={},
        lanes=lanes,
        source=message.source,
        wishes=message.envelope.wishes,
    )


def insert_messages(db: sqlite3.Connection, entries: Sequence[Intake], *, retention: Retention) -> list[None]:
    """All of them, each with its recipients. A duplicate queue id or a result for a stranger fails."""
    messages: list[Row] = []
    recipients: list[Row] = []
    events: list[Row] = []
    bodies: list[Row] = []
    for entry in entries:
        check_results(entry)
        rows = [_recipient(entry, position, address) for position, address in enumerate(entry.recipients)]
        message = _message(entry, rows, retention)
        if message[-1] is not None and not message[-2] and retention.history_s <= 0:
            continue  # finished and nothing to keep
        messages.append(message)
        recipients += rows
        if entry.results:
            events += [_event(entry, address) for address in entry.recipients if address in entry.results]
        if message[_BODY] == "row":
            bodies.append((message[0], entry.raw))
    if messages:
        outdate(db, min(row[0] for row in messages))
    insert(db, "message", MESSAGE, messages)
    insert(db, "recipient", RECIPIENT, recipients)
    insert(db, "event", EVENT, events)
    insert(db, "body", ("queue_id", "raw"), bodies)
    return [None] * len(entries)


_BODY = MESSAGE.index("body")
_STATUS, _NOTICE = RECIPIENT.index("status"), RECIPIENT.index("notice")


def _message(entry: Intake, rows: Sequence[Row], retention: Retention) -> Row:
    statuses = {row[_STATUS] for row in rows}
    open_ = not statuses.isdisjoint(UNRESOLVED) or any(row[_NOTICE] for row in rows)
    failed = not open_ and entry.queue and not statuses.isdisjoint(FAILED) and retention.failed_s > 0
    kept = open_ or failed or entry.keep_body
    body = ("row" if entry.raw is not None else "file" if entry.crc is not None else "") if kept else ""
    kept_now = (body, entry.crc if body == "file" else None, int(entry.keep_body), int(failed))
    return (*entry.head[:7], *map(clean, entry.head[7:]), *kept_now, None if open_ else entry.now)


def _recipient(entry: Intake, position: int, address: str) -> Row:
    queue_id = entry.head[0]
    result = entry.results.get(address)
    if result is not None:
        return _decided(entry, position, address, result)
    wish = entry.wishes.get(address, NO_WISH)
    lane = entry.lanes.get(address, "")
    if address in entry.leased and entry.lease is not None:
        lease = entry.lease
        return (
            queue_id, address, position, "queued", 1, lease.until, lease.until, lease.owner, lease.epoch,
            1, None, 0, entry.leased[address], "", None, "", "", "", entry.expires_at, None, None,
            lane, entry.source, 0, wish.notify, wish.orcpt, "",
        )  # fmt: skip
    return (
        queue_id, address, position, "queued", 0, entry.now, None, None, None,
        0, None, 0, "", "", None, "", "", "", entry.expires_at, None, None,
        lane, entry.source, 1, wish.notify, wish.orcpt, "",
    )  # fmt: skip


def _decided(entry: Intake, position: int, address: str, result: Result) -> Row:
    status = written_status(result)
    if not entry.queue and status in UNRESOLVED:
        status = "dropped"  # nothing of it stays with us, and it must never be claimed
    due = None
    if status in ("queued", "deferred"):
        due = entry.now if result.at is None else result.at
    group = None
    if result.unknown and status in UNRESOLVED:
        group = entry.lease.epoch if entry.lease else 0
    code, enhanced, text = reply_columns(result.reply)
    blocked_at = entry.now if status in UNRESOLVED and (result.blocked or status == "held") else None
    provider, wish = result.provider or entry.provider, entry.wishes.get(address, NO_WISH)
    return (
        entry.head[0], address, position, status, 1, due, None, None, None, 0, group, int(result.unknown),
        provider, clean(result.provider_message_id), code, enhanced, text,
        fault_column(result), entry.expires_at, None, blocked_at,
        lane_after(result, provider) or entry.lanes.get(address, ""), entry.source,
        int(due is not None and due <= entry.now), wish.notify, wish.orcpt, _notice(entry, status, wish, result),
    )  # fmt: skip


def _notice(entry: Intake, status: str, wish: Wish, result: Result) -> str:
    """Of mail that was only noted the client heard all itself."""
    if not entry.queue:
        return ""
    if status in FAILED:
        return "failure"
    return "success" if status == "sent" and wish.wants("SUCCESS") and not result.passed_on else ""


def lane_after(result: Result, provider: str) -> str:
    """Where a recipient waits after this result; "" for no change."""
    if result.lane is not None:
        return result.lane
    return bound_lane(provider) if result.unknown and provider else ""


def written_status(result: Result) -> str:
    """A lost answer leaves the recipient open, whatever else is said."""
    return "deferred" if result.unknown and result.status not in UNRESOLVED else result.status


def reply_columns(reply: Reply | None) -> tuple[int | None, str, str]:
    return (reply.code, reply.enhanced, reply.text) if reply else (None, "", "")


def fault_column(result: Result) -> str:
    return result.fault.value if result.fault else ""


def _event(entry: Intake, address: str) -> Row:
    return event_row(entry.head[0], entry.now, address, entry.results[address], entry.provider)


def event_row(queue_id: str, at: float, address: str, result: Result, provider: str = "") -> Row:
    code, enhanced, text = reply_columns(result.reply)
    word = "unknown" if result.unknown else result.status
    provider = result.provider or provider
    return (queue_id, next(_sequence), at, word, address, provider, code, enhanced, text, clean(result.detail))


def told_row(queue_id: str, at: float, address: str, event: Event, provider: str) -> Row:
    """What a provider told later."""
    words = (event.kind, address, provider, event.code, event.enhanced, clean(event.text), "told by the provider")
    return (queue_id, next(_sequence), at, *words)


def plain_event(queue_id: str, at: float, word: str, text: str = "") -> Row:
    """Something done to a message as a whole, by the operator or by us."""
    return (queue_id, next(_sequence), at, word, "", "", None, "", text, "")


def check_results(entry: Intake) -> None:
    """A result under another spelling than the envelope's would leave its recipient due, and it would be mailed twice."""
    known = set(entry.recipients)
    if not (known.issuperset(entry.results) and known.issuperset(entry.leased)):
        raise SpoolError(f"{entry.head[0]}: a result for an address that is not in the envelope")
    if entry.leased and entry.lease is None:
        raise SpoolError(f"{entry.head[0]}: leased recipients without a lease")


def clean(text: str) -> str:
    """Valid UTF-8, for what is only shown: a lone surrogate in a subject must not cost the message."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
