"""https://developers.brevo.com/docs/transactional-webhooks"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.answers import json_of
from bridge.providers.events.base import Call, Hook, id_at, make_event, text_at
from bridge.providers.events.signatures import check_shared

_KINDS: dict[str, EventKind] = {
    "request": "sent",
    "delivered": "delivered",
    "deferred": "deferred",
    "hard_bounce": "bounced",
    "soft_bounce": "bounced",
    "invalid_email": "bounced",
    "blocked": "rejected",
    "error": "rejected",
    "spam": "complained",
    "complaint": "complained",
    "opened": "opened",
    "unique_opened": "opened",
    "proxy_open": "opened",
    "unique_proxy_open": "opened",
    "click": "clicked",
    "unsubscribe": "unsubscribed",
    "unsubscribed": "unsubscribed",
}
_HARD = frozenset({"hard_bounce", "invalid_email"})


class BrevoHook(Hook):
    """Not signed. `date` is in the account's own time zone, `ts_epoch` is not."""

    early = True

    def verify(self, call: Call) -> None:
        check_shared(call, self.settings.secret)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word = text_at(item, "/event")
        if word not in _KINDS:
            return
        custom = json_of(str(item.get("X-Mailin-custom") or "").encode())
        yield make_event(
            _KINDS[word],
            item,
            recipient=text_at(item, "/email"),
            message_id=id_at(item, "/message-id"),
            queue_id=id_at(custom, "/queue_id"),
            at=item.get("ts_epoch"),
            text=text_at(item, "/reason"),
            permanent=word in _HARD,
        )
