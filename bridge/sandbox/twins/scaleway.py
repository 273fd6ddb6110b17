"""Scaleway Transactional Email: https://www.scaleway.com/en/developers/api/transactional-email/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, header_of, other_headers, people, written
from bridge.sandbox.twins.base import Call, Route, Twin
from bridge.sandbox.twins.schema import Address, Base64, Fields, Items, PayloadError, Text

MAX_SIZE = 2_000_000
LEAST = 10  # characters of subject and bodies
_PERSON = Fields({"email": Address(ascii=True)}, {"name": Text(one_line=True)})
_NAME = Text(least=1, one_line=True)
PAYLOAD = Fields(
    {
        "project_id": Text(least=1),
        "from": _PERSON,
        "to": Items(_PERSON, least=1),
        "subject": Text(least=LEAST, one_line=True),
    },
    {
        "cc": Items(_PERSON),
        "bcc": Items(_PERSON),
        "text": Text(least=LEAST),
        "html": Text(least=LEAST),
        "attachments": Items(Fields({"name": _NAME, "type": _NAME, "content": Base64()})),
        "additional_headers": Items(
            Fields({"key": Text(least=1, pattern=r"[!-9;-~]+"), "value": Text(one_line=True, ascii=True)})
        ),
        "send_before": Text(),
    },
)


def _answer(status: int, kind: str, message: str, **more: Any) -> Answer:
    return Answer(status=status, body={"type": kind, "message": message, **more})


class Scaleway(Twin):
    kind = "scaleway"
    errors: ClassVar[Mapping[str, Answer]] = {
        "invalid_arguments": _answer(
            400,
            "invalid_arguments",
            "invalid argument(s)",
            details=[{"argument_name": "subject", "reason": "constraint", "help_message": "at least 10 characters"}],
        ),
        "invalid_recipient": _answer(
            400,
            "invalid_arguments",
            "invalid argument(s)",
            details=[{"argument_name": "to[0].email", "reason": "format", "help_message": "not an email address"}],
        ),
        "denied_authentication": _answer(401, "denied_authentication", "authentication is denied"),
        "permissions_denied": _answer(403, "permissions_denied", "insufficient permissions"),
        "precondition_failed": _answer(
            412, "precondition_failed", "domain is not checked", precondition="domain_not_checked"
        ),
        "quotas_exceeded": _answer(403, "quotas_exceeded", "quota(s) exceeded"),
        "not_found": _answer(404, "not_found", "resource is not found"),
        "too_large": _answer(413, "too_large", "request is too large"),
        "too_many_requests": _answer(429, "too_many_requests", "too many requests"),
        "internal": _answer(500, "internal_error", "internal error"),
        "unavailable": _answer(503, "service_unavailable", "service unavailable"),
    }

    def routes(self) -> Sequence[Route]:
        base = "/transactional-email/v1alpha1/regions/{region}"
        return (
            Route("POST", f"{base}/emails", self._send, target="send"),
            Route("GET", f"{base}/domains", lambda call: json_response({"total_count": 0, "domains": []})),
        )

    def authorize(self, call: Call) -> None:
        if not self.is_key(call.header("x-auth-token")):
            raise self.error("denied_authentication")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, "internal_error", message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        details = [{"argument_name": error.at, "reason": "constraint", "help_message": str(error)}]
        return _answer(400, "invalid_arguments", "invalid argument(s)", details=details).response()

    def _send(self, call: Call) -> Response:
        if call.parameters["region"] != "fr-par":
            raise self.error("not_found")
        payload = call.json()
        PAYLOAD.check(payload)
        if not payload.get("text") and not payload.get("html"):
            raise PayloadError("text", "is required without html", "required")
        if len(call.body) > MAX_SIZE:
            raise self.error("too_large")
        mail = _read(payload)
        call.accept(mail)
        items: list[dict[str, Any]] = [
            {
                "id": f"id-{number}",
                "message_id": f"<{number}@tem.example>",
                "mail_from": mail.sender,
                "mail_rcpt": recipient,
                "rcpt_type": "to",
                "status": "failed" if recipient.startswith("failed@") else "new",
                "status_details": None,
                "try_count": 0,
                "last_tries": [],
                "flags": [],
            }
            for number, recipient in enumerate(mail.recipients, 1)
        ]
        return json_response({"emails": items})


def _read(payload: dict[str, Any]) -> Mail:
    to, cc, bcc = (people(payload.get(slot, [])) for slot in ("to", "cc", "bcc"))
    headers = {item["key"]: item["value"] for item in payload.get("additional_headers", [])}
    return Mail(
        sender=payload["from"]["email"],
        sender_name=payload["from"].get("name", ""),
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails(to + cc + bcc),
        reply_to=written([header_of(headers, "reply-to")]),
        subject=payload["subject"],
        text=payload.get("text", ""),
        html=payload.get("html", ""),
        headers=other_headers(headers),
        attachments=tuple(file(a, name="name", inline=False) for a in payload.get("attachments", [])),
    )
