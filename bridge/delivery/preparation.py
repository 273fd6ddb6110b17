"""From what a client sent to a message: all that can be said of it without the network (DESIGN 3.10). Blocking, so that a large
one is prepared in a thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from bridge.clock import Clock
from bridge.content import Readable, Rest, Tail, join
from bridge.delivery.choice import Dispatchers, Plan
from bridge.mime.binary import Unconvertible, without_binary
from bridge.mime.fields import header_exceeds, summary
from bridge.mime.parse import Costly
from bridge.mime.sameness import fingerprint, is_bulk, is_report
from bridge.mime.sender import NO_SENDERS, Senders, from_addresses, rewrite_sender
from bridge.mime.trace import count_hops, received_field, rfc5322_date, stamp
from bridge.model import Email, Envelope, Message, Origin, matches
from bridge.reply import TOO_MANY_HOPS, Reply

log: Any = structlog.get_logger()

BEYOND_HEADER = 64 * 1024  # octets of the body that are looked at with the header
HEADER_TOO_LARGE = Reply(554, "5.6.0", "Message header is too large")
BEYOND = {
    "header": HEADER_TOO_LARGE,
    "depth": Reply(554, "5.6.0", "Message parts are nested too deeply"),
    "parts": Reply(554, "5.6.0", "Message has too many parts"),
}
SENDER_NOT_ALLOWED = Reply(550, "5.7.1", "From address not allowed for this user")
BINARY_SIGNED = Reply(554, "5.6.3", "Binary content in a signed part cannot be converted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings of `[relay]` and what a message may not exceed. Times in seconds. `user_senders`: patterns of addresses, by
    user; who is not in it may send as anybody."""

    mode: Literal["auto", "queue", "direct"] = "auto"
    attempt_timeout: float = 10.0
    lifetime: float = 2 * 86400.0
    max_hops: int = 50
    max_header_size: int = 1024 * 1024
    hostname: str = "localhost"
    senders: Senders = NO_SENDERS
    dedupe_window: float = 0.0
    user_senders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A message as it is stored, as it is read, and who may take it."""

    message: Message
    email: Email
    plan: Plan
    fingerprint: bytes = b""  # of what makes it the same as another; empty: it is like no other


class Preparation:
    def __init__(self, dispatchers: Dispatchers, parse: Callable[..., Email], clock: Clock) -> None:
        self._dispatchers = dispatchers
        self._parse = parse
        self._clock = clock

    def __call__(
        self,
        rules: Rules,
        queue_id: str,
        envelope: Envelope,
        incoming: Readable,
        origin: Origin,
        room: int | None = None,
        only: str = "",
    ) -> Prepared | Reply:
        """The message, or the refusal that a client hears whatever the mode. Its header alone is changed, so that the rest of a
        long one is copied once, from its file. `room`: octets that a long one may hold. `only`: who is to take
        it. Raises Costly."""
        first = rules.max_header_size + BEYOND_HEADER
        rest: Rest | Tail | None
        content, rest = incoming.read(first)
        if envelope.binary or rules.dedupe_window > 0:  # they want the whole
            content, rest = join(content, rest), None
        if header_exceeds(content, rules.max_header_size):
            return HEADER_TOO_LARGE
        try:
            content = without_binary(content) if envelope.binary else content
        except Unconvertible:
            return BINARY_SIGNED
        if count_hops(content) > rules.max_hops:
            return TOO_MANY_HOPS
        now = self._clock.now()
        same = fingerprint(content, envelope) if rules.dedupe_window > 0 else b""
        if len(content) > 2 * first:
            content, rest = content[:first], Tail(content, first)  # all of it: what is in a file is read in part
        was, written = envelope, content
        content, envelope, old = _with_new_sender(rules, content, envelope)
        if content is written and not _may_send_as(rules, origin.user, content):
            return SENDER_NOT_ALLOWED
        del written
        raw = join(_stamp(rules, queue_id, envelope, content, origin, now), rest)
        del content, rest
        try:
            email = self._parse(raw, room=room)
        except Costly as costly:
            del raw  # the exception would keep its frames, and they the message
            raise costly.with_traceback(None) from None
        if old or envelope is not was:
            log.info("message.sender_replaced", queue_id=queue_id, reverse_path=envelope.reverse_path, sender=old)
        if email.beyond:
            return BEYOND[email.beyond]
        plan = self._dispatchers.accept(queue_id, email, envelope, origin, only=only)
        if not plan.lanes:
            return next(iter(plan.refused.values()))
        message_id, subject = (email.message_id, email.subject[:200]) if email.message_id else summary(raw)
        message = Message(
            queue_id=queue_id,
            envelope=envelope,
            raw=raw,
            created_at=now,
            expires_at=now + rules.lifetime,
            origin=origin,
            message_id=message_id,
            subject=subject,
            kind="dsn" if is_report(raw) else "mail",
            source=(origin.user or origin.client) + (" bulk" if is_bulk(email, envelope) else ""),
        )
        return Prepared(message=message, email=email, plan=plan, fingerprint=same)


def _may_send_as(rules: Rules, user: str, content: bytes) -> bool:
    """Of the From that a user wrote, since it is what an API sends as; MAIL was held against the same patterns. One without a
    domain names nobody."""
    patterns = rules.user_senders.get(user)
    if patterns is None:
        return True
    named = [address for address in from_addresses(content) if "@" in address]
    return all(any(matches(pattern, address) for pattern in patterns) for address in named)


def _with_new_sender(rules: Rules, content: bytes, envelope: Envelope) -> tuple[bytes, Envelope, str]:
    """`relay.rewrite` and `relay.from`; with the old address."""
    content, reverse_path, old = rewrite_sender(content, envelope.reverse_path, rules.senders)
    if reverse_path != envelope.reverse_path:
        envelope = dataclasses.replace(envelope, reverse_path=reverse_path)
    return content, envelope, old


def _stamp(rules: Rules, queue_id: str, envelope: Envelope, content: bytes, origin: Origin, now: float) -> bytes:
    hostname = rules.hostname
    only = envelope.recipients[0] if len(envelope.recipients) == 1 else ""
    received = received_field(origin, hostname=hostname, queue_id=queue_id, now=now, recipient=only, tls=origin.tls)
    return stamp(
        content,
        received=received,
        date=rfc5322_date(now),
        message_id=f"<{queue_id}@{hostname}>",
    )
