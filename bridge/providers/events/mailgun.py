"""https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhooks"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.answers import pointed
from bridge.providers.events.base import Call, Forged, Hook, Received, first_text, id_at, json_body, make_event, text_at
from bridge.providers.events.signatures import check_fresh, same

_KINDS: dict[str, EventKind] = {
    "accepted": "sent",
    "rejected": "rejected",
    "delivered": "delivered",
    "failed": "bounced",
    "opened": "opened",
    "clicked": "clicked",
    "unsubscribed": "unsubscribed",
    "complained": "complained",
}


class MailgunHook(Hook):
    """Signed with the account's webhook signing key, over a time and a token only: so the token is the event's id, and what
    comes with it a second time is nothing new, whatever else the body says."""

    def verify(self, call: Call) -> None:
        signature = pointed(json_body(call), "/signature")
        stamp, token = text_at(signature, "/timestamp"), text_at(signature, "/token")
        if not token:
            raise Forged("not signed")
        wanted = hmac.new(self.settings.secret.encode(), f"{stamp}{token}".encode(), hashlib.sha256).hexdigest()
        if not same(text_at(signature, "/signature"), wanted):
            raise Forged("another signature")
        check_fresh(stamp, call, self.settings.tolerance)

    def parse(self, call: Call) -> Received:
        body = json_body(call)
        event = self._event(pointed(body, "/event-data"), text_at(body, "/signature/token"))
        return Received(events=(event,)) if event else Received(ignored=1)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        event = self._event(item, "")
        return (event,) if event else ()

    def _event(self, item: Any, token: str) -> Event | None:
        word, reason = text_at(item, "/event"), text_at(item, "/reason")
        kind = _KINDS.get(word)
        if kind is None:
            return None
        gone = word == "failed" and text_at(item, "/severity") != "temporary"
        if word == "failed":
            kind = "deferred" if not gone else "rejected" if reason.startswith("suppress-") else "bounced"
        code, enhanced = text_at(item, "/delivery-status/code"), text_at(item, "/delivery-status/enhanced-code")
        message_id = id_at(item, "/message/headers/message-id").strip("<>")
        return make_event(
            kind,
            item,
            recipient=text_at(item, "/recipient"),
            event_id=token,
            message_id=f"<{message_id}>" if message_id else "",
            queue_id=id_at(item, "/user-variables/queue_id"),
            at=item.get("timestamp"),
            text=first_text(item, "/delivery-status/message", "/delivery-status/description", "/reason"),
            code=code,
            enhanced=enhanced,
            final=gone,
            # "generic" and "old" say that it was given up, not that nobody is there
            permanent=kind == "bounced" and (reason == "bounce" or enhanced.startswith("5.1.")),
        )
