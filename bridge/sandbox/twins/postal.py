"""Postal's API: https://docs.postalserver.io/developer/api; every answer has HTTP status 200."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, other_headers, written
from bridge.sandbox.twins.base import Call, Route, Twin
from bridge.sandbox.twins.mimemail import mail_from_mime
from bridge.sandbox.twins.schema import (
    Address,
    Base64,
    Fields,
    Flag,
    Items,
    MailboxText,
    PayloadError,
    Table,
    Text,
    decode_base64,
)

_PEOPLE = Items(MailboxText())
_FILE = Fields({}, {"name": Text(one_line=True), "content_type": Text(one_line=True), "data": Base64()})
MESSAGE = Fields(
    {"from": MailboxText()},
    {
        "to": _PEOPLE,
        "cc": _PEOPLE,
        "bcc": _PEOPLE,
        "sender": MailboxText(),
        "subject": Text(one_line=True),
        "tag": Text(one_line=True),
        "reply_to": MailboxText(),
        "plain_body": Text(),
        "html_body": Text(),
        "headers": Table(Text(one_line=True)),
        "bounce": Flag(),
        "attachments": Items(_FILE),
    },
)
RAW = Fields(
    {"mail_from": Address(), "rcpt_to": Items(Address(), least=1), "data": Base64(least=1)}, {"bounce": Flag()}
)


def _envelope(status: str, data: Any) -> dict[str, Any]:
    return {"status": status, "time": 0.02, "flags": {}, "data": data}


def _error(code: str, message: str) -> Answer:
    return Answer(status=200, body=_envelope("error", {"code": code, "message": message}))


class Postal(Twin):
    kind = "postal"
    errors: ClassVar[Mapping[str, Answer]] = {
        "access_denied": _error("AccessDenied", "Must be authenticated as a server."),
        "invalid_key": _error("InvalidServerAPIKey", "The API token provided in X-Server-API-Key was not valid."),
        "suspended": _error("ServerSuspended", "The mail server has been suspended"),
        "unauthenticated_from": _error(
            "UnauthenticatedFromAddress", "The From address is not authorised to send mail from this server"
        ),
        "from_missing": _error("FromAddressMissing", "The From address is missing and is required"),
        "no_recipients": _error("NoRecipients", "There are no recipients defined to receive this message"),
        "no_content": _error("NoContent", "There is no content defined for this e-mail"),
        "too_many_to": _error("TooManyToAddresses", "The maximum number of To addresses has been reached (maximum 50)"),
        "too_many_cc": _error("TooManyCCAddresses", "The maximum number of CC addresses has been reached (maximum 50)"),
        "too_many_bcc": _error(
            "TooManyBCCAddresses", "The maximum number of BCC addresses has been reached (maximum 50)"
        ),
        "attachment_name": _error("AttachmentMissingName", "An attachment is missing a name"),
        "attachment_data": _error("AttachmentMissingData", "An attachment is missing data"),
        "parameter_error": Answer(
            status=200, body=_envelope("parameter-error", {"message": "`rcpt_to` parameter is required"})
        ),
        "some_new_error": _error("SomethingNew", "An error that no table knows"),
        "too_large": Answer(status=413, body="413 Request Entity Too Large"),
        "rate_limited": Answer(status=429, body="429 Too Many Requests"),  # a proxy before it; Postal has no limit
        "internal": Answer(status=500, body=_envelope("error", {"code": "InternalError", "message": "went wrong"})),
    }

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/api/v1/send/message", self._send, target="send"),
            Route("POST", "/api/v1/send/raw", self._send_raw, target="send"),
            Route("POST", "/api/v1/messages/message", self._message),
        )

    def authorize(self, call: Call) -> None:
        key = call.header("x-server-api-key")
        if not key:
            raise self.error("access_denied")
        if not self.is_key(key):
            raise self.error("invalid_key")

    def error_body(self, status: int, message: str = "") -> Response:
        return json_response(_envelope("error", {"code": "InternalError", "message": message}), status=status)

    def invalid(self, error: PayloadError) -> Response:
        return json_response(_envelope("parameter-error", {"message": str(error)}))

    def _message(self, call: Call) -> Response:
        error = {
            "code": "MessageNotFound",
            "message": "No message found matching provided ID",
            "id": call.json().get("id"),
        }
        return json_response(_envelope("error", error))

    def _send_raw(self, call: Call) -> Response:
        payload = call.json()
        RAW.check(payload)
        mail = mail_from_mime(decode_base64(payload["data"]), payload["rcpt_to"], envelope_sender=payload["mail_from"])
        if not mail.sender:
            raise self.error("unauthenticated_from")
        return self._taken(call, mail)

    def _send(self, call: Call) -> Response:
        payload = call.json()
        MESSAGE.check(payload)
        for slot, error in (("to", "too_many_to"), ("cc", "too_many_cc"), ("bcc", "too_many_bcc")):
            if len(payload.get(slot, [])) > 50:
                raise self.error(error)
        if not payload.get("plain_body") and not payload.get("html_body"):
            raise self.error("no_content")
        for item in payload.get("attachments", []):
            if not item.get("name"):
                raise self.error("attachment_name")
            if not item.get("data"):
                raise self.error("attachment_data")
        mail = _read(payload)
        if not mail.recipients:
            raise self.error("no_recipients")
        return self._taken(call, mail)

    def _taken(self, call: Call, mail: Mail) -> Response:
        mail = replace(mail, recipients=tuple(dict.fromkeys(mail.recipients)))
        message_id = call.accept(mail)
        messages = {r: {"id": number, "token": f"t{number}"} for number, r in enumerate(mail.recipients, 1)}
        return json_response(_envelope("success", {"message_id": message_id, "messages": messages}))


def _read(payload: dict[str, Any]) -> Mail:
    to, cc, bcc = (written(payload.get(slot, [])) for slot in ("to", "cc", "bcc"))
    ((sender, sender_name),) = written([payload["from"]])
    return Mail(
        sender=sender,
        sender_name=sender_name,
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails(to + cc + bcc),
        reply_to=written([payload.get("reply_to", "")]),
        subject=payload.get("subject", ""),
        text=payload.get("plain_body", ""),
        html=payload.get("html_body", ""),
        headers=other_headers(payload.get("headers", {})),
        attachments=tuple(
            file(a, content="data", name="name", kind="content_type") for a in payload.get("attachments", [])
        ),
        tags=(payload["tag"],) if payload.get("tag") else (),
    )
