"""SendGrid's v3 Mail Send: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send

Texts of errors are those of https://www.twilio.com/docs/sendgrid/for-developers/sending-email/errors where it has one.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from bridge.sandbox.exchange import Answer, Response, empty_response, json_response
from bridge.sandbox.mail import Attachment, Mail, Mailbox, make_attachment
from bridge.sandbox.twins.base import ApiError, BodyError, Call, Route, Twin
from bridge.sandbox.twins.schema import (
    Address,
    Anything,
    Base64,
    Fields,
    Flag,
    Items,
    Number,
    PayloadError,
    Table,
    Text,
    decode_base64,
)

MAX_BODY = 30 * 1024 * 1024
MAX_RECIPIENTS = 1000  # in one request, over all personalizations
MAX_CUSTOM_ARGS = 10_000  # octets
MAX_AHEAD_S = 72 * 3600
RATE_LIMIT = 10_000
RESERVED_HEADERS = frozenset(
    (
        "x-sg-id",
        "x-sg-eid",
        "received",
        "dkim-signature",
        "content-type",
        "content-transfer-encoding",
        "to",
        "from",
        "subject",
        "reply-to",
        "cc",
        "bcc",
    )
)
SCOPES = ["mail.send", "mail.batch.create", "mail.batch.read"]

_AUTHOR = Fields({"email": Address()}, {"name": Text(one_line=True)})
# https://support.sendgrid.com/hc/en-us/articles/38120188603: names of recipients hold neither ; nor ,
_RECIPIENT = Fields({"email": Address()}, {"name": Text(one_line=True, pattern=r"[^;,]*")})
_HEADERS = Table(Text(one_line=True), key=r"[!-9;-~]+")
_ARGS = Table(Text())
_SWITCH = Fields({}, {"enable": Flag()})
_PERSONALIZATION = Fields(
    {"to": Items(_RECIPIENT, least=1, most=MAX_RECIPIENTS)},
    {
        "cc": Items(_RECIPIENT, most=MAX_RECIPIENTS),
        "bcc": Items(_RECIPIENT, most=MAX_RECIPIENTS),
        "from": _AUTHOR,
        "subject": Text(least=1, one_line=True),
        "headers": _HEADERS,
        "substitutions": Table(Text(), most=10_000),
        "dynamic_template_data": Table(Anything()),
        "custom_args": _ARGS,
        "send_at": Number(least=0),
    },
)
_CONTENT = Fields({"type": Text(least=1, pattern=r"[^;,\r\n]+"), "value": Text(least=1)})
_ATTACHMENT = Fields(
    {"content": Base64(least=1), "filename": Text(least=1, pattern=r"[^\r\n]+")},
    {
        "type": Text(least=1, pattern=r"[^;,\r\n]+"),
        "disposition": Text(one_of=("attachment", "inline")),
        "content_id": Text(pattern=r"[^\r\n]*"),
    },
)
_TRACKING = Fields(
    {},
    {
        "click_tracking": Fields({}, {"enable": Flag(), "enable_text": Flag()}),
        "open_tracking": Fields({}, {"enable": Flag(), "substitution_tag": Text()}),
        "subscription_tracking": Fields(
            {}, {"enable": Flag(), "text": Text(), "html": Text(), "substitution_tag": Text()}
        ),
        "ganalytics": Fields(
            {"enable": Flag()},
            {f"utm_{name}": Text() for name in ("source", "medium", "term", "content", "campaign")},
        ),
    },
)
_MAIL_SETTINGS = Fields(
    {},
    {
        "bypass_list_management": _SWITCH,
        "bypass_spam_management": _SWITCH,
        "bypass_bounce_management": _SWITCH,
        "bypass_unsubscribe_management": _SWITCH,
        "footer": Fields({}, {"enable": Flag(), "text": Text(), "html": Text()}),
        "sandbox_mode": _SWITCH,
    },
)
PAYLOAD = Fields(
    {"personalizations": Items(_PERSONALIZATION, least=1, most=1000), "from": _AUTHOR},
    {
        "reply_to": _AUTHOR,
        "reply_to_list": Items(_AUTHOR, least=1, most=1000),
        "subject": Text(least=1, one_line=True),
        "content": Items(_CONTENT, least=1),
        "attachments": Items(_ATTACHMENT),
        "template_id": Text(),
        "headers": _HEADERS,
        "categories": Items(Text(most=255), most=10, unique=True),
        "custom_args": _ARGS,
        "send_at": Number(least=0),
        "batch_id": Text(),
        "asm": Fields({"group_id": Number()}, {"groups_to_display": Items(Number(), most=25)}),
        "ip_pool_name": Text(least=2, most=64),
        "mail_settings": _MAIL_SETTINGS,
        "tracking_settings": _TRACKING,
    },
)


def _answer(status: int, message: str, field: str | None = None, help: str | None = None) -> Answer:
    return Answer(status=status, body={"errors": [{"message": message, "field": field, "help": help}]})


class SendGrid(Twin):
    kind = "sendgrid"
    max_body = MAX_BODY
    errors: ClassVar[Mapping[str, Answer]] = {
        "bad_request": _answer(400, "Bad Request"),
        "unauthorized": _answer(401, "The provided authorization grant is invalid, expired, or revoked"),
        "maximum_credits_exceeded": _answer(401, "Maximum credits exceeded"),
        "unverified_sender": _answer(
            403,
            "The from address does not match a verified Sender Identity. Mail cannot be sent until this error is"
            " resolved. Visit https://sendgrid.com/docs/for-developers/sending-email/sender-identity/ to see the Sender"
            " Identity requirements",
            "from",
        ),
        "access_forbidden": _answer(403, "access forbidden"),
        "not_found": _answer(404, "Not Found"),
        "method_not_allowed": _answer(405, "method not allowed"),
        "unacceptable": _answer(406, "Not Acceptable"),
        "payload_too_large": _answer(413, "Payload Too Large"),
        "unsupported_media_type": _answer(415, "Content-Type should be application/json."),
        "too_many_requests": _answer(429, "too many requests"),
        "wrong_region": _answer(451, "Unavailable For Legal Reasons"),
        "internal_error": _answer(500, "Internal Server Error"),
        "unavailable": _answer(503, "Service Unavailable"),
    }

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/v3/mail/send", self._send, target="send"),
            Route("GET", "/v3/scopes", self._scopes),
        )

    def authorize(self, call: Call) -> None:
        if not self.has_bearer(call):
            raise self.error("unauthorized")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        return _answer(400, str(error), error.dotted or None).response()

    def bad_body(self, error: BodyError) -> Response:
        return self.errors["bad_request"].response()

    def finish(self, response: Response) -> Response:
        limit = (("X-RateLimit-Limit", str(RATE_LIMIT)), ("X-RateLimit-Remaining", str(RATE_LIMIT - 1)))
        if response.status == 429:
            limit = (("X-RateLimit-Limit", str(RATE_LIMIT)), ("X-RateLimit-Remaining", "0"))
        reset = ("X-RateLimit-Reset", str(int(self.clock.now()) + 60))
        return replace(response, headers=(*response.headers, *limit, reset))

    def _scopes(self, call: Call) -> Response:
        return json_response({"scopes": SCOPES})

    def _send(self, call: Call) -> Response:
        if call.content_type != "application/json":
            raise self.error("unsupported_media_type")
        payload = call.json()
        PAYLOAD.check(payload)
        _check_rules(payload, self.clock.now())
        if payload.get("mail_settings", {}).get("sandbox_mode", {}).get("enable"):
            return empty_response(200)
        message_id = secrets.token_urlsafe(16)
        for personalization in payload["personalizations"]:
            shown = {**payload, "personalizations": [personalization]}
            call.accept(read_mail(payload, personalization), id=message_id, payload=shown)
        return empty_response(202, ("X-Message-Id", message_id))


def _check_rules(payload: dict[str, Any], now: float) -> None:
    """What one field alone does not tell. Raises PayloadError, or ApiError where the text is known."""
    if "reply_to" in payload and "reply_to_list" in payload:
        raise PayloadError("reply_to", "cannot be used together with reply_to_list")
    _check_unique(payload.get("reply_to_list", []), "reply_to_list")
    _check_content(payload)
    _check_headers(payload.get("headers", {}), "headers")
    total = 0
    for index, personalization in enumerate(payload["personalizations"]):
        at = f"personalizations[{index}]"
        _check_personalization(payload, personalization, at)
        _check_send_at({**payload, **personalization}.get("send_at", 0), now)
        total += sum(len(personalization.get(field, [])) for field in ("to", "cc", "bcc"))
    if total > MAX_RECIPIENTS:
        raise PayloadError("personalizations", f"must have {MAX_RECIPIENTS} recipients or fewer", "limit")


def _check_personalization(payload: dict[str, Any], personalization: dict[str, Any], at: str) -> None:
    if not {"subject", "template_id"} & payload.keys() and "subject" not in personalization:
        message = (
            "The subject is required. You can get around this requirement if you use a template with a subject defined"
            " or if every personalization has a subject defined."
        )
        link = "http://sendgrid.com/docs/API_Reference/Web_API_v3/Mail/errors.html#message.subject"
        raise ApiError(_answer(400, message, "subject", link).response())
    _check_recipients(personalization, at)
    _check_headers(personalization.get("headers", {}), f"{at}.headers")
    sizes = [len(k.encode()) + len(v.encode()) for k, v in _merged(payload, personalization, "custom_args").items()]
    if sum(sizes) > MAX_CUSTOM_ARGS:
        raise PayloadError(f"{at}.custom_args", f"must have {MAX_CUSTOM_ARGS} octets or fewer", "limit")


def _check_recipients(personalization: dict[str, Any], at: str) -> None:
    seen: set[str] = set()
    for field in ("to", "cc", "bcc"):
        for box in personalization.get(field, []):
            if box["email"].lower() in seen:
                message = (
                    "Each email address in the personalization block should be unique between to, cc, and bcc."
                    f" We found the first duplicate instance of [{box['email']}] in the {at}.{field} field."
                )
                raise ApiError(_answer(400, message, "personalizations").response())
            seen.add(box["email"].lower())


def _check_unique(boxes: list[dict[str, str]], at: str) -> None:
    if len({box["email"].lower() for box in boxes}) != len(boxes):
        raise PayloadError(at, "must hold each address only once")


def _check_content(payload: dict[str, Any]) -> None:
    if "content" not in payload:
        if "template_id" not in payload:
            raise PayloadError("content", "is required, unless you are using a template", "required")
        return
    order = {"text/plain": 0, "text/html": 1}
    ranks = [order.get(item["type"].lower(), 2) for item in payload["content"]]
    if ranks != sorted(ranks):
        raise PayloadError("content", "must have text/plain first, followed by text/html, then others")


def _check_headers(headers: dict[str, str], at: str) -> None:
    names = [name.lower() for name in headers]
    for name in names:
        if name in RESERVED_HEADERS:
            raise PayloadError(f"{at}.{name}", "is a reserved header")
    if len(set(names)) != len(names):
        raise PayloadError(at, "must name each header only once")


def _check_send_at(at: int, now: float) -> None:
    if at > now + MAX_AHEAD_S:
        raise PayloadError("send_at", "must not be more than 72 hours in the future", "limit")


def _merged(payload: dict[str, Any], personalization: dict[str, Any], field: str) -> dict[str, str]:
    return {**payload.get(field, {}), **personalization.get(field, {})}


def read_mail(payload: dict[str, Any], personalization: dict[str, Any]) -> Mail:
    """The message that the people of one personalization would get."""
    author = personalization.get("from", payload["from"])
    to, cc, bcc = (_mailboxes(personalization.get(field, [])) for field in ("to", "cc", "bcc"))
    headers = _merged(payload, personalization, "headers")
    content = {item["type"].lower(): item["value"] for item in payload.get("content", [])}
    reply_to = payload.get("reply_to_list", [payload["reply_to"]] if "reply_to" in payload else [])
    return Mail(
        sender=author["email"],
        sender_name=author.get("name", ""),
        to=to,
        cc=cc,
        bcc=tuple(email for email, _ in bcc),
        recipients=tuple(email for email, _ in to + cc + bcc),
        reply_to=_mailboxes(reply_to),
        subject=personalization.get("subject", payload.get("subject", "")),
        text=content.get("text/plain", ""),
        html=content.get("text/html", ""),
        headers=tuple((name, value) for name, value in headers.items() if name.lower() != "message-id"),
        attachments=tuple(_attachment(item) for item in payload.get("attachments", [])),
        tags=tuple(payload.get("categories", [])),
        metadata=_merged(payload, personalization, "custom_args"),
        message_id=next((value for name, value in headers.items() if name.lower() == "message-id"), ""),
    )


def _mailboxes(boxes: list[dict[str, str]]) -> tuple[Mailbox, ...]:
    return tuple((box["email"], box.get("name", "")) for box in boxes)


def _attachment(item: dict[str, str]) -> Attachment:
    return make_attachment(
        decode_base64(item["content"]),
        filename=item["filename"],
        content_type=item.get("type", "application/octet-stream"),
        content_id=item.get("content_id", ""),
        disposition="inline" if item.get("disposition") == "inline" else "attachment",
    )
