"""https://mailchimp.com/developer/transactional/docs/webhooks/"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.answers import json_of
from bridge.providers.events.base import (
    Call,
    Forged,
    Hook,
    Malformed,
    Received,
    collect,
    first_text,
    form_of,
    id_at,
    make_event,
    text_at,
)
from bridge.providers.events.signatures import same

_KINDS: dict[str, EventKind] = {
    "send": "sent",
    "delivered": "delivered",
    "deferral": "deferred",
    "hard_bounce": "bounced",
    "soft_bounce": "bounced",  # told when it is given up
    "reject": "rejected",
    "open": "opened",
    "click": "clicked",
    "spam": "complained",
    "unsub": "unsubscribed",
}
MAX_FIELDS = 20


class MandrillHook(Hook):
    """Signed over the address as Mandrill knows it and the fields of the form, without a time."""

    def verify(self, call: Call) -> None:
        content = self.settings.url or call.url
        for name, value in sorted(form_of(call, MAX_FIELDS)):
            content += name + value
        digest = hmac.new(self.settings.secret.encode(), content.encode("utf-8", "replace"), hashlib.sha1).digest()
        if not same(call.header("x-mandrill-signature"), base64.b64encode(digest)):
            raise Forged("another signature")

    def parse(self, call: Call) -> Received:
        events = json_of(dict(form_of(call, MAX_FIELDS)).get("mandrill_events", "").encode("utf-8", "replace"))
        if not isinstance(events, list):
            raise Malformed("no list of events")
        return collect(events, self.read)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word = text_at(item, "/event")
        if word not in _KINDS:
            return
        number = first_text(item, "/_id", "/msg/_id")
        yield make_event(
            _KINDS[word],
            item,
            recipient=text_at(item, "/msg/email"),
            event_id=f"{word}-{number}-{text_at(item, '/ts')}",
            message_id=id_at(item, "/msg/_id"),
            queue_id=id_at(item, "/msg/metadata/queue_id"),
            at=item.get("ts"),
            text=first_text(item, "/msg/diag", "/msg/bounce_description", "/msg/reject/reason"),
            final=word == "soft_bounce",
            permanent=word == "hard_bounce",
        )
