"""Mandrill (Mailchimp Transactional), messages/send-raw and messages/send:
https://mailchimp.com/developer/transactional/api/messages/"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx

from bridge.mime.addressing import Caps, hidden_alone
from bridge.mime.compose import text_field
from bridge.mime.fidelity import Carries, Form, Loss
from bridge.mime.repair import Needs
from bridge.mime.rewrite import with_fields, with_head
from bridge.model import Addressing, Attachment, Content, Email, Envelope, Fault, Outcome
from bridge.providers.answers import id_of, json_of, pointed, words_of
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, by_recipient, sent_outcome, without_empty
from bridge.providers.base import Verified
from bridge.providers.display import bcc_of, format_all, header_object, one_line
from bridge.providers.features import Features, Found, ignored, json_metadata, option, tag_list, yes_or_no
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import quoted
from bridge.reply import Reply

MAX_SIZE = 25_000_000  # unverified
_TRACKS = {"opens": "track_opens", "clicks": "track_clicks", "clicks_all": "track_clicks", "none": ""}
# A verdict `rejected`: about the account, or about this recipient (one of the lists of those who get nothing).
_REASONS = {
    **dict.fromkeys(("invalid-sender", "test-mode-limit", "unsigned"), Meaning.ACCOUNT),
    **dict.fromkeys(("hard-bounce", "soft-bounce", "spam", "unsub", "custom"), Meaning.SUPPRESSED),
    "invalid": Meaning.ADDRESS,
    "rule": Meaning.CONTENT,  # of the account's own, about the mail
}
# The text of a ValidationError is JSON of the field it is about.
_NAMES_RECIPIENT = re.compile(r'"to"\s*:')


def _track(name: str, value: str) -> Found:
    """`opens, clicks`"""
    words = [word.strip().lower() for word in value.split(",") if word.strip()]
    if not words or any(word not in _TRACKS for word in words):
        return Found(dropped=("",))
    named = {_TRACKS[word] for word in words}
    return Found(options={key: key in named for key in ("track_opens", "track_clicks")})


@dataclass(frozen=True, slots=True, kw_only=True)
class MandrillSettings(KeySettings):
    content: str = "auto"


class Mandrill(ApiProvider):
    kind = "mandrill"
    title = "Mandrill (Mailchimp Transactional)"
    docs = "https://mailchimp.com/developer/transactional/api/messages/"
    base_url = "https://mandrillapp.com"
    Settings = MandrillSettings

    forms = (
        Form(name="raw", carries=Carries(raw=True, max_size=MAX_SIZE)),
        Form(name="json", carries=Carries(type_parameters=False, max_size=MAX_SIZE)),
    )
    caps = raw_caps = Caps(once=True)  # verdicts are by address
    raw_seven_bit = True  # the MIME is a JSON string
    raw_drops = frozenset({"x-mc-*"})  # instructions, BccAddress among them
    needs = Needs(
        body=True,
        ascii_filenames=True,
        reserved=frozenset({"to", "cc", "bcc", "from", "subject", "reply-to", "x-mc-*", "content-*", "mime-version"}),
    )
    readers = {
        "x-mc-tags": tag_list,
        "x-mc-metadata": json_metadata,
        "x-mc-track": _track,
        "x-mc-important": option("important", yes_or_no),
        "x-mc-ippool": option("ip_pool"),
        "x-mc-*": ignored,
    }
    # The name in an error's body: its HTTP status is 500 for nearly all.
    codes = {
        **dict.fromkeys(("Invalid_Key", "PaymentRequired", "Unknown_Subaccount"), Meaning.ACCOUNT),
        "ValidationError": Meaning.CONTENT,
        **dict.fromkeys(("GeneralError", "ServiceUnavailable"), Meaning.LATER),
    }
    notes = (
        "Opens and clicks are tracked as the account has it, unless `X-MC-Track` says something else.",
        "That changes links, so signed mail needs tracking of clicks to be off.",
        "Those who must not be seen get a call each.",
        "Mail that Mandrill queues because of a used-up quota or a suspension was taken, and waits there.",
    )
    unverified = ("the size",)

    def losses(self, email: Email, envelope: Envelope) -> tuple[Loss, ...]:
        found = super().losses(email, envelope)
        others = [a for a in email.attachments if a.disposition == "inline" and a.content_id and not _is_image(a)]
        if others and self.form(email).name == "json":
            reply = Reply(554, "5.6.5", "The provider cannot carry inline parts that are no images")
            return (*found, Loss("inline_images", "inline parts that are no images", reply))
        return found

    def calls(self, email: Email, reverse_path: str, recipients: tuple[str, ...]) -> tuple[Addressing, ...]:
        """Whether Mandrill shows all it mails where it keeps To and Cc is not documented: who must not be seen goes alone."""
        found = super().calls(email, reverse_path, recipients)
        if self.form(email).name == "json":
            return found
        return tuple(one for call in found for one in hidden_alone(call))

    # Request

    def raw_request(self, mail: Outgoing) -> httpx.Request:
        pool = mail.features.options.get("ip_pool")
        content = {"raw_message": self.mime_text(mail), "to": list(mail.addressing.recipients), "ip_pool": pool}
        return self.post("/api/1.0/messages/send-raw.json", {"key": self.settings.api_key, **without_empty(content)})

    def mime(self, mail: Outgoing) -> Content:
        """The call takes no tags and metadata beside the message, so they go in it, written anew."""
        return with_head(super().mime(mail), lambda head: with_fields(head, _instructions(mail.features)))

    def json_request(self, mail: Outgoing) -> httpx.Request:
        email, to, features = mail.email, mail.addressing, mail.features
        options = dict(features.options)
        pool = options.pop("ip_pool", None)
        reply_to = ", ".join(format_all(email.reply_to))
        images = [a for a in email.attachments if a.disposition == "inline" and a.content_id and _is_image(a)]
        slots = (("to", to.to), ("cc", to.cc), ("bcc", bcc_of(to)))
        message = {
            "html": email.html,
            "text": email.text,
            "subject": one_line(email.subject),
            "from_email": mail.sender.email,
            "from_name": one_line(mail.sender.name),
            "to": [{"email": m.email, "name": one_line(m.name), "type": slot} for slot, boxes in slots for m in boxes],
            "headers": header_object(email.headers) | ({"Reply-To": reply_to} if reply_to else {}),
            "tags": _tags(features),
            "metadata": dict(features.metadata),
            "attachments": [_file(a, a.filename) for a in email.attachments if a not in images],
            "images": [_file(a, a.content_id) for a in images],
        }
        # Without the first everybody would get a copy that shows nobody else.
        fixed = {"preserve_recipients": True, "merge": False}
        content = {"message": {**without_empty(message), **fixed, **options}, **({"ip_pool": pool} if pool else {})}
        return self.post("/api/1.0/messages/send.json", {"key": self.settings.api_key, **content})

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        if isinstance(body, dict) and body.get("status") == "error":
            return self.refused(response, body, addressing)
        items = body if isinstance(body, list) else ()
        found = [(str(pointed(item, "/email")), self._verdict(response, item)) for item in items]
        return by_recipient(addressing, found, unknown("the answer names no verdict for this recipient"))

    def _verdict(self, response: httpx.Response, item: Any) -> Outcome:
        status, reason = pointed(item, "/status"), str(pointed(item, "/reject_reason") or "")
        if status in ("sent", "queued", "scheduled"):
            return sent_outcome(id_of(pointed(item, "/_id")), str(pointed(item, "/queued_reason") or ""))
        if status == "invalid":
            return self.meant(Meaning.ADDRESS, response, None, "invalid")
        if status == "rejected":  # for a reason that nobody knows: temporary
            return self.meant(_REASONS.get(reason, Meaning.TEMPORARY), response, None, one_line(reason)[:40])
        return unknown("the answer has a status that nobody knows")

    def code(self, response: httpx.Response, body: Any) -> str:
        return id_of(pointed(body, "/name"))

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        found = super().meaning(response, body)
        about_recipient = found is Meaning.CONTENT and _NAMES_RECIPIENT.search(words_of(body))
        return Meaning.ADDRESS if about_recipient else found

    def refused_together(self, outcomes: Any, addressing: Addressing) -> bool:
        """Only an error is for all of them: a list has a verdict for each."""
        return len({o.detail for o in outcomes.values()}) == 1 and all(
            o.fault is Fault.RECIPIENT and "ValidationError" in o.detail for o in outcomes.values()
        )

    # Credentials

    def probe(self) -> httpx.Request:
        return self.post("/api/1.0/users/ping2.json", {"key": self.settings.api_key})

    def read_probe(self, response: httpx.Response) -> Verified:
        code = self.code(response, json_of(response.content))
        if self.codes.get(code) is Meaning.ACCOUNT:
            return Verified(ok=False, text=f"the credentials are refused ({code})")
        return super().read_probe(response)


def _instructions(features: Features) -> list[bytes]:
    options = features.options
    tracked = [word for word, key in (("opens", "track_opens"), ("clicks", "track_clicks")) if options.get(key)]
    texts = {
        "X-MC-PreserveRecipients": "true",  # else everybody gets a copy that shows nobody else
        "X-MC-Tags": ",".join(_tags(features)),
        "X-MC-Metadata": json.dumps(dict(features.metadata)) if features.metadata else "",
        "X-MC-Track": (",".join(tracked) or "none") if "track_opens" in options else "",
        "X-MC-Important": ("true" if options["important"] else "false") if "important" in options else "",
    }
    return [text_field(name, text) for name, text in texts.items() if text]


def _tags(features: Features) -> list[str]:
    """At most 50 characters; those that begin with an underscore are refused."""
    return [cut for tag in features.tags if (cut := tag.replace(",", " ").lstrip("_")[:50])]


def _is_image(attachment: Attachment) -> bool:
    return attachment.content_type.startswith("image/")


def _file(attachment: Attachment, name: str) -> dict[str, Any]:
    return {"type": attachment.content_type, "name": name, "content": quoted(attachment.encoded)}
