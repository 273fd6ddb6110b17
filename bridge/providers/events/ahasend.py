"""https://ahasend.com/docs/webhooks/introduction"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import (
    Call,
    Hook,
    HookSettings,
    Received,
    collect,
    first_text,
    id_at,
    json_body,
    make_event,
    text_at,
)
from bridge.providers.events.signatures import check_standard, standard_key

_KINDS: dict[str, EventKind] = {
    "message.reception": "sent",
    "message.delivered": "delivered",
    "message.transient_error": "deferred",
    "message.failed": "bounced",
    "message.bounced": "bounced",
    "message.suppressed": "rejected",
    "message.opened": "opened",
    "message.clicked": "clicked",
}


class AhasendHook(Hook):
    """Signed as Standard Webhooks; the names of the fields are unverified."""

    def __init__(self, settings: HookSettings) -> None:
        super().__init__(settings)
        standard_key(settings.secret)

    def verify(self, call: Call) -> None:
        check_standard(call, self.settings.secret, self.settings.tolerance)

    def parse(self, call: Call) -> Received:
        message_id = call.header("webhook-id")
        return collect([json_body(call)], lambda item: self._read(item, message_id))

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        return self._read(item, "")

    def _read(self, item: dict[str, Any], message_id: str) -> Iterable[Event]:
        word = text_at(item, "/type")
        if word not in _KINDS:
            return
        yield make_event(
            _KINDS[word],
            item,
            recipient=text_at(item, "/data/recipient"),
            event_id=message_id,
            message_id=id_at(item, "/data/id"),
            at=first_text(item, "/timestamp", "/data/timestamp"),
            text=first_text(item, "/data/reason", "/data/description"),
            final=_KINDS[word] == "bounced",
            permanent=word == "message.bounced",
        )
