"""https://developers.smtp2go.com/docs/webhooks-overview"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import (
    FORM,
    Call,
    Hook,
    Received,
    collect,
    first_text,
    form_of,
    id_at,
    make_event,
    text_at,
)
from bridge.providers.events.signatures import check_shared

_KINDS: dict[str, EventKind] = {
    "processed": "sent",
    "delivered": "delivered",
    "bounce": "bounced",
    "reject": "rejected",
    "open": "opened",
    "opened": "opened",
    "click": "clicked",
    "clicked": "clicked",
    "spam": "complained",
    "unsubscribe": "unsubscribed",
}
MAX_FIELDS = 100


class Smtp2goHook(Hook):
    """Not signed; JSON, or a form."""

    early = True

    def verify(self, call: Call) -> None:
        check_shared(call, self.settings.secret)

    def parse(self, call: Call) -> Received:
        if not call.header("content-type").startswith(FORM):
            return super().parse(call)
        return collect([dict(form_of(call, MAX_FIELDS))], self.read)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word = text_at(item, "/event")
        if word not in _KINDS:
            return
        yield make_event(
            _KINDS[word],
            item,
            recipient=text_at(item, "/rcpt"),
            message_id=id_at(item, "/email_id"),
            at=item.get("time"),
            text=first_text(item, "/message", "/context", "/reason"),
            permanent=word == "bounce" and text_at(item, "/bounce") == "hard",
        )
