"""Cloudflare Email Service, send and send_raw (beta): https://developers.cloudflare.com/email-service/"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form
from bridge.mime.repair import Needs
from bridge.model import Addressing, Attachment, Fault, Mailbox, Outcome
from bridge.providers.answers import id_of, pointed, words_of
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, by_recipient, sent_outcome, without_empty
from bridge.providers.display import bcc_of, header_object, one_line
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import quoted

MAX_SIZE = 5 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudflareSettings(KeySettings):
    account_id: str = ""
    content: str = "auto"


class Cloudflare(ApiProvider):
    kind = "cloudflare"
    title = "Cloudflare Email Service"
    docs = "https://developers.cloudflare.com/api/resources/email_sending/"
    base_url = "https://api.cloudflare.com"
    Settings = CloudflareSettings

    # Limits: https://developers.cloudflare.com/email-service/platform/limits
    forms = (
        Form(name="raw", carries=Carries(raw=True, max_size=MAX_SIZE)),
        Form(name="json", carries=Carries(reply_tos=False, type_parameters=False, max_size=MAX_SIZE)),
    )
    takes_tags = takes_metadata = False
    caps = Caps(total=50, bcc_alone=True)  # `to` may be left out beside cc or bcc
    raw_caps = Caps(total=50)
    raw_seven_bit = True  # the MIME is a JSON string
    needs = Needs(
        subject=True,
        body=True,
        max_subject=998,
        # Any other is refused: https://developers.cloudflare.com/email-service/reference/headers/ (the part that was read)
        only_headers=frozenset({"x-*", "list-*", "in-reply-to", "references", "auto-submitted", "precedence"}),
    )
    codes = {
        "10001": Meaning.CONTENT,  # invalid_request_schema
        "10002": Meaning.LATER,  # internal_server
        "10102": Meaning.ACCOUNT,  # authentication.forbidden
        "10105": Meaning.ACCOUNT,  # authentication.not_entitled
        "10200": Meaning.CONTENT,  # email.invalid
        "10203": Meaning.ACCOUNT,  # email.sending_disabled
    }
    notes = (
        "A mail to a suppressed recipient beside others is refused as a whole; then each recipient is tried alone.",
        "Tags and metadata have no place here and are dropped.",
    )

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.settings.api_key}"}

    def raw_request(self, mail: Outgoing) -> httpx.Request:
        content = {
            "from": mail.addressing.reverse_path or mail.sender.email,
            "recipients": list(mail.addressing.recipients),
            "mime_message": self.mime_text(mail),
        }
        return self.post(self._path("send_raw"), content)

    def json_request(self, mail: Outgoing) -> httpx.Request:
        email, to = mail.email, mail.addressing
        content = {
            "from": _person(mail.sender),
            "to": [_person(m) for m in to.to],
            "cc": [_person(m) for m in to.cc],
            "bcc": [_person(m) for m in bcc_of(to)],
            "reply_to": _person(email.reply_to[0]) if email.reply_to else None,
            "subject": one_line(email.subject),
            "text": email.text,
            "html": email.html,
            "headers": header_object(email.headers),
            "attachments": [_attachment(a) for a in email.attachments],
        }
        return self.post(self._path("send"), without_empty(content))

    def _path(self, call: str) -> str:
        return f"/client/v4/accounts/{self.settings.account_id}/email/sending/{call}"

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        result = body.get("result") if isinstance(body, dict) else None
        if isinstance(body, dict) and body.get("success") is False:
            return self.refused(response, body, addressing)
        if not isinstance(result, dict):
            return dict.fromkeys(addressing.recipients, unknown("the answer has no result"))
        sent = sent_outcome(id_of(result.get("message_id")))
        permanent = self.meant(Meaning.RECIPIENT, response, body, "permanent bounce")
        suppressed = self.meant(Meaning.SUPPRESSED, response, body, "suppressed recipient")
        lists = {"delivered": sent, "queued": sent, "permanent_bounces": permanent, "suppressed_recipients": suppressed}
        found = [(str(a), outcome) for name, outcome in lists.items() for a in result.get(name) or ()]
        return by_recipient(
            addressing, found, unknown("the answer names no verdict for this recipient") if found else sent
        )

    def code(self, response: httpx.Response, body: Any) -> str:
        return id_of(pointed(body, "/errors/0/code"))

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        """The message is a code as well: `email.sending.error.email.sender_not_configured`."""
        if response.status_code >= 500:
            return None
        words = words_of(body).lower()
        if "quota" in words:
            return Meaning.QUOTA
        if "suppress" in words:
            return Meaning.SUPPRESSED
        if "sender_not_configured" in words:
            return Meaning.ACCOUNT
        return super().meaning(response, body)

    def refused_together(self, outcomes: Any, addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())


def _person(mailbox: Mailbox) -> dict[str, str] | str:
    name = one_line(mailbox.name)
    return {"address": mailbox.email, "name": name} if name else mailbox.email


def _attachment(attachment: Attachment) -> dict[str, Any]:
    inline = attachment.disposition == "inline" and attachment.content_id
    found = {
        "content": quoted(attachment.encoded),
        "filename": attachment.filename,
        "type": attachment.content_type,
        "disposition": "inline" if inline else "attachment",
    }
    return found | ({"content_id": attachment.content_id} if inline else {})
