"""https://dev.mailjet.com/email/guides/webhooks/"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import Call, Hook, first_text, id_at, make_event, text_at
from bridge.providers.events.signatures import check_shared

_KINDS: dict[str, EventKind] = {
    "sent": "delivered",  # "the message has been accepted by the recipient's server"
    "bounce": "bounced",
    "blocked": "rejected",
    "open": "opened",
    "click": "clicked",
    "spam": "complained",
    "unsub": "unsubscribed",
}


class MailjetHook(Hook):
    """Not signed."""

    early = True

    def verify(self, call: Call) -> None:
        check_shared(call, self.settings.secret)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word = text_at(item, "/event")
        kind = _KINDS.get(word)
        if kind is None:
            return
        hard = item.get("hard_bounce") is True
        if kind == "bounced" and not hard and text_at(item, "/error") == "greylisted":
            kind = "deferred"
        said = ": ".join(filter(None, (text_at(item, "/error"), text_at(item, "/comment"))))
        yield make_event(
            kind,
            item,
            recipient=text_at(item, "/email"),
            message_id=id_at(item, "/MessageID"),
            queue_id=id_at(item, "/CustomID"),
            at=item.get("time"),
            text=first_text(item, "/smtp_reply") or said,
            permanent=kind == "bounced" and hard,
        )
