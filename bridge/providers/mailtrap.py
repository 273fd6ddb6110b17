"""Mailtrap, Email Sending API: https://api-docs.mailtrap.io/docs/mailtrap-api-docs/send-email"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form
from bridge.mime.repair import Needs, Repaired
from bridge.model import Addressing, Attachment, Email, Fault, Mailbox, Outcome
from bridge.providers.answers import id_of, json_of, pointed, safe_words, words_of
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, sent_outcome, without_empty
from bridge.providers.base import Call
from bridge.providers.display import bcc_of, format_all, header_object, one_line
from bridge.providers.features import option
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import quoted

MAX_VARIABLES = 1000  # octets of all custom variables; unverified
_RECIPIENT = re.compile(r"'(?:to|cc|bcc)\b")
HOSTS = {stream: f"https://{prefix}.api.mailtrap.io" for stream, prefix in (
    ("transactional", "send"), ("bulk", "bulk"), ("sandbox", "sandbox"),
)}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class MailtrapSettings(KeySettings):
    stream: str = "transactional"
    inbox: str = ""


class Mailtrap(ApiProvider):
    kind = "mailtrap"
    title = "Mailtrap"
    docs = "https://api-docs.mailtrap.io/docs/mailtrap-api-docs/send-email"
    base_url = HOSTS["transactional"]
    Settings = MailtrapSettings

    # Limits: mailtrap-openapi, and https://docs.mailtrap.io/email-api-smtp/setup/sending-limits
    forms = (
        Form(
            name="json",
            carries=Carries(type_parameters=False, max_size=10_000_000),  # up to 30 MB for those who ask for it
        ),
    )
    caps = Caps(to=1000, cc=1000, bcc=1000, bcc_alone=True)
    max_batch = 500
    max_batch_bytes = 50_000_000
    needs = Needs(
        subject=True,
        body=True,
        ascii_filenames=True,  # others arrive garbled
        reserved=frozenset({"to", "cc", "bcc", "from", "subject", "reply-to", "content-*", "mime-version"}),
    )
    readers = {"x-mt-category": option("category")}
    notes = (
        "The first tag is the category; metadata are the custom variables, of 1000 octets in all.",
        '`stream = "bulk"` is for bulk mail, `stream = "sandbox"` with `inbox` for tests.',
    )
    unverified = ("the size of all metadata",)

    @classmethod
    def base_of(cls, settings: Any) -> str:
        base: str = settings.url or HOSTS[settings.stream]
        return base

    def mended(self, email: Email) -> Repaired:
        mended, notes = super().mended(email)
        metadata = self.features(email).metadata
        lost = len(metadata) - len(_variables(metadata))
        return mended, (
            *notes,
            f"{lost} metadata dropped, the provider takes {MAX_VARIABLES} octets",
        ) if lost else notes

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.settings.api_key}"}

    def json_request(self, mail: Outgoing) -> httpx.Request:
        return self.post(self._path("send"), self._content(mail))

    def batch_key(self, call: Call) -> Hashable | None:
        return "any"

    def build_batch(self, calls: Sequence[Call]) -> httpx.Request:
        return self.post(self._path("batch"), {"requests": [self._content(self.outgoing(call)) for call in calls]})

    def _path(self, call: str) -> str:
        return f"/api/{call}" + (f"/{self.settings.inbox}" if self.settings.stream == "sandbox" else "")

    def _content(self, mail: Outgoing) -> dict[str, Any]:
        email, to, features = mail.email, mail.addressing, mail.features
        category = features.options.get("category") or next(iter(features.tags), "")
        return without_empty(
            {
                "from": _person(mail.sender),
                "to": [_person(m) for m in to.to],
                "cc": [_person(m) for m in to.cc],
                "bcc": [_person(m) for m in bcc_of(to)],
                "reply_to": _person(email.reply_to[0]) if len(email.reply_to) == 1 else None,
                "subject": one_line(email.subject),
                "text": email.text,
                "html": email.html,
                "attachments": [_attachment(a) for a in email.attachments],
                "headers": header_object(_headers(email)),
                "category": category[:255],
                "custom_variables": _variables(features.metadata),
            }
        )

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        return self._verdict(response, body, addressing)

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        about_recipient = response.status_code in (400, 422) and _RECIPIENT.search(words_of(body).lower())
        return Meaning.ADDRESS if about_recipient else None

    def refused_together(self, outcomes: Any, addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    def parse_batch(self, response: httpx.Response, calls: Sequence[Call]) -> list[dict[str, Outcome]] | None:
        body = json_of(response.content)
        items = pointed(body, "/responses")
        if response.status_code != 200 or not isinstance(items, list):
            return self.refused_whole(response, calls)
        padded = [*items, *([None] * len(calls))]
        return [self._verdict(response, item, call.addressing) for item, call in zip(padded, calls, strict=False)]

    def _verdict(self, response: httpx.Response, item: Any, addressing: Addressing) -> dict[str, Outcome]:
        """One id for each recipient, in the order of to, cc and bcc; the sandbox gives one for all."""
        if isinstance(item, dict) and item.get("success") is False:
            words = safe_words("; ".join(str(e) for e in item.get("errors") or ()), self.secrets)
            return dict.fromkeys(addressing.recipients, self.meant(_blame(words), response, item, words))
        ids = pointed(item, "/message_ids")
        if not isinstance(ids, list) or not ids:
            return dict.fromkeys(addressing.recipients, unknown("the answer has no message ids"))
        order = (*(m.email for m in (*addressing.to, *addressing.cc)), *addressing.bcc)
        named = dict(zip(order, ids, strict=True)) if len(ids) == len(order) else {}
        return {r: sent_outcome(id_of(named.get(r, ids[0]))) for r in addressing.recipients}


def _blame(words: str) -> Meaning:
    """The texts are all there is, of an item in a batch even in the place of a status."""
    lower = words.lower()
    if _RECIPIENT.search(lower):
        return Meaning.ADDRESS
    if "sending from domain" in lower or "unauthorized" in lower or "banned" in lower:
        return Meaning.ACCOUNT
    return Meaning.QUOTA if "sending limit" in lower else Meaning.CONTENT


def _headers(email: Email) -> list[tuple[str, str]]:
    several = [("Reply-To", ", ".join(format_all(email.reply_to)))] if len(email.reply_to) > 1 else []
    return [*email.headers, *several]


def _person(mailbox: Mailbox) -> dict[str, str]:
    name = one_line(mailbox.name)
    return {"email": mailbox.email} | ({"name": name} if name else {})


def _attachment(attachment: Attachment) -> dict[str, Any]:
    found = {
        "content": quoted(attachment.encoded),
        "filename": attachment.filename,
        "type": attachment.content_type,
        "disposition": attachment.disposition,
    }
    return found | ({"content_id": attachment.content_id} if attachment.content_id else {})


def _variables(metadata: Mapping[str, str]) -> dict[str, str]:
    found = dict(metadata)
    while found and len(orjson.dumps(found)) > MAX_VARIABLES:
        found.popitem()
    return found
