"""Amazon SES v2, SendEmail: https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from bridge.clock import Clock
from bridge.mime.addressing import Caps, a_label
from bridge.mime.compose import address_field, text_field
from bridge.mime.fidelity import Carries, Form, is_shown
from bridge.mime.repair import SIGNATURES, Needs
from bridge.model import Addressing, Attachment, Fault, Mailbox, Outcome, split_address
from bridge.providers.answers import id_of, json_of, pointed, words_of
from bridge.providers.api import ApiProvider, ApiSettings, Outgoing, without_empty
from bridge.providers.base import Policy, Verified
from bridge.providers.display import one_line
from bridge.providers.features import Features, Found, ignored, option, pairs
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import quoted, typed
from bridge.providers.sigv4 import Keys, SigV4

MAX_SIZE = 40_000_000  # after encoding: https://docs.aws.amazon.com/ses/latest/dg/quotas.html
MAX_TAGS = 50
# MessageRejected has no code of its own for a sender that is not verified; the second text is moto's.
_NOT_OURS = ("not verified", "authority to send")
_BAD_REQUEST = re.compile(r"\b(?:BadRequest|Validation)Exception\b")
_NOT_IN_TAG = re.compile(r"[^A-Za-z0-9_-]+")


def _list_options(name: str, value: str) -> Found:
    """`contactListName; topic=topicName`"""
    contacts, _, topic = (part.strip() for part in value.partition(";"))
    found = {"ContactListName": contacts, "TopicName": topic.removeprefix("topic=").strip()}
    return Found(options={"list": {key: text for key, text in found.items() if text}})


@dataclass(frozen=True, slots=True, kw_only=True)
class SesSettings(ApiSettings):
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    content: str = "auto"


class Ses(ApiProvider):
    kind = "ses"
    title = "Amazon SES"
    docs = "https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html"
    Settings = SesSettings

    forms = (
        Form(name="raw", carries=Carries(raw=True, max_size=MAX_SIZE)),
        Form(name="json", carries=Carries(max_size=MAX_SIZE)),
    )
    caps = raw_caps = Caps(total=50, bcc_alone=True)  # To, Cc and Bcc together
    raw_seven_bit = True
    # It puts a Date and a Message-ID of its own and signs the mail; of X-SES- fields some name an identity to send as.
    # Sender and Return-Path would have to be verified as well.
    raw_drops = SIGNATURES | {"x-ses-*", "sender", "return-path"}
    needs = Needs(
        body=True,
        max_headers=15,
        max_value=870,  # 995 octets, and 996 with the name of up to 126
        reserved=frozenset(
            {
                "to",
                "cc",
                "bcc",
                "from",
                "sender",
                "return-path",
                "subject",
                "reply-to",
                "date",
                "message-id",
                "content-*",
                "mime-version",
            }
        ),
    )
    readers = {
        "x-ses-configuration-set": option("configuration_set"),
        "x-ses-message-tags": pairs,
        "x-ses-list-management-options": _list_options,
        "x-ses-*": ignored,
    }
    codes = {
        **dict.fromkeys(("TooManyRequestsException", "ThrottlingException", "Throttling"), Meaning.RATE),
        **dict.fromkeys(("LimitExceededException", "LimitExceeded"), Meaning.QUOTA),
        **dict.fromkeys(
            (
                "AccountSuspendedException",
                "SendingPausedException",
                "MailFromDomainNotVerifiedException",
                "NotFoundException",  # the configuration set
                "AccessDeniedException",
                "UnrecognizedClientException",
                "InvalidClientTokenId",
                "SignatureDoesNotMatch",
                "InvalidSignatureException",
                "InvalidSignature",
                "IncompleteSignature",
                "SignatureExpired",
                "ExpiredToken",
                "ExpiredTokenException",
                "MissingAuthenticationToken",
                "MissingAuthenticationTokenException",
            ),
            Meaning.ACCOUNT,
        ),
        **dict.fromkeys(("MessageRejected", "BadRequestException", "ValidationException"), Meaning.CONTENT),
        **dict.fromkeys(("InternalFailure", "InternalServiceErrorException", "ServiceUnavailable"), Meaning.LATER),
    }
    notes = (
        "Without `region` that of AWS_REGION or AWS_DEFAULT_REGION is taken. IAM: ses:SendRawEmail, for JSON ses:SendEmail.",
        "SES replaces Message-ID and Date and uses a MAIL FROM of its own; bounces go to the From address or to events.",
        "Tags become message tags named tag, tag-2 and so on; other characters than letters, digits, - and _ become _.",
    )

    def __init__(
        self,
        name: str,
        policy: Policy,
        settings: SesSettings,
        *,
        transport: httpx.AsyncBaseTransport,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(name, policy, settings, transport=transport, clock=clock)
        keys = Keys(
            access_key_id=settings.access_key_id,
            secret_access_key=settings.secret_access_key,
            session_token=settings.session_token,
        )
        self.auth = SigV4(service="ses", region=_region(settings), keys=keys)

    @classmethod
    def base_of(cls, settings: Any) -> str:
        """Raises ValueError without a region."""
        region = _region(settings)
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        return settings.url or f"https://email.{region}.{suffix}"

    # Request

    def raw_request(self, mail: Outgoing) -> httpx.Request:
        """Without FromEmailAddress and ReplyToAddresses, which would replace the header's."""
        return self._request(mail, {"Content": {"Raw": {"Data": self.mime_base64(mail)}}})

    def json_request(self, mail: Outgoing) -> httpx.Request:
        email = mail.email
        body = {
            kind: {"Data": text, "Charset": "UTF-8"}
            for kind, text in (("Text", email.text), ("Html", email.html))
            if text
        }
        simple = {
            "Subject": {"Data": one_line(email.subject), "Charset": "UTF-8"},
            "Body": body,
            "Headers": [{"Name": name, "Value": _ascii(value)} for name, value in email.headers],
            "Attachments": [_attachment(a, email.html) for a in email.attachments],
        }
        content = {
            "FromEmailAddress": _written(mail.sender),
            "ReplyToAddresses": [_written(m) for m in email.reply_to],
            "Content": {"Simple": without_empty(simple)},
        }
        return self._request(mail, without_empty(content))

    def _request(self, mail: Outgoing, content: dict[str, Any]) -> httpx.Request:
        to, options = mail.addressing, mail.features.options
        destination = {
            "ToAddresses": _plain(m.email for m in to.to),
            "CcAddresses": _plain(m.email for m in to.cc),
            "BccAddresses": _plain(to.bcc),
        }
        more = {
            "Destination": without_empty(destination),
            "EmailTags": _tags(mail.features),
            "ConfigurationSetName": options.get("configuration_set"),
            "ListManagementOptions": options.get("list"),
        }
        return self.post("/v2/email/outbound-emails", content | without_empty(more))

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        message_id = id_of(pointed(body, "/MessageId"))
        if not message_id:
            return dict.fromkeys(addressing.recipients, unknown("the answer has no MessageId"))
        return self.sent_all(addressing, message_id)

    def code(self, response: httpx.Response, body: Any) -> str:
        """`com.amazon...#MessageRejected` or `TooManyRequestsException:http://...`"""
        found = response.headers.get("x-amzn-errortype") or id_of(pointed(body, "/__type"))
        return found.partition(":")[0].rpartition("#")[2]

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        code, words = self.code(response, body), words_of(body).lower()
        found = self.codes.get(code)
        if found is Meaning.RATE and "daily" in words:
            return Meaning.QUOTA
        if code == "MessageRejected" and any(text in words for text in _NOT_OURS):
            return Meaning.ACCOUNT
        if found is None and code and response.status_code == 400:
            return Meaning.TEMPORARY
        return found

    def refused_together(self, outcomes: Mapping[str, Outcome], addressing: Addressing) -> bool:
        """An address may be what is bad about a bad request; which is not told."""
        return all(o.fault is Fault.MESSAGE and _BAD_REQUEST.search(o.detail) for o in outcomes.values())

    # Credentials: GetAccount, which wants a permission of its own

    def probe(self) -> httpx.Request:
        return self.get("/v2/email/account")

    def read_probe(self, response: httpx.Response) -> Verified:
        if self.code(response, json_of(response.content)) == "AccessDeniedException":
            return Verified(
                ok=None, text="the credentials are known, but may not ask (ses:GetAccount); they may still send"
            )
        return super().read_probe(response)


def _region(settings: Any) -> str:
    region = settings.region.lower() or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise ValueError("region: is required, or AWS_REGION in the environment")
    return str(region)


def _plain(addresses: Iterable[str]) -> list[str]:
    """Domains as A-labels (SendEmail: "the address must be encoded using Punycode")."""
    return [address if address.isascii() else "@".join(_labels(address)) for address in addresses]


def _labels(address: str) -> tuple[str, str]:
    local, domain = split_address(address)
    return local, a_label(domain)


def _written(mailbox: Mailbox) -> str:
    return _value(address_field("X", [mailbox]))


def _ascii(value: str) -> str:
    return value if value.isascii() else _value(text_field("X", value))


def _value(field_line: bytes) -> str:
    return field_line.decode("utf-8", "replace").partition(":")[2].replace("\r\n", "").strip()


def _tags(features: Features) -> list[dict[str, str]]:
    named = {("tag" if n == 1 else f"tag-{n}"): tag for n, tag in enumerate(features.tags, 1)} | dict(features.metadata)
    cleaned = {_NOT_IN_TAG.sub("_", name)[:256]: _NOT_IN_TAG.sub("_", value)[:256] for name, value in named.items()}
    return [{"Name": name, "Value": value} for name, value in cleaned.items() if name and value][:MAX_TAGS]


def _attachment(attachment: Attachment, html: str) -> dict[str, Any]:
    kind = typed(attachment)
    inline = is_shown(attachment, html)
    found = {
        "FileName": attachment.filename[:255],
        "RawContent": quoted(attachment.encoded),
        "ContentType": kind if len(kind) <= 78 else attachment.content_type[:78],
        "ContentDisposition": "INLINE" if inline else "ATTACHMENT",
        "ContentTransferEncoding": "BASE64",
    }
    return found | ({"ContentId": attachment.content_id[:78]} if inline else {})
