"""https://developers.sparkpost.com/api/webhooks/"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.answers import pointed
from bridge.providers.events.base import Call, Hook, first_text, id_at, make_event, text_at
from bridge.providers.events.signatures import check_shared

_KINDS: dict[str, EventKind] = {
    "injection": "sent",
    "delivery": "delivered",
    "delay": "deferred",
    "bounce": "bounced",
    "out_of_band": "bounced",
    "policy_rejection": "rejected",
    "generation_failure": "rejected",
    "generation_rejection": "rejected",
    "spam_complaint": "complained",
    "open": "opened",
    "initial_open": "opened",
    "amp_open": "opened",
    "amp_initial_open": "opened",
    "click": "clicked",
    "amp_click": "clicked",
    "list_unsubscribe": "unsubscribed",
    "link_unsubscribe": "unsubscribed",
}
# https://support.sparkpost.com/docs/deliverability/bounce-classification-codes
_HARD = frozenset({"10", "30"})
_UNSUBSCRIBE = "90"
_NO_FAILURE = frozenset({"60", "80", "100"})  # an absence notice, a subscription, a challenge


class SparkpostHook(Hook):
    """Not signed. An empty `msys` asks whether anybody listens."""

    early = True

    def verify(self, call: Call) -> None:
        check_shared(call, self.settings.secret)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        told = pointed(item, "/msys")
        for about in told.values() if isinstance(told, dict) else ():
            if isinstance(about, dict):
                yield from self._read(about)

    def _read(self, item: dict[str, Any]) -> Iterable[Event]:
        kind, of_class = _KINDS.get(text_at(item, "/type")), text_at(item, "/bounce_class")
        if kind is None:
            return
        if kind == "bounced" and of_class == _UNSUBSCRIBE:
            kind = "unsubscribed"
        yield make_event(
            kind,
            item,
            recipient=first_text(item, "/raw_rcpt_to", "/rcpt_to"),
            event_id=id_at(item, "/event_id"),
            message_id=id_at(item, "/transmission_id"),
            queue_id=id_at(item, "/rcpt_meta/queue_id"),
            at=item.get("timestamp"),
            text=first_text(item, "/raw_reason", "/reason"),
            code=text_at(item, "/error_code"),
            final=kind == "bounced" and of_class not in _NO_FAILURE,
            permanent=kind == "bounced" and of_class in _HARD,
        )
