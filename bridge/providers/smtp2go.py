"""SMTP2GO, v3 email/mime and email/send: https://developers.smtp2go.com/reference/"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from bridge.mime.addressing import Caps, hidden_alone
from bridge.mime.fidelity import Carries, Form
from bridge.mime.repair import Needs
from bridge.model import Addressing, Email, Fault, Outcome
from bridge.providers.answers import id_of, pointed, safe_words
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, by_recipient, named_in, sent_outcome, without_empty
from bridge.providers.display import format_all, format_mailbox, one_line
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import is_image, quoted

_PREFIX = "E_ApiResponseCodes."


@dataclass(frozen=True, slots=True, kw_only=True)
class Smtp2goSettings(KeySettings):
    content: str = "auto"


class Smtp2go(ApiProvider):
    kind = "smtp2go"
    title = "SMTP2GO"
    docs = "https://developers.smtp2go.com/reference/send-standard-email"
    base_url = "https://api.smtp2go.com"
    regions = {region: f"https://{region}-api.smtp2go.com" for region in ("us", "eu", "au")}
    Settings = Smtp2goSettings

    forms = (
        Form(name="raw", carries=Carries(raw=True, max_size=50_000_000)),  # unverified
        Form(name="json", carries=Carries(type_parameters=False, max_size=50_000_000)),
    )
    takes_tags = takes_metadata = False
    raw_envelope = False  # mailed are those of To and Cc
    caps = Caps(to=100, cc=100, bcc=100)
    raw_caps = Caps(to=100, cc=100, bcc=100, once=True)  # they are read from the header, where case counts for nobody
    needs = Needs(
        subject=True,
        body=True,
        headers_once=False,
        reserved=frozenset({"to", "cc", "bcc", "from", "subject", "reply-to", "content-*", "mime-version"}),
    )
    # Seen in public code; the list is not complete.
    codes = {
        "ENDPOINT_PERMISSION_DENIED": Meaning.ACCOUNT,
        "API_KEY_INVALID": Meaning.ACCOUNT,
        "SENDER_NOT_VERIFIED": Meaning.ACCOUNT,
        "NON_VALIDATING_IN_PAYLOAD": Meaning.CONTENT,
        "API_RATELIMIT_EXCEEDED": Meaning.RATE,
    }
    notes = (
        "Whether a Bcc field is taken out of a MIME message is not documented, so those who must not be seen get a call each.",
        "Tags and metadata have no place here and are dropped.",
    )
    unverified = ("the size", "the list of error codes")

    def calls(self, email: Email, reverse_path: str, recipients: tuple[str, ...]) -> tuple[Addressing, ...]:
        found = super().calls(email, reverse_path, recipients)
        if self.form(email).name == "json":
            return found
        return tuple(one for call in found for one in hidden_alone(call))

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"X-Smtp2go-Api-Key": self.settings.api_key}

    def raw_request(self, mail: Outgoing) -> httpx.Request:
        return self.post("/v3/email/mime", {"mime_email": self.mime_base64(mail)})

    def json_request(self, mail: Outgoing) -> httpx.Request:
        email, to = mail.email, mail.addressing
        reply_to = ", ".join(format_all(email.reply_to))
        headers = [*email.headers, *([("Reply-To", reply_to)] if reply_to else [])]
        inline = [a for a in email.attachments if a.disposition == "inline" and a.content_id and is_image(a)]
        content = {
            "sender": format_mailbox(mail.sender),
            "to": format_all(to.to),
            "cc": format_all(to.cc),
            "bcc": list(to.bcc),
            "subject": one_line(email.subject),
            "text_body": email.text,
            "html_body": email.html,
            "custom_headers": [{"header": name, "value": one_line(value)} for name, value in headers],
            "attachments": [
                {"filename": a.filename, "fileblob": quoted(a.encoded), "mimetype": a.content_type}
                for a in email.attachments
                if a not in inline
            ],
            "inlines": [
                {"filename": a.content_id, "fileblob": quoted(a.encoded), "mimetype": a.content_type} for a in inline
            ],
        }
        return self.post("/v3/email/send", without_empty(content))

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        data = pointed(body, "/data")
        if not isinstance(data, dict) or not isinstance(data.get("succeeded"), int):
            return dict.fromkeys(addressing.recipients, unknown("the answer has no verdict"))
        sent = sent_outcome(id_of(data.get("email_id")))
        failed, failures = data.get("failed") or 0, str(data.get("failures") or "")
        if not failed:
            return dict.fromkeys(addressing.recipients, sent)
        refusal = self.meant(Meaning.RECIPIENT, response, body, "refused by the mail service")
        named = [(r, refusal) for r in named_in(failures, addressing.recipients)]
        if not data["succeeded"]:
            words = safe_words(failures, self.secrets)
            # Of all at once it is about the sender, mostly: "Verification failed for <noreply@example.com>".
            meaning = Meaning.ACCOUNT if "verification failed" in words.lower() else Meaning.TEMPORARY
            return by_recipient(addressing, named, self.meant(meaning, response, body, words))
        return by_recipient(addressing, named, sent if len(named) == failed else unknown("some failed, not told which"))

    def code(self, response: httpx.Response, body: Any) -> str:
        return id_of(pointed(body, "/data/error_code")).removeprefix(_PREFIX)

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        """Credentials are refused with 400 as well, so a code that nobody knows says nothing of the mail."""
        code = self.code(response, body)
        if response.status_code == 402:
            return Meaning.QUOTA
        if pointed(body, "/data/field_validation_errors/fieldname") in ("to", "cc", "bcc"):
            return Meaning.ADDRESS
        if code and code not in self.codes and response.status_code == 400:
            return Meaning.TEMPORARY
        return super().meaning(response, body)

    def meant(self, meaning: Meaning, response: httpx.Response, body: Any, words: str = "") -> Outcome:
        said = pointed(body, "/data/error")
        return super().meant(
            meaning, response, body, words or (safe_words(said, self.secrets) if isinstance(said, str) else "")
        )

    def refused_together(self, outcomes: Any, addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())
