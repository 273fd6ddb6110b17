"""Mailjet's Send API v3.1: https://dev.mailjet.com/email/guides/send-api-v31/

Any public key, the sandbox's key as the private one. A sender at `refused.example` is not validated, a recipient there has a
bad address.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import orjson

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.failures import Failure
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, people
from bridge.sandbox.twins.base import ApiError, BodyError, Call, Route, Twin, basic_credentials
from bridge.sandbox.twins.schema import (
    Address,
    Anything,
    Base64,
    Fields,
    Flag,
    Items,
    Kind,
    Number,
    PayloadError,
    Table,
    Text,
)

MAX_MESSAGES = 50
MAX_RECIPIENTS = 50  # of one message, over To, Cc and Bcc
MAX_ATTACHMENTS = 15_000_000
FORBIDDEN_HEADERS = frozenset(
    {"from", "sender", "subject", "to", "cc", "bcc", "return-path", "delivered-to", "dkim-signature"}
    | {"domainkey-status", "received-spf", "authentication-results", "received", "user-agent", "x-mailer"}
    | {"x-feedback-id", "list-id", "date", "x-csa-complaints", "message-id", "reply-to"}
)
FORBIDDEN_PREFIXES = ("x-mj-", "x-mailjet-")
_SWITCH = Text(one_of=("account_default", "disabled", "enabled"))
_LINE = Text(least=1, one_line=True)
_PERSON = Fields({"Email": Address()}, {"Name": _LINE})
_PEOPLE = Items(_PERSON, most=MAX_RECIPIENTS)
_FILE: dict[str, Kind] = {
    "ContentType": Text(least=1, pattern=r"[^;\s]+"),
    "Filename": _LINE,
    "Base64Content": Base64(),
}
MESSAGE = Fields(
    {"From": _PERSON, "To": Items(_PERSON, least=1, most=MAX_RECIPIENTS)},
    {
        "Sender": _PERSON,
        "Cc": _PEOPLE,
        "Bcc": _PEOPLE,
        "ReplyTo": _PERSON,
        "Subject": Text(least=1, most=255, one_line=True),
        "TextPart": Text(least=1),
        "HTMLPart": Text(least=1),
        "Attachments": Items(Fields(_FILE)),
        "InlinedAttachments": Items(Fields(_FILE, {"ContentID": _LINE})),
        "Headers": Table(_LINE, key=r"[!-9;-~]+"),
        "CustomID": _LINE,
        "EventPayload": Text(least=1),
        "CustomCampaign": _LINE,
        "DeduplicateCampaign": Flag(),
        "TrackOpens": _SWITCH,
        "TrackClicks": _SWITCH,
        "URLTags": _LINE,
        "Variables": Table(Anything()),
        "TemplateID": Number(),
        "TemplateLanguage": Flag(),
        "Priority": Number(least=0, most=3),
        "MonitoringCategory": _LINE,
    },
)
PAYLOAD = Fields(
    {"Messages": Items(Anything(), least=1, most=MAX_MESSAGES)},
    {"SandboxMode": Flag(), "AdvanceErrorHandling": Flag(), "Globals": Anything()},
)
_CODES = {"required": "mj-0003", "type": "mj-0004", "limit": "mj-0006", "format": "mj-0005", "unknown": "mj-0002"}


def _error(code: str, status: int, message: str, *related: str) -> dict[str, Any]:
    return {
        "ErrorIdentifier": "f987008f-251a-4dff-8ffc-40f1583ad7bc",
        "ErrorCode": code,
        "StatusCode": status,
        "ErrorMessage": message,
        "ErrorRelatedTo": list(related),
    }


def _whole(code: str, status: int, message: str) -> Answer:
    """What is wrong with the request."""
    error = {name: value for name, value in _error(code, status, message).items() if name != "ErrorRelatedTo"}
    return Answer(status=status, body=error)


def _item(code: str, status: int, message: str, *related: str) -> Answer:
    """What is wrong with one message."""
    failed = {"Status": "error", "Errors": [_error(code, status, message, *related)]}
    return Answer(status=status, body={"Messages": [failed]})


class Mailjet(Twin):
    kind = "mailjet"
    errors: ClassVar[Mapping[str, Answer]] = {
        "bad_json": _whole("mj-0002", 400, "Malformed JSON, please review the syntax and properties types."),
        "missing_property": _item("mj-0003", 400, "Missing mandatory property.", "From"),
        "wrong_type": _item("mj-0004", 400, 'Type mismatch. Expected type "array of emails".', "To"),
        "wrong_value": _item("mj-0005", 400, "The value is not allowed.", "TrackOpens"),
        "wrong_length": _item("mj-0006", 400, "The length is not allowed.", "Subject"),
        "array_too_small": _item("mj-0007", 400, "The array has too few items.", "To"),
        "array_too_big": _item("mj-0008", 400, "The array has too many items.", "To"),
        "payload_too_big": _whole("mj-0011", 400, "The payload is too big."),
        "empty_string": _item("mj-0012", 400, "The value cannot be empty.", "TextPart"),
        "bad_recipient": _item("mj-0013", 400, '"ann" is an invalid email address.', "To[0].Email"),
        "bad_sender_address": _item("mj-0013", 400, '"shop" is an invalid email address.', "From.Email"),
        "no_content": _item(
            "send-0003",
            400,
            'At least "HTMLPart", "TextPart" or "TemplateID" must be provided.',
            "TextPart",
            "HTMLPart",
            "TemplateID",
        ),
        "special_header": _item("send-0011", 400, "Header cannot be customized using the Headers property.", "Headers"),
        "new_code": _item("mj-0999", 400, "A reason of the future."),
        "no_category": _item("send-0013", 400, "The MonitoringCategory does not exist.", "MonitoringCategory"),
        "bad_key": _whole("mj-0015", 401, "API key authentication/authorization failure."),
        "key_suspended": _whole("mj-0001", 401, "Your API key has been suspended."),
        "sender_property": _item("send-0006", 403, "Not allowed to use the Sender property.", "Sender"),
        "sender_forbidden": _item("send-0007", 403, "This sender is not allowed.", "From"),
        "sender_not_validated": _item("send-0008", 403, "This sender has not been validated.", "From"),
        "not_found": _whole("", 404, "Not found."),
        "method_not_allowed": _whole("", 405, "Method not allowed."),
        "too_large": _whole("", 413, "Request entity too large."),
        "too_many_requests": _whole("", 429, "Too many requests."),
        "internal": _whole("", 500, "Internal server error."),
        "item_internal": _item("mj-9999", 500, "Internal server error."),
        "unavailable": _whole("", 503, "Service unavailable."),
    }

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/v3.1/send", self._send, target="send"),
            Route("GET", "/v3/REST/sender", lambda call: json_response({"Count": 0, "Data": [], "Total": 0})),
        )

    def authorize(self, call: Call) -> None:
        public, private = basic_credentials(call) or ("", "")
        if not public or not self.is_key(private):
            raise self.error("bad_key")

    def error_body(self, status: int, message: str = "") -> Response:
        return _whole("", status, message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        code = "mj-0008" if error.at == "Messages" and error.rule == "limit" else _CODES[error.rule]
        return _whole(code, 400, str(error)).response()

    def bad_body(self, error: BodyError) -> Response:
        return self.errors["bad_json"].response()

    def fail(self, failure: Failure, call: Call) -> Response:
        """What is wrong with a message is said of each of them."""
        response = super().fail(failure, call)
        body = self.errors[failure.error].body if failure.error else {}
        if "Messages" not in body:
            return response
        count = len(call.json()["Messages"])
        return json_response({"Messages": body["Messages"] * count}, status=response.status)

    def _send(self, call: Call) -> Response:
        """Each message has its own verdict; one that failed makes the status 4xx, and the others are sent all the same."""
        payload = call.json()
        PAYLOAD.check(payload)
        results: list[dict[str, Any]] = []
        for message in payload["Messages"]:
            try:
                _check(message)
            except PayloadError as error:
                results.append({"Status": "error", "Errors": [_found(error)]})
            except ApiError as error:
                results.append({"Status": "error", "Errors": [_listed(error)]})
            else:
                results.append(self._accept(call, message, dry=payload.get("SandboxMode", False)))
        status = next((r["Errors"][0]["StatusCode"] for r in results if r["Status"] == "error"), 200)
        return json_response({"Messages": results}, status=status)

    def _accept(self, call: Call, message: dict[str, Any], *, dry: bool) -> dict[str, Any]:
        shown: dict[str, Any] = {"Status": "success", "CustomID": message.get("CustomID", "")}
        if dry:
            return shown
        for slot in ("To", "Cc", "Bcc"):
            shown[slot] = [_taken(person["Email"], call.url) for person in message.get(slot, [])]
        call.accept(_read(message), id=str(shown["To"][0]["MessageID"]), payload={"Messages": [message]})
        return shown


def _taken(email: str, url: str) -> dict[str, Any]:
    number = secrets.randbits(58) + 2**58  # more than a float holds
    return {
        "Email": email,
        "MessageUUID": str(uuid.uuid4()),
        "MessageID": number,
        "MessageHref": f"{url}/v3/REST/message/{number}",
    }


def _check(message: Any) -> None:
    """Raises PayloadError, or ApiError where the code is known."""
    MESSAGE.check(message)
    if not {"TextPart", "HTMLPart", "TemplateID"} & message.keys():
        raise ApiError(Mailjet.errors["no_content"].response())
    if message["From"]["Email"].endswith("@refused.example"):
        raise ApiError(Mailjet.errors["sender_not_validated"].response())
    for name in message.get("Headers", {}):
        if name.lower() in FORBIDDEN_HEADERS or name.lower().startswith(FORBIDDEN_PREFIXES):
            raise ApiError(Mailjet.errors["special_header"].response())
    for slot in ("To", "Cc", "Bcc"):
        for index, person in enumerate(message.get(slot, [])):
            if person["Email"].endswith("@refused.example"):
                at = f"{slot}[{index}].Email"
                raise ApiError(_item("mj-0013", 400, "It is an invalid email address.", at).response())
    if sum(len(message.get(slot, [])) for slot in ("To", "Cc", "Bcc")) > MAX_RECIPIENTS:
        raise ApiError(Mailjet.errors["array_too_big"].response())
    files = (*message.get("Attachments", ()), *message.get("InlinedAttachments", ()))
    if sum(len(item["Base64Content"]) for item in files) * 3 // 4 > MAX_ATTACHMENTS:
        raise ApiError(_item("mj-0011", 400, "The payload is too big.").response())


def _found(error: PayloadError) -> dict[str, Any]:
    if error.at.endswith("Email") and error.rule == "format":
        return _error("mj-0013", 400, "It is an invalid email address.", error.at)
    if error.reason == "must have 1 characters or more":
        return _error("mj-0012", 400, "The value cannot be empty.", error.at)
    return _error(_CODES[error.rule], 400, error.reason, error.at)


def _listed(error: ApiError) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(error.response.body)["Messages"][0]["Errors"][0]
    return found


def _read(message: dict[str, Any]) -> Mail:
    to, cc, bcc = (_people(message.get(slot, [])) for slot in ("To", "Cc", "Bcc"))
    attached = {"content": "Base64Content", "name": "Filename", "kind": "ContentType", "cid": "ContentID"}
    return Mail(
        sender=message["From"]["Email"],
        sender_name=message["From"].get("Name", ""),
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails(to + cc + bcc),
        reply_to=_people([message["ReplyTo"]] if "ReplyTo" in message else []),
        subject=message.get("Subject", ""),
        text=message.get("TextPart", ""),
        html=message.get("HTMLPart", ""),
        headers=tuple(message.get("Headers", {}).items()),
        attachments=(
            *(file(item, inline=False, **attached) for item in message.get("Attachments", [])),
            *(file({"ContentID": item["Filename"], **item}, inline=True, **attached) for item in _inlined(message)),
        ),
        tags=(message["CustomCampaign"],) if "CustomCampaign" in message else (),
        metadata=_metadata(message.get("EventPayload", "")),
    )


def _inlined(message: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = message.get("InlinedAttachments", [])
    return found


def _people(boxes: Sequence[Mapping[str, str]]) -> tuple[tuple[str, str], ...]:
    return people(boxes, email="Email", name="Name")


def _metadata(payload: str) -> dict[str, str]:
    """The payload is any text; one that is a JSON object is shown as what it holds."""
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        found = {"payload": payload} if payload else {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {"payload": payload}
