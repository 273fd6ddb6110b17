"""https://resend.com/docs/dashboard/webhooks/introduction"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import addresses_at, first_text, id_at, make_event, text_at
from bridge.providers.events.parts import own_parts
from bridge.providers.events.standard import StandardHook

_KINDS: dict[str, EventKind] = {
    "email.sent": "sent",
    "email.delivered": "delivered",
    "email.delivery_delayed": "deferred",
    "email.bounced": "bounced",
    "email.complained": "complained",
    "email.opened": "opened",
    "email.clicked": "clicked",
    "email.failed": "rejected",
    "email.suppressed": "rejected",
}


class ResendHook(StandardHook):
    """Signed by Svix."""

    prefix = "svix"

    def told(self, item: dict[str, Any], call_id: str) -> Iterable[Event]:
        kind = _KINDS.get(text_at(item, "/type"))
        if kind is None:
            return
        bounce = text_at(item, "/data/bounce/type")
        recipients = list(addresses_at(item, "/data/to"))
        for recipient, raw in zip(recipients, own_parts(item, ("data", "to"), recipients), strict=True):
            yield make_event(
                kind,
                raw,
                recipient=recipient,
                event_id=f"{call_id}:{recipient}" if call_id else "",
                message_id=id_at(item, "/data/email_id"),
                queue_id=id_at(item, "/data/tags/queue_id"),
                at=item.get("created_at"),
                text=first_text(
                    item,
                    "/data/bounce/diagnosticCode/0",
                    "/data/bounce/message",
                    "/data/failed/reason",
                    "/data/suppressed/message",
                ),
                final=kind == "bounced" and bounce in ("Permanent", "Transient"),
                permanent=kind == "bounced" and bounce == "Permanent",
            )
