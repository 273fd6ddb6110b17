"""https://docs.lettermint.co/platform/webhooks/introduction

The names of the fields: the provider's own SDK, github.com/lettermint/lettermint-laravel, src/Webhooks (read 2026-11).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import Call, Hook, first_text, id_at, make_event, text_at
from bridge.providers.events.signatures import check_fresh, check_hex

_KINDS: dict[str, EventKind] = {
    "message.sent": "sent",
    "message.delivered": "delivered",
    "message.hard_bounced": "bounced",
    "message.soft_bounced": "bounced",
    "message.spam_complaint": "complained",
    "message.failed": "rejected",
    "message.suppressed": "rejected",
    "message.policy_rejected": "rejected",
    "message.unsubscribed": "unsubscribed",
    "message.opened": "opened",
    "message.clicked": "clicked",
}


class LettermintHook(Hook):
    """Signed over the time and the body."""

    def verify(self, call: Call) -> None:
        parts = dict(part.strip().partition("=")[::2] for part in call.header("x-lettermint-signature").split(",")[:10])
        stamp = parts.get("t", "")
        check_hex(parts.get("v1", ""), self.settings.secret, f"{stamp}.".encode() + call.body)
        check_fresh(stamp, call, self.settings.tolerance)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word = text_at(item, "/event")
        if word not in _KINDS:
            return
        yield make_event(
            _KINDS[word],
            item,
            recipient=text_at(item, "/data/recipient"),
            event_id=id_at(item, "/id"),
            message_id=id_at(item, "/data/message_id"),
            queue_id=id_at(item, "/data/metadata/queue_id"),
            at=text_at(item, "/timestamp"),
            text=first_text(item, "/data/response/content", "/data/reason"),
            code=text_at(item, "/data/response/status_code"),
            enhanced=text_at(item, "/data/response/enhanced_status_code"),
            permanent=word == "message.hard_bounced",
        )
