"""https://www.scaleway.com/en/docs/transactional-email/reference-content/webhook-events-payloads (read 2026-11)"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import (
    Call,
    Fetch,
    Hook,
    Received,
    addresses_at,
    collect,
    first_text,
    id_at,
    make_event,
    text_at,
)
from bridge.providers.events.signatures import check_shared
from bridge.providers.events.sns import confirm, content_of, envelope_of, is_https_at

_KINDS: dict[str, EventKind] = {
    "email_queued": "sent",
    "email_delivered": "delivered",
    "email_deferred": "deferred",
    "email_dropped": "bounced",
    "email_mailbox_not_found": "bounced",
    "email_spam": "bounced",  # taken for spam
    "email_blocklisted": "rejected",
}
_HOST = re.compile(r"sns\.mnq\.[a-z0-9-]{5,20}\.scaleway\.com")


class ScalewayHook(Hook):
    """Through Scaleway's own kind of SNS. How it signs is documented nowhere that we know, so a secret in the address it is."""

    early = True

    def verify(self, call: Call) -> None:
        check_shared(call, self.settings.secret)

    async def receive(self, call: Call, fetch: Fetch) -> Received:
        self.verify(call)
        message = envelope_of(call)
        if message["Type"] == "SubscriptionConfirmation":
            await confirm(message, fetch, ours=_is_ours)
        content = content_of(message) if message["Type"] == "Notification" else None
        return collect([content], self.read) if content is not None else Received(ignored=1)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word = text_at(item, "/type")
        if word not in _KINDS:
            return
        yield make_event(
            _KINDS[word],
            item,
            recipient=next(addresses_at(item, "/email_to"), ""),
            event_id=id_at(item, "/id"),
            message_id=id_at(item, "/email_id"),
            at=text_at(item, "/created_at"),
            text=first_text(item, "/email_response_message", "/email_error"),
            code=text_at(item, "/email_response_code"),
            final=_KINDS[word] == "bounced",
            permanent=word == "email_mailbox_not_found",
        )


def _is_ours(url: str) -> bool:
    return is_https_at(url, lambda netloc: bool(_HOST.fullmatch(netloc)))
