"""https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.answers import pointed
from bridge.providers.events.base import (
    Call,
    Fetch,
    Forged,
    Hook,
    HookSettings,
    Received,
    addresses_at,
    collect,
    first_text,
    id_at,
    make_event,
    text_at,
)
from bridge.providers.events.parts import own_parts
from bridge.providers.events.signatures import same
from bridge.providers.events.sns import (
    Certificates,
    check_signed,
    confirm,
    content_of,
    envelope_of,
    is_amazon,
    region_of,
)

_KINDS: dict[str, EventKind] = {
    "Send": "sent",
    "Delivery": "delivered",
    "DeliveryDelay": "deferred",
    "Bounce": "bounced",
    "Complaint": "complained",
    "Reject": "rejected",
    "Rendering Failure": "rejected",
    "Open": "opened",
    "Click": "clicked",
    "Subscription": "unsubscribed",
}
_PLACES = {"Bounce": "bouncedRecipients", "Complaint": "complainedRecipients", "DeliveryDelay": "delayedRecipients"}
_LISTED = frozenset({"Suppressed", "OnAccountSuppressionList"})
# Transient: an absence notice counts as one too, so it is believed only with one of these, or a failure of the report.
_FAILED = frozenset({"MailboxFull", "MessageTooLarge", "ContentRejected", "AttachmentRejected"})


class SesHook(Hook):
    """Through SNS, whose certificate signs each message; only of the topic in the settings."""

    needs = ("topic",)

    def __init__(self, settings: HookSettings) -> None:
        super().__init__(settings)
        self._region = region_of(settings.topic)
        self._certificates = Certificates(self._region)

    def verify(self, call: Call) -> None:
        raise NotImplementedError("needs the certificate; see receive")

    async def receive(self, call: Call, fetch: Fetch) -> Received:
        message = envelope_of(call)
        if not same(text_at(message, "/TopicArn"), self.settings.topic):
            raise Forged("of another topic")
        await check_signed(message, call, self._certificates, fetch)
        if message["Type"] == "SubscriptionConfirmation":
            await confirm(message, fetch, ours=lambda url: is_amazon(url, self._region))
        content = content_of(message) if message["Type"] == "Notification" else None
        if content is None:
            return Received(ignored=1)
        sns_id = id_at(message, "/MessageId")
        return collect([content], lambda item: self._read(item, sns_id))

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        return self._read(item, "")

    def _read(self, item: dict[str, Any], sns_id: str) -> Iterator[Event]:
        word = first_text(item, "/eventType", "/notificationType")
        kind = _KINDS.get(word)
        if kind is None:
            return
        name = "failure" if word == "Rendering Failure" else f"{word[0].lower()}{word[1:]}"
        part = pointed(item, f"/{name}")
        path, found = _recipients(item, part, name, word)
        raws = own_parts(item, path, [own for _, own in found])
        for (recipient, about), raw in zip(found, raws, strict=True):
            yield self._event(kind, item, part, recipient, about, f"{sns_id}:{recipient}" if sns_id else "", raw)

    def _event(
        self,
        kind: EventKind,
        item: dict[str, Any],
        part: Any,
        recipient: str,
        about: Any,
        event_id: str,
        raw: dict[str, Any],
    ) -> Event:
        bounce, sub = text_at(part, "/bounceType"), text_at(part, "/bounceSubType")
        listed = kind == "bounced" and sub in _LISTED
        failed = sub in _FAILED or text_at(about, "/action") == "failed"
        return make_event(
            "rejected" if listed else kind,
            raw,
            recipient=recipient,
            event_id=event_id,
            message_id=id_at(item, "/mail/messageId"),
            queue_id=id_at(item, "/mail/tags/queue_id/0"),
            at=first_text(part, "/timestamp") or text_at(item, "/mail/timestamp"),
            text=first_text(about, "/diagnosticCode")
            or first_text(
                part, "/smtpResponse", "/reason", "/errorMessage", "/bounceSubType", "/complaintFeedbackType"
            ),
            enhanced=text_at(about, "/status"),
            final=kind == "bounced" and (bounce == "Permanent" or failed),
            permanent=kind == "bounced" and bounce == "Permanent" and not listed,
        )


def _recipients(item: dict[str, Any], part: Any, name: str, word: str) -> tuple[tuple[str, ...], list[tuple[str, Any]]]:
    """Where the list of them stands, and each with what stands there of it alone."""
    named = pointed(part, f"/{_PLACES[word]}") if word in _PLACES else None
    if isinstance(named, list):
        return (name, _PLACES[word]), [(one, own) for own in named for one in addresses_at(own, "/emailAddress")]
    path, some = (name, "recipients"), list(addresses_at(part, "/recipients"))
    if not some:
        path, some = ("mail", "destination"), list(addresses_at(item, "/mail/destination"))
    if word in ("Open", "Click") and len(some) > 1:
        some = []  # it is not told who of them
    return path, [(address, address) for address in some or [""]]
