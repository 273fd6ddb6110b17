"""https://resend.com/docs/dashboard/webhooks/introduction"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import (
    Call,
    Hook,
    HookSettings,
    Received,
    addresses_at,
    collect,
    first_text,
    id_at,
    json_body,
    make_event,
    text_at,
)
from bridge.providers.events.parts import own_parts
from bridge.providers.events.signatures import check_standard, standard_key

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


class ResendHook(Hook):
    """Signed by Svix."""

    def __init__(self, settings: HookSettings) -> None:
        super().__init__(settings)
        standard_key(settings.secret)

    def verify(self, call: Call) -> None:
        check_standard(call, self.settings.secret, self.settings.tolerance, prefix="svix")

    def parse(self, call: Call) -> Received:
        message_id = call.header("svix-id")
        return collect([json_body(call)], lambda item: self._read(item, message_id))

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        return self._read(item, "")

    def _read(self, item: dict[str, Any], svix_id: str) -> Iterator[Event]:
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
                event_id=f"{svix_id}:{recipient}" if svix_id else "",
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
