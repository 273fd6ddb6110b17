"""SparkPost's Transmissions: https://developers.sparkpost.com/api/transmissions/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, header_of, other_headers, written
from bridge.sandbox.twins.base import Call, Route, Twin
from bridge.sandbox.twins.mimemail import mail_from_mime
from bridge.sandbox.twins.schema import (
    Address,
    Anything,
    Base64,
    Either,
    Fields,
    Flag,
    Items,
    MailboxText,
    PayloadError,
    Table,
    Text,
)

MAX_CONTENT = 20_000_000
FORBIDDEN_HEADERS = frozenset(("content-type", "content-transfer-encoding", "to", "subject", "from", "reply-to"))
_FILE = Fields({"name": Text(least=1, most=255, one_line=True), "type": Text(least=1, one_line=True), "data": Base64()})
_CONTENT = Fields(
    {},
    {
        "from": Either(Fields({"email": Address()}, {"name": Text(one_line=True)}), MailboxText()),
        "subject": Text(least=1, one_line=True),
        "text": Text(),
        "html": Text(),
        "amp_html": Text(),
        "reply_to": MailboxText(most=100),
        "headers": Table(Text(one_line=True), key=r"[!-9;-~]+"),
        "attachments": Items(_FILE),
        "inline_images": Items(_FILE),
        "email_rfc822": Text(least=1),
    },
)
_RECIPIENT = Fields(
    {
        "address": Fields(
            {"email": Text(one_line=True)}, {"name": Text(one_line=True), "header_to": MailboxText(most=10_000)}
        )
    },
    {
        "return_path": Address(),
        "tags": Items(Text(), most=10),
        "metadata": Table(Anything()),
        "substitution_data": Anything(),
    },
)
_SWITCHES = (
    "open_tracking",
    "initial_open",
    "click_tracking",
    "transactional",
    "sandbox",
    "skip_suppression",
    "inline_css",
    "perform_substitutions",
)
PAYLOAD = Fields(
    {"recipients": Items(_RECIPIENT, least=1, most=10_000), "content": _CONTENT},
    {
        "options": Fields(
            {}, {name: Flag() for name in _SWITCHES} | {n: Text() for n in ("start_time", "ip_pool", "dkim_key")}
        ),
        "campaign_id": Text(most=64),
        "description": Text(most=1024),
        "metadata": Table(Anything()),
        "return_path": Address(),
        "tracking_domain": Text(),
    },
)


def _answer(status: int, message: str, code: str = "", description: str = "") -> Answer:
    error = {"message": message, "description": description, "code": code}
    return Answer(status=status, body={"errors": [{key: value for key, value in error.items() if value}]})


class SparkPost(Twin):
    kind = "sparkpost"
    errors: ClassVar[Mapping[str, Answer]] = {
        "missing_field": _answer(400, "required field is missing", "1400", "content.from is required"),
        "unconfigured_domain": _answer(400, "Invalid domain", "7001", "Unconfigured Sending Domain <example.com>"),
        "dkim_key": _answer(400, "Invalid domain", "1100", "DKIM key is not valid"),
        "invalid_value": _answer(422, "invalid data format/type", "1300", "Error validating domain name syntax"),
        "unauthorized": _answer(401, "Unauthorized."),
        "forbidden": _answer(403, "Forbidden."),
        "not_found": _answer(404, "resource not found"),
        "method_not_allowed": _answer(405, "method not allowed"),
        "conflict": _answer(409, "resource conflict"),
        "too_large": _answer(413, "content exceeds the limit"),
        "unsupported_media_type": _answer(415, "unsupported media type"),
        "quota": _answer(420, "Exceed Sending Limit (hourly)", "2101"),
        "daily_quota": _answer(420, "Exceed Sending Limit (daily)", "2102"),
        "too_many_requests": _answer(429, "Too many requests"),
        "internal": _answer(500, "Internal Server Error"),
        "unavailable": _answer(503, "Service Unavailable"),
    }

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/api/v1/transmissions", self._send, target="send"),
            Route("GET", "/api/v1/account", lambda call: json_response({"results": {"company_name": "Example"}})),
        )

    def authorize(self, call: Call) -> None:
        if not self.is_key(call.header("authorization")):
            raise self.error("unauthorized")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        if error.rule == "required":
            return _answer(422, "required field is missing", "1400", str(error)).response()
        return _answer(422, "invalid data format/type", "1300", str(error)).response()

    def _send(self, call: Call) -> Response:
        payload = call.json()
        PAYLOAD.check(payload)
        content, recipients = payload["content"], payload["recipients"]
        bad = [r for r in recipients if not _is_address(r["address"]["email"])]
        good = [r for r in recipients if r not in bad]
        message_id = ""
        if good:
            mail = self._raw(payload, good) if "email_rfc822" in content else self._json(payload, good)
            message_id = call.accept(mail)
        results: dict[str, Any] = {
            "total_rejected_recipients": len(bad),
            "total_accepted_recipients": len(good),
            "id": message_id or "0",
        }
        if not bad:
            return json_response({"results": results})
        named = [
            {
                "message": "invalid data format/type",
                "description": f"invalid recipient {r['address']['email']}",
                "code": "1300",
            }
            for r in bad
        ]
        errors = [{"message": "transmission created, but with validation errors", "code": "2000"}]
        return json_response({"errors": errors, "results": {**results, "rcpt_to_errors": named}})

    def _raw(self, payload: dict[str, Any], recipients: list[dict[str, Any]]) -> Mail:
        if set(payload["content"]) != {"email_rfc822"}:
            raise PayloadError("content", "holds email_rfc822 beside other fields")
        raw = payload["content"]["email_rfc822"].encode()
        self._check_size(len(raw))
        header = raw.partition(b"\r\n\r\n")[0]
        if b"{{" in header:
            raise PayloadError("content.email_rfc822", "has a substitution in a header that cannot be made")
        mail = mail_from_mime(raw, [r["address"]["email"] for r in recipients])
        return replace(mail, **_labels(payload, recipients))

    def _json(self, payload: dict[str, Any], recipients: list[dict[str, Any]]) -> Mail:
        content = payload["content"]
        for name in ("from", "subject"):
            if name not in content:
                raise PayloadError(f"content.{name}", "is required", "required")
        if not any(content.get(body) for body in ("text", "html")):
            raise PayloadError("content", "text or html is required", "required")
        headers = content.get("headers", {})
        if forbidden := FORBIDDEN_HEADERS & {name.lower() for name in headers}:
            raise PayloadError(f"content.headers.{min(forbidden)}", "is not allowed")
        self._check_size(sum(len(content.get(body, "")) for body in ("text", "html")))
        addresses = [r["address"]["email"] for r in recipients]
        to = written({r["address"].get("header_to", r["address"]["email"]): None for r in recipients})
        cc = written([header_of(headers, "cc")])
        shown = emails(to + cc)
        sender = content["from"] if isinstance(content["from"], dict) else {"email": content["from"]}
        return Mail(
            sender=sender["email"],
            sender_name=sender.get("name", ""),
            to=to,
            cc=cc,
            bcc=tuple(a for a in addresses if a not in shown),
            recipients=tuple(addresses),
            reply_to=written([content.get("reply_to", "")]),
            subject=content["subject"],
            text=content.get("text", ""),
            html=content.get("html", ""),
            headers=other_headers(headers),
            attachments=(
                *(file(a, content="data", name="name") for a in content.get("attachments", [])),
                *(file(a, content="data", name="", cid="name", inline=True) for a in content.get("inline_images", [])),
            ),
            **_labels(payload, recipients),
        )

    def _check_size(self, size: int) -> None:
        if size > MAX_CONTENT:
            raise self.error("too_large")


def _labels(payload: dict[str, Any], recipients: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tags": tuple(recipients[0].get("tags", [])),
        "metadata": {name: str(value) for name, value in payload.get("metadata", {}).items()},
    }


def _is_address(text: str) -> bool:
    try:
        Address().check(text)
    except PayloadError:
        return False
    return True
