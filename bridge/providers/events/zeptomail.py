"""https://www.zoho.com/zeptomail/help/webhooks.html"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.answers import pointed
from bridge.providers.events.base import Call, Hook, addresses_at, first_text, id_at, make_event, text_at
from bridge.providers.events.signatures import check_shared

_KINDS: dict[str, EventKind] = {
    "hardbounce": "bounced",
    "softbounce": "bounced",
    "email_open": "opened",
    "email_link_click": "clicked",
    "feedback_loop": "complained",
}


class ZeptomailHook(Hook):
    """Over what its header `producer-signature` is made is unverified, so a secret in the address it is."""

    early = True

    def verify(self, call: Call) -> None:
        check_shared(call, self.settings.secret)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        for message in _list(item, "/event_message"):
            for told in _list(message, "/event_data"):
                yield from self._read(message, told)

    def _read(self, message: Any, told: Any) -> Iterator[Event]:
        kind = _KINDS.get(text_at(told, "/object"))
        if kind is None or not isinstance(message, dict):
            return
        for details in _list(told, "/details") or [{}]:
            named = list(addresses_at(details, "/bounced_recipient"))
            to = [a for one in _list(message, "/email_info/to") for a in addresses_at(one, "/email_address/address")]
            for recipient in named or (to if len(to) == 1 else [""]):
                yield make_event(
                    kind,
                    message,
                    recipient=recipient,
                    message_id=id_at(message, "/request_id"),
                    queue_id=id_at(message, "/email_info/client_reference"),
                    at=first_text(details, "/time"),
                    text=first_text(details, "/diagnostic_message", "/reason"),
                    permanent=text_at(told, "/object") == "hardbounce",
                )


def _list(item: Any, pointer: str) -> list[Any]:
    value = pointed(item, pointer)
    return value if isinstance(value, list) else []
