"""Mailgun, Messages API: https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import orjson

from bridge.mime.addressing import Caps, a_label
from bridge.mime.fidelity import Carries, Form, Loss
from bridge.mime.pieces import LARGE, decoded, joined, pieces_of
from bridge.mime.repair import Needs
from bridge.model import Addressing, Attachment, Content, Email, Envelope, Fault, Mailbox, Outcome, split_address
from bridge.providers.answers import id_of, words_of
from bridge.providers.api import NO_SENDER, ApiProvider, KeySettings, Outgoing
from bridge.providers.base import Verified
from bridge.providers.display import format_all, format_mailbox, one_line, other_headers
from bridge.providers.features import Features, Found, cut, ignored, json_object, one_tag, option, yes_or_no
from bridge.providers.outcomes import Meaning, outcome_of
from bridge.reply import Reply

_AMP = "text/x-amp-html"
MAX_PARAMETERS = 16_000  # octets of all o:, h:, v: and t: together; over it the call is refused
MAX_TAGS, MAX_TAG = 3, 128  # unverified: the least that is told
_LABELS = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+")
_POOL = re.compile(r"[A-Za-z0-9_-]{1,100}")
_WITHIN = re.compile(r"(?:(\d{1,2})h)?(?:(\d{1,4})m)?")
_WAIT = re.compile(r"try again after (\d{1,6}) ?(s|m|h)?", re.IGNORECASE)
_UNITS = {"s": 1, "m": 60, "h": 3600}
_PUNCTUATION = re.compile(r'[()<>\[\]:;@\\,."]')
Fields = list[tuple[str, str]]


def _switch(value: str) -> str:
    return "yes" if yes_or_no(value) else "no"


def _clicks(value: str) -> str:
    return "htmlonly" if value.lower() == "htmlonly" else _switch(value)


def _within(value: str) -> str | None:
    """5 minutes to 24 hours."""
    found = _WITHIN.fullmatch(value.lower())
    minutes = 60 * int(found[1] or 0) + int(found[2] or 0) if found else 0
    return value.lower() if 5 <= minutes <= 24 * 60 else None


def _date(value: str) -> str:
    """Raises ValueError."""
    try:
        email.utils.parsedate_to_datetime(value)
    except (OverflowError, TypeError) as error:
        raise ValueError("not a date") from error
    return value


def _variables(name: str, value: str) -> Found:
    """A JSON object; what is no text in it stays JSON."""
    found = json_object(value)
    try:
        texts = {one_line(k): one_line(v) if isinstance(v, str) else orjson.dumps(v).decode() for k, v in found.items()}
    except TypeError:  # nested beyond reason
        return Found(dropped=("",))
    return Found(metadata=texts, dropped=() if found else ("",))


@dataclass(frozen=True, slots=True, kw_only=True)
class MailgunSettings(KeySettings):
    domain: str = ""
    content: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A part of a form with a file name."""

    field: str
    name: str
    content_type: str
    content: Content


class Mailgun(ApiProvider):
    kind = "mailgun"
    title = "Mailgun"
    docs = "https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages"
    base_url = "https://api.mailgun.net"
    # Keys and domains belong to one region.
    regions = {"us": "https://api.mailgun.net", "eu": "https://api.eu.mailgun.net"}
    Settings = MailgunSettings

    # Limits: https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/send-http ; a message of 25 MB
    forms = (
        Form(name="raw", carries=Carries(raw=True, max_size=25_000_000)),
        Form(
            name="json",  # a form, in truth
            carries=Carries(
                alternative_types=frozenset({_AMP}),
                type_parameters=False,  # whether they are kept is unverified
                max_size=25_000_000,
            ),
        ),
    )
    # 1000 `to`, unverified without recipient-variables; duplicates are ignored, so two spellings go apart.
    caps = raw_caps = Caps(total=1000, once=True)
    raw_drops = frozenset({"x-mailgun-*"})
    needs = Needs(
        body=True,  # text, html, amp-html or a template
        # A file without a name is dropped without a word, so `filenames` stays.
        reserved=frozenset(
            {"to", "from", "cc", "bcc", "subject", "reply-to", "content-*", "mime-version", "x-mailgun-*"}
        ),
    )
    # The fields of the SMTP service: https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/send-smtp
    # Not Drop-Message, after which a mail would be called sent that nobody gets; nor Recipient-Variables and templates.
    # Nor Sending-Ip, which Mailgun itself writes into mail that may come by here again.
    readers = {
        "x-mailgun-tag": one_tag,
        "x-mailgun-variables": _variables,
        "x-mailgun-track": option("o:tracking", _clicks),
        "x-mailgun-track-clicks": option("o:tracking-clicks", _clicks),
        "x-mailgun-track-opens": option("o:tracking-opens", _switch),
        "x-mailgun-dkim": option("o:dkim", _switch),
        "x-mailgun-require-tls": option("o:require-tls", _switch),
        "x-mailgun-skip-verification": option("o:skip-verification", _switch),
        "x-mailgun-sending-ip-pool": option("o:sending-ip-pool", lambda v: v if _POOL.fullmatch(v) else None),
        "x-mailgun-deliver-by": option("o:deliverytime", _date),
        "x-mailgun-deliver-within": option("o:deliver-within", _within),
        "x-mailgun-*": ignored,
    }
    notes = (
        "Without `domain` the domain of the mail's sender is the sending domain.",
        "Tags: the first three. Metadata are variables, which readers can see in the mail's header.",
        "The envelope sender is Mailgun's, of the sending domain.",
        "X-Mailgun-Drop-Message and X-Mailgun-Recipient-Variables are not taken.",
    )
    unverified = ("the number of recipients", "the limits of tags", "that the parameters of a type are lost")

    def losses(self, email: Email, envelope: Envelope) -> tuple[Loss, ...]:
        found = super().losses(email, envelope)
        sender = email.sender.email or envelope.reverse_path
        if not self._domain(sender) and not any(loss.kind == "sender" for loss in found):
            return (NO_SENDER, *found)
        if self.form(email).name == "json" and _size(self._header_fields(self.mended(email)[0])) > MAX_PARAMETERS:
            text = f"header fields of more than {MAX_PARAMETERS} octets"
            return (*found, Loss("headers", text, Reply(554, "5.6.5", f"The provider cannot carry {text}")))
        return found

    def repairs(self, email: Email, envelope: Envelope) -> tuple[str, ...]:
        notes = [f"tag {tag!r} dropped, the provider takes {MAX_TAGS}" for tag in self.features(email).tags[MAX_TAGS:]]
        headers = self._header_fields(self.mended(email)[0]) if self.form(email).name == "json" else []
        kept = {name for name, _ in self._parameters(self.features(email), headers)}
        gone = (key for key in self.features(email).metadata if f"v:{key}" not in kept)
        notes += (f"metadata {key[:40]!r} dropped, over the provider's {MAX_PARAMETERS} octets" for key in gone)
        return (*super().repairs(email, envelope), *notes)

    def mended(self, email: Email) -> tuple[Email, tuple[str, ...]]:
        """A display name with both letters beyond ASCII and punctuation would arrive garbled."""
        mail, notes = super().mended(email)
        plain = replace(
            mail, sender=_plain(mail.sender), to=tuple(map(_plain, mail.to)), cc=tuple(map(_plain, mail.cc)),
            reply_to=tuple(map(_plain, mail.reply_to)),
        )  # fmt: skip
        renamed = plain != mail
        inline = (
            f"inline file {a.filename} is named by its Content-ID" for a in mail.attachments if _is_inline(a, mail.html)
        )
        return plain, (*notes, *inline, *(["punctuation in a display name became blanks"] if renamed else []))

    # Request

    def auth_headers(self) -> dict[str, str]:
        token = base64.b64encode(f"api:{self.settings.api_key}".encode()).decode()
        return {"Authorization": f"Basic {token}"}

    def raw_request(self, mail: Outgoing) -> httpx.Request:
        fields = [("to", recipient) for recipient in mail.addressing.recipients]
        message = File(field="message", name="message.eml", content_type="message/rfc822", content=self.mime(mail))
        return self._request(mail, "messages.mime", [*fields, *self._parameters(mail.features)], [message])

    def json_request(self, mail: Outgoing) -> httpx.Request:
        email, to = mail.email, mail.addressing
        fields = [
            ("from", format_mailbox(_plain(mail.sender))),
            *(("to", format_mailbox(_plain(m))) for m in to.to),
            *(("cc", format_mailbox(_plain(m))) for m in to.cc),
            *(("bcc", address) for address in to.bcc),
            ("subject", one_line(email.subject)),
            ("text", email.text),
            ("html", email.html),
            *(("amp-html", text) for kind, text in email.alternatives if kind.startswith(_AMP)),
        ]
        fields = [(name, value) for name, value in fields if value]
        parameters = self._parameters(mail.features, self._header_fields(email))
        return self._request(
            mail, "messages", [*fields, *parameters], [_file(a, email.html) for a in email.attachments]
        )

    def _header_fields(self, email: Email) -> Fields:
        found = [(f"h:{name}", value) for name, value in other_headers(email)]
        if email.reply_to:
            found.append(("h:Reply-To", ", ".join(format_all(email.reply_to))))
        return [*found, ("h:Message-Id", one_line(email.message_id))] if email.message_id else found

    def _parameters(self, features: Features, headers: Fields | None = None) -> Fields:
        """The variables that are too much go, the last ones first."""
        tags = [("o:tag", tag) for tag in cut(features.tags, most=MAX_TAGS, length=MAX_TAG)]
        options = [(name, value) for name, value in features.options.items() if not self._is_past(name, value)]
        found = [*tags, *options, *(headers or ())]
        variables = [(f"v:{key}", value) for key, value in features.metadata.items()]
        while variables and _size([*found, *variables]) > MAX_PARAMETERS:
            variables.pop()
        return [*found, *variables]

    def _is_past(self, name: str, value: str) -> bool:
        """A time that has come while the mail waited would be refused."""
        if name != "o:deliverytime":
            return False
        date = email.utils.parsedate_to_datetime(value)
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp() <= self.clock.now()

    def _request(self, mail: Outgoing, call: str, fields: Fields, files: Sequence[File]) -> httpx.Request:
        path = f"/v3/{self._domain(mail.sender.email)}/{call}"
        if files or any(
            len(value) > LARGE for _, value in fields
        ):  # of a long text a URL's escapes take many times its size
            content_type, body = multipart(fields, files)
        else:
            content_type, body = "application/x-www-form-urlencoded", urlencode(fields).encode()
        return self.post(path, body, {"Content-Type": content_type})

    def _domain(self, sender: str) -> str:
        """The sending domain; "" for none. A `/` in it would be answered with 200, and nothing sent."""
        found = a_label(self.settings.domain or split_address(sender)[1])
        return quote(found, safe="") if _LABELS.fullmatch(found) else ""

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        """One id for all recipients: the Message-ID."""
        message_id = id_of(body.get("id")) if isinstance(body, dict) else ""
        if message_id:
            return self.sent_all(addressing, message_id)
        # What the API says at every address that is none of its calls.
        wrong = b"Magnificent API" in response.content
        found = outcome_of(Meaning.ACCOUNT if wrong else Meaning.LOST, f"HTTP {response.status_code} without an id")
        return dict.fromkeys(addressing.recipients, found)

    def refused_together(self, outcomes: Mapping[str, Outcome], addressing: Addressing) -> bool:
        """Any address that is none refuses the whole call."""
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        """There are no codes, only texts; the body of a 401 is plain."""
        if response.status_code == 429:
            return Meaning.RATE
        if response.status_code != 400:
            return None
        words = words_of(body)
        if "Sandbox subdomains" in words:  # only to those whom the account has authorized
            return Meaning.ACCOUNT
        return Meaning.ADDRESS if re.search(r"\b(?:to|cc|bcc)['\"]? parameter is not a valid address", words) else None

    def wait(self, response: httpx.Response, body: Any) -> float | None:
        """ "... limit exceeded, try again after 120 seconds"""
        found = super().wait(response, body)
        told = _WAIT.search(words_of(body)) if found is None else None
        return float(int(told[1]) * _UNITS[(told[2] or "s").lower()]) if told else found

    # Credentials: a mail without From and To is refused after the key was looked at. A sending key may do nothing else.

    def probe(self) -> httpx.Request | None:
        if not self.settings.domain:
            return None
        body = urlencode({"o:testmode": "yes"}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.post(f"/v3/{self._domain('')}/messages", body, headers)

    def read_probe(self, response: httpx.Response) -> Verified:
        if response.status_code == 400:
            return Verified(ok=True, text="the credentials are accepted")
        if response.status_code == 404:
            return Verified(ok=False, text="the domain is not known, or belongs to another region (HTTP 404)")
        return super().read_probe(response)


def multipart(fields: Iterable[tuple[str, str]], files: Iterable[File]) -> tuple[str, Content]:
    """(Content-Type, body) of a form with files (RFC 7578). The boundary comes from the content: the same at every retry, and
    nobody can write it into a mail."""
    parts = [_part(name, value.encode("utf-8", "replace")) for name, value in fields]
    parts += [_part(file.field, file.content, file) for file in files]
    digest = hashlib.sha256()
    for head, content in parts:
        digest.update(head)
        for piece in pieces_of(content):
            digest.update(piece)
    boundary = f"bridge-{digest.hexdigest()[:40]}"
    line = b"--" + boundary.encode()
    body = (piece for head, content in parts for piece in (line, b"\r\n", head, b"\r\n\r\n", content, b"\r\n"))
    return f"multipart/form-data; boundary={boundary}", joined((*body, line + b"--\r\n"))


def _part(name: str, content: Content, file: File | None = None) -> tuple[bytes, Content]:
    """File names in UTF-8 as they are: Mailgun does not read RFC 2231."""
    head = f'Content-Disposition: form-data; name="{_escaped(name)}"'
    if file:
        head += f'; filename="{_escaped(file.name)}"\r\nContent-Type: {file.content_type}'
    return head.encode("utf-8", "replace"), content


def _escaped(text: str) -> str:
    """As browsers do (WHATWG HTML 4.10.21.8)."""
    return one_line(text).replace('"', "%22")


def _file(attachment: Attachment, html: str) -> File:
    """The name of an `inline` file is its Content-ID."""
    inline = _is_inline(attachment, html)
    return File(
        field="inline" if inline else "attachment",
        name=attachment.content_id if inline else attachment.filename,
        content_type=attachment.content_type,
        content=decoded(attachment.encoded, attachment.size),
    )


def _is_inline(attachment: Attachment, html: str) -> bool:
    return bool(attachment.content_id) and (
        attachment.disposition == "inline" or f"cid:{attachment.content_id}" in html
    )


def _plain(mailbox: Mailbox) -> Mailbox:
    if mailbox.name.isascii() or not _PUNCTUATION.search(mailbox.name):
        return mailbox
    return replace(mailbox, name=" ".join(_PUNCTUATION.sub(" ", mailbox.name).split()))


def _size(fields: Iterable[tuple[str, str]]) -> int:
    return sum(len(name.encode("utf-8", "replace")) + len(value.encode("utf-8", "replace")) for name, value in fields)
