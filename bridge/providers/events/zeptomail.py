"""https://www.zoho.com/zeptomail/help/webhooks.html"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.answers import pointed
from bridge.providers.events.base import Call, Hook, addresses_at, first_text, id_at, make_event, text_at
from bridge.providers.events.parts import own_parts
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
            if isinstance(message, dict):
                yield from self._read(message)

    def _read(self, message: dict[str, Any]) -> Iterator[Event]:
        found = list(_told(message))
        owns = [{**told, "details": [details]} for told, details, _ in found]
        raws = own_parts(message, ("event_data",), owns)
        for (told, details, recipient), raw in zip(found, raws, strict=True):
            yield make_event(
                _KINDS[text_at(told, "/object")],
                raw,
                recipient=recipient,
                message_id=id_at(message, "/request_id"),
                queue_id=id_at(message, "/email_info/client_reference"),
                at=first_text(details, "/time"),
                text=first_text(details, "/diagnostic_message", "/reason"),
                permanent=text_at(told, "/object") == "hardbounce",
            )


def _told(message: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any, str]]:
    """What is told in its details of each recipient."""
    to = [a for one in _list(message, "/email_info/to") for a in addresses_at(one, "/email_address/address")]
    for told in _list(message, "/event_data"):
        if isinstance(told, dict) and text_at(told, "/object") in _KINDS:
            for details in _list(told, "/details") or [{}]:
                named = list(addresses_at(details, "/bounced_recipient"))
                for recipient in named or (to if len(to) == 1 else [""]):
                    yield told, details, recipient


def _list(item: Any, pointer: str) -> list[Any]:
    value = pointed(item, pointer)
    return value if isinstance(value, list) else []
