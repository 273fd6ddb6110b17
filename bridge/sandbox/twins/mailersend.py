"""MailerSend, v1: https://developers.mailersend.com/api/v1/email.html"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from bridge.clock import Clock
from bridge.sandbox.exchange import Answer, Response, empty_response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, other_headers, people
from bridge.sandbox.twins.base import Call, Route, Twin
from bridge.sandbox.twins.schema import Address, Base64, Fields, Flag, Items, Number, PayloadError, Text

MAX_BATCH = 500
MAX_BATCH_BYTES = 50_000_000
MAX_BODY = 2_000_000
MAX_FILE = 25_000_000
ENDINGS = (
    "txt csv log css ics xml jpg jpe jpeg gif png bmp psd tif tiff svg indd ai eps doc docx rtf odt ott pdf pub "
    "pages mobi epub mp3 m4a m4v wma ogg flac wav aif aifc aiff mp4 mov avi mkv mpeg mpg wmv xls xlsx ods numbers "
    "odp ppt pptx pps key zip vcf eml p7c p7m p7s pgp asc sig"
).split()
TYPES = {"png": "image/png", "pdf": "application/pdf", "csv": "text/csv"}
_PERSON = Fields({"email": Address()}, {"name": Text(one_line=True, pattern=r"[^;,]*")})
MAIL = Fields(
    {"from": _PERSON, "to": Items(_PERSON, least=1, most=50), "subject": Text(least=1, most=998, one_line=True)},
    {
        "cc": Items(_PERSON, most=10),
        "bcc": Items(_PERSON, most=10),
        "reply_to": _PERSON,
        "text": Text(most=MAX_BODY),
        "html": Text(most=MAX_BODY),
        "attachments": Items(
            Fields(
                {"filename": Text(least=1, one_line=True), "content": Base64(most=MAX_FILE)},
                {"disposition": Text(one_of=("attachment", "inline")), "id": Text(least=1, one_line=True)},
            )
        ),
        "tags": Items(Text(), most=5),
        "precedence_bulk": Flag(),
        "send_at": Number(),
        "in_reply_to": Text(pattern=r"[^<>]+"),
        "references": Items(Text()),
        "headers": Items(Fields({"name": Text(least=1, pattern=r"[A-Za-z0-9-]+"), "value": Text(one_line=True)})),
        "settings": Fields({}, {name: Flag() for name in ("track_clicks", "track_opens", "track_content")}),
    },
)


def _answer(status: int, message: str, **errors: str) -> Answer:
    body: dict[str, Any] = {"message": message}
    if errors:
        body["errors"] = {name.replace("_", "."): [text] for name, text in errors.items()}
    return Answer(status=status, body=body)


class MailerSend(Twin):
    kind = "mailersend"
    max_body = 100_000_000
    errors: ClassVar[Mapping[str, Answer]] = {
        "bad_request": _answer(400, "Bad Request"),
        "unauthorized": _answer(401, "Unauthenticated."),
        "forbidden": _answer(403, "This action is unauthorized."),
        "not_found": _answer(404, "Resource not found."),
        "method_not_allowed": _answer(405, "The method is not supported for this route."),
        "timeout": _answer(408, "Request Timeout"),
        "too_large": _answer(413, "Payload too large"),
        "misdirected": _answer(421, "Service unavailable"),
        "validation": _answer(422, "The subject field is required.", subject="The subject field is required."),
        "invalid_recipient": _answer(
            422,
            "The to.0.email must be a valid email address.",
            to_0_email="The to.0.email must be a valid email address.",
        ),
        "domain_unverified": _answer(
            422,
            "The from.email domain must be verified in your account to send emails. #MS42207",
            from_email="The from.email domain must be verified in your account to send emails. #MS42207",
        ),
        "trial_limit": _answer(
            422, "You have reached the trial account unique recipients limit. #MS42225", to="limit reached. #MS42225"
        ),
        "too_many_requests": _answer(429, "Too Many Attempts."),
        "daily_quota": Answer(
            status=429,
            body={"message": "Daily API quota exceeded."},
            headers=(("x-apiquota-remaining", "0"), ("x-apiquota-reset", "2099-01-01T00:00:00Z")),
        ),
        "internal": _answer(500, "Server Error"),
        "unavailable": _answer(503, "Service Unavailable"),
    }

    def __init__(self, *, key: str, clock: Clock) -> None:
        super().__init__(key=key, clock=clock)
        self._bulks: dict[str, dict[str, Any]] = {}

    def clear(self) -> None:
        self._bulks.clear()

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/v1/email", self._send, target="send"),
            Route("POST", "/v1/bulk-email", self._bulk, target="send"),
            Route("GET", "/v1/bulk-email/{id}", self._look),
            Route("GET", "/v1/api-quota", lambda call: json_response({"quota": 1000, "remaining": 999})),
        )

    def authorize(self, call: Call) -> None:
        if not self.has_bearer(call):
            raise self.error("unauthorized")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        body = {"message": str(error), "errors": {error.dotted or "body": [str(error)]}}
        return json_response(body, status=422)

    def _send(self, call: Call) -> Response:
        payload = call.json()
        _check(payload)
        mail, gone = _without_suppressed(_read(payload))
        people_gone = [{"email": address, "name": "", "reasons": ["hard_bounce"]} for address in gone]
        warning = {"type": "SOME_SUPPRESSED" if mail.recipients else "ALL_SUPPRESSED", "recipients": people_gone}
        answer = {"message": "There are some warnings for your request.", "warnings": [warning]}
        if not mail.recipients:
            return json_response(answer, status=202)
        header = ("X-Message-Id", call.accept(mail))
        return json_response(answer, status=202, headers=(header,)) if gone else empty_response(202, header)

    def _bulk(self, call: Call) -> Response:
        """Checked later: the first look at it finds it queued, the second its result."""
        payload = call.json()
        if len(call.body) > MAX_BATCH_BYTES:
            raise self.error("too_large")
        if not isinstance(payload, list) or not 1 <= len(payload) <= MAX_BATCH:
            raise PayloadError("", f"must be a list of 1 to {MAX_BATCH} emails", "limit")
        wrong: dict[str, Any] = {}
        gone: list[str] = []
        ids: list[str] = []
        for index, item in enumerate(payload):
            try:
                _check(item)
            except PayloadError as error:
                wrong[f"message.{index}"] = {error.dotted: [str(error)]}
                continue
            mail, suppressed = _without_suppressed(_read(item))
            gone += suppressed
            ids.append(secrets.token_hex(12))
            if mail.recipients:
                call.accept(mail, id=ids[-1], payload=item)
        bulk_id = secrets.token_hex(12)
        self._bulks[bulk_id] = {
            "id": bulk_id,
            "state": "queued",
            "total_recipients_count": sum(len(accepted.mail.recipients) for accepted in call.accepted),
            "validation_errors": wrong or None,
            "suppressed_recipients": str(gone) if gone else None,
            "messages_id": str(ids) if ids else None,
        }
        answer = {"message": "The bulk email is being processed.", "bulk_email_id": bulk_id}
        return json_response(answer, status=202)

    def _look(self, call: Call) -> Response:
        bulk = self._bulks.get(call.parameters["id"])
        if bulk is None:
            raise self.error("not_found")
        response = json_response({"data": bulk})
        self._bulks[call.parameters["id"]] = {**bulk, "state": "completed"}
        return response


def _check(payload: Any) -> None:
    MAIL.check(payload)
    if not payload.get("text") and not payload.get("html"):
        raise PayloadError("text", "is required without html", "required")
    for index, item in enumerate(payload.get("attachments", [])):
        if item["filename"].rpartition(".")[2].lower() not in ENDINGS:
            raise PayloadError(f"attachments[{index}].filename", "has an ending that is not allowed")
        if item.get("disposition") == "inline" and "id" not in item:
            raise PayloadError(f"attachments[{index}].id", "is required with inline", "required")


def _without_suppressed(mail: Mail) -> tuple[Mail, list[str]]:
    """`suppressed@...` is on the list."""
    gone = [r for r in mail.recipients if r.startswith("suppressed@")]
    return replace(mail, recipients=tuple(r for r in mail.recipients if r not in gone)), gone


def _read(payload: dict[str, Any]) -> Mail:
    to, cc, bcc = (people(payload.get(slot, [])) for slot in ("to", "cc", "bcc"))
    headers = {item["name"]: item["value"] for item in payload.get("headers", [])}
    return Mail(
        sender=payload["from"]["email"],
        sender_name=payload["from"].get("name", ""),
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails(to + cc + bcc),
        reply_to=people([payload["reply_to"]] if "reply_to" in payload else []),
        subject=payload["subject"],
        text=payload.get("text", ""),
        html=payload.get("html", ""),
        headers=other_headers(headers),
        attachments=tuple(
            file({**a, "type": TYPES.get(a["filename"].rpartition(".")[2].lower(), "")}, cid="id")
            for a in payload.get("attachments", [])
        ),
        tags=tuple(payload.get("tags", [])),
    )
