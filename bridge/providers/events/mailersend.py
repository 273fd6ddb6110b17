"""https://developers.mailersend.com/api/v1/webhooks.html"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import Call, Hook, first_text, id_at, make_event, text_at
from bridge.providers.events.signatures import check_hex

_KINDS: dict[str, EventKind] = {
    "sent": "sent",
    "delivered": "delivered",
    "deferred": "deferred",
    "soft_bounced": "bounced",
    "hard_bounced": "bounced",
    "opened": "opened",
    "opened_unique": "opened",
    "clicked": "clicked",
    "clicked_unique": "clicked",
    "unsubscribed": "unsubscribed",
    "spam_complaint": "complained",
}


class MailersendHook(Hook):
    """The body is signed, without a time: the same one again is known by its event's id."""

    def verify(self, call: Call) -> None:
        check_hex(call.header("signature"), self.settings.secret, call.body)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word = text_at(item, "/type").removeprefix("activity.")
        if word not in _KINDS:
            return
        yield make_event(
            _KINDS[word],
            item,
            recipient=text_at(item, "/data/email/recipient/email"),
            event_id=id_at(item, "/data/id"),
            message_id=id_at(item, "/data/email/message/id"),
            at=first_text(item, "/data/created_at", "/created_at"),
            text=first_text(item, "/data/morph/readable_reason", "/data/morph/reason"),
            permanent=word == "hard_bounced",
        )
