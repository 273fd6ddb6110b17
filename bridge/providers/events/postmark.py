"""https://postmarkapp.com/developer/webhooks/webhooks-overview"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import Call, Hook, first_text, id_at, make_event, text_at
from bridge.providers.events.signatures import check_shared

_KINDS: dict[str, EventKind] = {
    "Delivery": "delivered",
    "Bounce": "bounced",
    "SpamComplaint": "complained",
    "Open": "opened",
    "Click": "clicked",
    "SubscriptionChange": "unsubscribed",
}
# https://postmarkapp.com/developer/api/bounce-api#bounce-types; what stands in none of these is no failure (AutoResponder).
_HARD = frozenset({"HardBounce", "BadEmailAddress"})
_GIVEN_UP = frozenset(
    {"SoftBounce", "Blocked", "DMARCPolicy", "DnsError", "SpamNotification", "SMTPApiError", "VirusNotification", "Unknown"}
)  # fmt: skip
_OTHER: dict[str, EventKind] = {
    "Transient": "deferred",
    "SpamComplaint": "complained",
    "Unsubscribe": "unsubscribed",
    "ManuallyDeactivated": "rejected",
}


class PostmarkHook(Hook):
    """Not signed."""

    early = True

    def verify(self, call: Call) -> None:
        check_shared(call, self.settings.secret)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word, kind = text_at(item, "/Type"), _kind(item)
        if kind is None:
            return
        number = id_at(item, "/ID")
        yield make_event(
            kind,
            item,
            recipient=first_text(item, "/Recipient", "/Email"),
            event_id=f"{text_at(item, '/RecordType')}-{number}" if number else "",
            message_id=id_at(item, "/MessageID"),
            queue_id=id_at(item, "/Metadata/queue_id"),
            at=first_text(item, "/DeliveredAt", "/BouncedAt", "/ReceivedAt", "/ChangedAt"),
            text=first_text(item, "/Details", "/Description", "/SuppressionReason"),
            final=kind == "bounced",
            permanent=kind == "bounced" and word in _HARD,
        )


def _kind(item: dict[str, Any]) -> EventKind | None:
    record, word = text_at(item, "/RecordType"), text_at(item, "/Type")
    if record == "Bounce" and word not in _HARD | _GIVEN_UP:
        return _OTHER.get(word)
    if record == "SubscriptionChange":
        if item.get("SuppressSending") is not True or text_at(item, "/SuppressionReason") == "HardBounce":
            return None  # a bounce is told by itself
        return "complained" if text_at(item, "/SuppressionReason") == "SpamComplaint" else "unsubscribed"
    return _KINDS.get(record)
