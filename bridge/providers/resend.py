"""Resend, send email and batch: https://resend.com/docs/api-reference/emails/send-email"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import httpx

from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form
from bridge.mime.repair import Needs, Repaired, says_nothing
from bridge.model import Addressing, Attachment, Email, Fault, Outcome
from bridge.providers.answers import id_of, json_of, pointed, safe_words, words_of
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, one_message_key, sent_outcome, without_empty
from bridge.providers.base import Call, Verified
from bridge.providers.display import format_all, format_mailbox, header_object, one_line
from bridge.providers.features import Features
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import quoted

_NOT_IN_TAGS = re.compile(r"[^A-Za-z0-9_-]")
MAX_TAG = 256  # characters of a tag's name and of its value
# A code for single mails, a text alone in a batch: which field of which mail.
_NAMES_RECIPIENT = re.compile(r"`(?:to|cc|bcc)`")


class Resend(ApiProvider):
    kind = "resend"
    title = "Resend"
    docs = "https://resend.com/docs/api-reference/emails/send-email"
    base_url = "https://api.resend.com"
    Settings = KeySettings
    # Kept for 24 hours, in both calls: https://resend.com/docs/dashboard/emails/idempotency-keys
    idempotent = True

    forms = (
        Form(
            name="json",
            carries=Carries(
                type_parameters=False,  # of content_type the documentation shows only bare types
                max_size=40 * 1024 * 1024,  # after base64; resend-skills, "attachments"
            ),
        ),
    )
    caps = Caps(total=50)  # "max 50" stands at `to`, elsewhere at the whole mail: the safe reading
    max_batch = 100  # https://resend.com/docs/api-reference/emails/send-batch-emails
    max_batch_bytes = 40 * 1024 * 1024  # no number of its own is known, so that of one mail
    needs = Needs(
        filled_files=True,
        subject=True,
        body=True,
        matching_endings=True,  # else the mail is accepted and silently dropped
        # The SMTP service's own field; the key is ours.
        reserved=frozenset({"resend-idempotency-key"}),
    )
    codes = {
        "security_error": Meaning.ACCOUNT,  # 451
        "invalid_from_address": Meaning.ACCOUNT,
        "rate_limit_exceeded": Meaning.RATE,
        "daily_quota_exceeded": Meaning.QUOTA,
        "monthly_quota_exceeded": Meaning.QUOTA,
        # The first call with this key is still at work, or its answer is not known: never to another provider.
        "concurrent_idempotent_requests": Meaning.LOST,
        "invalid_idempotent_request": Meaning.LOST,
    }
    notes = (
        "Tags of the mail are sent as Resend tags named tag, tag-2 and so on, metadata by their names; other characters"
        " than letters, digits, _ and - become _.",
        "Tracking is a setting of the domain.",
        "Resend may replace the Message-ID.",
    )

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.settings.api_key}"}

    def mended(self, email: Email) -> Repaired:
        found, notes = super().mended(email)
        features = self.features(email)
        odd = [text for text in _tag_texts(features) if _tag_text(text) != text]
        empty = [name for name, value in features.metadata.items() if not value]
        return found, (
            *notes,
            *(f"tag {text[:40]!r} sent as {_tag_text(text)[:40]}" for text in odd),
            *(f"metadata {name[:40]!r} without a value not taken" for name in empty),
        )

    def json_request(self, mail: Outgoing) -> httpx.Request:
        return self.post("/emails", _payload(mail), {"Idempotency-Key": mail.key})

    def batch_key(self, call: Call) -> Hashable | None:
        """Any mails without attachments."""
        return None if call.email.attachments else "emails"

    def build_batch(self, calls: Sequence[Call]) -> httpx.Request:
        headers = {"Idempotency-Key": one_message_key(calls), "x-batch-validation": "permissive"}
        return self.post("/emails/batch", [_payload(self.outgoing(call)) for call in calls], headers)

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        if not isinstance(body, dict):
            return dict.fromkeys(addressing.recipients, unknown("the answer cannot be read"))
        if not id_of(body.get("id")):
            return dict.fromkeys(addressing.recipients, unknown("the answer has no id"))
        return self.sent_all(addressing, id_of(body.get("id")))

    def parse_batch(self, response: httpx.Response, calls: Sequence[Call]) -> list[dict[str, Outcome]] | None:
        """`data` has those that were taken, in order; `errors` names the others by their place."""
        body = json_of(response.content)
        if response.status_code != 200 or not isinstance(pointed(body, "/data"), list):
            found = [self._unread(response, call.addressing) for call in calls]
            faults = {outcome.fault for outcomes in found for outcome in outcomes.values()}
            return None if faults & {Fault.MESSAGE, Fault.RECIPIENT} else found
        errors = _errors(body)
        good = [number for number in range(len(calls)) if number not in errors]
        ids = dict(zip(good, body["data"], strict=True)) if len(good) == len(body["data"]) else {}
        return [
            dict.fromkeys(call.addressing.recipients, self._verdict(response, number, ids, errors))
            for number, call in enumerate(calls)
        ]

    def _verdict(
        self, response: httpx.Response, number: int, ids: Mapping[int, Any], errors: Mapping[int, str]
    ) -> Outcome:
        if number in errors:
            words = safe_words(errors[number], self.secrets)
            return self.meant(_meaning_of(words) or Meaning.CONTENT, response, None, words)
        if number in ids:
            return sent_outcome(id_of(pointed(ids[number], "/id")))
        return unknown("the answer does not say which mails were taken")

    def _unread(self, response: httpx.Response, addressing: Addressing) -> dict[str, Outcome]:
        if 200 <= response.status_code <= 299:
            return dict.fromkeys(addressing.recipients, unknown("the answer cannot be read"))
        return self.parse_response(response, addressing)

    def code(self, response: httpx.Response, body: Any) -> str:
        return id_of(pointed(body, "/name"))

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        found = super().meaning(response, body)
        # `validation_error` alone has many senses; also a wrong key's (https://github.com/resend/resend-node/pull/617).
        return _meaning_of(words_of(body)) if found is None and response.status_code in (400, 422) else found

    def wait(self, response: httpx.Response, body: Any) -> float | None:
        """The headers speak of the rate, in seconds; a quota lasts for a day or a month."""
        quota = self.codes.get(self.code(response, body)) is Meaning.QUOTA
        return None if quota else super().wait(response, body)

    def refused_together(self, outcomes: Mapping[str, Outcome], addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    # Credentials: https://resend.com/docs/api-reference/domains/list-domains

    def probe(self) -> httpx.Request:
        return self.get("/domains")

    def read_probe(self, response: httpx.Response) -> Verified:
        if self.code(response, json_of(response.content)) == "restricted_api_key":
            return Verified(ok=True, text="the key is accepted; it may only send")
        return super().read_probe(response)


def _payload(mail: Outgoing) -> dict[str, Any]:
    email, to = mail.email, mail.addressing
    return without_empty(
        {
            "from": format_mailbox(mail.sender),
            "to": format_all(to.to),
            "cc": format_all(to.cc),
            "bcc": list(to.bcc),
            "reply_to": format_all(email.reply_to),
            "subject": one_line(email.subject),
            "html": email.html,
            "text": email.text,
            "headers": _headers(email),
            "attachments": [_attachment(a, email.html) for a in email.attachments],
            "tags": _tags(mail.features),
        }
    )


def _headers(email: Email) -> dict[str, Any]:
    found = header_object((name, one_line(value)) for name, value in email.headers)
    return found | ({"Message-ID": email.message_id} if email.message_id else {})


def _attachment(attachment: Attachment, html: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "content": quoted(attachment.encoded),
        "filename": attachment.filename,
    }
    if not says_nothing(attachment.content_type):  # else it is made from the ending, which then cannot disagree
        found["content_type"] = attachment.content_type
    # A content id makes it inline, so files that have one for no reason go without.
    cid = attachment.content_id
    shown = cid and (attachment.disposition == "inline" or f"cid:{cid}" in html)
    return found | ({"content_id": cid} if shown else {})


def _tags(features: Features) -> list[dict[str, str]]:
    named = {f"tag-{n}" if n > 1 else "tag": tag for n, tag in enumerate(features.tags, 1)}
    pairs = (named | dict(features.metadata)).items()
    found = {_tag_text(name): _tag_text(value) for name, value in pairs if name and value}
    return [{"name": name, "value": value} for name, value in found.items()]


def _tag_texts(features: Features) -> list[str]:
    return [*features.tags, *(text for pair in features.metadata.items() for text in pair)]


def _tag_text(text: str) -> str:
    return _NOT_IN_TAGS.sub("_", text)[:MAX_TAG]


def _errors(body: Any) -> dict[int, str]:
    found = body.get("errors")
    items = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
    return {item["index"]: str(item.get("message") or "") for item in items if isinstance(item.get("index"), int)}


def _meaning_of(words: str) -> Meaning | None:
    """What only a text tells."""
    lower = words.lower()
    if "api key" in lower or ("domain" in lower and "verif" in lower):
        return Meaning.ACCOUNT
    return Meaning.ADDRESS if _NAMES_RECIPIENT.search(lower) else None
