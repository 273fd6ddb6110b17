"""AhaSend, v2 conversation messages: https://ahasend.com/docs/api-reference/messages/create-conversation-message"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import httpx

from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form
from bridge.mime.repair import Needs
from bridge.model import Addressing, Attachment, Fault, Mailbox, Outcome
from bridge.providers.answers import id_of, pointed, safe_words, words_of
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, by_recipient, sent_outcome, without_empty
from bridge.providers.display import bcc_of, header_object, one_line
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import quoted, typed

_AMP = "text/x-amp-html"
_RECIPIENT = re.compile(r"\b(?:to|cc|bcc)\[\d+\]")  # there are no codes


@dataclass(frozen=True, slots=True, kw_only=True)
class AhasendSettings(KeySettings):
    account_id: str = ""


class Ahasend(ApiProvider):
    kind = "ahasend"
    title = "AhaSend"
    docs = "https://ahasend.com/docs/api-reference/messages/create-conversation-message"
    base_url = "https://api.ahasend.com"
    Settings = AhasendSettings
    idempotent = True

    forms = (Form(name="json", carries=Carries(alternative_types=frozenset({_AMP}), reply_tos=False)),)
    takes_metadata = False
    caps = Caps(total=50)  # To, Cc and Bcc together
    needs = Needs(
        subject=True,
        body=True,
        reserved=frozenset(
            {"to", "cc", "bcc", "from", "subject", "reply-to", "message-id", "content-*", "mime-version"}
        ),
    )
    notes = (
        "AhaSend replaces the Message-ID.",
        "Metadata have no place here and are dropped.",
        "The API says nothing of sizes.",
    )

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.settings.api_key}"}

    def json_request(self, mail: Outgoing) -> httpx.Request:
        email, to = mail.email, mail.addressing
        content = {
            "from": _person(mail.sender),
            "to": [_person(m) for m in to.to],
            "cc": [_person(m) for m in to.cc],
            "bcc": [_person(m) for m in bcc_of(to)],
            "reply_to": _person(email.reply_to[0]) if email.reply_to else None,
            "subject": one_line(email.subject),
            "text_content": email.text,
            "html_content": email.html,
            "amp_content": next((text for kind, text in email.alternatives if kind.startswith(_AMP)), ""),
            "headers": header_object(email.headers),
            "tags": list(mail.features.tags),
            "attachments": [_attachment(a) for a in email.attachments],
        }
        path = f"/v2/accounts/{self.settings.account_id}/messages/conversation"
        return self.post(path, without_empty(content), {"Idempotency-Key": mail.key})

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        """A verdict for each recipient; `error` is all that says why one was not taken."""
        items = pointed(body, "/data")
        found = [
            (str(pointed(item, "/recipient/email")), self._verdict(response, item))
            for item in (items if isinstance(items, list) else ())
        ]
        return by_recipient(addressing, found, unknown("the answer names no verdict for this recipient"))

    def _verdict(self, response: httpx.Response, item: Any) -> Outcome:
        if pointed(item, "/status") in ("queued", "scheduled"):
            return sent_outcome(id_of(pointed(item, "/id")))
        words = safe_words(str(pointed(item, "/error") or ""), self.secrets)
        suppressed = "suppress" in words.lower()
        return self.meant(Meaning.SUPPRESSED if suppressed else Meaning.TEMPORARY, response, item, words)

    def refused_together(self, outcomes: Any, addressing: Addressing) -> bool:
        return all(
            outcome.fault is Fault.RECIPIENT and not outcome.provider_message_id for outcome in outcomes.values()
        ) and (not any("suppress" in outcome.detail.lower() for outcome in outcomes.values()))

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        if response.status_code == 400 and _RECIPIENT.search(words_of(body)):
            return Meaning.ADDRESS
        if response.status_code == 409:  # the first call with this key is still at work
            return Meaning.LOST
        # 422 has two senses: the key with another body, which byte-stable payloads never cause, and bad content.
        return None

    # Credentials: any key may ask

    def probe(self) -> httpx.Request:
        return self.get("/v2/ping")


def _person(mailbox: Mailbox) -> dict[str, str]:
    name = one_line(mailbox.name)
    return {"email": mailbox.email} | ({"name": name} if name else {})


def _attachment(attachment: Attachment) -> dict[str, Any]:
    found = {
        "base64": True,
        "data": quoted(attachment.encoded),
        "content_type": typed(attachment),
        "file_name": attachment.filename,
        "content_disposition": attachment.disposition,
    }
    return found | ({"content_id": attachment.content_id} if attachment.content_id else {})
