"""Postmark, Email API: https://postmarkapp.com/developer/api/email-api"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx

from bridge.mime.addressing import Caps
from bridge.mime.charset import utf8_size
from bridge.mime.fidelity import Carries, Form, Loss
from bridge.mime.repair import Needs, ending_for, ending_of
from bridge.model import Addressing, Attachment, Email, Envelope, Fault, Outcome
from bridge.providers.answers import id_of, json_of, words_of
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, by_recipient, sent_outcome, without_empty
from bridge.providers.base import Call
from bridge.providers.display import format_all, format_mailbox, one_line, other_headers
from bridge.providers.features import ignored, one_tag, option, prefixed_metadata, yes_or_no
from bridge.providers.outcomes import Meaning, outcome_of
from bridge.providers.shapes import quoted
from bridge.reply import Reply

MAX_BODY = 5_000_000  # octets of the text and of the HTML, each
MAX_TAG = 1000
MAX_METADATA, MAX_KEY, MAX_VALUE = 10, 20, 80
# https://postmarkapp.com/developer/user-guide/send-email-with-api (Forbidden file types), as public copies of it have it.
FORBIDDEN = frozenset(
    {"vbs", "exe", "bin", "bat", "chm", "com", "cpl", "crt", "hlp", "hta", "inf", "ins", "isp", "jse", "lnk", "mdb", "pcd", "pif"}
    | {"reg", "scr", "sct", "shs", "vbe", "vba", "wsf", "wsh", "wsl", "msc", "msi", "msp", "mst"}
)  # fmt: skip
_METADATA = "x-pm-metadata-"
_LINKS = {name.lower(): name for name in ("None", "HtmlAndText", "HtmlOnly", "TextOnly")}
_NOT_IN_CID = re.compile(r"[\s<>]+")
_STREAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,900}>")
# "Message OK, but will not deliver to these inactive addresses: a@x, b@y. Inactive recipients are ones that ..."
_INACTIVE = re.compile(r"inactive addresses:\s*(.+?)(?:\.?\s+Inactive recipients|\.?\s*\Z)", re.DOTALL)


def _stream(value: str) -> str | None:
    return value if _STREAM.fullmatch(value) else None


_TRACK_OPENS = option("TrackOpens", yes_or_no)
_TRACK_LINKS = option("TrackLinks", lambda value: _LINKS.get(value.lower()))


class Postmark(ApiProvider):
    kind = "postmark"
    title = "Postmark"
    docs = "https://postmarkapp.com/developer/api/email-api"
    base_url = "https://api.postmarkapp.com"
    Settings = KeySettings

    # Limits: https://postmarkapp.com/developer/api/overview and /developer/user-guide/send-email-with-api/batch-emails
    forms = (
        Form(
            name="json",
            carries=Carries(
                type_parameters=False,  # whether ContentType takes them is unverified
                max_size=10_000_000,  # the message with its attachments; in the smaller megabytes
            ),
        ),
    )
    caps = Caps(total=50, bcc_alone=True)  # To, Cc and Bcc together
    max_batch = 500
    max_batch_bytes = 50_000_000
    needs = Needs(
        filled_files=True,
        body=True,  # one of the two
        # They have fields of their own; and what is an instruction to Postmark is read, or goes.
        reserved=frozenset({"to", "from", "cc", "bcc", "subject", "reply-to", "content-*", "mime-version", "x-pm-*"}),
    )
    # The fields of the SMTP service: https://postmarkapp.com/developer/user-guide/send-email-with-smtp
    readers = {
        "x-pm-tag": one_tag,
        f"{_METADATA}*": prefixed_metadata(_METADATA),
        "x-pm-message-stream": option("MessageStream", _stream),
        "x-pm-trackopens": _TRACK_OPENS,
        "x-pm-track-opens": _TRACK_OPENS,
        "x-pm-tracklinks": _TRACK_LINKS,
        "x-pm-track-links": _TRACK_LINKS,
        "x-pm-keepid": option("keep_id", yes_or_no),
        "x-pm-*": ignored,
    }
    # https://postmarkapp.com/developer/api/overview#error-codes
    codes = {
        "10": Meaning.ACCOUNT,  # no or a wrong token
        "100": Meaning.LATER,  # maintenance
        "300": Meaning.CONTENT,  # or an address: see `meaning`
        "400": Meaning.ACCOUNT,  # sender signature not found
        "401": Meaning.ACCOUNT,  # and not confirmed
        "402": Meaning.CONTENT,
        "403": Meaning.CONTENT,
        "405": Meaning.QUOTA,  # out of credits
        "406": Meaning.SUPPRESSED,
        "409": Meaning.CONTENT,
        "410": Meaning.TEMPORARY,  # too many in a batch: our mistake, not the mail's
        "411": Meaning.CONTENT,  # a forbidden kind of attachment
        "412": Meaning.ACCOUNT,  # pending approval
        "413": Meaning.ACCOUNT,  # may not send
        "429": Meaning.RATE,
    }
    notes = (
        "The first tag is the message's tag; metadata are at most 10 pairs, keys of 20 and values of 80 characters.",
        "The Message-ID is kept, by X-PM-KeepID; `X-PM-KeepID: false` in a mail lets Postmark make its own.",
        "Broadcasts need their stream: X-PM-Message-Stream.",
        "Executable files, and those with the ending .bin, are refused.",
    )
    unverified = ("that the parameters of a type are lost",)

    def losses(self, email: Email, envelope: Envelope) -> tuple[Loss, ...]:
        return (*super().losses(email, envelope), *_too_long(email), *_forbidden(email))

    def mended(self, email: Email) -> tuple[Email, tuple[str, ...]]:
        named, renamed = _named(email)
        mail, notes = super().mended(named)
        features = self.features(email)
        tags = (f"tag {tag!r} dropped, the provider takes one" for tag in features.tags[1:])
        return mail, (*renamed, *notes, *tags, *_metadata(features.metadata)[1])

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"X-Postmark-Server-Token": self.settings.api_key}

    def json_request(self, mail: Outgoing) -> httpx.Request:
        return self.post("/email", _content(mail))

    def batch_key(self, call: Call) -> Hashable | None:
        """One recipient each: a mail refused for one of several is then tried for each alone, which a batch cannot do."""
        return "any" if len(call.addressing.recipients) == 1 else None

    def build_batch(self, calls: Sequence[Call]) -> httpx.Request:
        return self.post("/email/batch", [_content(self.outgoing(call)) for call in calls])

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        return self._verdict(response, body, addressing)

    def parse_batch(self, response: httpx.Response, calls: Sequence[Call]) -> list[dict[str, Outcome]] | None:
        body = json_of(response.content)
        if response.status_code == 200 and isinstance(body, list):
            items = body if len(body) == len(calls) else [None] * len(calls)
            return [self._verdict(response, item, call.addressing) for item, call in zip(items, calls, strict=True)]
        return self.refused_whole(response, calls)

    def _verdict(self, response: httpx.Response, item: Any, addressing: Addressing) -> dict[str, Outcome]:
        """Of one message. A code of 0, or none with an id (a delay in the service), is accepted; some may be left out."""
        code = self.code(response, item)
        if code not in ("", "0"):
            return dict.fromkeys(addressing.recipients, self.outcome(response, item))
        message_id = id_of(item.get("MessageID")) if isinstance(item, dict) else ""
        if not message_id:
            lost = outcome_of(Meaning.LOST, f"HTTP {response.status_code}, and no MessageID")
            return dict.fromkeys(addressing.recipients, lost)
        suppressed = outcome_of(Meaning.SUPPRESSED, words_of(item, self.secrets))
        left_out = [(address, suppressed) for address in _inactive(item)]
        return by_recipient(addressing, left_out, sent_outcome(message_id))

    def refused_together(self, outcomes: Mapping[str, Outcome], addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    def code(self, response: httpx.Response, body: Any) -> str:
        code = body.get("ErrorCode") if isinstance(body, dict) else None
        return str(code) if isinstance(code, int) and not isinstance(code, bool) else ""

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        """Code 300 stands for any field: only the text tells which. An unknown code of a mail is temporary."""
        code, status = self.code(response, body), response.status_code
        if code == "300":
            return _blame(words_of(body))
        if code and status in (200, 422):
            return self.codes.get(code, Meaning.TEMPORARY)
        if status == 415:  # the Content-Type is ours
            return Meaning.ACCOUNT
        return self.codes.get(code)

    # Credentials: the server of the token. https://postmarkapp.com/developer/api/server-api

    def probe(self) -> httpx.Request:
        return self.get("/server")


def _content(mail: Outgoing) -> dict[str, Any]:
    email, to, features = mail.email, mail.addressing, mail.features
    return without_empty(
        {
            "From": format_mailbox(mail.sender),
            "To": ", ".join(format_all(to.to)),
            "Cc": ", ".join(format_all(to.cc)),
            "Bcc": ", ".join(to.bcc),
            "ReplyTo": ", ".join(format_all(email.reply_to)),
            "Subject": one_line(email.subject),
            "TextBody": email.text,
            "HtmlBody": email.html,
            "Headers": [{"Name": name, "Value": value} for name, value in _headers(mail)],
            "Attachments": [_attachment(a, email.html) for a in email.attachments],
            "Tag": next(iter(features.tags), "")[:MAX_TAG],
            "Metadata": _metadata(features.metadata)[0],
            "TrackOpens": features.options.get("TrackOpens"),
            "TrackLinks": features.options.get("TrackLinks"),
            "MessageStream": features.options.get("MessageStream"),
        }
    )


def _headers(mail: Outgoing) -> Iterator[tuple[str, str]]:
    yield from other_headers(mail.email)
    if _MESSAGE_ID.fullmatch(mail.email.message_id) and mail.features.options.get("keep_id", True):
        yield "Message-ID", mail.email.message_id
        yield "X-PM-KeepID", "true"


def _attachment(attachment: Attachment, html: str) -> dict[str, str | Any]:
    """A ContentID makes it inline, so only what the HTML shows, or what was inline before, has one."""
    found: dict[str, Any] = {
        "Name": attachment.filename,
        "Content": quoted(attachment.encoded),
        "ContentType": attachment.content_type,
    }
    cid = f"cid:{attachment.content_id}"
    shown = attachment.content_id and (attachment.disposition == "inline" or cid in html)
    return found | ({"ContentID": _NOT_IN_CID.sub("_", cid)} if shown else {})


def _metadata(given: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What Postmark takes of it, and a sentence for what it does not."""
    found: dict[str, str] = {}
    notes: list[str] = []
    for key, value in given.items():
        if not key or len(key) > MAX_KEY or len(found) == MAX_METADATA:
            notes.append(f"metadata {key[:40]!r} dropped, the provider takes {MAX_METADATA} with keys of {MAX_KEY}")
            continue
        if len(value) > MAX_VALUE:
            notes.append(f"metadata {key!r} cut to {MAX_VALUE} characters")
        found[key] = value[:MAX_VALUE]
    return found, tuple(notes)


def _too_long(email: Email) -> Iterator[Loss]:
    for name, body in (("text", email.text), ("HTML", email.html)):
        if (size := utf8_size(body)) > MAX_BODY:
            reply = Reply(552, "5.3.4", f"Body too big for the provider: {size} octets, limit {MAX_BODY}")
            yield Loss("size", f"{name} of {size} octets exceeds the limit of {MAX_BODY}", reply)


def _forbidden(email: Email) -> Iterator[Loss]:
    for ending in (ending_of(attachment.filename) for attachment in email.attachments):
        if ending in FORBIDDEN:
            reply = Reply(554, "5.6.1", f"The provider takes no attachments with the ending .{ending}")
            yield Loss("endings", f"an attachment with the ending .{ending}", reply)


def _named(email: Email) -> tuple[Email, tuple[str, ...]]:
    """An attachment without a name would get the ending .bin where its type says nothing, and be refused for it."""
    attachments = list(email.attachments)
    notes: list[str] = []
    for n, attachment in enumerate(attachments):
        if not attachment.filename and ending_of(f"x{ending_for(attachment.content_type)}") in FORBIDDEN:
            attachments[n] = replace(attachment, filename=f"attachment-{n + 1}.dat")
            notes.append(f"attachment without a name sent as {attachments[n].filename}")
    return (replace(email, attachments=tuple(attachments)) if notes else email), tuple(notes)


def _inactive(item: Mapping[str, Any]) -> list[str]:
    found = _INACTIVE.search(str(item.get("Message") or ""))
    return [address.strip() for address in found[1].split(",")] if found else []


def _blame(words: str) -> Meaning:
    """`Invalid 'From' address: 'x'.` is the account's; `Error parsing 'To': Illegal email address 'x'...` a recipient's."""
    if "'From'" in words:
        return Meaning.ACCOUNT
    return Meaning.ADDRESS if re.search(r"'(?:To|Cc|Bcc)'", words) else Meaning.CONTENT
