"""Postal, a mail platform people run themselves: https://docs.postalserver.io/developer/api"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form
from bridge.mime.repair import Needs
from bridge.model import Addressing, Attachment, Outcome
from bridge.providers.answers import id_of, json_of, pointed, safe_words
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, by_recipient, sent_outcome, without_empty
from bridge.providers.base import Verified
from bridge.providers.display import bcc_of, format_all, format_mailbox, header_object, one_line
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class PostalSettings(KeySettings):
    content: str = "auto"


class Postal(ApiProvider):
    kind = "postal"
    title = "Postal"
    docs = "https://docs.postalserver.io/developer/api"
    Settings = PostalSettings

    # Limits: the API's source; the size is the web server's to limit. Raw takes any number of recipients.
    forms = (
        Form(name="raw", carries=Carries(raw=True)),
        Form(name="json", carries=Carries(inline_images=False, type_parameters=False, reply_tos=False)),
    )
    takes_metadata = False
    caps = Caps(to=50, cc=50, bcc=50, bcc_alone=True)
    needs = Needs(
        body=True,
        filled_files=True,
        # Overwritten with its own.
        reserved=frozenset({"to", "cc", "bcc", "from", "sender", "subject", "reply-to", "message-id", "content-*"}),
    )
    codes = {
        "AccessDenied": Meaning.ACCOUNT,
        "InvalidServerAPIKey": Meaning.ACCOUNT,
        "ServerSuspended": Meaning.ACCOUNT,
        "UnauthenticatedFromAddress": Meaning.ACCOUNT,
        "FromAddressMissing": Meaning.ACCOUNT,  # the server's From rules; never seen for a mail that has one
        "NoRecipients": Meaning.CONTENT,
        "NoContent": Meaning.CONTENT,
        "TooManyToAddresses": Meaning.CONTENT,
        "TooManyCCAddresses": Meaning.CONTENT,
        "TooManyBCCAddresses": Meaning.CONTENT,
        "AttachmentMissingName": Meaning.CONTENT,
        "AttachmentMissingData": Meaning.CONTENT,
        "parameter-error": Meaning.CONTENT,
    }
    notes = (
        "`url` is the address of your server.",
        "The first tag goes along with JSON alone; metadata have no place here. Both are dropped otherwise.",
        "Mail over the server's send limit is accepted and held by Postal.",
    )

    def labels(self, form: Form) -> tuple[bool, bool]:
        return form.name == "json", False

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"X-Server-API-Key": self.settings.api_key}

    def raw_request(self, mail: Outgoing) -> httpx.Request:
        reverse_path = mail.addressing.reverse_path
        content = {
            "mail_from": reverse_path or mail.sender.email,
            "rcpt_to": list(mail.addressing.recipients),
            "data": self.mime_base64(mail),
        }
        # A null reverse path has no place in mail_from: this is how a mail that must not bounce is told.
        return self.post("/api/v1/send/raw", content | ({} if reverse_path else {"bounce": True}))

    def json_request(self, mail: Outgoing) -> httpx.Request:
        email, to = mail.email, mail.addressing
        content = {
            "to": format_all(to.to),
            "cc": format_all(to.cc),
            "bcc": format_all(bcc_of(to)),
            "from": format_mailbox(mail.sender),
            "subject": one_line(email.subject),
            "tag": next(iter(mail.features.tags), ""),
            "reply_to": format_mailbox(email.reply_to[0]) if email.reply_to else "",
            "plain_body": email.text,
            "html_body": email.html,
            "headers": header_object(email.headers),
            "attachments": [_attachment(a) for a in email.attachments],
        }
        return self.post("/api/v1/send/message", without_empty(content))

    # Response: HTTP 200 always

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        status = body.get("status") if isinstance(body, dict) else None
        if status in ("error", "parameter-error"):
            return self.refused(response, body, addressing)
        messages = pointed(body, "/data/messages")
        if status != "success" or not isinstance(messages, dict):
            return dict.fromkeys(addressing.recipients, unknown("the answer has no verdict"))
        found = [(recipient, sent_outcome(id_of(pointed(m, "/id")))) for recipient, m in messages.items()]
        return by_recipient(addressing, found, unknown("the answer names no verdict for this recipient"))

    def code(self, response: httpx.Response, body: Any) -> str:
        return id_of(pointed(body, "/data/code")) or id_of(pointed(body, "/status"))

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        """An error of a name nobody knows: temporary."""
        found = super().meaning(response, body)
        return Meaning.TEMPORARY if found is None and response.status_code == 200 else found

    def meant(self, meaning: Meaning, response: httpx.Response, body: Any, words: str = "") -> Outcome:
        said = pointed(body, "/data/message")
        return super().meant(
            meaning, response, body, words or (safe_words(said, self.secrets) if isinstance(said, str) else "")
        )

    # Credentials: the API's other call, for a message that cannot be there

    def probe(self) -> httpx.Request:
        return self.post("/api/v1/messages/message", {"id": 0})

    def read_probe(self, response: httpx.Response) -> Verified:
        code = self.code(response, json_of(response.content))
        if response.status_code == 200 and code in ("MessageNotFound", "success"):
            return Verified(ok=True, text="the credentials are accepted")
        if response.status_code == 200 and self.codes.get(code) is Meaning.ACCOUNT:
            return Verified(ok=False, text=f"the credentials are refused ({code})")
        return Verified(ok=None, text=f"unexpected answer (HTTP {response.status_code})")


def _attachment(attachment: Attachment) -> dict[str, Any]:
    return {
        "name": attachment.filename,
        "content_type": attachment.content_type,
        "data": quoted(attachment.encoded),
    }
