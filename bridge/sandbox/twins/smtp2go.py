"""SMTP2GO, v3: https://developers.smtp2go.com/reference/"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, header_of, other_headers, written
from bridge.sandbox.twins.base import Call, Route, Twin
from bridge.sandbox.twins.mimemail import mail_from_mime
from bridge.sandbox.twins.schema import Base64, Fields, Items, MailboxText, PayloadError, Text, decode_base64

MAX_SIZE = 50_000_000
RATE_RESET_S = 42
_PEOPLE = Items(MailboxText(), most=100)
_FILE = Fields(
    {"filename": Text(least=1, one_line=True), "fileblob": Base64(), "mimetype": Text(least=1, one_line=True)},
)
SEND = Fields(
    {"sender": MailboxText(), "to": Items(MailboxText(), least=1, most=100), "subject": Text(least=1, one_line=True)},
    {
        "api_key": Text(),
        "cc": _PEOPLE,
        "bcc": _PEOPLE,
        "html_body": Text(),
        "text_body": Text(),
        "custom_headers": Items(Fields({"header": Text(least=1, pattern=r"[!-9;-~]+"), "value": Text(one_line=True)})),
        "attachments": Items(_FILE),
        "inlines": Items(_FILE),
    },
)
MIME = Fields({"mime_email": Base64(least=1)}, {"api_key": Text()})


def _answer(status: int, code: str, error: str, **more: Any) -> Answer:
    data = {"error_code": f"E_ApiResponseCodes.{code}", "error": error, **more}
    return Answer(status=status, body={"request_id": "aa253464-0bd0-467a-b24b-6159dcd7be60", "data": data})


class Smtp2go(Twin):
    kind = "smtp2go"
    errors: ClassVar[Mapping[str, Answer]] = {
        "invalid_payload": _answer(
            400,
            "NON_VALIDATING_IN_PAYLOAD",
            "A payload did not validate",
            field_validation_errors={"fieldname": "subject", "message": "is required"},
        ),
        "invalid_recipient": _answer(
            400,
            "NON_VALIDATING_IN_PAYLOAD",
            "A payload did not validate",
            field_validation_errors={"fieldname": "to", "message": "is not an email address"},
        ),
        "permission_denied": _answer(
            400, "ENDPOINT_PERMISSION_DENIED", "You do not have permission to access this API endpoint"
        ),
        "invalid_key": _answer(400, "API_KEY_INVALID", "The API key is not valid"),
        "sender_not_verified": _answer(400, "SENDER_NOT_VERIFIED", "The sender domain is not verified"),
        "some_new_error": _answer(400, "SOMETHING_NEW", "An error that no table knows"),
        "unauthorized": Answer(status=401, body={"data": {"error": "Unauthorized"}}),
        "payment_required": Answer(status=402, body={"data": {"error": "Payment required"}}),
        "forbidden": Answer(status=403, body={"data": {"error": "Forbidden"}}),
        "too_large": Answer(status=413, body="413 Request Entity Too Large"),
        "rate_limit": _answer(429, "API_RATELIMIT_EXCEEDED", "Rate limit exceeded"),
        "internal": Answer(status=500, body={"data": {"error": "Internal error"}}),
    }

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/v3/email/send", self._send, target="send"),
            Route("POST", "/v3/email/mime", self._mime, target="send"),
        )

    def authorize(self, call: Call) -> None:
        if not self.is_key(call.header("x-smtp2go-api-key")):
            raise self.error("invalid_key")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, "ERROR", message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        field = error.at.partition("[")[0]
        wrong = {"fieldname": field, "message": error.reason}
        return _answer(
            400, "NON_VALIDATING_IN_PAYLOAD", "A payload did not validate", field_validation_errors=wrong
        ).response()

    def finish(self, response: Response) -> Response:
        if response.status != 429:
            return response
        return replace(response, headers=(*response.headers, ("X-RateLimit-Reset", str(RATE_RESET_S))))

    def _send(self, call: Call) -> Response:
        payload = call.json()
        SEND.check(payload)
        if not payload.get("text_body") and not payload.get("html_body"):
            raise PayloadError("text_body", "is required without html_body", "required")
        return self._taken(call, _read(payload))

    def _mime(self, call: Call) -> Response:
        payload = call.json()
        MIME.check(payload)
        raw = decode_base64(payload["mime_email"])
        if len(raw) > MAX_SIZE:
            raise self.error("too_large")
        mail = mail_from_mime(raw, None)
        if not mail.recipients:
            raise PayloadError("to", "is required", "required")
        # Whether a Bcc field would be taken out is not documented: here it would be seen.
        if b"\nbcc:" in raw.partition(b"\r\n\r\n")[0].lower():
            raise PayloadError("bcc", "would be seen by all")
        return self._taken(call, mail)

    def _taken(self, call: Call, mail: Mail) -> Response:
        """`refused@...` is refused, the others of the mail are not."""
        refused = [r for r in mail.recipients if r.startswith("refused@")]
        mail = replace(mail, recipients=tuple(r for r in mail.recipients if r not in refused))
        email_id = call.accept(mail) if mail.recipients else secrets.token_hex(8)
        data = {
            "succeeded": len(mail.recipients),
            "failed": len(refused),
            "failures": [f"{address}: refused" for address in refused],
            "email_id": email_id,
        }
        return json_response({"request_id": secrets.token_hex(16), "data": data})


def _read(payload: dict[str, Any]) -> Mail:
    to, cc, bcc = (written(payload.get(slot, [])) for slot in ("to", "cc", "bcc"))
    ((sender, sender_name),) = written([payload["sender"]])
    headers = {item["header"]: item["value"] for item in payload.get("custom_headers", [])}
    return Mail(
        sender=sender,
        sender_name=sender_name,
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails(to + cc + bcc),
        reply_to=written([header_of(headers, "reply-to")]),
        subject=payload["subject"],
        text=payload.get("text_body", ""),
        html=payload.get("html_body", ""),
        headers=other_headers(headers),
        attachments=(
            *(file(a, content="fileblob", kind="mimetype", inline=False) for a in payload.get("attachments", [])),
            *(
                file(a, content="fileblob", name="", kind="mimetype", cid="filename", inline=True)
                for a in payload.get("inlines", [])
            ),
        ),
    )
