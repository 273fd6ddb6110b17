"""What providers tell later of the mail they took, and what follows from it.

delivered: noted. Bounced for good, or thrown away: the sender gets the notice he would have got at once. An address that is
no good, a complaint, a wish to get no more: it is not mailed again. Everything else is only kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import structlog

from bridge import metrics
from bridge.clock import Clock
from bridge.delivery.suppression import Suppressions
from bridge.mime.trace import iso8601
from bridge.model import Event
from bridge.reply import Reply
from bridge.spool.base import Heard, NotedEvent, Post, Spool, SpoolError

log: Any = structlog.get_logger()

TOO_OLD_S = 2 * 86400.0  # at least; what a provider tells again it tells within a day
REJOIN_WITHIN_S = 3 * 86400.0  # longer than mail is retried by default: the answer to our call may have been lost
AT_ONCE = 200  # in one transaction
POST_EVENTS = 100  # in one post, at most
_ABOUT_THE_MAIL = ("5.7.", "5.6.", "5.3.")  # RFC 3463: policy, content, the system: not the address
_PREFIX = re.compile(r"(?:smtp; ?)?[45]\d\d[ -](?:[45]\.\d{1,3}\.\d{1,3} )?|(?:smtp; ?)?[45]\.\d{1,3}\.\d{1,3} ")
_WORDS = {
    "complained": "the recipient complained",
    "unsubscribed": "the recipient unsubscribed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRules:
    """The settings of `[events]`, and how long, in seconds, finished messages are known."""

    webhook: bool = False
    suppress: bool = True
    history: float = 7 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Of one call. `duplicates`: had come before; `unjoined`: of no message that is known; `old`: too old to be believed."""

    events: int = 0
    duplicates: int = 0
    unjoined: int = 0
    old: int = 0


def failure_reply(event: Event) -> Reply | None:
    """What the sender is told; None when the mail may still arrive, or has."""
    if event.kind not in ("bounced", "rejected") or not event.final:
        return None
    code = event.code if event.code and 500 <= event.code <= 599 else 550
    enhanced = f"5{event.enhanced[1:]}" if event.enhanced[:1] in ("4", "5") else "5.0.0"
    # Asked for its last word, the other server may have said 4.x.x: given up all the same.
    reply = Reply.safe(code, enhanced, _PREFIX.sub("", event.text, count=1))
    return reply if reply.text else Reply(code, enhanced, f"The provider reports it as {event.kind}")


def suppression_reason(event: Event) -> str:
    """Why the address is not mailed again; "" when it is."""
    if event.kind in _WORDS:
        return _WORDS[event.kind]
    if event.kind == "bounced" and event.permanent and not event.enhanced.startswith(_ABOUT_THE_MAIL):
        return str(failure_reply(event) or "bounced")
    return ""


def note(event: Event, *, suppress: bool) -> NotedEvent:
    return NotedEvent(
        event=event, reply=failure_reply(event), suppression=suppression_reason(event) if suppress else ""
    )


class Events:
    """`on_failure`: somebody is to be told of a bounce. `posted`: there are posts to be made."""

    def __init__(
        self,
        *,
        spool: Spool,
        suppressions: Suppressions,
        rules: EventRules,
        new_id: Callable[[], str],
        on_failure: Callable[[], None],
        posted: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.rules = rules
        self._spool = spool
        self._suppressions = suppressions
        self._new_id = new_id
        self._on_failure = on_failure
        self._posted = posted
        self._clock = clock
        self._expected = False

    async def expect(self, wanted: bool) -> None:
        """Whether a provider is to tell us something at all."""
        self._expected = wanted
        try:
            await self._spool.expect_events(wanted)
        except SpoolError as error:  # providers are told to come again, until a start or a reload fares better
            log.error("spool.error", where="events", error=str(error))

    async def take(self, provider: str, events: Sequence[Event]) -> Counts:
        """All of them are kept when it returns. Raises SpoolFull, SpoolError: the provider is to tell it again."""
        now = self._clock.now()
        # What is signed without a time could be told again when it is forgotten that it was.
        oldest = now - max(self.rules.history, TOO_OLD_S)
        fresh = [event for event in events if event.at is None or event.at >= oldest]
        noted = [note(event, suppress=self.rules.suppress) for event in fresh]
        posts = self._post_maker(now)
        heard: list[Heard] = []
        for start in range(0, len(noted), AT_ONCE):  # what else waits is written in between
            part = noted[start : start + AT_ONCE]
            taken = await self._spool.take_events(provider, part, now=now, posts=posts)
            self._follow(part, taken)  # at once: when a later part cannot be written, this one is known the next time
            heard += taken
        new = [one for one in heard if not one.known]
        for one in new:
            metrics.provider_events.add(provider, one.event.kind)
            if not one.queue_id:
                metrics.provider_events_unjoined.add(provider)
            self._log(one)
        if new and self.rules.webhook:
            self._posted()
        return Counts(
            events=len(new),
            duplicates=len(heard) - len(new),
            unjoined=sum(not one.queue_id for one in new),
            old=len(events) - len(fresh),
        )

    async def rejoin(self) -> None:
        """Those whose message was not known when they came. Raises SpoolError."""
        if not self._expected:
            return
        now = self._clock.now()
        as_noted = partial(note, suppress=self.rules.suppress)
        since, posts = now - REJOIN_WITHIN_S, self._post_maker(now)
        heard = await self._spool.rejoin_events(since=since, now=now, note=as_noted, posts=posts)
        self._follow([as_noted(one.event) for one in heard], heard)
        for one in heard:
            self._log(one)
        if heard and self.rules.webhook:
            self._posted()

    def _follow(self, noted: Sequence[NotedEvent], heard: Sequence[Heard]) -> None:
        """What the spool has been told is done here as well."""
        if any(one.status == "bounced" for one in heard):
            self._on_failure()
        for what, one in zip(noted, heard, strict=True):
            if one.status == "bounced":
                metrics.bounced.add(one.provider)
            if one.suppressed:
                self._suppressions.add(one.address, what.suppression)
                log.warning("recipient.suppressed", recipient=one.address, provider=one.provider, text=what.suppression)

    def _log(self, one: Heard) -> None:
        event = one.event
        log.info(
            "webhook.event",
            provider=one.provider,
            kind=event.kind,
            queue_id=one.queue_id,
            recipient=one.address or event.recipient,
            provider_message_id=event.provider_message_id,
            status=one.status,
            code=event.code,
            enhanced=event.enhanced,
            text=event.text,
        )

    # --- to the operator's own address

    def _post_maker(self, now: float) -> Callable[[Sequence[Heard]], Sequence[Post]]:
        return partial(self._posts, now) if self.rules.webhook else lambda heard: ()

    def _posts(self, now: float, heard: Sequence[Heard]) -> list[Post]:
        """Called by the spool, with what is new, or has a message now that it had not when it was told before."""
        by_provider: dict[str, list[Heard]] = {}
        for one in heard:
            by_provider.setdefault(one.provider, []).append(one)
        return [
            self._post(provider, now, told[start : start + POST_EVENTS])
            for provider, told in by_provider.items()
            for start in range(0, len(told), POST_EVENTS)
        ]

    def _post(self, provider: str, now: float, heard: Sequence[Heard]) -> Post:
        body = {
            "type": "provider.events",
            "timestamp": iso8601(now),
            "data": {"provider": provider, "events": [as_json(one) for one in heard]},
        }
        return Post(id=f"msg_{self._new_id()}", target="events", body=orjson.dumps(body).decode(), created_at=now)


def as_json(one: Heard) -> dict[str, Any]:
    """An event in the words of all providers, with its own beside them."""
    event = one.event
    return {
        "event": event.kind,
        "id": event.event_id,
        "at": iso8601(event.at) if event.at is not None else None,
        "queue_id": one.queue_id or None,
        "recipient": one.address or event.recipient,
        "provider_message_id": event.provider_message_id,
        "final": event.final,
        "permanent": event.permanent,
        "code": event.code,
        "enhanced": event.enhanced,
        "text": event.text,
        "status": one.status or None,
        "suppressed": one.suppressed,
        "raw": orjson.Fragment(event.raw),
    }
