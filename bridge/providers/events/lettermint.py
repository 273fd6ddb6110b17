"""https://docs.lettermint.co/platform/webhooks/introduction"""

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
    """Signed over the time and the body; the names of the fields are unverified."""

    def verify(self, call: Call) -> None:
        parts = dict(part.strip().partition("=")[::2] for part in call.header("x-lettermint-signature").split(",")[:10])
        stamp = parts.get("t", "")
        check_hex(parts.get("v1", ""), self.settings.secret, f"{stamp}.".encode() + call.body)
        check_fresh(stamp, call, self.settings.tolerance)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word = first_text(item, "/event", "/type")
        if word not in _KINDS:
            return
        yield make_event(
            _KINDS[word],
            item,
            recipient=first_text(item, "/data/recipient", "/data/to/0"),
            event_id=id_at(item, "/id"),
            message_id=id_at(item, "/data/message_id"),
            queue_id=id_at(item, "/data/metadata/queue_id"),
            at=first_text(item, "/timestamp", "/created_at"),
            text=first_text(item, "/data/response/content", "/data/reason"),
            code=text_at(item, "/data/response/status_code"),
            enhanced=text_at(item, "/data/response/enhanced_status_code"),
            permanent=word == "message.hard_bounced",
        )
