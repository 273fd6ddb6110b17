"""https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import Call, Hook, HookSettings, first_text, id_at, make_event, text_at
from bridge.providers.events.signatures import check_ecdsa, check_fresh, public_key

_KINDS: dict[str, EventKind] = {
    "processed": "sent",
    "delivered": "delivered",
    "deferred": "deferred",
    "bounce": "bounced",
    "blocked": "bounced",
    "dropped": "rejected",
    "open": "opened",
    "click": "clicked",
    "spamreport": "complained",
    "unsubscribe": "unsubscribed",
    "group_unsubscribe": "unsubscribed",
}
_SIGNATURE = "x-twilio-email-event-webhook-signature"
_TIMESTAMP = "x-twilio-email-event-webhook-timestamp"


class SendgridHook(Hook):
    """Signed with ECDSA over the time and the body; the key is the public one that its page shows."""

    needs = ("key",)

    def __init__(self, settings: HookSettings) -> None:
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

        super().__init__(settings)
        key = public_key(settings.key)
        if not isinstance(key, EllipticCurvePublicKey):
            raise ValueError("not an EC key")
        self._key = key

    def verify(self, call: Call) -> None:
        stamp = call.header(_TIMESTAMP)
        check_ecdsa(self._key, call.header(_SIGNATURE), stamp.encode() + call.body)
        check_fresh(stamp, call, self.settings.tolerance)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word = text_at(item, "/event")
        if word not in _KINDS:
            return
        hard = word == "bounce" and text_at(item, "/type") != "blocked"
        yield make_event(
            _KINDS[word],
            item,
            recipient=text_at(item, "/email"),
            event_id=id_at(item, "/sg_event_id"),
            message_id=id_at(item, "/sg_message_id").partition(".")[0],
            queue_id=id_at(item, "/queue_id"),
            at=item.get("timestamp"),
            text=first_text(item, "/reason", "/response"),
            enhanced=text_at(item, "/status"),
            final=_KINDS[word] == "bounced",
            permanent=hard,
        )
