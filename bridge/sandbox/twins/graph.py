"""Microsoft Graph: sendMail, drafts and upload sessions: https://learn.microsoft.com/graph/api/user-sendmail

The sandbox's key is the secret of the application, whatever its tenant and client id.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bridge.clock import Clock
from bridge.sandbox.exchange import Answer, Response, empty_response, json_response
from bridge.sandbox.failures import Failure
from bridge.sandbox.mail import Attachment, Mail, make_attachment
from bridge.sandbox.twins._entra import Tokens
from bridge.sandbox.twins._reading import emails, file, other_headers, people
from bridge.sandbox.twins.base import ApiError, Call, Route, Twin
from bridge.sandbox.twins.mimemail import mail_from_mime
from bridge.sandbox.twins.schema import (
    Address,
    Base64,
    Fields,
    Flag,
    Items,
    Number,
    PayloadError,
    Text,
    decode_base64,
)

SCOPE = "https://graph.microsoft.com/.default"
MAX_REQUEST = 4_000_000
MAX_FILE = 3_145_728  # in one request
MAX_UPLOAD = 150 * 1024 * 1024
MAX_RECIPIENTS = 500
MAX_HEADERS = 5
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_NAME = Text(least=1, one_line=True)
_PERSON = Fields({"emailAddress": Fields({"address": Text(least=1, one_line=True)}, {"name": Text(one_line=True)})})
_FILE = Fields(
    {
        "@odata.type": Text(one_of=("#microsoft.graph.fileAttachment",)),
        "name": _NAME,
        "contentBytes": Base64(most=MAX_FILE),
    },
    {"contentType": _NAME, "isInline": Flag(), "contentId": _NAME},
)
_MESSAGE = Fields(
    {},
    {
        "subject": Text(one_line=True),
        "body": Fields({"contentType": Text(one_of=("Text", "HTML")), "content": Text()}),
        "from": _PERSON,
        "sender": _PERSON,
        "toRecipients": Items(_PERSON),
        "ccRecipients": Items(_PERSON),
        "bccRecipients": Items(_PERSON),
        "replyTo": Items(_PERSON),
        "importance": Text(),
        "internetMessageHeaders": Items(Fields({"name": _NAME, "value": Text(one_line=True)})),
        "attachments": Items(_FILE),
    },
)
SEND_MAIL = Fields({"message": _MESSAGE}, {"saveToSentItems": Flag()})
SESSION = Fields(
    {
        "AttachmentItem": Fields(
            {"attachmentType": Text(one_of=("file",)), "name": _NAME, "size": Number(least=1, most=MAX_UPLOAD)},
            {"contentType": _NAME, "isInline": Flag(), "contentId": _NAME},
        )
    }
)


def _answer(status: int, code: str, message: str) -> Answer:
    inner = {"date": "2026-11-24T00:00:00", "request-id": "r1", "client-request-id": "r1"}
    return Answer(status=status, body={"error": {"code": code, "message": message, "innerError": inner}})


@dataclass(slots=True)
class _Draft:
    message: dict[str, Any]
    uploaded: list[Attachment] = field(default_factory=list)


@dataclass(slots=True)
class _Session:
    draft: str
    item: dict[str, Any]
    content: bytearray = field(default_factory=bytearray)


class Graph(Twin):
    kind = "graph"
    max_body = MAX_REQUEST
    targets = ("send", "token", "draft", "upload")
    errors: ClassVar[Mapping[str, Answer]] = {
        "invalid_recipients": _answer(400, "ErrorInvalidRecipients", "At least one recipient isn't valid."),
        "mime_invalid": _answer(400, "ErrorMimeContentInvalid", "MIME content isn't valid."),
        "mime_base64": _answer(400, "ErrorMimeContentInvalidBase64String", "Invalid base64 string for MIME content."),
        "invalid_header": _answer(
            400, "InvalidInternetMessageHeader", "The internet message header name should start with 'x-' or 'X-'."
        ),
        "request_body": _answer(400, "RequestBodyRead", "The property is not valid."),
        "message_size": _answer(400, "ErrorMessageSizeExceeded", "The message exceeds the maximum supported size."),
        "submission_quota": _answer(400, "ErrorSubmissionQuotaExceeded", "The submission quota is exceeded."),
        "invalid_token": _answer(
            401, "InvalidAuthenticationToken", "Lifetime validation failed, the token is expired."
        ),
        "access_denied": _answer(403, "ErrorAccessDenied", "Access is denied. Check credentials and try again."),
        "request_denied": _answer(
            403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation."
        ),
        "send_as_denied": _answer(
            403, "ErrorSendAsDenied", "The user account doesn't have the right to send mail for it."
        ),
        "message_limit": _answer(403, "ErrorExceededMessageLimit", "The message limit is exceeded."),
        "quota": _answer(403, "ErrorQuotaExceeded", "The mailbox quota is exceeded."),
        "invalid_user": _answer(404, "ErrorInvalidUser", "The requested user 'x' is invalid."),
        "not_found": _answer(404, "ResourceNotFound", "Resource could not be discovered."),
        "no_mailbox": _answer(404, "MailboxNotEnabledForRESTAPI", "The mailbox is either inactive or on-premises."),
        "too_large": _answer(413, "RequestEntityTooLarge", "The request is too large."),
        "throttled": _answer(429, "ApplicationThrottled", "Application is over its MailboxConcurrency limit."),
        "concurrency": _answer(429, "MailboxConcurrency", "Too many concurrent requests."),
        "too_many_requests": _answer(429, "TooManyRequests", "Too many requests."),
        "transient": _answer(500, "ErrorInternalServerTransientError", "An internal server error occurred."),
        "server_busy": _answer(503, "ErrorServerBusy", "The server cannot service this request right now."),
        "mailbox_store": _answer(503, "MailboxStoreUnavailable", "The mailbox store is unavailable."),
    }

    def __init__(self, *, key: str, clock: Clock) -> None:
        super().__init__(key=key, clock=clock)
        self.tokens = Tokens(key=key, scope=SCOPE, clock=clock)
        self._drafts: dict[str, _Draft] = {}
        self._sessions: dict[str, _Session] = {}

    def clear(self) -> None:
        self._drafts.clear()
        self._sessions.clear()

    def routes(self) -> Sequence[Route]:
        messages = "/v1.0/users/{user}/messages"
        return (
            self.tokens.route(),
            Route("POST", "/v1.0/users/{user}/sendMail", self._send_mail, target="send"),
            Route("POST", messages, self._draft, target="draft"),
            Route("GET", messages, self._list),
            Route("DELETE", f"{messages}/{{id}}", self._delete),
            Route("POST", f"{messages}/{{id}}/attachments", self._attach, target="draft"),
            Route("POST", f"{messages}/{{id}}/attachments/createUploadSession", self._session, target="draft"),
            Route("POST", f"{messages}/{{id}}/send", self._send_draft, target="send"),
            Route("PUT", "/uploads/{session}", self._put, target="upload", open=True),
        )

    def authorize(self, call: Call) -> None:
        if not self.tokens.has_token(call):
            raise self.error("invalid_token")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, "generalException" if status >= 500 else "BadRequest", message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        return _answer(400, "RequestBodyRead", str(error)).response()

    def fail(self, failure: Failure, call: Call) -> Response:
        if call.path.endswith("/messages") and self._drafts:  # what was just made was never made
            self._drafts.popitem()
        return super().fail(failure, call)

    # --- at once

    def _send_mail(self, call: Call) -> Response:
        if call.content_type == "text/plain":
            mail = mail_from_mime(decode_base64("".join(call.body.decode("ascii", "replace").split())), None)
            if not mail.sender:
                raise self.error("mime_invalid")
        else:
            payload = call.json()
            SEND_MAIL.check(payload)
            self._check(payload["message"])
            mail = _read(payload["message"], ())
        return self._taken(call, mail)

    def _taken(self, call: Call, mail: Mail) -> Response:
        if not mail.recipients or len(mail.recipients) > MAX_RECIPIENTS or not all(map(_is_address, mail.recipients)):
            raise self.error("invalid_recipients")
        if mail.sender.lower() != call.parameters["user"].lower():
            raise self.error("send_as_denied")
        call.accept(mail)
        return empty_response(202, ("request-id", secrets.token_hex(16)))

    def _check(self, message: dict[str, Any]) -> None:
        headers = message.get("internetMessageHeaders", [])
        if len(headers) > MAX_HEADERS or not all(header["name"].lower().startswith("x-") for header in headers):
            raise self.error("invalid_header")

    # --- by a draft

    def _draft(self, call: Call) -> Response:
        message = call.json()
        _MESSAGE.check(message)
        self._check(message)
        draft = secrets.token_urlsafe(12)
        self._drafts[draft] = _Draft(message)
        return json_response({"id": draft, "isDraft": True}, status=201)

    def _list(self, call: Call) -> Response:
        return json_response({"value": [{"id": draft, "isDraft": True} for draft in self._drafts]})

    def _delete(self, call: Call) -> Response:
        self._found(call)
        del self._drafts[call.parameters["id"]]
        return empty_response(204)

    def _found(self, call: Call) -> _Draft:
        draft = self._drafts.get(call.parameters["id"])
        if draft is None:
            raise ApiError(
                _answer(404, "ErrorItemNotFound", "The specified object was not found in the store.").response()
            )
        return draft

    def _attach(self, call: Call) -> Response:
        draft, item = self._found(call), call.json()
        _FILE.check(item)
        draft.message.setdefault("attachments", []).append(item)
        return json_response({"id": secrets.token_hex(8)}, status=201)

    def _session(self, call: Call) -> Response:
        self._found(call)
        payload = call.json()
        SESSION.check(payload)
        session = secrets.token_urlsafe(12)
        self._sessions[session] = _Session(call.parameters["id"], payload["AttachmentItem"])
        answer = {
            "uploadUrl": f"{call.url}/uploads/{session}",
            "nextExpectedRanges": ["0-"],
            "expirationDateTime": "2099-01-01T00:00:00Z",
        }
        return json_response(answer, status=201)

    def _put(self, call: Call) -> Response:
        """The address is the credential; an Authorization beside it is refused, as documented."""
        session = self._sessions.get(call.parameters["session"])
        found = _RANGE.fullmatch(call.header("content-range"))
        if session is None or session.draft not in self._drafts or call.header("authorization"):
            raise self.error("access_denied")
        if found is None or int(found[3]) != session.item["size"] or int(found[1]) != len(session.content):
            raise ApiError(_answer(400, "ErrorInvalidRange", "The range is not the next one.").response())
        if int(found[2]) - int(found[1]) + 1 != len(call.body) or call.content_type != "application/octet-stream":
            raise ApiError(_answer(400, "ErrorInvalidRange", "The range is not that of the content.").response())
        session.content += call.body
        if len(session.content) < session.item["size"]:
            return json_response({"nextExpectedRanges": [f"{len(session.content)}-"]})
        item = session.item
        self._drafts[session.draft].uploaded.append(
            make_attachment(
                bytes(session.content),
                filename=item["name"],
                content_type=item.get("contentType", "application/octet-stream"),
                content_id=item.get("contentId", ""),
                disposition="inline" if item.get("isInline") else "attachment",
            )
        )
        del self._sessions[call.parameters["session"]]
        return empty_response(201, ("Location", f"{call.url}/attachments/1"))

    def _send_draft(self, call: Call) -> Response:
        if call.body:
            raise PayloadError("", "must be empty")
        draft = self._found(call)
        response = self._taken(call, _read(draft.message, draft.uploaded))
        del self._drafts[call.parameters["id"]]
        return response


def _is_address(text: str) -> bool:
    try:
        Address().check(text)
    except PayloadError:
        return False
    return True


def _read(message: dict[str, Any], uploaded: Sequence[Attachment]) -> Mail:
    def boxes(slot: str) -> tuple[tuple[str, str], ...]:
        return people((box["emailAddress"] for box in message.get(slot, [])), email="address")

    to, cc, bcc = (boxes(slot) for slot in ("toRecipients", "ccRecipients", "bccRecipients"))
    sender = message.get("from", {"emailAddress": {"address": ""}})["emailAddress"]
    body = message.get("body", {"contentType": "Text", "content": ""})
    headers = {header["name"]: header["value"] for header in message.get("internetMessageHeaders", [])}
    return Mail(
        sender=sender["address"],
        sender_name=sender.get("name", ""),
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails(to + cc + bcc),
        reply_to=boxes("replyTo"),
        subject=message.get("subject", ""),
        text=body["content"] if body["contentType"] == "Text" else "",
        html=body["content"] if body["contentType"] == "HTML" else "",
        headers=other_headers(headers),
        attachments=(
            *(
                file(
                    a,
                    content="contentBytes",
                    name="name",
                    kind="contentType",
                    cid="contentId",
                    inline=bool(a.get("isInline")),
                )
                for a in message.get("attachments", [])
            ),
            *uploaded,
        ),
    )
