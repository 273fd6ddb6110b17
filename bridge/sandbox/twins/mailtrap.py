"""Mailtrap's sending API: https://api-docs.mailtrap.io/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, header_of, other_headers, people, written
from bridge.sandbox.twins.base import Call, Route, Twin
from bridge.sandbox.twins.schema import Address, Base64, Fields, Items, Kind, PayloadError, Table, Text

MAX_MESSAGE = 10_000_000
MAX_BATCH = 500
MAX_BATCH_BYTES = 50_000_000
_PERSON = Fields({"email": Address()}, {"name": Text(one_line=True)})
_PEOPLE = Items(_PERSON, most=1000)
_FILE = Fields(
    {"content": Base64(), "filename": Text(least=1, one_line=True, ascii=True)},
    {
        "type": Text(one_line=True),
        "disposition": Text(one_of=("attachment", "inline")),
        "content_id": Text(one_line=True),
    },
)
_FIELDS: dict[str, Kind] = {
    "to": _PEOPLE,
    "cc": _PEOPLE,
    "bcc": _PEOPLE,
    "reply_to": _PERSON,
    "text": Text(least=1),
    "html": Text(least=1),
    "attachments": Items(_FILE),
    "headers": Table(Text(one_line=True), key=r"[!-9;-~]+"),
    "custom_variables": Table(Text()),
    "category": Text(most=255, one_line=True),
}
MAIL = Fields({"from": _PERSON, "subject": Text(least=1, one_line=True)}, _FIELDS)
_SHARED: dict[str, Kind] = {
    "from": _PERSON,
    "subject": Text(),
    **{k: kind for k, kind in _FIELDS.items() if k not in ("to", "cc", "bcc")},
}
BATCH = Fields(
    {"requests": Items(Fields({}, {"from": _PERSON, "subject": Text(), **_FIELDS}), least=1, most=MAX_BATCH)},
    {"base": Fields({}, _SHARED)},
)


def _answer(status: int, *errors: str) -> Answer:
    return Answer(status=status, body={"success": False, "errors": list(errors)})


class Mailtrap(Twin):
    kind = "mailtrap"
    errors: ClassVar[Mapping[str, Answer]] = {
        "bad_request": _answer(400, "'subject' is required"),
        "unauthorized": _answer(401, "Unauthorized"),
        "domain_not_allowed": _answer(403, "Sending from domain example.com is not allowed"),
        "banned": _answer(403, "Account is banned"),
        "too_large": _answer(413, "Message exceeds the maximum size"),
        "unprocessable": _answer(422, "'from' is invalid"),
        "too_many_requests": _answer(429, "Too many requests"),
        "internal": _answer(500, "Internal error"),
        "unavailable": _answer(503, "Service unavailable"),
    }

    def routes(self) -> Sequence[Route]:
        return tuple(
            Route("POST", f"/api/{name}{inbox}", handler, target="send")
            for name, handler in (("send", self._send), ("batch", self._batch))
            for inbox in ("", "/{inbox}")
        )

    def authorize(self, call: Call) -> None:
        if not self.has_bearer(call) and not self.is_key(call.header("api-token")):
            raise self.error("unauthorized")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        return _answer(400, f"'{error.at}' {error.reason}").response()

    def _send(self, call: Call) -> Response:
        payload = call.json()
        MAIL.check(payload)
        _check(payload)
        return json_response({"success": True, "message_ids": self._accept(call, payload)})

    def _batch(self, call: Call) -> Response:
        payload = call.json()
        if len(call.body) > MAX_BATCH_BYTES:
            raise self.error("too_large")
        BATCH.check(payload)
        return json_response(
            {
                "success": True,
                "responses": [self._item(call, {**payload.get("base", {}), **r}) for r in payload["requests"]],
            }
        )

    def _item(self, call: Call, payload: dict[str, Any]) -> dict[str, Any]:
        """The others of a batch go on when one fails; `blocked@...` is a recipient that no item may have."""
        try:
            MAIL.check(payload)
            _check(payload)
        except PayloadError as error:
            return {"success": False, "errors": [f"'{error.at}' {error.reason}"]}
        return {"success": True, "message_ids": self._accept(call, payload)}

    def _accept(self, call: Call, payload: dict[str, Any]) -> list[str]:
        mail = _read(payload)
        first = call.accept(mail, payload=payload)
        if "inbox" in call.parameters:
            return [first]
        return [first, *(f"{first}-{number}" for number in range(1, len(mail.recipients)))]


def _check(payload: dict[str, Any]) -> None:
    if not any(payload.get(slot) for slot in ("to", "cc", "bcc")):
        raise PayloadError("to", "is required", "required")
    if not payload.get("text") and not payload.get("html"):
        raise PayloadError("text", "is required without html", "required")
    if any(box["email"].startswith("blocked@") for box in payload.get("to", [])):
        raise PayloadError("to", "is not allowed")
    variables = payload.get("custom_variables", {})
    if sum(len(k.encode()) + len(v.encode()) for k, v in variables.items()) > 1000:
        raise PayloadError("custom_variables", "exceed 1000 bytes", "limit")


def _read(payload: dict[str, Any]) -> Mail:
    to, cc, bcc = (people(payload.get(slot, [])) for slot in ("to", "cc", "bcc"))
    headers = payload.get("headers", {})
    reply_to = people([payload["reply_to"]]) if "reply_to" in payload else written([header_of(headers, "reply-to")])
    return Mail(
        sender=payload["from"]["email"],
        sender_name=payload["from"].get("name", ""),
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails(to + cc + bcc),
        reply_to=reply_to,
        subject=payload["subject"],
        text=payload.get("text", ""),
        html=payload.get("html", ""),
        headers=other_headers(headers),
        attachments=tuple(file(a) for a in payload.get("attachments", [])),
        tags=(payload["category"],) if "category" in payload else (),
        metadata=payload.get("custom_variables", {}),
    )
