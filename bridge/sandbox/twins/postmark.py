"""Postmark's Email API: https://postmarkapp.com/developer/api/email-api

A batch answers 200 with a verdict for each message, in order. Recipients named `suppressed@...` are inactive.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from bridge.sandbox.addresses import parse_mailbox, split_list
from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Attachment, Mail, Mailbox, make_attachment
from bridge.sandbox.twins.base import ApiError, BodyError, Call, Route, Twin
from bridge.sandbox.twins.schema import (
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

MAX_RECIPIENTS = 50  # To, Cc and Bcc together
MAX_MESSAGES = 500
MAX_BATCH = 50_000_000
MAX_MESSAGE = 10_000_000
MAX_TEXT = 5_000_000
OWN_FIELDS = frozenset(("from", "to", "cc", "bcc", "reply-to", "subject", "content-type", "mime-version"))
FORBIDDEN_ENDINGS = frozenset(("vbs", "exe", "bin", "bat", "chm", "com", "hta", "pif", "reg", "scr", "vbe", "msi"))

_LINE = Text(one_line=True)
_HEADER = Fields({"Name": Text(least=1, pattern=r"[!-9;-~]+"), "Value": _LINE})
_ATTACHMENT = Fields(
    {
        "Name": Text(least=1, one_line=True),
        "Content": Base64(),
        "ContentType": Text(least=1, pattern=r"[^;,\s]+/[^;,\s]+"),
    },
    {"ContentID": Text(pattern=r"cid:[^\s<>]+")},
)
MESSAGE = Fields(
    {"From": MailboxText()},
    {
        "To": _LINE,
        "Cc": _LINE,
        "Bcc": _LINE,
        "ReplyTo": MailboxText(most=1000),
        "Subject": _LINE,
        "TextBody": Text(),
        "HtmlBody": Text(),
        "Headers": Items(_HEADER),
        "Attachments": Items(_ATTACHMENT),
        "Tag": Text(most=1000, one_line=True),
        "Metadata": Table(Text(most=80), most=10, key_most=20),
        "TrackOpens": Flag(),
        "TrackLinks": Text(one_of=("None", "HtmlAndText", "HtmlOnly", "TextOnly")),
        "MessageStream": Text(least=1),
    },
)
_ABOUT_INACTIVE = (
    "Inactive recipients are ones that have generated a hard bounce, a spam complaint, or a manual suppression."
)


def _answer(status: int, code: int, message: str) -> Answer:
    return Answer(status=status, body={"ErrorCode": code, "Message": message})


class Postmark(Twin):
    kind = "postmark"
    max_body = MAX_BATCH
    errors: ClassVar[Mapping[str, Answer]] = {
        "no_token": _answer(
            401,
            10,
            "No Account or Server API tokens were supplied in the HTTP headers. Please add a header for either"
            " X-Postmark-Server-Token or X-Postmark-Account-Token.",
        ),
        "bad_token": _answer(401, 10, "Request does not contain a valid Server token."),
        "blocked_network": Answer(
            status=403,
            body="<html><head><title>403 Forbidden</title></head><body><h1>403 Forbidden</h1></body></html>",
            content_type="text/html",
        ),
        "invalid_email_request": _answer(422, 300, "Invalid email request"),
        "invalid_from": _answer(422, 300, "Invalid 'From' address: 'shop@localhost'."),
        "invalid_to": _answer(
            422, 300, "Error parsing 'To': Illegal email address 'nobody'. It must contain the '@' symbol."
        ),
        "sender_signature_not_found": _answer(
            422, 400, "The 'From' address you supplied (shop@example.com) is not a Sender Signature on your account."
        ),
        "sender_signature_not_confirmed": _answer(422, 401, "Sender signature not confirmed"),
        "invalid_json": _answer(422, 402, "Invalid JSON"),
        "incompatible_json": _answer(422, 403, "Incompatible JSON"),
        "not_allowed_to_send": _answer(422, 405, "Not allowed to send"),
        "inactive_recipient": _answer(
            422,
            406,
            "You tried to send to recipient(s) that have been marked as inactive. Found inactive addresses:"
            f" ann@example.org. {_ABOUT_INACTIVE}",
        ),
        "json_required": _answer(422, 409, "JSON required"),
        "too_many_batch_messages": _answer(422, 410, "Too many batch messages"),
        "forbidden_attachment_type": _answer(422, 411, "Forbidden attachment type"),
        "account_is_pending": _answer(
            422,
            412,
            "While your account is pending approval, all recipient addresses must share the same domain as the 'From'"
            " address.",
        ),
        "account_may_not_send": _answer(422, 413, "Account may not send"),
        "maintenance": _answer(422, 100, "Maintenance"),
        "not_found": Answer(status=404),
        "payload_too_large": Answer(status=413),
        "unsupported_media_type": Answer(status=415),
        "rate_limit_exceeded": _answer(429, 429, "Rate limit exceeded"),
        "internal_server_error": _answer(500, 500, "Internal Server Error"),
        "service_unavailable": _answer(503, 503, "Service Unavailable"),
    }

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/email", self._single, target="send"),
            Route("POST", "/email/batch", self._batch, target="send"),
            Route("GET", "/server", self._server),
        )

    def authorize(self, call: Call) -> None:
        token = call.header("x-postmark-server-token")
        if not token:
            raise self.error("no_token")
        if not self.is_key(token):
            raise self.error("bad_token")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, 10 if status == 401 else status, message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        code = 403 if error.rule in ("unknown", "type") else 300
        return _answer(422, code, f"{error.at}: {error.reason}").response()

    def bad_body(self, error: BodyError) -> Response:
        return self.errors["invalid_json"].response()

    def _server(self, call: Call) -> Response:
        return json_response({"ID": 1, "Name": "Sandbox", "ApiTokens": [], "Color": "blue", "SmtpApiActivated": True})

    def _payload(self, call: Call) -> Any:
        if call.content_type != "application/json" or "application/json" not in call.header("accept"):
            raise self.error("json_required")
        return call.json()

    def _single(self, call: Call) -> Response:
        payload = self._payload(call)
        if len(call.body) > MAX_MESSAGE * 1.1:
            raise self.error("payload_too_large")
        return self._send(call, payload)

    def _batch(self, call: Call) -> Response:
        payload = self._payload(call)
        if not isinstance(payload, list):
            raise self.error("incompatible_json")
        if len(payload) > MAX_MESSAGES:
            raise self.error("too_many_batch_messages")
        found = [self._verdict(call, item) for item in payload]
        return Response(status=200, body=b"[" + b",".join(response.body for response in found) + b"]")

    def _verdict(self, call: Call, item: Any) -> Response:
        try:
            return self._send(call, item)
        except PayloadError as error:
            return self.invalid(error)
        except ApiError as error:
            return error.response

    def _send(self, call: Call, payload: Any) -> Response:
        MESSAGE.check(payload)
        self._check_content(payload)
        slots = {slot: tuple(_people(payload, slot)) for slot in ("To", "Cc", "Bcc")}
        everybody = [email for slot in slots.values() for email, _ in slot]
        if not 1 <= len(everybody) <= MAX_RECIPIENTS:
            raise ApiError(_answer(422, 300, f"There must be 1 to {MAX_RECIPIENTS} recipients.").response())
        inactive = [email for email in everybody if email.startswith("suppressed@")]
        listed = f"inactive addresses: {', '.join(inactive).lower()}. {_ABOUT_INACTIVE}"
        if len(inactive) == len(everybody):
            text = f"You tried to send to recipient(s) that have been marked as inactive. Found {listed}"
            raise ApiError(_answer(422, 406, text).response())
        mailed = [email for email in everybody if email not in inactive]
        message_id = call.accept(_mail(payload, slots, mailed), id=str(uuid.uuid4()), payload=payload)
        answer = {
            "To": payload.get("To"),
            "SubmittedAt": datetime.fromtimestamp(self.clock.now(), UTC).isoformat(),
            "MessageID": message_id,
            "ErrorCode": 0,
            "Message": f"Message OK, but will not deliver to these {listed}" if inactive else "OK",
        }
        return json_response({key: value for key, value in answer.items() if value is not None})

    def _check_content(self, payload: Mapping[str, Any]) -> None:
        if not payload.get("TextBody") and not payload.get("HtmlBody"):
            raise ApiError(_answer(422, 300, "Provide either email TextBody or HtmlBody or both.").response())
        for name in ("TextBody", "HtmlBody"):
            if len(payload.get(name, "").encode()) > MAX_TEXT:
                raise PayloadError(name, f"must have {MAX_TEXT} octets or fewer", "limit")
        for header in payload.get("Headers", ()):
            if header["Name"].lower() in OWN_FIELDS:
                raise PayloadError(f"Headers.{header['Name']}", "has a field of its own")
        for attachment in payload.get("Attachments", ()):
            if attachment["Name"].rpartition(".")[2].lower() in FORBIDDEN_ENDINGS:
                raise self.error("forbidden_attachment_type")


def _people(payload: Mapping[str, Any], slot: str) -> Iterator[Mailbox]:
    for text in split_list(payload.get(slot, "")):
        try:
            box = parse_mailbox(text)
        except ValueError:
            box = None
        if box is None or box.email == "invalid@refused.example":
            message = f"Error parsing '{slot}': Illegal email address '{text}'. It must contain the '@' symbol."
            raise ApiError(_answer(422, 300, message).response())
        yield box.email, box.name


def _mail(payload: Mapping[str, Any], slots: Mapping[str, tuple[Mailbox, ...]], mailed: Sequence[str]) -> Mail:
    author = parse_mailbox(payload["From"])
    reply_to = [parse_mailbox(text) for text in split_list(payload.get("ReplyTo", ""))]
    headers = [(header["Name"], header["Value"]) for header in payload.get("Headers", ())]
    by_name = {name.lower(): value for name, value in headers}
    keeps_id = by_name.get("x-pm-keepid", "").lower() == "true"
    return Mail(
        sender=author.email,
        sender_name=author.name,
        to=slots["To"],
        cc=slots["Cc"],
        bcc=tuple(email for email, _ in slots["Bcc"]),
        recipients=tuple(mailed),
        reply_to=tuple((box.email, box.name) for box in reply_to),
        subject=payload.get("Subject", ""),
        text=payload.get("TextBody", ""),
        html=payload.get("HtmlBody", ""),
        headers=tuple((name, value) for name, value in headers if name.lower() not in ("message-id", "x-pm-keepid")),
        attachments=tuple(_attachment(item) for item in payload.get("Attachments", ())),
        tags=(payload["Tag"],) if payload.get("Tag") else (),
        metadata=payload.get("Metadata", {}),
        message_id=by_name.get("message-id", "") if keeps_id else "",
    )


def _attachment(item: Mapping[str, str]) -> Attachment:
    return make_attachment(
        decode_base64(item["Content"]),
        filename=item["Name"],
        content_type=item["ContentType"],
        content_id=item.get("ContentID", ""),
        disposition="inline" if item.get("ContentID") else "attachment",
    )
