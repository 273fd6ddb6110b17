"""Lettermint, v1: https://docs.lettermint.co/api-reference"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, header_of, other_headers, written
from bridge.sandbox.twins.base import ApiError, Call, Route, Twin
from bridge.sandbox.twins.schema import Anything, Base64, Fields, Flag, Items, MailboxText, PayloadError, Table, Text

MAX_BATCH = 500
_PEOPLE = Items(MailboxText())
_NAME = Text(least=1, one_line=True)
MAIL = Fields(
    {"from": MailboxText(), "to": Items(MailboxText(), least=1), "subject": Text(least=1, one_line=True)},
    {
        "route": Text(),
        "cc": _PEOPLE,
        "bcc": _PEOPLE,
        "reply_to": _PEOPLE,
        "text": Text(),
        "html": Text(),
        "headers": Table(Text(one_line=True), key=r"[!-9;-~]+"),
        "metadata": Table(Text()),
        "tag": Text(pattern=r"[A-Za-z0-9_-]{1,64}"),
        "settings": Fields({}, {"track_opens": Flag(), "track_clicks": Flag(), "tls": Text()}),
        "attachments": Items(
            Fields({"filename": _NAME, "content": Base64()}, {"content_type": Text(one_line=True), "content_id": _NAME})
        ),
        "idempotency_key": Text(least=1, most=255),
    },
)


def _answer(status: int, message: str, **more: Any) -> Answer:
    return Answer(status=status, body={"message": message, **more})


class Lettermint(Twin):
    kind = "lettermint"
    errors: ClassVar[Mapping[str, Answer]] = {
        "unauthorized": _answer(401, "Unauthenticated."),
        "forbidden": _answer(403, "This token may not send."),
        "conflict": _answer(409, "The idempotency key was used with other content."),
        "too_large": _answer(413, "Payload too large"),
        "validation": _answer(
            422, "The subject field is required.", errors={"subject": ["The subject field is required."]}
        ),
        "too_many_requests": _answer(429, "Too many requests"),
        "internal": _answer(500, "Server Error"),
        "unavailable": _answer(503, "Service Unavailable"),
    }

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/v1/send", self._send, target="send"),
            Route("POST", "/v1/send/batch", self._batch, target="send"),
            Route("GET", "/v1/ping", lambda call: Response(status=200, body=b"pong", content_type="text/plain")),
        )

    def authorize(self, call: Call) -> None:
        if not self.is_key(call.header("x-lettermint-token")):
            raise self.error("unauthorized")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        return _answer(422, str(error), errors={error.dotted: [str(error)]}).response()

    def conflict(self, call: Call) -> Response:
        return self.errors["conflict"].response()

    def _send(self, call: Call) -> Response:
        payload = call.json()
        _check(payload)
        message_id = _id(call, 0)
        call.accept(_read(payload, call.header("idempotency-key")), id=message_id)
        return json_response({"message_id": message_id, "status": "pending"}, status=202)

    def _batch(self, call: Call) -> Response:
        """In order: what stands before one that fails has been taken."""
        payload = call.json()
        Items(Table(Anything()), least=1, most=MAX_BATCH).check(payload)
        key = call.header("idempotency-key")
        done: list[dict[str, Any]] = []
        for index, item in enumerate(payload):
            try:
                _check(item)
            except PayloadError as error:
                body = {"message": str(error), "errors": {f"{index}.{error.dotted}": [str(error)]}, "accepted": done}
                if not done:
                    raise ApiError(json_response(body, status=422)) from None
                return json_response(body, status=422)
            message_id = _id(call, index)
            call.accept(_read(item, f"{key}-{index}" if key else ""), id=message_id, payload=item)
            done.append({"index": index, "message_id": message_id})
        answers = [{"message_id": item["message_id"], "status": "pending"} for item in done]
        return json_response(answers, status=202)


def _id(call: Call, index: int) -> str:
    return hashlib.sha256(call.body + str(index).encode()).hexdigest()[:24]


def _check(payload: dict[str, Any]) -> None:
    MAIL.check(payload)
    if not payload.get("text") and not payload.get("html"):
        raise PayloadError("text", "is required without html", "required")


def _read(payload: dict[str, Any], key: str) -> Mail:
    to, cc, bcc = (written(payload.get(slot, [])) for slot in ("to", "cc", "bcc"))
    ((sender, sender_name),) = written([payload["from"]])
    headers = payload.get("headers", {})
    return Mail(
        sender=sender,
        sender_name=sender_name,
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails(to + cc + bcc),
        reply_to=written(payload.get("reply_to", [])),
        subject=payload["subject"],
        text=payload.get("text", ""),
        html=payload.get("html", ""),
        headers=tuple(h for h in other_headers(headers) if not h[0].lower().startswith("x-lm-")),
        attachments=tuple(file(a, kind="content_type") for a in payload.get("attachments", [])),
        tags=(payload["tag"],) if "tag" in payload else (),
        metadata=payload.get("metadata", {}),
        message_id=header_of(headers, "message-id"),
        idempotency_key=key,
    )
