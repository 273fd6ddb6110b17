"""Notices to senders: what failed, is late or was sent becomes a report (mime/dsn.py), put in the spool with the mark that it
was told, in one transaction. So each is told once, whatever happens in between.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson
import structlog

from bridge import tracing
from bridge.clock import Clock
from bridge.delivery.choice import Dispatchers
from bridge.delivery.lanes import Lane
from bridge.mime.dsn import Notice, Reported, build_notice, build_text
from bridge.mime.trace import iso8601
from bridge.model import Email, Envelope, Mailbox, Message, Origin, matches
from bridge.spool.base import Due, NoticeKind, Post, Spool, SpoolError, SpoolFull, Told

log: Any = structlog.get_logger()

POLL_S = 60.0
LOOKED_AT_ONCE = 1000
OFF_LOOP_SIZE = 64 * 1024  # octets of a message from which its notice is made in a thread
MAILER = "Mail Delivery System"
_ACTIONS: dict[NoticeKind, Literal["failed", "delayed", "relayed"]] = {
    "failure": "failed",
    "delay": "delayed",
    "success": "relayed",
}
_WORDS: dict[NoticeKind, Literal["FAILURE", "DELAY", "SUCCESS"]] = {
    "failure": "FAILURE",
    "delay": "DELAY",
    "success": "SUCCESS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BounceRules:
    """The settings of `[bounce]`. `sender` None: the notice comes from the envelope sender's own address. Times in seconds.

    `delay_after` 0: nobody hears that mail is late.
    """

    enabled: bool = True
    sender: Mailbox | None = None
    postmaster: str = ""
    senders: tuple[str, ...] = ()
    max_size: int = 1 << 20
    webhook: bool = False
    delay_after: float = 4 * 3600.0
    lifetime: float = 2 * 86400.0
    hostname: str = "localhost"


def may_be_told(message: Message, patterns: Sequence[str]) -> bool:
    """Whether notices go to this sender: a forged one would get notices of mail it never sent (backscatter).

    Who logged in may send as this address. Others by the patterns; without any, whoever sends from this machine or from a
    private network.
    """
    if message.origin.user:
        return True
    if patterns:
        return any(matches(pattern, message.envelope.reverse_path) for pattern in patterns)
    try:
        return not ipaddress.ip_address(message.origin.client).is_global
    except ValueError:  # a unix socket
        return True


class Bounces:
    """`run` for ever. `wake` when something failed; `waits_in` tells the runner of notices in the spool."""

    def __init__(
        self,
        *,
        spool: Spool,
        dispatchers: Dispatchers,
        rules: BounceRules,
        parse: Callable[[bytes], Email],
        new_queue_id: Callable[[], str],
        waits_in: Callable[[Iterable[Lane]], None],
        posted: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.rules = rules
        self._spool = spool
        self._dispatchers = dispatchers
        self._parse = parse
        self._new_queue_id = new_queue_id
        self._waits_in = waits_in
        self._posted = posted
        self._clock = clock
        self._wake = asyncio.Event()
        self._look_at = 0.0  # for what is late

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            try:
                if self._clock.now() >= self._look_at:
                    await self.look_for_late()
                    self._look_at = self._clock.now() + POLL_S
                await self.tell_all()
            except (SpoolError, SpoolFull) as error:  # the marks stay: it is told when there is room again
                log.error("spool.error", where="notices", error=str(error))
                await self._clock.wait(asyncio.Event(), POLL_S)
            await self._clock.wait(self._wake, POLL_S)

    async def look_for_late(self) -> None:
        """Raises SpoolError."""
        if self.rules.delay_after <= 0:
            return
        while (
            await self._spool.note_late(now=self._clock.now(), after=self.rules.delay_after, limit=LOOKED_AT_ONCE)
            == LOOKED_AT_ONCE
        ):
            pass

    async def tell_all(self) -> None:
        """Raises SpoolError, SpoolFull."""
        while found := await self._spool.notices():
            for due in found:
                await self._tell(due)

    async def _tell(self, due: Due) -> None:
        began = tracing.tracer.now()
        try:
            large = len(due.message.raw) > OFF_LOOP_SIZE
            notices = await asyncio.to_thread(self._notices, due) if large else self._notices(due)
        except Exception:
            # A defect of ours must not be met again and again: this sender hears nothing, the failed queue has it.
            log.exception("dsn.error", queue_id=due.message.queue_id)
            notices = []
        posts = self._posts(due)
        await self._spool.settle_notices(
            due, messages=[(message, str(lane)) for message, lane in notices], posts=posts, now=self._clock.now()
        )
        for message, _ in notices:
            log.info(
                "dsn.queued",
                queue_id=message.queue_id,
                of=due.message.queue_id,
                recipient=message.envelope.recipients[0],
                about=[told.address for told in due.recipients],
            )
            tracing.tracer.ended("dsn", message.queue_id, began, first=True, of=due.message.queue_id)
        self._waits_in(lane for _, lane in notices)
        if posts:
            self._posted()

    # --- who is told what

    def _notices(self, due: Due) -> list[tuple[Message, Lane]]:
        message, rules = due.message, self.rules
        if not rules.enabled:
            return []
        wanted = tuple(told for told in due.recipients if told.wish.wants(_WORDS[told.kind]))
        failed = tuple(told for told in wanted if told.kind == "failure")
        sender = message.envelope.reverse_path
        returned = message.kind == "mail" and sender and may_be_told(message, rules.senders)
        found = [self._notice(due, wanted, sender)] if returned and wanted else []
        told_already = bool(found) and sender.lower() == rules.postmaster.lower()
        if rules.postmaster and failed and not told_already and message.envelope.recipients != (rules.postmaster,):
            found.append(self._notice(due, failed, rules.postmaster, copy=True))
        return [notice for notice in found if notice]

    def _notice(
        self, due: Due, told: Sequence[Told], recipient: str, *, copy: bool = False
    ) -> tuple[Message, Lane] | None:
        """A message to `recipient` with its lane; None, and a line in the log, when no provider takes it.

        Where no provider of the route can carry a report, or one of that size, it goes with the header alone, else as a mail
        of its text: the sender must hear of it.
        """
        message, now, queue_id = due.message, self._clock.now(), self._new_queue_id()
        own = message.envelope.reverse_path if message.kind == "mail" else ""
        sender = self.rules.sender or Mailbox(own or recipient, MAILER)
        notice = Notice(
            queue_id=message.queue_id,
            sender=sender,
            recipient=recipient,
            hostname=self.rules.hostname,
            message_id=f"{queue_id}@{self.rules.hostname}",
            now=now,
            arrived_at=message.created_at,
            envid=message.envelope.envid,
            ret="HDRS" if copy or not message.raw else message.envelope.ret,
            reported=tuple(self._reported(one) for one in told),
            raw=message.raw or _remembered(message),
            max_size=self.rules.max_size,
        )
        # RFC 5321 4.5.5: a notice has the null reverse path, so that its own failure causes no other.
        envelope = Envelope(reverse_path="", recipients=(recipient,), smtputf8=not recipient.isascii())
        origin = replace(message.origin, protocol="DSN")
        why = ""
        for raw, degrade in _forms(notice):
            email = self._parse(raw)
            lane, why = self._lane(queue_id, email, envelope, origin, message.envelope.reverse_path, degrade=degrade)
            if lane is None:
                continue
            report = Message(
                queue_id=queue_id,
                envelope=envelope,
                raw=raw,
                created_at=now,
                expires_at=now + self.rules.lifetime,
                origin=origin,
                message_id=f"<{notice.message_id}>",
                subject=email.subject[:200],
                kind="dsn",
                source="notices",
            )
            return report, lane
        log.error("dsn.refused", queue_id=message.queue_id, recipient=recipient, text=why)
        return None

    def _lane(
        self, queue_id: str, email: Email, envelope: Envelope, origin: Origin, reported: str, *, degrade: bool
    ) -> tuple[Lane | None, str]:
        """By the notice's own sender, else by that of the message reported, whose route there is; and why not."""
        (recipient,) = envelope.recipients
        why = ""
        for sender in dict.fromkeys((email.sender.email, reported or email.sender.email)):
            plan = self._dispatchers.notice(queue_id, email, envelope, origin, sender=sender, degrade=degrade)
            if recipient in plan.lanes:
                return plan.lanes[recipient], ""
            why = why or plan.refused[recipient].text
        return None, why

    def _reported(self, told: Told) -> Reported:
        dispatcher = self._dispatchers.named(told.provider)
        return Reported(
            address=told.address,
            action=_ACTIONS[told.kind],
            reply=told.reply,
            provider=told.provider,
            remote_mta=dispatcher.provider.remote if dispatcher else "",
            orcpt=told.wish.orcpt,
            last_attempt_at=told.tried_at,
            will_retry_until=told.expires_at if told.kind == "delay" else None,
        )

    # --- the webhook

    def _posts(self, due: Due) -> list[Post]:
        failed = [told for told in due.recipients if told.kind == "failure"]
        if not (self.rules.webhook and failed):
            return []
        now, message = self._clock.now(), due.message
        body = {
            "type": "message.failed",
            "timestamp": iso8601(now),
            "data": {
                "queue_id": message.queue_id,
                "kind": message.kind,
                "message_id": message.message_id,
                "subject": message.subject,
                "reverse_path": message.envelope.reverse_path,
                "user": message.origin.user,
                "client": message.origin.client,
                "received_at": iso8601(message.created_at),
                "envid": message.envelope.envid,
                "recipients": [_failure(told) for told in failed],
            },
        }
        # The same event has the same id however often it is posted; another recipient that fails later is another event.
        post_id = f"msg_{message.queue_id}_{self._new_queue_id()}"
        return [Post(id=post_id, target="bounce", body=orjson.dumps(body).decode(), created_at=now)]


def _remembered(message: Message) -> bytes:
    """What the history has of the header, when the body is gone: it was sent, and then it bounced."""
    fields = (("Message-ID", message.message_id), ("Subject", message.subject))
    lines = (f"{name}: {' '.join(value.split())}\r\n" for name, value in fields if value)
    return "".join(lines).encode("utf-8", "replace") + b"\r\n"


def _forms(notice: Notice) -> Iterator[tuple[bytes, bool]]:
    """What may be sent, the best first, and whether something of it may be lost on the way."""
    yield build_notice(notice), False
    yield build_notice(replace(notice, ret="HDRS")), False
    yield build_text(notice), False
    yield build_text(notice), True


def _failure(told: Told) -> dict[str, Any]:
    reply = told.reply
    return {
        "address": told.address,
        "status": told.status,
        "code": reply.code if reply else None,
        "enhanced": reply.enhanced if reply else "",
        "text": reply.text if reply else "",
        "fault": told.fault,
        "provider": told.provider,
        "provider_message_id": told.provider_message_id,
        "attempts": told.attempts,
    }
