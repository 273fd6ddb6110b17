"""Brevo, send a transactional email: https://developers.brevo.com/reference/sendtransacemail"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import httpx

from bridge.mime.addressing import Caps
from bridge.mime.compose import encoded_words
from bridge.mime.fidelity import Carries, Form, Loss
from bridge.mime.repair import Needs
from bridge.model import Addressing, Email, Envelope, Fault, Mailbox, Outcome
from bridge.providers.answers import id_of, json_of, pointed, words_of
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, one_message_key, sent_outcome, without_empty
from bridge.providers.base import Call
from bridge.providers.body import json_body
from bridge.providers.display import bcc_of, header_object, one_line
from bridge.providers.features import Features, ignored, json_object, one_tag, option, tag_list
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import quoted
from bridge.reply import Reply

# The parameter `attachment` of the reference.
ENDINGS = frozenset(
    (
        "xlsx xls ods docx docm doc csv pdf txt gif jpg jpeg png tif tiff rtf bmp cgm css shtml html htm zip xml ppt "
        "pptx tar ez ics mobi msg pub eps odt mp3 m4a m4v wma ogg flac wav aif aifc aiff mp4 mov avi mkv mpeg mpg wmv "
        "pkpass xlsm"
    ).split()
)
# One file: 4 or 5 MB, the sources differ; in between the API decides. https://help.brevo.com/hc/en-us/articles/4402811730962
MAX_FILE = 5 * 1024 * 1024
MAX_SHARED = 2  # recipients of a mail in a batch: 1000 mails and 2000 recipients are the most
_SPECIALS = re.compile(r'[()<>\[\]:;@\\,."]')
# "email is not valid in to": https://github.com/getbrevo/brevo-node/issues/40
_NAMES_RECIPIENT = re.compile(r"\bin (?:to|cc|bcc)\b")


class Brevo(ApiProvider):
    kind = "brevo"
    title = "Brevo"
    docs = "https://developers.brevo.com/reference/sendtransacemail"
    base_url = "https://api.brevo.com"
    Settings = KeySettings
    # A key is sent, but how long it is known is not documented (15 minutes, said the changelog once), so that nothing here
    # relies on it.
    idempotent = False

    forms = (
        Form(
            name="json",
            carries=Carries(
                inline_images=False,
                type_parameters=False,  # the type is made from the ending
                endings=ENDINGS,
                reply_tos=False,
                max_size=20 * 1024 * 1024,  # of all; the same page
            ),
        ),
    )
    caps = Caps(total=99)  # in one message or version
    max_batch = 1000  # versions: https://developers.brevo.com/docs/batch-send-transactional-emails
    needs = Needs(
        filled_files=True,
        subject=True,
        body=True,
        html=True,  # text alone is refused
        matching_endings=True,
        ascii_filenames=True,
        reserved=frozenset({"sender.ip", "idempotencykey"}),  # instructions for the API
    )
    readers = {
        "x-mailin-tag": one_tag,
        "x-mailin-tags": tag_list,
        "x-mailin-custom": option("custom"),
        "x-mailin-*": ignored,
        "x-sib-sandbox": ignored,  # the mail would not be delivered
    }
    codes = {
        "not_enough_credits": Meaning.QUOTA,
        "account_under_validation": Meaning.ACCOUNT,
        "unauthorized": Meaning.ACCOUNT,
        "permission_denied": Meaning.ACCOUNT,
        "reseller_permission_denied": Meaning.ACCOUNT,
        "not_acceptable": Meaning.ACCOUNT,
        "too_many_requests": Meaning.RATE,
        # Our key, and the payload of a key never changes: an earlier call with it was taken or is at work.
        "duplicate_request": Meaning.LOST,
    }
    notes = (
        "Brevo replaces the Message-ID and writes the names of header fields in Title-Case.",
        "Metadata are sent as X-Mailin-custom, a header field that recipients can see.",
        "Tracking is a setting of the account.",
    )

    def losses(self, email: Email, envelope: Envelope) -> tuple[Loss, ...]:
        """Judged by the endings that are sent: a file without one gets that of its type."""
        found = super().losses(self.mended(email)[0], envelope)
        largest = max((a.size for a in email.attachments), default=0)
        if largest <= MAX_FILE:
            return found
        reply = Reply(552, "5.3.4", f"Attachment too big for the provider: {largest} octets, limit {MAX_FILE}")
        return (Loss("size", f"an attachment of {largest} octets exceeds the limit of {MAX_FILE}", reply), *found)

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"api-key": self.settings.api_key}

    def json_request(self, mail: Outgoing) -> httpx.Request:
        return self._request(_recipients(mail), self._shared(mail), mail.key)

    def batch_key(self, call: Call) -> Hashable | None:
        """Versions share the content: calls of one message, or messages that differ in their recipients alone."""
        if len(call.addressing.recipients) > MAX_SHARED:
            return None
        small = len(call.email.raw) <= 1024 * 1024
        return bytes(json_body(self._shared(self.outgoing(call)))) if small else call.queue_id

    def build_batch(self, calls: Sequence[Call]) -> httpx.Request:
        mails = [self.outgoing(call) for call in calls]
        versions = {"messageVersions": [_recipients(mail) for mail in mails]}
        return self._request(versions, self._shared(mails[0]), one_message_key(calls))

    def _request(self, to: Mapping[str, Any], shared: Mapping[str, Any], key: str) -> httpx.Request:
        headers = {**shared.get("headers", {}), "idempotencyKey": _uuid(key)}
        return self.post("/v3/smtp/email", {**to, **shared, "headers": headers})

    def _shared(self, mail: Outgoing) -> dict[str, Any]:
        email = mail.email
        return without_empty(
            {
                "sender": _person(mail.sender),
                "replyTo": _box(email.reply_to[0]) if email.reply_to else None,
                "subject": one_line(email.subject),
                "htmlContent": email.html,
                "textContent": email.text,
                "headers": _headers(mail),
                "attachment": [{"name": a.filename, "content": quoted(a.encoded)} for a in email.attachments],
                "tags": list(mail.features.tags),
            }
        )

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        return dict.fromkeys(addressing.recipients, self._taken(response, body, 0))

    def _taken(self, response: httpx.Response, body: Any, number: int) -> Outcome:
        """One id, or one for each version in their order; the body can be empty."""
        if response.content.strip() and not isinstance(body, dict):
            return unknown("the answer cannot be read")
        found = id_of(pointed(body, f"/messageIds/{number}"))
        return sent_outcome(found or ("" if number else id_of(pointed(body, "/messageId"))))

    def parse_batch(self, response: httpx.Response, calls: Sequence[Call]) -> list[dict[str, Outcome]] | None:
        """All or nothing."""
        if response.status_code in (201, 202):
            body = json_of(response.content)
            return [
                dict.fromkeys(call.addressing.recipients, self._taken(response, body, number))
                for number, call in enumerate(calls)
            ]
        return self.refused_whole(response, calls)

    def code(self, response: httpx.Response, body: Any) -> str:
        return id_of(pointed(body, "/code")).lower()

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        found = super().meaning(response, body)
        status = response.status_code
        if found is not None:
            return found
        if status in (406, 415):  # wrong headers of ours
            return Meaning.ACCOUNT
        if status in (409, 424):
            return Meaning.LATER
        return _meaning_of(words_of(body)) if status == 400 else None

    def refused_together(self, outcomes: Mapping[str, Outcome], addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    # Credentials: https://developers.brevo.com/reference/getaccount

    def probe(self) -> httpx.Request:
        return self.get("/v3/account")


def _recipients(mail: Outgoing) -> dict[str, list[dict[str, str]]]:
    to = mail.addressing
    slots = {"to": to.to, "cc": to.cc, "bcc": bcc_of(to)}
    return {name: [_person(m) for m in slot] for name, slot in slots.items() if slot}


def _person(mailbox: Mailbox) -> dict[str, str]:
    """Of sender and recipients the API drops a name that is not ASCII and has specials, so that is encoded here."""
    box = _box(mailbox)
    name = box.get("name", "")
    odd = not name.isascii() and _SPECIALS.search(name)
    return box | ({"name": " ".join(encoded_words(name))} if odd else {})


def _box(mailbox: Mailbox) -> dict[str, str]:
    name = one_line(mailbox.name).strip()
    return {"email": mailbox.email} | ({"name": name} if name else {})


def _headers(mail: Outgoing) -> dict[str, Any]:
    """In ASCII: other values would go out as they are. In-Reply-To and References are sent, though nothing says that they
    are kept; Message-ID is not."""
    given = ((name, one_line(value)) for name, value in mail.email.headers)
    found = header_object((name, value if value.isascii() else " ".join(encoded_words(value))) for name, value in given)
    custom = _custom(mail.features)
    return found | ({"X-Mailin-custom": custom} if custom else {})


def _custom(features: Features) -> str:
    """Metadata as a JSON object in ASCII, beside what the mail's own X-Mailin-custom says."""
    given: str = features.options.get("custom", "")
    if not features.metadata and (given.isascii() and not json_object(given)):
        return given
    found = json_object(given) or ({"custom": given} if given else {})
    return json.dumps({**found, **features.metadata})


def _uuid(key: str) -> str:
    return str(uuid.UUID(bytes=hashlib.sha256(key.encode()).digest()[:16], version=4))


def _meaning_of(words: str) -> Meaning | None:
    """Beside invalid_parameter only the text says what it is about."""
    lower = words.lower()
    if "sender" in lower and ("valid" in lower or "verif" in lower):
        return Meaning.ACCOUNT
    return Meaning.ADDRESS if _NAMES_RECIPIENT.search(lower) else None
