"""https://docs.mailtrap.io/email-api-smtp/advanced/webhooks"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.answers import pointed
from bridge.providers.events.base import Call, Hook, Malformed, first_text, id_at, make_event, text_at
from bridge.providers.events.signatures import check_hex

_KINDS: dict[str, EventKind] = {
    "delivery": "delivered",
    "soft bounce": "bounced",
    "bounce": "bounced",
    "suspension": "rejected",
    "reject": "rejected",
    "unsubscribe": "unsubscribed",
    "open": "opened",
    "spam": "complained",
    "click": "clicked",
}


class MailtrapHook(Hook):
    """The body is signed, without a time: the same one again is known by its events' ids."""

    def verify(self, call: Call) -> None:
        check_hex(call.header("mailtrap-signature"), self.settings.secret, call.body)

    def items(self, body: Any) -> Iterable[Any]:
        events = pointed(body, "/events")
        if not isinstance(events, list):
            raise Malformed("no list of events")
        return events

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word = text_at(item, "/event").replace("_", " ")
        if word not in _KINDS:
            return
        yield make_event(
            _KINDS[word],
            item,
            recipient=text_at(item, "/email"),
            event_id=id_at(item, "/event_id"),
            message_id=id_at(item, "/message_id"),
            queue_id=id_at(item, "/custom_variables/queue_id"),
            at=item.get("timestamp"),
            text=first_text(item, "/response", "/reason", "/bounce_category"),
            code=text_at(item, "/response_code"),
            permanent=word == "bounce",
        )
