"""Resend's emails and batch: https://resend.com/docs/api-reference/emails/send-email

Errors: https://resend.com/docs/api-reference/errors
"""

from __future__ import annotations

import mimetypes
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, ClassVar

import orjson

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail, Mailbox
from bridge.sandbox.twins._reading import emails, file, header_of, other_headers, written
from bridge.sandbox.twins.base import ApiError, BodyError, Call, Route, Twin
from bridge.sandbox.twins.schema import (
    Anything,
    Base64,
    Either,
    Fields,
    Items,
    Kind,
    MailboxText,
    PayloadError,
    Table,
    Text,
)

MAX_RECIPIENTS = 50
MAX_BATCH = 100
MAX_ATTACHMENTS = 40 * 1024 * 1024  # in base64
MAX_KEY = 256
RATE_LIMIT = 5  # requests in a second
_FORMAT = "The email address needs to follow the `email@example.com` or `Name <email@example.com>` format."
_TYPES = mimetypes.MimeTypes()

_TAG_TEXT = Text(pattern=r"[A-Za-z0-9_-]{1,256}")


def _addresses(most: int | None = MAX_RECIPIENTS) -> Kind:
    return Either(MailboxText(), Items(MailboxText(), least=1, most=most))


_ATTACHMENT = Fields(
    {"filename": Text(least=1, one_line=True)},
    {
        "content": Base64(),
        "path": Text(pattern=r"https?://\S+"),
        "content_type": Text(least=1, one_line=True),
        "content_id": Text(least=1, most=128, one_line=True),
    },
)
EMAIL = Fields(
    {"from": MailboxText(), "to": _addresses(), "subject": Text(least=1, one_line=True)},
    {
        "html": Text(least=1),
        "text": Text(least=1),
        "cc": _addresses(),
        "bcc": _addresses(),
        "reply_to": _addresses(None),
        "headers": Table(Text(one_line=True), key=r"[!-9;-~]+"),
        "attachments": Items(_ATTACHMENT),
        "tags": Items(Fields({"name": _TAG_TEXT, "value": _TAG_TEXT})),
        "scheduled_at": Text(least=1),
        "topic_id": Text(least=1),
        "template": Fields({"id": Text(least=1)}, {"variables": Table(Anything())}),
    },
)


def _answer(status: int, name: str, message: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status=status, body={"statusCode": status, "name": name, "message": message}, headers=headers)


class ResendTwin(Twin):
    kind = "resend"
    errors: ClassVar[Mapping[str, Answer]] = {
        "bad_request": _answer(400, "validation_error", "We found an error with one or more fields in the request."),
        "invalid_idempotency_key": _answer(
            400, "invalid_idempotency_key", "The idempotency key must be between 1-256 chars."
        ),
        "expired_api_key": _answer(400, "validation_error", "API key is invalid"),
        "missing_api_key": _answer(401, "missing_api_key", "Missing API key in the authorization header."),
        "restricted_api_key": _answer(401, "restricted_api_key", "This API key is restricted to only send emails."),
        "invalid_api_key": _answer(403, "invalid_api_key", "API key is invalid."),
        "domain_not_verified": _answer(
            403,
            "validation_error",
            "The example.com domain is not verified. Please, add and verify your domain on https://resend.com/domains",
        ),
        "testing_domain": _answer(
            403,
            "validation_error",
            "You can only send testing emails to your own email address (you@example.com). To send emails to other"
            " recipients, please verify a domain at resend.com/domains, and change the `from` address to an email using"
            " this domain.",
        ),
        "not_found": _answer(404, "not_found", "The requested endpoint does not exist."),
        "method_not_allowed": _answer(405, "method_not_allowed", "Method is not allowed for the requested path."),
        "concurrent_idempotent_requests": _answer(
            409,
            "concurrent_idempotent_requests",
            "Same idempotency key used while original request is still in progress.",
        ),
        "invalid_idempotent_request": _answer(
            409, "invalid_idempotent_request", "Same idempotency key used with a different request payload."
        ),
        "validation_error": _answer(
            422, "validation_error", "We found an error with one or more fields in the request."
        ),
        "invalid_recipient": _answer(422, "validation_error", f"Invalid `to` field. {_FORMAT}"),
        "missing_required_field": _answer(
            422, "missing_required_field", "The request body is missing one or more required fields."
        ),
        "missing_required_fields": _answer(
            422, "missing_required_fields", "The request body is missing one or more required fields."
        ),
        "invalid_attachment": _answer(422, "invalid_attachment", "Attachment must have either a `content` or `path`."),
        "invalid_from_address": _answer(422, "invalid_from_address", f"Invalid `from` field. {_FORMAT}"),
        "invalid_parameter": _answer(422, "invalid_parameter", "The parameter must be a valid UUID."),
        "invalid_access": _answer(422, "invalid_access", 'Access must be "full_access" | "sending_access".'),
        "invalid_region": _answer(422, "invalid_region", "Region must be one of the regions there are."),
        "rate_limit_exceeded": _answer(
            429,
            "rate_limit_exceeded",
            "Too many requests. You can only make 5 requests per second.",
            ("retry-after", "1"),
        ),
        "daily_quota_exceeded": _answer(
            429, "daily_quota_exceeded", "You have reached your daily email sending quota."
        ),
        "monthly_quota_exceeded": _answer(
            429, "monthly_quota_exceeded", "You have reached your monthly email sending quota."
        ),
        "security_error": _answer(451, "security_error", "We may have found a security issue with the request."),
        "application_error": _answer(500, "application_error", "An unexpected error occurred."),
        "internal_server_error": _answer(500, "internal_server_error", "An unexpected error occurred."),
        "unavailable": _answer(503, "application_error", "Service unavailable."),
    }

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/emails", self._send, target="send"),
            Route("POST", "/emails/batch", self._batch, target="send"),
            Route("GET", "/domains", self._domains),
        )

    def authorize(self, call: Call) -> None:
        if not call.header("authorization"):
            raise self.error("missing_api_key")
        if not self.has_bearer(call):
            raise self.error("invalid_api_key")

    def error_body(self, status: int, message: str = "") -> Response:
        name = "validation_error" if status < 500 else "application_error"
        return _answer(status, name, message or "An unexpected error occurred.").response()

    def invalid(self, error: PayloadError) -> Response:
        field = error.dotted.partition(".")[0]
        if field == "from" and error.rule != "required":
            return self.errors["invalid_from_address"].response()
        if field in ("to", "cc", "bcc") and error.rule == "format":
            return _answer(422, "validation_error", f"Invalid `{field}` field. {_FORMAT}").response()
        if error.rule == "required":
            return _answer(422, "missing_required_field", f"Missing `{error.dotted}` field.").response()
        return _answer(422, "validation_error", f"The `{error.dotted}` field {error.reason}.").response()

    def bad_body(self, error: BodyError) -> Response:
        return self.errors["bad_request"].response()

    def conflict(self, call: Call) -> Response:
        return self.errors["invalid_idempotent_request"].response()

    def finish(self, response: Response) -> Response:
        left = "0" if response.status == 429 else str(RATE_LIMIT - 1)
        limit = (("ratelimit-limit", str(RATE_LIMIT)), ("ratelimit-remaining", left), ("ratelimit-reset", "1"))
        return replace(response, headers=(*response.headers, *limit))

    def _domains(self, call: Call) -> Response:
        return json_response({"object": "list", "has_more": False, "data": []})

    def _send(self, call: Call) -> Response:
        key, payload = self._key(call), call.json()
        self._check(payload)
        return json_response({"id": call.accept(read_mail(payload, key), id=str(uuid.uuid4()), payload=payload)})

    def _batch(self, call: Call) -> Response:
        """Strict, unless the header wants what is good to be taken."""
        key, payload = self._key(call), call.json()
        mode = call.header("x-batch-validation") or "strict"
        if mode not in ("strict", "permissive"):
            raise self.error("bad_request")
        Items(Anything(), least=1, most=MAX_BATCH).check(payload)
        found: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for index, item in enumerate(payload):
            try:
                self._check_batched(item)
            except PayloadError as error:
                if mode == "strict":
                    raise
                errors.append({"index": index, "message": _message(self.invalid(error))})
            except ApiError as error:
                if mode == "strict":
                    raise
                errors.append({"index": index, "message": _message(error.response)})
            else:
                found.append({"id": call.accept(read_mail(item, key), id=str(uuid.uuid4()), payload=item)})
        return json_response({"data": found} | ({"errors": errors} if mode == "permissive" else {}))

    def _key(self, call: Call) -> str:
        values = call.request.values("idempotency-key")
        if values and not 1 <= len(values[0]) <= MAX_KEY:
            raise self.error("invalid_idempotency_key")
        return values[0] if values else ""

    def _check_batched(self, item: Any) -> None:
        self._check(item)
        for field in ("attachments", "scheduled_at"):
            if field in item:
                raise PayloadError(field, "is not supported in a batch", "unknown")

    def _check(self, payload: Any) -> None:
        EMAIL.check(payload)
        if not {"html", "text", "template"} & payload.keys():
            raise PayloadError("html", "or `text` is required", "required")
        if sum(len(_list(payload, field)) for field in ("to", "cc", "bcc")) > MAX_RECIPIENTS:
            raise PayloadError("to", f"must have {MAX_RECIPIENTS} recipients or fewer", "limit")
        attachments = payload.get("attachments", [])
        if any(("content" in item) == ("path" in item) for item in attachments):
            raise self.error("invalid_attachment")
        if sum(len(item.get("content", "")) for item in attachments) > MAX_ATTACHMENTS:
            raise PayloadError("attachments", "must have 40 MB or less", "limit")
        for number, item in enumerate(attachments):
            _check_ending(item, f"attachments[{number}]")


def _check_ending(item: Mapping[str, str], at: str) -> None:
    """The API takes such a mail and drops it without a word; here it is refused, so that somebody notices."""
    kind = item.get("content_type", "").partition(";")[0].strip().lower()
    ending = PurePosixPath(item["filename"]).suffix.lower()
    if not ending:
        raise PayloadError(f"{at}.filename", "needs an ending")
    known = _TYPES.guess_all_extensions(kind, strict=False)
    if known and ending not in known and _TYPES.guess_type(f"x{ending}", strict=False)[0]:
        raise PayloadError(f"{at}.filename", "has an ending that disagrees with its content_type")


def _message(response: Response) -> str:
    return str(orjson.loads(response.body)["message"])


def _list(payload: Mapping[str, Any], field: str) -> list[str]:
    value = payload.get(field, [])
    return [value] if isinstance(value, str) else value


def read_mail(payload: Mapping[str, Any], key: str) -> Mail:
    ((sender, sender_name),) = written([payload["from"]])
    to, cc, bcc, reply_to = (_people(payload, field) for field in ("to", "cc", "bcc", "reply_to"))
    headers = payload.get("headers", {})
    return Mail(
        sender=sender,
        sender_name=sender_name,
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails((*to, *cc, *bcc)),
        reply_to=reply_to,
        subject=payload["subject"],
        text=payload.get("text", ""),
        html=payload.get("html", ""),
        headers=other_headers(headers),
        attachments=tuple(
            file(item, kind="content_type") for item in payload.get("attachments", []) if "content" in item
        ),
        metadata={tag["name"]: tag["value"] for tag in payload.get("tags", [])},
        message_id=header_of(headers, "message-id"),
        idempotency_key=key,
    )


def _people(payload: Mapping[str, Any], field: str) -> tuple[Mailbox, ...]:
    return written(_list(payload, field))
