"""Mandrill (Mailchimp Transactional): https://mailchimp.com/developer/transactional/api/

The key stands in the body, and errors have HTTP status 500. `X-MC-` fields of a raw message are obeyed, as the real one does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import orjson

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, header_of, other_headers, people, written
from bridge.sandbox.twins.base import BodyError, Call, Route, Twin
from bridge.sandbox.twins.mimemail import mail_from_mime
from bridge.sandbox.twins.schema import (
    Address,
    Anything,
    Base64,
    Fields,
    Flag,
    Items,
    Kind,
    PayloadError,
    Table,
    Text,
)

_NAME = Text(least=1, one_line=True)
_FILE = Fields({"type": _NAME, "name": Text(least=1, one_line=True, ascii=True), "content": Base64()})
_IMAGE = Fields({"type": Text(pattern=r"image/[\w.+-]+"), "name": _NAME, "content": Base64()})
_TAG = Text(most=50, pattern=r"[^_].*")
_TO = Fields({"email": Text(one_line=True)}, {"name": Text(one_line=True), "type": Text(one_of=("to", "cc", "bcc"))})
_SWITCHES: dict[str, Kind] = dict.fromkeys(
    "important track_opens track_clicks auto_text auto_html inline_css preserve_recipients view_content_link merge".split(),
    Flag(),
)
_MESSAGE = Fields(
    {"from_email": Address(), "to": Items(_TO, least=1)},
    {
        "html": Text(),
        "text": Text(),
        "subject": Text(one_line=True),
        "from_name": Text(one_line=True),
        "headers": Table(Text(one_line=True), key=r"[!-9;-~]+"),
        **_SWITCHES,
        "bcc_address": Address(),
        "subaccount": _NAME,
        "tags": Items(_TAG),
        "metadata": Table(Anything()),
        "attachments": Items(_FILE),
        "images": Items(_IMAGE),
    },
)
_OPTIONS: dict[str, Kind] = {"async": Flag(), "ip_pool": _NAME, "send_at": Text()}
SEND = Fields({"key": Text(), "message": _MESSAGE}, _OPTIONS)
SEND_RAW = Fields(
    {"key": Text(), "raw_message": Text(least=1)},
    {
        "from_email": Address(),
        "from_name": Text(),
        "to": Items(Text(one_line=True), least=1),
        "return_path_domain": Text(),
        **_OPTIONS,
    },
)


def _error(name: str, message: str, *, status: int = 500, code: int = -1) -> Answer:
    return Answer(status=status, body={"status": "error", "code": code, "name": name, "message": message})


class Mandrill(Twin):
    kind = "mandrill"
    errors: ClassVar[Mapping[str, Answer]] = {
        "invalid_key": _error("Invalid_Key", "Invalid API key"),
        "unauthorized": _error("Invalid_Key", "Invalid API key", status=401),
        "payment_required": _error("PaymentRequired", "A positive balance is required", code=3),
        "unknown_subaccount": _error("Unknown_Subaccount", "No subaccount exists with the id 'x'", code=12),
        "validation_error": _error("ValidationError", "You must specify a key value", code=-2),
        "general_error": _error("GeneralError", "An internal error occurred", code=-99),
        "service_unavailable": _error("ServiceUnavailable", "The service is down for maintenance", code=-50),
        "some_new_error": _error("SomethingNew", "An error that no table knows"),
        "too_large": Answer(status=413, body="413 Request Entity Too Large"),
        "too_many_requests": Answer(status=429, body="429 Too Many Requests"),
    }

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/api/1.0/messages/send.json", self._send, target="send"),
            Route("POST", "/api/1.0/messages/send-raw.json", self._send_raw, target="send"),
            Route("POST", "/api/1.0/users/ping2.json", lambda call: json_response({"PING": "PONG!"})),
        )

    def authorize(self, call: Call) -> None:
        try:
            content = call.json()
        except BodyError:
            raise self.error("validation_error") from None
        key = content.get("key") if isinstance(content, dict) else None
        if not isinstance(key, str) or not self.is_key(key):
            raise self.error("invalid_key")

    def error_body(self, status: int, message: str = "") -> Response:
        return _error("GeneralError", message or "error", status=status).response()

    def invalid(self, error: PayloadError) -> Response:
        return _error("ValidationError", f"Validation error: {error}", code=-2).response()

    def _send(self, call: Call) -> Response:
        payload = call.json()
        SEND.check(payload)
        message = payload["message"]
        if not message.get("text") and not message.get("html"):
            raise PayloadError("message.text", "is required without html", "required")
        return self._taken(call, _read(message))

    def _send_raw(self, call: Call) -> Response:
        payload = call.json()
        SEND_RAW.check(payload)
        mail = mail_from_mime(
            payload["raw_message"].encode(), payload.get("to"), envelope_sender=payload.get("from_email")
        )
        if not mail.sender:
            raise PayloadError("raw_message", "has no From")
        return self._taken(call, _obeyed(mail))

    def _taken(self, call: Call, mail: Mail) -> Response:
        """A verdict for each: `invalid` for what is no address, `suppressed@...` rejected, `unsigned@...` for the account."""
        verdicts = {recipient: _verdict(recipient) for recipient in mail.recipients}
        good = tuple(r for r, verdict in verdicts.items() if verdict["status"] == "sent")
        message_id = call.accept(replace(mail, recipients=good)) if good else "none"
        return json_response([{"email": r, "_id": message_id, **verdict} for r, verdict in verdicts.items()])


def _verdict(recipient: str) -> dict[str, Any]:
    local = recipient.partition("@")[0]
    try:
        Address().check(recipient)
    except PayloadError:
        return {"status": "invalid", "reject_reason": None}
    if local == "suppressed":
        return {"status": "rejected", "reject_reason": "hard-bounce"}
    if local == "unsigned":
        return {"status": "rejected", "reject_reason": "unsigned"}
    return {"status": "sent", "reject_reason": None, "queued_reason": None}


def _obeyed(mail: Mail) -> Mail:
    """The instructions of an SMTP user, taken out of the mail."""
    given = {name.lower(): value for name, value in mail.headers if name.lower().startswith("x-mc-")}
    tags = tuple(tag for tag in re.split(r"\s*,\s*", given.pop("x-mc-tags", "")) if tag)
    metadata = orjson.loads(given.pop("x-mc-metadata", "{}"))
    recipients = mail.recipients
    if hidden := given.pop("x-mc-bccaddress", ""):
        recipients = (*recipients, hidden)
    headers = tuple((name, value) for name, value in mail.headers if not name.lower().startswith("x-mc-"))
    return replace(mail, headers=headers, tags=tags, metadata=metadata, recipients=recipients)


def _read(message: dict[str, Any]) -> Mail:
    slots = {
        slot: people(box for box in message["to"] if box.get("type", "to") == slot) for slot in ("to", "cc", "bcc")
    }
    headers = message.get("headers", {})
    shown = message.get("preserve_recipients", False)
    return Mail(
        sender=message["from_email"],
        sender_name=message.get("from_name", ""),
        to=slots["to"] if shown else (),
        cc=slots["cc"] if shown else (),
        bcc=emails(slots["bcc"]),
        recipients=emails(slots["to"] + slots["cc"] + slots["bcc"]),
        reply_to=written([header_of(headers, "reply-to")]),
        subject=message.get("subject", ""),
        text=message.get("text", ""),
        html=message.get("html", ""),
        headers=other_headers(headers),
        attachments=(
            *(file(a, name="name", inline=False) for a in message.get("attachments", [])),
            *(file(a, name="", cid="name", inline=True) for a in message.get("images", [])),
        ),
        tags=tuple(message.get("tags", [])),
        metadata={name: str(value) for name, value in message.get("metadata", {}).items()},
    )
