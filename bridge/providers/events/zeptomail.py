"""https://www.zoho.com/zeptomail/help/webhooks.html

The names of the fields: Zoho's own samples on https://zoho.com/zeptomail/webhooks-instant-notification.html (read 2026-11). The
signature, and that a body may be a form: several public programs that verify it agree, among them a test named for the
documented signature (BitApps SMTP); Zoho's page itself was not read. Of `feedback_loop` no sample was seen.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote

from bridge.model import Event, EventKind
from bridge.providers.answers import json_of, pointed
from bridge.providers.events.base import (
    FORM,
    Call,
    Forged,
    Hook,
    Malformed,
    Received,
    addresses_at,
    collect,
    first_text,
    form_of,
    id_at,
    make_event,
    text_at,
)
from bridge.providers.events.parts import own_parts
from bridge.providers.events.signatures import check_shared, same

_KINDS: dict[str, EventKind] = {
    "hardbounce": "bounced",
    "softbounce": "bounced",
    "email_open": "opened",
    "email_link_click": "clicked",
    "feedback_loop": "complained",
}


class ZeptomailHook(Hook):
    """Signed (`producer-signature: ts=<ms>;s=<base64, percent-encoded>;s-algorithm=HmacSHA256`) with the webhook's
    authentication key over the JSON, the time not included; or not signed, with the secret in the address or a header, which
    is all that newer consoles offer. The JSON is the body, or the value of its form's only field."""

    def verify(self, call: Call) -> None:
        if not (header := call.header("producer-signature")) or call.query.get("secret"):
            check_shared(call, self.settings.secret)
            return
        given = dict(part.strip().partition("=")[::2] for part in header.split(";")[:10]).get("s", "")
        digest = hmac.new(self.settings.secret.encode(), _content(call), hashlib.sha256).digest()
        if not same(unquote(given), base64.b64encode(digest)):
            raise Forged("another signature")

    def parse(self, call: Call) -> Received:
        body = json_of(_content(call))
        if not isinstance(body, dict):
            raise Malformed("the body is no JSON object")
        return collect([body], self.read)

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


def _content(call: Call) -> bytes:
    """Raises Malformed."""
    if not call.header("content-type").startswith(FORM):
        return call.body
    fields = form_of(call, 1)
    return fields[0][1].encode("utf-8", "replace") if fields else b""


def _list(item: Any, pointer: str) -> list[Any]:
    """A single one may stand there without a list."""
    value = pointed(item, pointer)
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []
