"""https://docs.postalserver.io/developer/webhooks"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import (
    Call,
    Hook,
    HookSettings,
    Received,
    collect,
    first_text,
    id_at,
    json_body,
    make_event,
    status_in,
    text_at,
)
from bridge.providers.events.signatures import check_rsa, public_key

_KINDS: dict[str, EventKind] = {
    "MessageSent": "delivered",  # the recipient's server took it
    "MessageDelayed": "deferred",
    "MessageHeld": "deferred",
    "MessageDeliveryFailed": "bounced",
    "MessageBounced": "bounced",
    "MessageLinkClicked": "clicked",
    "MessageLoaded": "opened",
}


class PostalHook(Hook):
    """The body is signed with the server's RSA key (that of DKIM), without a time: the same one again is known by its uuid."""

    needs = ("key",)

    def __init__(self, settings: HookSettings) -> None:
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

        super().__init__(settings)
        key = public_key(settings.key)
        if not isinstance(key, RSAPublicKey):
            raise ValueError("not an RSA key")
        self._key = key

    def verify(self, call: Call) -> None:
        if newer := call.header("x-postal-signature-256"):
            check_rsa(self._key, newer, call.body)
        else:
            check_rsa(self._key, call.header("x-postal-signature"), call.body, sha1=True)

    def parse(self, call: Call) -> Received:
        return collect([json_body(call)], self.read)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word = text_at(item, "/event")
        if word not in _KINDS:
            return
        of = "original_message" if word == "MessageBounced" else "message"
        text = first_text(item, "/payload/output", "/payload/details")
        yield make_event(
            _KINDS[word],
            item,
            recipient=text_at(item, f"/payload/{of}/to"),
            event_id=id_at(item, "/uuid"),
            message_id=id_at(item, f"/payload/{of}/id"),
            at=item.get("timestamp"),
            text=text,
            final=_KINDS[word] == "bounced",
            permanent=_is_hard(word, text),
        )


def _is_hard(word: str, text: str) -> bool:
    """It does not say; the other server does."""
    return word == "MessageDeliveryFailed" and status_in(text)[1].startswith("5.1.")
