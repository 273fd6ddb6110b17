"""https://ahasend.com/docs/webhooks/introduction

The names of the fields and the use of the secret: the provider's own SDK, github.com/AhaSend/ahasend-ts, with bodies that were
captured (contracts/webhooks, docs/security-and-webhooks.md; read 2026-11). Which classes of bounces there are is unverified.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import first_text, id_at, make_event, text_at
from bridge.providers.events.signatures import standard_key
from bridge.providers.events.standard import StandardHook

_KINDS: dict[str, EventKind] = {
    "message.reception": "sent",
    "message.delivered": "delivered",
    "message.transient_error": "deferred",
    "message.failed": "bounced",
    "message.bounced": "bounced",
    "message.suppressed": "rejected",
    "message.opened": "opened",
    "message.clicked": "clicked",
}
# A class that says something else (spam, policy) says nothing about the address.
_OF_THE_ADDRESS = frozenset({"", "uncategorized", "invalidrecipient", "inactivemailbox", "baddomain"})
_ATTEMPT = "/data/delivery_attempt"


class AhasendHook(StandardHook):
    """Signed as Standard Webhooks, but the key is the secret as it is written, `aha-whsec-...`, and no base64."""

    @staticmethod
    def key_of(secret: str) -> bytes:
        return standard_key(secret) if secret.startswith("whsec_") else secret.encode()

    def told(self, item: dict[str, Any], call_id: str) -> Iterable[Event]:
        word = text_at(item, "/type")
        if word not in _KINDS:
            return
        yield make_event(
            _KINDS[word],
            item,
            recipient=text_at(item, "/data/recipient"),
            event_id=call_id,
            message_id=id_at(item, "/data/id"),
            at=text_at(item, "/timestamp"),
            text=first_text(item, f"{_ATTEMPT}/response", f"{_ATTEMPT}/description"),
            code=text_at(item, f"{_ATTEMPT}/smtp_code"),
            enhanced=text_at(item, f"{_ATTEMPT}/enhanced_status_code"),
            final=_KINDS[word] == "bounced",
            permanent=word == "message.bounced"
            and text_at(item, f"{_ATTEMPT}/classification").lower() in _OF_THE_ADDRESS,
        )
