"""Mailjet, Send API v3.1: https://dev.mailjet.com/email/guides/send-api-v31/"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import orjson

from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form, is_shown
from bridge.mime.repair import Needs
from bridge.model import Addressing, Attachment, Email, Fault, Mailbox, Outcome
from bridge.providers.answers import id_of, json_of, pointed, safe_words
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, by_recipient, sent_outcome, without_empty
from bridge.providers.base import Call
from bridge.providers.display import bcc_of, header_object, one_line
from bridge.providers.features import Features, ignored, option, yes_or_no
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import quoted


def _tracking(value: str) -> str:
    """`0` and `1` of the SMTP service are off and on, as programs use them; the API's own words too. Raises ValueError."""
    if value.lower() == "account_default":
        return "account_default"
    return "enabled" if yes_or_no(value) else "disabled"


def _priority(value: str) -> int | None:
    return int(value) if value in ("0", "1", "2", "3") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MailjetSettings(KeySettings):
    api_secret: str = field(default="", repr=False)


class Mailjet(ApiProvider):
    kind = "mailjet"
    title = "Mailjet"
    docs = "https://dev.mailjet.com/email/guides/send-api-v31/"
    base_url = "https://api.mailjet.com"
    regions = {"us": "https://api.us.mailjet.com"}  # unverified
    Settings = MailjetSettings

    # Limits: https://github.com/mailjet/api-documentation, guides/_send-api.md
    forms = (
        Form(
            name="json",
            # A type goes without its parameters; one Reply-To; 15 MB of files, which are 20 MB in base64.
            carries=Carries(type_parameters=False, reply_tos=False, max_size=20_000_000),
        ),
    )
    caps = Caps(total=50, once=True)  # To, Cc and Bcc together; verdicts are by address
    max_batch = 50  # from memory, says the source
    max_batch_bytes = 20_000_000  # unverified; refused with mj-0011 it is tried in halves
    needs = Needs(
        filled_files=True,
        body=True,
        max_subject=255,
        reserved=frozenset(  # send-0011
            {
                "from",
                "sender",
                "subject",
                "to",
                "cc",
                "bcc",
                "reply-to",
                "return-path",
                "delivered-to",
                "dkim-signature",
            }
            | {"domainkey-status", "received-spf", "authentication-results", "received", "user-agent", "x-mailer"}
            | {"x-feedback-id", "list-id", "date", "x-csa-complaints", "message-id", "x-mj-*", "x-mailjet-*"}
            | {"content-*", "mime-version"}
        ),
    )
    readers = {
        "x-mj-customid": option("CustomID"),
        "x-mj-eventpayload": option("EventPayload"),
        "x-mj-monitoringcategory": option("MonitoringCategory"),
        "x-mailjet-campaign": option("CustomCampaign"),
        "x-mailjet-deduplicatecampaign": option("DeduplicateCampaign", yes_or_no),
        "x-mailjet-prio": option("Priority", _priority),
        "x-mailjet-trackopen": option("TrackOpens", _tracking),
        "x-mailjet-trackclick": option("TrackClicks", _tracking),
        "x-mj-*": ignored,
        "x-mailjet-*": ignored,
    }
    codes = {
        **dict.fromkeys(("mj-0001", "mj-0015", "send-0006", "send-0007", "send-0008", "send-0013"), Meaning.ACCOUNT),
        **dict.fromkeys((f"mj-00{n:02}" for n in (2, 3, 4, 5, 6, 7, 8, 12)), Meaning.CONTENT),
        "mj-0013": Meaning.ADDRESS,
        "mj-0011": Meaning.TOO_BIG,
        **dict.fromkeys(
            ("send-0003", "send-0004", "send-0010", "send-0011", "send-0012", "send-0014", "send-0015", "send-0016"),
            Meaning.CONTENT,
        ),
    }
    notes = (
        "The key has two halves: `api_key` and `api_secret`.",
        "The first tag is the campaign (CustomCampaign), metadata are the event's payload; CustomID is the queue id.",
        "Mailjet replaces Message-ID and Date.",
        "15 MB of files are allowed, which are 20 MB as they are sent, in base64.",
    )
    unverified = ("the region `us`", "the limits of a batch")

    def mended(self, email: Email) -> tuple[Email, tuple[str, ...]]:
        mail, notes = super().mended(email)
        empty = [name for name, value in mail.headers if not value.strip()]
        if empty:  # refused with mj-0012
            mail = replace(mail, headers=tuple((name, value) for name, value in mail.headers if value.strip()))
            notes = (*notes, *(f"empty header {name} dropped, the provider refuses it" for name in empty))
        return mail, (*notes, *_not_labelled(self.features(email)))

    # Request

    def auth_headers(self) -> dict[str, str]:
        credentials = httpx.BasicAuth(self.settings.api_key, self.settings.api_secret)
        request = next(credentials.auth_flow(httpx.Request("GET", "http://localhost")))
        return {"Authorization": request.headers["authorization"]}

    def json_request(self, mail: Outgoing) -> httpx.Request:
        return self._request([mail])

    def batch_key(self, call: Call) -> Hashable | None:
        """One recipient each: a mail refused for one of several is then tried for each alone, which a batch cannot do."""
        return "any" if len(call.addressing.recipients) == 1 else None

    def build_batch(self, calls: Sequence[Call]) -> httpx.Request:
        return self._request([self.outgoing(call) for call in calls])

    def _request(self, mails: Sequence[Outgoing]) -> httpx.Request:
        return self.post("/v3.1/send", {"Messages": [_message(mail) for mail in mails]})

    # Response: 4xx when one of the messages failed, so `Messages` counts and not the status

    def parse_response(self, response: httpx.Response, addressing: Addressing) -> dict[str, Outcome]:
        items = pointed(json_of(response.content), "/Messages")
        if isinstance(items, list) and len(items) == 1:
            return self._verdict(response, items[0], addressing)
        return super().parse_response(response, addressing)

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        return dict.fromkeys(addressing.recipients, unknown("the answer has no verdict"))

    def parse_batch(self, response: httpx.Response, calls: Sequence[Call]) -> list[dict[str, Outcome]] | None:
        items = pointed(json_of(response.content), "/Messages")
        if isinstance(items, list):
            items = items if len(items) == len(calls) else [None] * len(calls)
            return [self._verdict(response, item, call.addressing) for item, call in zip(items, calls, strict=True)]
        found = [super(Mailjet, self).parse_response(response, call.addressing) for call in calls]
        faults = {outcome.fault for outcomes in found for outcome in outcomes.values()}
        return None if faults & {Fault.MESSAGE, Fault.RECIPIENT} else found

    def _verdict(self, response: httpx.Response, item: Any, addressing: Addressing) -> dict[str, Outcome]:
        if pointed(item, "/Status") != "success":
            return dict.fromkeys(addressing.recipients, self._refusal(response, item))
        slots = (pointed(item, f"/{slot}") for slot in ("To", "Cc", "Bcc"))
        boxes = [box for slot in slots if isinstance(slot, list) for box in slot]
        found = [(str(pointed(box, "/Email")), sent_outcome(id_of(pointed(box, "/MessageID")))) for box in boxes]
        first = found[0][1] if found else sent_outcome("")
        return by_recipient(addressing, found, first)

    def _refusal(self, response: httpx.Response, item: Any) -> Outcome:
        """Several things may be wrong at once: what is not the mail's fault counts first, a recipient's address last."""
        errors = pointed(item, "/Errors")
        found = [
            self.meant(_blame(self.codes.get(self.code(response, error), Meaning.TEMPORARY), error), response, error)
            for error in (errors if isinstance(errors, list) else [])
            if self.code(response, error)
        ]
        if not found:
            return unknown("a message failed, and no error is named")
        return min(found, key=lambda outcome: (outcome.status == "bounced", outcome.fault is Fault.RECIPIENT))

    def refused_together(self, outcomes: Any, addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    def code(self, response: httpx.Response, body: Any) -> str:
        return id_of(pointed(body, "/ErrorCode"))

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        code = self.code(response, body)
        # A code that nobody knows says nothing of the mail.
        unknown_code = Meaning.TEMPORARY if code and response.status_code == 400 else None
        return self.codes.get(code, unknown_code)

    def meant(self, meaning: Meaning, response: httpx.Response, body: Any, words: str = "") -> Outcome:
        return super().meant(meaning, response, body, words or _said(body, self.secrets))

    # Credentials: the senders, https://dev.mailjet.com/email/reference/sender-addresses-and-domains/

    def probe(self) -> httpx.Request:
        return self.get("/v3/REST/sender?Limit=1")


def _message(mail: Outgoing) -> dict[str, Any]:
    email, to = mail.email, mail.addressing
    inline = [a for a in email.attachments if is_shown(a, email.html)]
    content = {
        "From": _person(mail.sender),
        "To": [_person(m) for m in to.to],
        "Cc": [_person(m) for m in to.cc],
        "Bcc": [_person(m) for m in bcc_of(to)],
        "ReplyTo": _person(email.reply_to[0]) if email.reply_to else None,
        "Subject": one_line(email.subject),
        "TextPart": email.text,
        "HTMLPart": email.html,
        "Attachments": [_file(a) for a in email.attachments if a not in inline],
        "InlinedAttachments": [_file(a) | {"ContentID": a.content_id} for a in inline],
        "Headers": header_object(email.headers),
        **_labels(mail.features, mail.queue_id),
    }
    return without_empty(content)


def _labels(features: Features, queue_id: str) -> dict[str, Any]:
    campaign = next(iter(features.tags), "")
    payload = orjson.dumps(dict(features.metadata)).decode() if features.metadata else ""
    return {"CustomID": queue_id, "CustomCampaign": campaign, "EventPayload": payload, **features.options}


def _not_labelled(features: Features) -> Iterator[str]:
    """There is one campaign and one payload, and the provider's own fields go before the neutral ones."""
    for tag in features.tags if "CustomCampaign" in features.options else features.tags[1:]:
        yield f"tag {tag!r} dropped, the provider takes one"
    if features.metadata and "EventPayload" in features.options:
        yield "metadata dropped, X-MJ-EventPayload stands in their place"


def _blame(meaning: Meaning, error: Any) -> Meaning:
    """`ErrorRelatedTo` (`["To[0].Email"]`) says whether it was a recipient or something else of the mail."""
    related = pointed(error, "/ErrorRelatedTo")
    if meaning not in (Meaning.CONTENT, Meaning.ADDRESS) or not isinstance(related, list) or not related:
        return meaning
    names_recipient = any(str(name).startswith(("To", "Cc", "Bcc")) for name in related)
    return Meaning.ADDRESS if names_recipient else Meaning.CONTENT


def _said(error: Any, secrets: Sequence[str]) -> str:
    return safe_words(str(pointed(error, "/ErrorMessage") or ""), secrets)


def _person(mailbox: Mailbox) -> dict[str, str]:
    name = one_line(mailbox.name)
    return {"Email": mailbox.email} | ({"Name": name} if name else {})


def _file(attachment: Attachment) -> dict[str, Any]:
    return {
        "ContentType": attachment.content_type,
        "Filename": attachment.filename,
        "Base64Content": quoted(attachment.encoded),
    }
