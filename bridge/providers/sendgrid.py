"""SendGrid (Twilio), v3 Mail Send: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import httpx
import orjson

from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form
from bridge.mime.repair import Needs, Repaired
from bridge.model import Addressing, Attachment, Email, Fault, Mailbox, Outcome
from bridge.providers.answers import safe_words, words_of
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, without_empty
from bridge.providers.base import Call
from bridge.providers.body import json_body
from bridge.providers.display import bcc_of, header_object, one_line
from bridge.providers.features import Found, cut, json_keys, texts_of
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import quoted

_AMP = "text/x-amp-html"
MAX_CUSTOM_ARGS = 9_900  # octets of 10 000, over which the call is refused; the queue id goes beside them


def _categories(value: Any) -> Found | None:
    found = [value] if isinstance(value, str) else value
    return Found(tags=tuple(v for v in found if isinstance(v, str))) if isinstance(found, list) else None


def _number(key: str) -> Any:
    def read(value: Any) -> Found | None:
        return Found(options={key: value}) if isinstance(value, int) and not isinstance(value, bool) else None

    return read


def _pool(value: Any) -> Found | None:
    return Found(options={"ip_pool_name": value}) if isinstance(value, str) and 2 <= len(value) <= 64 else None


# The SMTP service's header. `to`, `sub`, `section`, `filters` and the rest may name recipients or change the content.
SMTPAPI = json_keys(
    {
        "category": _categories,
        "unique_args": lambda value: Found(metadata=texts_of(value)) if isinstance(value, dict) else None,
        "asm_group_id": _number("asm_group_id"),
        "send_at": _number("send_at"),
        "ip_pool": _pool,
    }
)


class Sendgrid(ApiProvider):
    kind = "sendgrid"
    title = "SendGrid"
    docs = "https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send"
    base_url = "https://api.sendgrid.com"
    # A global key does not work in the EU.
    regions = {"": "https://api.sendgrid.com", "eu": "https://api.eu.sendgrid.com"}
    Settings = KeySettings

    # Limits: https://www.twilio.com/docs/sendgrid/for-developers/sending-email/limitations
    forms = (
        Form(
            name="json",
            carries=Carries(
                alternative_types=frozenset({_AMP}),
                type_parameters=False,  # `type` must not hold a semicolon
                max_size=30 * 1024 * 1024,  # the whole message, attachments included
            ),
        ),
    )
    caps = Caps(total=1000, once=True)  # recipients in one request; each address once
    max_batch = 1000  # personalizations
    needs = Needs(
        subject=True,  # at least one character
        body=True,
        filled_files=True,
        # Reserved: refused with 400. The last ones have fields of their own.
        reserved=frozenset(
            {"x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding"}
            | {"to", "from", "subject", "reply-to", "cc", "bcc"}
        ),
    )
    readers = {"x-smtpapi": SMTPAPI}
    notes = (
        "SendGrid replaces the Message-ID.",
        "File names that are not ASCII come out garbled in some mail programs.",
    )

    def mended(self, email: Email) -> Repaired:
        mended, notes = super().mended(email)
        features = self.features(email)
        lost = len(features.tags) - 10
        said = [f"{lost} tags dropped, the provider takes 10"] if lost > 0 else []
        if len(_custom_args(features.metadata)) < len(features.metadata):
            said.append(f"metadata dropped over {MAX_CUSTOM_ARGS} octets")
        return mended, (*notes, *said)

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.settings.api_key}"}

    def json_request(self, mail: Outgoing) -> httpx.Request:
        return self._request([mail])

    def batch_key(self, call: Call) -> Hashable | None:
        """Personalizations share the content: calls of one message, or messages that differ in their recipients alone."""
        shared = self._shared(self.outgoing(call))
        return bytes(json_body(shared)) if len(call.email.raw) <= 1024 * 1024 else call.queue_id

    def build_batch(self, calls: Sequence[Call]) -> httpx.Request:
        return self._request([self.outgoing(call) for call in calls])

    def _request(self, mails: Sequence[Outgoing]) -> httpx.Request:
        return self.post(
            "/v3/mail/send", {"personalizations": [_personalization(m) for m in mails], **self._shared(mails[0])}
        )

    def _shared(self, mail: Outgoing) -> dict[str, Any]:
        email, features = mail.email, mail.features
        amp = [(_AMP, text) for kind, text in email.alternatives if kind.startswith(_AMP)]
        bodies = [("text/plain", email.text), ("text/html", email.html), *amp]  # the order is prescribed
        return without_empty(
            {
                "from": _person(mail.sender),
                "reply_to": _person(email.reply_to[0]) if len(email.reply_to) == 1 else None,
                "reply_to_list": [_person(m) for m in _unique(email.reply_to)] if len(email.reply_to) > 1 else None,
                "subject": one_line(email.subject),
                "content": [{"type": kind, "value": text} for kind, text in bodies if text],
                "attachments": [_attachment(a) for a in email.attachments],
                "headers": _headers(mail),
                "categories": list(dict.fromkeys(cut(features.tags, most=10, length=255))),
                "custom_args": _custom_args(features.metadata),
                "send_at": features.options.get("send_at"),
                "ip_pool_name": features.options.get("ip_pool_name"),
                "asm": {"group_id": group} if (group := features.options.get("asm_group_id")) else None,
            }
        )

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        if response.status_code != 202:
            return dict.fromkeys(addressing.recipients, unknown(f"HTTP {response.status_code} is not its answer"))
        return self.sent_all(addressing, safe_words(response.headers.get("x-message-id", "")))

    def parse_batch(self, response: httpx.Response, calls: Sequence[Call]) -> list[dict[str, Outcome]] | None:
        """All or nothing. One id for all personalizations; events carry the address beside it."""
        return self.refused_whole(response, calls)

    def refused_together(self, outcomes: Any, addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        """There are no machine codes; `field` says whether it was a recipient, the text only whether credits are used up."""
        status = response.status_code
        if status == 401 and "maximum credits exceeded" in words_of(body).lower():
            return Meaning.QUOTA
        if status in (406, 415, 451):  # wrong headers of ours; 451: a key of another region
            return Meaning.ACCOUNT
        if status == 400 and _fields(body) and all(_names_recipient(name) for name in _fields(body)):
            return Meaning.ADDRESS
        return None

    # Credentials: the scopes of the key. https://www.twilio.com/docs/sendgrid/api-reference/api-key-permissions

    def probe(self) -> httpx.Request:
        return self.get("/v3/scopes")


def _personalization(mail: Outgoing) -> dict[str, Any]:
    to = mail.addressing
    slots = {"to": to.to, "cc": to.cc, "bcc": bcc_of(to)}
    found: dict[str, Any] = {name: [_person(m) for m in slot] for name, slot in slots.items() if slot}
    # One answer stands for many personalizations: in events this tells them apart.
    return found | {"custom_args": {"queue_id": mail.queue_id}}


def _person(mailbox: Mailbox) -> dict[str, str]:
    # A name must not hold a comma or a semicolon (limitations page).
    name = one_line(mailbox.name).replace(",", " ").replace(";", " ").strip()
    return {"email": mailbox.email} | ({"name": name} if name else {})


def _unique(mailboxes: Sequence[Mailbox]) -> list[Mailbox]:
    return list({m.email.lower(): m for m in mailboxes}.values())


def _attachment(attachment: Attachment) -> dict[str, Any]:
    found = {
        "content": quoted(attachment.encoded),
        "filename": attachment.filename,
        "type": attachment.content_type,
        "disposition": attachment.disposition,
    }
    return found | ({"content_id": attachment.content_id} if attachment.content_id else {})


def _headers(mail: Outgoing) -> dict[str, Any]:
    found = header_object(mail.email.headers)
    # Not reserved; whether the reader gets it is SendGrid's choice, and it costs nothing to ask.
    return found | ({"Message-ID": mail.email.message_id} if mail.email.message_id else {})


def _custom_args(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata comes back in every event; too much of it is refused, so the last ones go."""
    found = dict(metadata)
    while len(orjson.dumps(found)) > MAX_CUSTOM_ARGS:
        found.popitem()
    return found


def _fields(body: Any) -> list[str]:
    errors = body.get("errors") if isinstance(body, dict) else None
    found = [e.get("field") or "" for e in errors if isinstance(e, dict)] if isinstance(errors, list) else []
    return [str(name) for name in found]


def _names_recipient(name: str) -> bool:
    """`personalizations.0.to.1.email`, `personalizations.0.to`"""
    parts = name.split(".")
    return parts[0] == "personalizations" and bool({"to", "cc", "bcc"} & set(parts))
