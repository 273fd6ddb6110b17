"""Amazon SES v2: https://docs.aws.amazon.com/ses/latest/APIReference-V2/

It checks the signature (Signature Version 4) by itself: any access key id, the sandbox's key as its secret.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, other_headers, written
from bridge.sandbox.twins.base import ApiError, BodyError, Call, Route, Twin
from bridge.sandbox.twins.mimemail import mail_from_mime
from bridge.sandbox.twins.schema import (
    Address,
    Base64,
    Fields,
    Items,
    MailboxText,
    PayloadError,
    Text,
    decode_base64,
)

MAX_SIZE = 40_000_000
MAX_RECIPIENTS = 50
CLOCK_S = 900  # a signature holds for a quarter of an hour
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,]+)/(\d{8})/([a-z0-9-]+)/ses/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)
_ADDRESSES = Items(Address(ascii=True))
_DATA = Fields({"Data": Text()}, {"Charset": Text()})
_TAG = Text(least=1, most=256, pattern=r"[A-Za-z0-9_-]+")
_SIMPLE = Fields(
    {"Subject": _DATA, "Body": Fields({}, {"Text": _DATA, "Html": _DATA})},
    {
        "Headers": Items(
            Fields(
                {"Name": Text(least=1, most=126, pattern=r"[!-9;-@A-~]+"), "Value": Text(most=995, pattern=r"[ -~]*")}
            ),
            most=15,
        ),
        "Attachments": Items(
            Fields(
                {"FileName": Text(least=1, most=255, one_line=True), "RawContent": Base64()},
                {
                    "ContentType": Text(least=1, most=78, one_line=True),
                    "ContentDisposition": Text(one_of=("ATTACHMENT", "INLINE")),
                    "ContentId": Text(least=1, most=78, one_line=True),
                    "ContentDescription": Text(),
                    "ContentTransferEncoding": Text(one_of=("BASE64", "QUOTED_PRINTABLE", "SEVEN_BIT")),
                },
            )
        ),
    },
)
PAYLOAD = Fields(
    {"Content": Fields({}, {"Raw": Fields({"Data": Base64(least=1)}), "Simple": _SIMPLE})},
    {
        "FromEmailAddress": MailboxText(),
        "FromEmailAddressIdentityArn": Text(),
        "Destination": Fields({}, {"ToAddresses": _ADDRESSES, "CcAddresses": _ADDRESSES, "BccAddresses": _ADDRESSES}),
        "ReplyToAddresses": Items(MailboxText()),
        "FeedbackForwardingEmailAddress": Address(),
        "EmailTags": Items(Fields({"Name": _TAG, "Value": _TAG}), most=50),
        "ConfigurationSetName": Text(least=1),
        "EndpointId": Text(),
        "TenantName": Text(),
        "ListManagementOptions": Fields({"ContactListName": Text(least=1)}, {"TopicName": Text()}),
    },
)


def _answer(status: int, kind: str, message: str) -> Answer:
    return Answer(status=status, body={"message": message}, headers=(("x-amzn-ErrorType", f"{kind}:http://internal/"),))


class Ses(Twin):
    kind = "ses"
    errors: ClassVar[Mapping[str, Answer]] = {
        "bad_request": _answer(400, "BadRequestException", "Local address contains control or whitespace"),
        "validation": Answer(
            status=400, body={"__type": "ValidationException", "Message": "1 validation error detected"}
        ),
        "message_rejected": _answer(
            400, "MessageRejected", "Transaction failed: Address count 51 exceeds limit of 50."
        ),
        "not_verified": _answer(
            400,
            "MessageRejected",
            "Email address is not verified. The following identities failed the check in region US-EAST-1: a@example.com",
        ),
        "mail_from_not_verified": _answer(
            400, "MailFromDomainNotVerifiedException", "Custom MAIL FROM domain is not verified"
        ),
        "account_suspended": _answer(400, "AccountSuspendedException", "Sending is suspended for your account"),
        "sending_paused": _answer(400, "SendingPausedException", "Email sending is disabled for your AWS account"),
        "limit_exceeded": _answer(400, "LimitExceededException", "You've exceeded one or more resource limits"),
        "throttling": _answer(400, "ThrottlingException", "Rate exceeded"),
        "daily_quota": _answer(400, "ThrottlingException", "Daily message quota exceeded."),
        "some_new_error": _answer(400, "SomethingNewException", "An error that no table knows"),
        "expired_token": _answer(400, "ExpiredTokenException", "The security token included in the request is expired"),
        "access_denied": _answer(403, "AccessDeniedException", "User is not authorized to perform ses:SendRawEmail"),
        "unrecognized_client": _answer(
            403, "UnrecognizedClientException", "The security token included in the request is invalid."
        ),
        "signature": _answer(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided.",
        ),
        "missing_token": _answer(403, "MissingAuthenticationToken", "Missing Authentication Token"),
        "not_found": _answer(404, "NotFoundException", "Configuration set <x> does not exist."),
        "too_many_requests": _answer(429, "TooManyRequestsException", "Maximum sending rate exceeded."),
        "internal": _answer(500, "InternalFailure", "The request processing has failed because of an unknown error"),
        "unavailable": _answer(
            503, "ServiceUnavailable", "The request has failed due to a temporary failure of the server"
        ),
    }

    def routes(self) -> Sequence[Route]:
        quota = {"Max24HourSend": 200.0, "MaxSendRate": 1.0, "SentLast24Hours": 0.0}
        return (
            Route("POST", "/v2/email/outbound-emails", self._send, target="send"),
            Route("GET", "/v2/email/account", lambda call: json_response({"SendingEnabled": True, "SendQuota": quota})),
        )

    def authorize(self, call: Call) -> None:
        header = call.header("authorization")
        if not header:
            raise self.error("missing_token")
        found = _AUTHORIZATION.fullmatch(header)
        if found is None or not {"host", "x-amz-date"} <= set(found[4].split(";")):
            raise self.error("signature")
        date, region, names, given = found[2], found[3], found[4].split(";"), found[5]
        if not call.header("x-amz-date").startswith(date):
            raise self.error("signature")
        if not hmac.compare_digest(given, signature(call, self.key, date=date, region=region, names=names)):
            raise self.error("signature")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, "BadRequestException", message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        return self.error_body(400, str(error))

    def bad_body(self, error: BodyError) -> Response:
        return _answer(400, "SerializationException", str(error)).response()

    def _send(self, call: Call) -> Response:
        payload = call.json()
        PAYLOAD.check(payload)
        content = payload["Content"]
        if len(content) != 1:
            raise PayloadError("Content", "must have one of Raw and Simple")
        mail = self._raw(payload) if "Raw" in content else self._simple(payload)
        if len(mail.recipients) > MAX_RECIPIENTS:
            raise self.error("message_rejected")
        metadata = {tag["Name"]: tag["Value"] for tag in payload.get("EmailTags", [])}
        tags = tuple(value for name, value in metadata.items() if re.fullmatch(r"tag(-\d+)?", name))
        return json_response({"MessageId": call.accept(replace(mail, tags=tags, metadata=metadata))})

    def _raw(self, payload: dict[str, Any]) -> Mail:
        raw = decode_base64(payload["Content"]["Raw"]["Data"])
        if len(raw) > MAX_SIZE:
            raise ApiError(
                _answer(400, "MessageRejected", "Message length is more than 41943040 bytes long").response()
            )
        if any(len(line) > 1000 for line in raw.splitlines(keepends=True)) or not raw.isascii():
            raise PayloadError("Content.Raw.Data", "has 8-bit content or lines of more than 998 octets")
        mail = mail_from_mime(raw, _mailed(payload))
        if not mail.sender:
            raise ApiError(_answer(400, "BadRequestException", "Missing required header 'From'.").response())
        return mail

    def _simple(self, payload: dict[str, Any]) -> Mail:
        simple = payload["Content"]["Simple"]
        ((sender, sender_name),) = written([payload.get("FromEmailAddress", "")]) or (("", ""),)
        if not sender:
            raise PayloadError("FromEmailAddress", "is required", "required")
        destination = payload.get("Destination", {})
        headers = {item["Name"]: item["Value"] for item in simple.get("Headers", [])}
        body = simple["Body"]
        to, cc = (written(destination.get(slot, [])) for slot in ("ToAddresses", "CcAddresses"))
        return Mail(
            sender=sender,
            sender_name=sender_name,
            to=to,
            cc=cc,
            bcc=emails(written(destination.get("BccAddresses", []))),
            recipients=_mailed(payload),
            reply_to=written(payload.get("ReplyToAddresses", [])),
            subject=simple["Subject"]["Data"],
            text=body.get("Text", {}).get("Data", ""),
            html=body.get("Html", {}).get("Data", ""),
            headers=other_headers(headers),
            attachments=tuple(
                file(
                    a,
                    content="RawContent",
                    name="FileName",
                    kind="ContentType",
                    cid="ContentId",
                    inline=a.get("ContentDisposition") == "INLINE",
                )
                for a in simple.get("Attachments", [])
            ),
        )


def _mailed(payload: dict[str, Any]) -> tuple[str, ...]:
    destination = payload.get("Destination", {})
    found = [a for slot in ("ToAddresses", "CcAddresses", "BccAddresses") for a in destination.get(slot, [])]
    return tuple(dict.fromkeys(found))


def signature(call: Call, secret: str, *, date: str, region: str, names: Sequence[str]) -> str:
    """What the signature of this request should be."""
    headers = "".join(f"{name}:{' '.join(call.header(name).split())}\n" for name in names)
    query = "&".join(sorted(call.request.query.split("&"))) if call.request.query else ""
    body = hashlib.sha256(call.body).hexdigest()
    path = quote(call.request.path, safe="/-_.~")
    canonical = "\n".join((call.method, path, query, headers, ";".join(names), body))
    scope = f"{date}/{region}/ses/aws4_request"
    text = "\n".join(
        ("AWS4-HMAC-SHA256", call.header("x-amz-date"), scope, hashlib.sha256(canonical.encode()).hexdigest())
    )
    key = f"AWS4{secret}".encode()
    for piece in (date, region, "ses", "aws4_request", text):
        key = hmac.new(key, piece.encode(), hashlib.sha256).digest()
    return key.hex()
