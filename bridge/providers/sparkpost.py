"""SparkPost (Bird), Transmissions: https://developers.sparkpost.com/api/transmissions/"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from bridge.mime.addressing import Caps
from bridge.mime.compose import address_field, text_field
from bridge.mime.fidelity import Carries, Form, Loss
from bridge.mime.fields import header_end, skip_mbox_line
from bridge.mime.headers import decode_words
from bridge.mime.mailboxes import parse_mailboxes
from bridge.mime.repair import Needs
from bridge.mime.rewrite import with_head
from bridge.mime.seven_bit import ADDRESSES
from bridge.model import Addressing, Attachment, Content, Email, Envelope, Fault, Outcome
from bridge.providers.answers import id_of, pointed
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, by_recipient, named_in, sent_outcome, without_empty
from bridge.providers.display import format_all, header_object, one_line
from bridge.providers.features import Found, cut, json_keys, texts_of
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import is_image, quoted, typed
from bridge.reply import Reply

_AMP = "text/x-amp-html"
MAX_METADATA = 10_000  # octets
_FIELD = re.compile(rb"([^\s:]++)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)\n?")
# Of the SMTP service's header. Not `cc`, `bcc`, `archive`, `return_path`, `substitution_data` nor `start_time`.
_OPTIONS = frozenset({"open_tracking", "click_tracking", "initial_open", "transactional", "inline_css"})


def _options(value: Any) -> Found | None:
    if not isinstance(value, dict):
        return None
    good = {key: v for key, v in value.items() if key in _OPTIONS and isinstance(v, bool)}
    if isinstance(value.get("ip_pool"), str):
        good["ip_pool"] = value["ip_pool"]
    return Found(options=good, dropped=tuple(one_line(key)[:40] for key in value if key not in good))


MSYS = json_keys(
    {
        "campaign_id": lambda value: Found(options={"campaign_id": value}) if isinstance(value, str) else None,
        "metadata": lambda value: Found(metadata=texts_of(value)) if isinstance(value, dict) else None,
        "tags": lambda value: (
            Found(tags=tuple(v for v in value if isinstance(v, str))) if isinstance(value, list) else None
        ),
        "options": _options,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparkpostSettings(KeySettings):
    content: str = "auto"


class Sparkpost(ApiProvider):
    kind = "sparkpost"
    title = "SparkPost"
    docs = "https://developers.sparkpost.com/api/transmissions/"
    base_url = "https://api.sparkpost.com"
    regions = {"us": "https://api.sparkpost.com", "eu": "https://api.eu.sparkpost.com"}
    Settings = SparkpostSettings

    # Limits: https://developers.sparkpost.com/api/transmissions/ ; a content of 20 MB, else 413
    forms = (
        Form(name="raw", carries=Carries(raw=True, max_size=20_000_000)),
        Form(name="json", carries=Carries(alternative_types=frozenset({_AMP}), max_size=20_000_000)),
    )
    caps = Caps(total=100)  # each of them carries the whole To
    raw_caps = Caps(total=2000)  # recommended; unverified
    raw_seven_bit = True  # the MIME is a JSON string
    needs = Needs(
        subject=True,
        body=True,
        reserved=frozenset(
            {"content-type", "content-transfer-encoding", "to", "cc", "bcc", "subject", "from", "reply-to"}
        ),
    )
    readers = {"x-msys-api": MSYS}
    codes = {
        "7001": Meaning.ACCOUNT,  # the sending domain is not set up or not verified
        "1100": Meaning.ACCOUNT,  # its DKIM key
        "1300": Meaning.CONTENT,
        "1400": Meaning.CONTENT,
        "2101": Meaning.QUOTA,
        "2102": Meaning.QUOTA,
    }
    probe_wants_more = True
    notes = (
        "The template language is switched off for the content; it cannot be for header fields, so there `{{` is encoded.",
        "Tracking of opens and clicks is off and mail is transactional, unless `X-MSYS-API` asks for something else.",
        "SparkPost replaces some header fields, List-Unsubscribe among them.",
    )
    unverified = ("the number of recipients (raw)",)

    def losses(self, email: Email, envelope: Envelope) -> tuple[Loss, ...]:
        found = super().losses(email, envelope)
        raw = self.form(email).name == "raw"
        marked = b"{{" in _hidden(_header(email.raw)) if raw else _marked(email)
        if marked and not found:
            text = "the characters {{ in a header field, which the provider takes for a template"
            return (Loss("template", text, Reply(554, "5.6.5", "The provider cannot carry {{ in a header field")),)
        return found

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"Authorization": self.settings.api_key}

    def raw_request(self, mail: Outgoing) -> httpx.Request:
        return self._request(
            mail, {"email_rfc822": self.mime_text(mail)}, [{"email": r} for r in mail.addressing.recipients]
        )

    def mime(self, mail: Outgoing) -> Content:
        return with_head(super().mime(mail), _hidden)

    def json_request(self, mail: Outgoing) -> httpx.Request:
        email, to = mail.email, mail.addressing
        headers = header_object(email.headers) | ({"CC": ", ".join(format_all(to.cc))} if to.cc else {})
        name = one_line(mail.sender.name)
        inline = [a for a in email.attachments if a.disposition == "inline" and a.content_id and is_image(a)]
        content = {
            "from": {"email": mail.sender.email} | ({"name": name} if name else {}),
            "subject": one_line(email.subject),
            "text": email.text,
            "html": email.html,
            "amp_html": next((text for kind, text in email.alternatives if kind.startswith(_AMP)), ""),
            "reply_to": ", ".join(format_all(email.reply_to)),
            "headers": headers,
            "attachments": [_file(a, a.filename) for a in email.attachments if a not in inline],
            "inline_images": [_file(a, a.content_id) for a in inline],
        }
        # All see the same To, whoever of them this copy is for.
        shown = ", ".join(format_all(to.to))
        return self._request(mail, without_empty(content), [{"email": r, "header_to": shown} for r in to.recipients])

    def _request(self, mail: Outgoing, content: dict[str, Any], addresses: list[dict[str, str]]) -> httpx.Request:
        features = mail.features
        options = {"open_tracking": False, "click_tracking": False, "transactional": True, **features.options}
        campaign = options.pop("campaign_id", "")
        tags = cut(features.tags, most=10)
        payload = {
            "options": options | {"perform_substitutions": False},
            "recipients": [{"address": address} | ({"tags": tags} if tags else {}) for address in addresses],
            "content": content,
            "campaign_id": campaign.encode()[:64].decode("utf-8", "ignore"),
            "metadata": _metadata(features.metadata),
        }
        return self.post("/api/v1/transmissions", without_empty(payload))

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        results = pointed(body, "/results")
        if not isinstance(results, dict) or not isinstance(results.get("total_accepted_recipients"), int):
            return dict.fromkeys(addressing.recipients, unknown("the answer has no result"))
        sent = sent_outcome(id_of(results.get("id")))
        rejected = results.get("total_rejected_recipients") or 0
        refusal = self.meant(Meaning.ADDRESS, response, body)
        if not rejected:
            return dict.fromkeys(addressing.recipients, sent)
        if not results["total_accepted_recipients"]:
            return dict.fromkeys(addressing.recipients, refusal)
        # The errors say which recipient they are about in their texts alone.
        named = [(r, refusal) for r in named_in(str(results.get("rcpt_to_errors")), addressing.recipients)]
        return by_recipient(
            addressing, named, sent if len(named) == rejected else unknown("some were refused, not told which")
        )

    def refused_together(self, outcomes: Any, addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    def code(self, response: httpx.Response, body: Any) -> str:
        return id_of(pointed(body, "/errors/0/code"))

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        if response.status_code == 420:  # hourly, daily or monthly
            return Meaning.QUOTA
        if response.status_code in (409, 415):
            return Meaning.CONTENT
        return super().meaning(response, body)

    # Credentials: https://developers.sparkpost.com/api/account/

    def probe(self) -> httpx.Request:
        return self.get("/api/v1/account")


def _header(raw: bytes) -> bytes:
    return raw[: header_end(raw, skip_mbox_line(raw))]


def _hidden(head: bytes) -> bytes:
    """Fields with `{{` in encoded words, where there is no brace."""
    start = skip_mbox_line(head)
    end = header_end(head, start)
    if b"{{" not in head[start:end]:
        return head
    return head[:start] + _FIELD.sub(_encoded, head[start:end]) + head[end:]


def _encoded(field: re.Match[bytes]) -> bytes:
    name, value = field[1].decode("ascii", "replace"), field[2]
    if b"{{" not in value:
        return field[0]
    if name.lower() in ADDRESSES:
        return address_field(name, parse_mailboxes(value))
    return text_field(name, decode_words(value))


def _marked(email: Email) -> bool:
    boxes = (email.sender, *email.to, *email.cc, *email.reply_to)
    texts = (email.subject, *(m.name for m in boxes), *(m.email for m in boxes), *(v for _, v in email.headers))
    return any("{{" in text for text in texts)


def _metadata(given: Mapping[str, str]) -> dict[str, str]:
    found = dict(given)
    while len(orjson.dumps(found)) > MAX_METADATA:
        found.popitem()
    return found


def _file(attachment: Attachment, name: str) -> dict[str, Any]:
    return {"name": name, "type": typed(attachment), "data": quoted(attachment.encoded)}
