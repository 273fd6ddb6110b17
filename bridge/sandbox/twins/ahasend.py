"""AhaSend, v2: https://ahasend.com/docs/api-reference"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, other_headers, people
from bridge.sandbox.twins.base import Call, Route, Twin
from bridge.sandbox.twins.schema import Address, Base64, Fields, Flag, Items, Kind, PayloadError, Table, Text

MAX_RECIPIENTS = 50
_PERSON = Fields({"email": Address()}, {"name": Text(one_line=True)})
_NAME = Text(least=1, one_line=True)
_FILE = Fields(
    {"data": Base64(), "content_type": _NAME, "file_name": _NAME, "base64": Flag()},
    {"content_disposition": Text(one_of=("attachment", "inline")), "content_id": _NAME},
)
_OPTIONAL: dict[str, Kind] = {
    "cc": Items(_PERSON, least=1),
    "bcc": Items(_PERSON, least=1),
    "reply_to": _PERSON,
    "text_content": Text(),
    "html_content": Text(),
    "amp_content": Text(),
    "attachments": Items(_FILE),
    "headers": Table(Text(one_line=True), key=r"[!-9;-~]+"),
    "tags": Items(Text()),
    "sandbox": Flag(),
}
CONVERSATION = Fields(
    {"from": _PERSON, "to": Items(_PERSON, least=1, most=50), "subject": Text(least=1, one_line=True)}, _OPTIONAL
)


def _answer(status: int, message: str) -> Answer:
    return Answer(status=status, body={"message": message})


class AhaSend(Twin):
    kind = "ahasend"
    errors: ClassVar[Mapping[str, Answer]] = {
        "bad_request": _answer(400, "subject is required"),
        "unauthorized": _answer(401, "invalid API key"),
        "forbidden": _answer(403, "insufficient permissions"),
        "not_found": _answer(404, "account not found"),
        "in_progress": _answer(409, "a request with this idempotency key is in progress"),
        "too_large": _answer(413, "payload too large"),
        "unprocessable": _answer(422, "the idempotency key was used with a different body"),
        "too_many_requests": _answer(429, "rate limit exceeded"),
        "internal": _answer(500, "internal server error"),
        "unavailable": _answer(503, "service unavailable"),
    }

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/v2/accounts/{account}/messages/conversation", self._send, target="send"),
            Route("GET", "/v2/ping", lambda call: json_response({"message": "pong"})),
        )

    def authorize(self, call: Call) -> None:
        if not self.has_bearer(call):
            raise self.error("unauthorized")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        return self.error_body(400, str(error))

    def conflict(self, call: Call) -> Response:
        return self.errors["unprocessable"].response()

    def _send(self, call: Call) -> Response:
        payload = call.json()
        CONVERSATION.check(payload)
        if not payload.get("text_content") and not payload.get("html_content"):
            raise PayloadError("text_content", "is required without html_content", "required")
        for name in payload.get("headers", {}):
            if name.lower() in ("reply-to", "message-id"):
                raise PayloadError(f"headers.{name}", "is managed by the API")
        mail = _read(payload, call.header("idempotency-key"))
        if len(mail.recipients) > MAX_RECIPIENTS:
            raise PayloadError("to", "and cc and bcc must be 50 or fewer", "limit")
        call.accept(mail)
        return json_response({"object": "list", "data": [_item(r) for r in mail.recipients]}, status=202)


def _item(recipient: str) -> dict[str, Any]:
    """`suppressed@...` is on the list, `failed@...` fails."""
    local = recipient.partition("@")[0]
    errors = {"suppressed": "recipient is suppressed", "failed": "could not be queued"}
    item: dict[str, Any] = {"object": "message", "recipient": {"email": recipient, "name": ""}}
    if local in errors:
        return item | {"id": None, "status": "error", "error": errors[local]}
    return item | {"id": f"<{local}@ahasend.example>", "status": "queued", "error": None}


def _read(payload: dict[str, Any], key: str) -> Mail:
    to, cc, bcc = (people(payload.get(slot, [])) for slot in ("to", "cc", "bcc"))
    return Mail(
        sender=payload["from"]["email"],
        sender_name=payload["from"].get("name", ""),
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails(to + cc + bcc),
        reply_to=people([payload["reply_to"]] if "reply_to" in payload else []),
        subject=payload["subject"],
        text=payload.get("text_content", ""),
        html=payload.get("html_content", ""),
        headers=other_headers(payload.get("headers", {})),
        attachments=tuple(
            file(
                a,
                content="data",
                name="file_name",
                kind="content_type",
                inline=a.get("content_disposition") == "inline",
            )
            for a in payload.get("attachments", [])
        ),
        tags=tuple(payload.get("tags", [])),
        idempotency_key=key,
    )
