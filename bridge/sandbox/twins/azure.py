"""Azure Communication Services Email: https://learn.microsoft.com/rest/api/communication/email/email/send

The sandbox's key, in base64, is the resource's access key; as it is, the secret of an Entra application.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from uuid import UUID

from bridge.clock import Clock
from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._entra import Tokens
from bridge.sandbox.twins._reading import emails, file, other_headers, people
from bridge.sandbox.twins.base import Call, Route, Twin
from bridge.sandbox.twins.schema import Address, Base64, Fields, Flag, Items, PayloadError, Table, Text

VERSIONS = ("2023-03-31", "2024-07-01-preview", "2025-09-01")
SCOPE = "https://communication.azure.com/.default"
MAX_REQUEST = 10_000_000
MAX_RECIPIENTS = 50
_PERSON = Fields({"address": Address()}, {"displayName": Text(one_line=True)})
_NAME = Text(least=1, one_line=True)
PAYLOAD = Fields(
    {
        "senderAddress": Address(),
        "content": Fields({"subject": Text(least=1, one_line=True)}, {"plainText": Text(), "html": Text()}),
        "recipients": Fields({"to": Items(_PERSON, least=1)}, {"cc": Items(_PERSON), "bcc": Items(_PERSON)}),
    },
    {
        "replyTo": Items(_PERSON),
        "headers": Table(Text(one_line=True), key=r"[!-9;-~]+"),
        "attachments": Items(
            Fields({"name": _NAME, "contentType": _NAME, "contentInBase64": Base64()}, {"contentId": _NAME})
        ),
        "userEngagementTrackingDisabled": Flag(),
    },
)


def _answer(status: int, code: str, message: str, target: str = "") -> Answer:
    error = {"code": code, "message": message} | ({"target": target} if target else {})
    return Answer(status=status, body={"error": error}, headers=(("x-ms-error-code", code),))


class Azure(Twin):
    kind = "azure"
    targets = ("send", "token")
    errors: ClassVar[Mapping[str, Answer]] = {
        "bad_request": _answer(400, "BadRequest", "The request body is invalid."),
        "invalid_content": _answer(400, "InvalidEmailContent", "The content is invalid.", "content"),
        "invalid_recipient": _answer(400, "InvalidEmailAddress", "An address is invalid.", "recipients.to[0].address"),
        "size_limit": _answer(400, "EmailSizeLimitExceeded", "The email exceeds the limit."),
        "invalid_sender": _answer(400, "InvalidSenderUserName", "The sender user name is not configured."),
        "unauthorized": _answer(401, "Unauthorized", "The request is not authorized."),
        "denied": _answer(401, "Denied", "Denied by the resource provider."),
        "forbidden": _answer(403, "Forbidden", "The caller may not do this."),
        "domain_not_linked": _answer(404, "DomainNotLinked", "The specified sender domain has not been linked."),
        "not_found": _answer(404, "ResourceNotFound", "The resource was not found."),
        "too_large": _answer(413, "RequestEntityTooLarge", "The request is too large."),
        "too_many_requests": _answer(429, "TooManyRequests", "The request rate is too large."),
        "internal": _answer(500, "InternalServerError", "An internal error occurred."),
        "unavailable": _answer(503, "ServiceUnavailable", "The service is unavailable."),
    }

    def __init__(self, *, key: str, clock: Clock) -> None:
        super().__init__(key=key, clock=clock)
        self.tokens = Tokens(key=key, scope=SCOPE, clock=clock)
        self._operations: dict[str, Call] = {}

    def clear(self) -> None:
        self._operations.clear()

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/emails:send", self._send, target="send"),
            Route("GET", "/emails/operations/{id}", self._look),
            self.tokens.route(),
        )

    def authorize(self, call: Call) -> None:
        if self.tokens.has_token(call):
            return
        query = f"?{call.request.query}" if call.request.query else ""
        digest = base64.b64encode(hashlib.sha256(call.body).digest()).decode()
        text = f"{call.method}\n{call.request.path}{query}\n{call.header('x-ms-date')};{call.header('host')};{digest}"
        signed = base64.b64encode(hmac.digest(self.key.encode(), text.encode(), "sha256")).decode()
        expected = f"HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature={signed}"
        if call.header("x-ms-content-sha256") != digest or not hmac.compare_digest(
            call.header("authorization"), expected
        ):
            raise self.error("unauthorized")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, "InternalServerError" if status >= 500 else "BadRequest", message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        if error.at.startswith("recipients") and error.at.endswith("address"):
            return _answer(400, "InvalidEmailAddress", str(error), error.at).response()
        return _answer(400, "BadRequest", str(error), error.at).response()

    def _send(self, call: Call) -> Response:
        if call.query("api-version") not in VERSIONS:
            raise PayloadError("api-version", "is required", "required")
        if len(call.body) > MAX_REQUEST:
            raise self.error("too_large")
        payload = call.json()
        PAYLOAD.check(payload)
        if not payload["content"].get("plainText") and not payload["content"].get("html"):
            raise PayloadError("content", "has neither plainText nor html", "required")
        operation = call.header("operation-id")
        try:
            UUID(operation)
        except ValueError:
            raise PayloadError("Operation-Id", "is not a UUID") from None
        mail = replace(_read(payload), idempotency_key=operation)
        if len(mail.recipients) > MAX_RECIPIENTS:
            raise PayloadError("recipients", f"are more than {MAX_RECIPIENTS}", "limit")
        call.accept(mail, id=operation)
        self._operations[operation] = call
        headers = (
            ("Operation-Location", f"{call.url}/emails/operations/{operation}?{call.request.query}"),
            ("retry-after", "0"),
        )
        return json_response({"id": operation, "status": "Running", "error": None}, status=202, headers=headers)

    def _look(self, call: Call) -> Response:
        """One that was refused on purpose never began. `suppressed@...` is on the list, `failed@...` fails."""
        operation = call.parameters["id"]
        begun = self._operations.get(operation)
        if begun is None or not begun.accepted:
            raise self.error("not_found")
        recipients = begun.accepted[0].mail.recipients
        error = None
        if all(r.startswith("suppressed@") for r in recipients):
            error = {"code": "EmailDroppedAllRecipientsSuppressed", "message": "All recipients are suppressed."}
        elif any(r.startswith("failed@") for r in recipients):
            error = {"code": "EmailDropped", "message": "The email was dropped."}
        return json_response({"id": operation, "status": "Failed" if error else "Succeeded", "error": error})


def _read(payload: dict[str, Any]) -> Mail:
    slots = payload["recipients"]
    to, cc, bcc = (people(slots.get(slot, []), email="address", name="displayName") for slot in ("to", "cc", "bcc"))
    return Mail(
        sender=payload["senderAddress"],
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails(to + cc + bcc),
        reply_to=people(payload.get("replyTo", []), email="address", name="displayName"),
        subject=payload["content"]["subject"],
        text=payload["content"].get("plainText", ""),
        html=payload["content"].get("html", ""),
        headers=other_headers(payload.get("headers", {})),
        attachments=tuple(
            file(a, content="contentInBase64", name="name", kind="contentType", cid="contentId")
            for a in payload.get("attachments", [])
        ),
    )
