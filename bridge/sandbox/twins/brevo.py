"""Brevo's transactional email: https://developers.brevo.com/reference/sendtransacemail

Batches: https://developers.brevo.com/docs/batch-send-transactional-emails
"""

from __future__ import annotations

import mimetypes
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from email.header import decode_header, make_header
from pathlib import PurePosixPath
from typing import Any, ClassVar

import orjson

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Attachment, Mail, Mailbox
from bridge.sandbox.twins._reading import emails, file
from bridge.sandbox.twins.base import ApiError, BodyError, Call, Route, Twin
from bridge.sandbox.twins.schema import (
    Address,
    Anything,
    Base64,
    Either,
    Fields,
    Items,
    Kind,
    Number,
    PayloadError,
    Table,
    Text,
)

MAX_RECIPIENTS = 99  # of one message or version
MAX_ALL = 2000  # recipients in one call
MAX_VERSIONS = 1000
MAX_FILE = 5 * 1024 * 1024
MAX_SIZE = 20 * 1024 * 1024
RATE_LIMIT = 1000  # in a second
ENDINGS = (
    "xlsx xls ods docx docm doc csv pdf txt gif jpg jpeg png tif tiff rtf bmp cgm css shtml html htm zip xml ppt pptx tar ez"
    " ics mobi msg pub eps odt mp3 m4a m4v wma ogg flac wav aif aifc aiff mp4 mov avi mkv mpeg mpg wmv pkpass xlsm"
)
_TYPES = mimetypes.MimeTypes()
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
# Read by the API, and no part of the mail.
_CONTROL = frozenset({"sender.ip", "idempotencykey", "x-mailin-custom", "x-mailin-tag", "x-sib-sandbox"})

# A name that is not ASCII and has specials would be dropped without a word.
_NAME = Text(least=1, one_line=True, pattern=r'[\x20-\x7e\t]*|[^()<>\[\]:;@\\,."]*')
_BOX = Fields({"email": Address()}, {"name": _NAME})
_BOXES = Items(_BOX, least=1)
_HEADERS = Table(Text(one_line=True, ascii=True), key=r"[!-9;-~]+")
_VERSION: Mapping[str, Kind] = {
    "cc": _BOXES,
    "bcc": _BOXES,
    "replyTo": Fields({"email": Address()}, {"name": Text(least=1, one_line=True)}),
    "subject": Text(least=1, one_line=True),
    "params": Table(Anything()),
    "htmlContent": Text(least=1, pattern=r"(?s:.*\S.*)"),
    "textContent": Text(least=1),
    "headers": _HEADERS,
}
_FILE = Fields(
    {"name": Text(least=1, one_line=True, ascii=True)},
    {"content": Base64(most=MAX_FILE), "url": Text(pattern=r"https?://\S+")},
)
EMAIL = Fields(
    {},
    {
        **_VERSION,
        "sender": Either(Fields({"id": Number()}), _BOX),
        "to": _BOXES,
        "attachment": Items(_FILE, least=1),
        "tags": Items(Text(least=1), least=1),
        "templateId": Number(),
        "scheduledAt": Text(pattern=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"),
        "batchId": Text(pattern=_UUID),
        "messageVersions": Items(Fields({"to": _BOXES}, _VERSION), least=1, most=MAX_VERSIONS),
    },
)


def _answer(status: int, code: str, message: str) -> Answer:
    return Answer(status=status, body={"code": code, "message": message})


class BrevoTwin(Twin):
    kind = "brevo"
    errors: ClassVar[Mapping[str, Answer]] = {
        "invalid_parameter": _answer(400, "invalid_parameter", "Invalid parameter"),
        "invalid_recipient": _answer(400, "invalid_parameter", "email is not valid in to"),
        "invalid_sender": _answer(
            400,
            "invalid_parameter",
            "Sending has been rejected because the sender you used shop@example.com is not valid. Validate your sender or"
            " authenticate your domain",
        ),
        "missing_parameter": _answer(400, "missing_parameter", "htmlContent is missing"),
        "out_of_range": _answer(400, "out_of_range", "Value is out of range"),
        "document_not_found": _answer(400, "document_not_found", "Template does not exist"),
        "invalid_format": _answer(400, "invalid_format", "Invalid format"),
        "bad_request": _answer(400, "bad_request", "Input must be a valid JSON object"),
        "duplicate_request": _answer(400, "duplicate_request", "The idempotency key was used before"),
        "no_credits_left": _answer(400, "not_enough_credits", "You don't have enough credits"),
        "unauthorized": _answer(401, "unauthorized", "Key not found"),
        "unrecognised_ip": _answer(
            401, "unauthorized", "We have detected you are using an unrecognised IP address 192.0.2.1."
        ),
        "not_enough_credits": _answer(402, "not_enough_credits", "Insufficient credits"),
        "account_under_validation": _answer(402, "account_under_validation", "Account is under validation"),
        "permission_denied": _answer(403, "permission_denied", "Permission denied"),
        "not_found": _answer(404, "document_not_found", "Route does not exist"),
        "method_not_allowed": _answer(405, "method_not_allowed", "Method not allowed"),
        "not_acceptable": _answer(406, "not_acceptable", "Not acceptable"),
        "conflict": _answer(409, "conflict", "Conflict"),
        "payload_too_large": _answer(413, "payload_too_large", "Payload too large"),
        "unsupported_media_type": _answer(415, "unsupported_media_type", "Content-Type must be application/json"),
        "failed_dependency": _answer(424, "failed_dependency", "Failed dependency"),
        "too_early": _answer(425, "too_early", "Too early"),
        "too_many_requests": _answer(429, "too_many_requests", "Too many requests have been sent"),
        "internal_error": _answer(500, "internal_error", "Internal server error"),
        "unavailable": _answer(503, "unavailable", "Service unavailable"),
    }

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/v3/smtp/email", self._send, target="send"),
            Route("GET", "/v3/account", self._account),
        )

    def authorize(self, call: Call) -> None:
        if not self.is_key(call.header("api-key")):
            raise self.error("unauthorized")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, "bad_request" if status < 500 else "internal_error", message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        slot = next((part for part in error.dotted.split(".") if part in ("to", "cc", "bcc")), "")
        if slot and error.rule == "format" and error.dotted.endswith("email"):
            return _answer(400, "invalid_parameter", f"email is not valid in {slot}").response()
        codes = {"required": "missing_parameter", "limit": "out_of_range", "format": "invalid_format"}
        if error.rule == "required":
            return _answer(400, "missing_parameter", f"{error.dotted} is missing").response()
        return _answer(400, codes.get(error.rule, "invalid_parameter"), f"{error.dotted} {error.reason}").response()

    def bad_body(self, error: BodyError) -> Response:
        return self.errors["bad_request"].response()

    def conflict(self, call: Call) -> Response:
        return self.errors["duplicate_request"].response()

    def fingerprint(self, call: Call) -> str:
        """A key that is known is refused whatever the payload."""
        return secrets.token_hex(16)

    def finish(self, response: Response) -> Response:
        left, reset = ("0", "60") if response.status == 429 else (str(RATE_LIMIT - 1), "1")
        headers = (
            ("x-sib-ratelimit-limit", str(RATE_LIMIT)),
            ("x-sib-ratelimit-remaining", left),
            ("x-sib-ratelimit-reset", reset),
        )
        return replace(response, headers=(*response.headers, *headers))

    def _account(self, call: Call) -> Response:
        return json_response({"email": "shop@example.com", "companyName": "Shop", "plan": [{"type": "free"}]})

    def _send(self, call: Call) -> Response:
        if call.content_type != "application/json":
            raise self.error("unsupported_media_type")
        payload = call.json()
        EMAIL.check(payload)
        versions = payload.get("messageVersions")
        self._check_rules(payload, versions)
        status = 202 if "scheduledAt" in payload else 201
        found = [self._take(call, payload, version) for version in versions or [{}]]
        return json_response({"messageIds": found} if versions else {"messageId": found[0]}, status=status)

    def _take(self, call: Call, payload: dict[str, Any], version: dict[str, Any]) -> str:
        day = time.strftime("%Y%m%d%H%M", time.gmtime(self.clock.now()))
        message_id = f"<{day}.{secrets.randbelow(10**11):011}@smtp-relay.mailin.fr>"
        if "drop" in (call.header("x-sib-sandbox"), _header(payload.get("headers", {}), "x-sib-sandbox")):
            return message_id
        shown = {**payload, "messageVersions": [version]} if version else payload
        return call.accept(read_mail(payload, version), id=message_id, payload=shown)

    def _check_rules(self, payload: dict[str, Any], versions: list[dict[str, Any]] | None) -> None:
        if "templateId" not in payload:
            for name in ("sender", "subject", "htmlContent"):
                if name not in payload and not all(name in version for version in versions or [{}]):
                    raise PayloadError(name, "is required", "required")
        if versions is None and "to" not in payload:
            raise PayloadError("to", "is required", "required")
        self._check_counts(versions or [payload])
        headers = payload.get("headers", {})
        key = _header(headers, "idempotencykey")
        if key and not re.fullmatch(_UUID, key):
            raise PayloadError("headers.idempotencyKey", "is not a UUID")
        if len({name.lower() for name in headers}) != len(headers):
            raise PayloadError("headers", "must name each header only once")
        self._check_files(payload.get("attachment", []))

    def _check_counts(self, messages: Iterable[Mapping[str, Any]]) -> None:
        counts = [sum(len(message.get(slot, [])) for slot in ("to", "cc", "bcc")) for message in messages]
        if max(counts) > MAX_RECIPIENTS or sum(counts) > MAX_ALL:
            raise PayloadError("to", f"has more than {MAX_RECIPIENTS} recipients, or all have {MAX_ALL}", "limit")

    def _check_files(self, items: Sequence[Mapping[str, str]]) -> None:
        for number, item in enumerate(items):
            if ("content" in item) == ("url" in item):
                raise PayloadError(f"attachment[{number}].content", "or `url` is required", "required")
            ending = PurePosixPath(item["name"]).suffix.lower()[1:]
            if ending not in ENDINGS.split():
                message = f"Unsupported file format: {ending}"
                raise ApiError(_answer(400, "invalid_parameter", message).response())
        if sum(len(item.get("content", "")) for item in items) > MAX_SIZE:
            raise self.error("payload_too_large")


def read_mail(payload: Mapping[str, Any], version: Mapping[str, Any]) -> Mail:
    merged = {**payload, **version}
    to, cc, bcc = (_people((version or payload).get(slot, [])) for slot in ("to", "cc", "bcc"))
    headers = {**payload.get("headers", {}), **version.get("headers", {})}
    ((sender, sender_name),) = _people([merged["sender"]]) if "email" in merged.get("sender", {}) else (("", ""),)
    tag = _header(headers, "x-mailin-tag")
    return Mail(
        sender=sender,
        sender_name=sender_name,
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails((*to, *cc, *bcc)),
        reply_to=_people([merged["replyTo"]] if "replyTo" in merged else []),
        subject=merged.get("subject", ""),
        text=merged.get("textContent", ""),
        html=merged.get("htmlContent", ""),
        headers=tuple((name.title(), value) for name, value in headers.items() if name.lower() not in _CONTROL),
        attachments=tuple(_file(item) for item in payload.get("attachment", []) if "content" in item),
        tags=(*payload.get("tags", []), *([tag] if tag else [])),
        metadata=_metadata(_header(headers, "x-mailin-custom")),
        idempotency_key=_header(headers, "idempotencykey"),
    )


def _header(headers: Mapping[str, str], wanted: str) -> str:
    return next((value for name, value in headers.items() if name.lower() == wanted), "")


def _people(boxes: Iterable[Mapping[str, str]]) -> tuple[Mailbox, ...]:
    """Names as mail programs show them."""
    return tuple((box["email"], str(make_header(decode_header(box.get("name", ""))))) for box in boxes)


def _file(item: Mapping[str, str]) -> Attachment:
    kind = _TYPES.guess_type(item["name"])[0] or "application/octet-stream"
    return file({**item, "type": kind}, name="name", inline=False)


def _metadata(custom: str) -> dict[str, str]:
    """An object of texts, or the text as it is: it comes back in events."""
    try:
        found = orjson.loads(custom)
    except orjson.JSONDecodeError:
        return {"X-Mailin-custom": custom} if custom else {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {"X-Mailin-custom": custom}
