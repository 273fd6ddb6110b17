"""Cloudflare Email Service: https://developers.cloudflare.com/api/resources/email_sending/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, other_headers, people
from bridge.sandbox.twins.base import Call, Route, Twin
from bridge.sandbox.twins.mimemail import mail_from_mime
from bridge.sandbox.twins.schema import Address, Base64, Either, Fields, Items, Kind, PayloadError, Table, Text

MAX_SIZE = 5 * 1024 * 1024
MAX_RECIPIENTS = 50
MAX_HEADERS = 16 * 1024
_PERSON = Either(Fields({"address": Address()}, {"name": Text(one_line=True)}), Address())
_PEOPLE: Kind = Either(Items(_PERSON), _PERSON)
_FILE = Fields(
    {
        "content": Base64(),
        "filename": Text(least=1, one_line=True),
        "type": Text(least=1, one_line=True),
        "disposition": Text(one_of=("attachment", "inline")),
    },
    {"content_id": Text(least=1, one_line=True)},
)
SEND = Fields(
    {"from": _PERSON, "subject": Text(least=1, most=998, one_line=True)},
    {
        "to": _PEOPLE,
        "cc": _PEOPLE,
        "bcc": _PEOPLE,
        "text": Text(),
        "html": Text(),
        "reply_to": _PERSON,
        "headers": Table(Text(one_line=True), key=r"[!-9;-~]+"),
        "attachments": Items(_FILE),
    },
)
SEND_RAW = Fields(
    {"from": Address(), "recipients": Items(Address(), least=1, most=MAX_RECIPIENTS), "mime_message": Text(least=1)}
)


def _answer(status: int, code: int, message: str) -> Answer:
    errors = [{"code": code, "message": f"email.sending.error.{message}"}]
    return Answer(status=status, body={"success": False, "errors": errors, "messages": [], "result": None})


class Cloudflare(Twin):
    kind = "cloudflare"
    errors: ClassVar[Mapping[str, Answer]] = {
        "invalid_request_schema": _answer(400, 10001, "invalid_request_schema"),
        "invalid_email": _answer(400, 10200, "email.invalid"),
        "sender_not_configured": _answer(400, 10201, "email.sender_not_configured"),
        "suppressed": _answer(400, 10202, "email.recipient_suppressed"),
        "unauthorized": _answer(401, 10102, "authentication.forbidden"),
        "forbidden": _answer(403, 10102, "authentication.forbidden"),
        "not_entitled": _answer(403, 10105, "authentication.not_entitled"),
        "sending_disabled": _answer(403, 10203, "email.sending_disabled"),
        "too_large": _answer(413, 10001, "invalid_request_schema"),
        "daily_quota": _answer(429, 10004, "account daily sending quota exceeded"),
        "rate_limit": _answer(429, 10004, "throttled"),
        "internal_server": _answer(500, 10002, "internal_server"),
    }

    def routes(self) -> Sequence[Route]:
        base = "/client/v4/accounts/{account}/email/sending"
        return (
            Route("POST", f"{base}/send", self._send, target="send"),
            Route("POST", f"{base}/send_raw", self._send_raw, target="send"),
        )

    def authorize(self, call: Call) -> None:
        if not self.has_bearer(call):
            raise self.error("unauthorized")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, 10002 if status >= 500 else 10001, message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        return self.errors["invalid_request_schema"].response()

    def _send_raw(self, call: Call) -> Response:
        payload = call.json()
        SEND_RAW.check(payload)
        raw = payload["mime_message"].encode()
        if len(raw) > MAX_SIZE:
            raise self.error("too_large")
        return self._taken(call, mail_from_mime(raw, payload["recipients"], envelope_sender=payload["from"]))

    def _send(self, call: Call) -> Response:
        payload = call.json()
        SEND.check(payload)
        mail = _read(payload)
        if not mail.text and not mail.html:
            raise PayloadError("text", "is required without html", "required")
        if not 0 < len(mail.recipients) <= MAX_RECIPIENTS:
            raise PayloadError("to", f"1 to {MAX_RECIPIENTS} recipients with cc and bcc", "limit")
        headers = payload.get("headers", {})
        if sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEADERS:
            raise PayloadError("headers", "more than 16 KB", "limit")
        return self._taken(call, mail)

    def _taken(self, call: Call, mail: Mail) -> Response:
        """`suppressed@...` is on the list, `gone@...` bounces at once."""
        if any(r.startswith("suppressed@") for r in mail.recipients):
            raise self.error("suppressed")
        gone = [r for r in mail.recipients if r.startswith("gone@")]
        queued = [r for r in mail.recipients if r not in gone]
        result = {"delivered": [], "queued": queued, "permanent_bounces": gone, "suppressed_recipients": []}
        message_id = call.accept(mail) if queued else "none"
        answer = {"success": True, "errors": [], "messages": [], "result": {"message_id": message_id, **result}}
        return json_response(answer)


def _read(payload: dict[str, Any]) -> Mail:
    to, cc, bcc = (_boxes(payload.get(slot, [])) for slot in ("to", "cc", "bcc"))
    ((sender, sender_name),) = _boxes(payload["from"])
    headers = payload.get("headers", {})
    return Mail(
        sender=sender,
        sender_name=sender_name,
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails(to + cc + bcc),
        reply_to=_boxes(payload.get("reply_to", [])),
        subject=payload["subject"],
        text=payload.get("text", ""),
        html=payload.get("html", ""),
        headers=other_headers(headers),
        attachments=tuple(file(item) for item in payload.get("attachments", [])),
    )


def _boxes(value: Any) -> tuple[tuple[str, str], ...]:
    items = value if isinstance(value, list) else [value]
    return people(({"address": item} if isinstance(item, str) else item for item in items), email="address")
