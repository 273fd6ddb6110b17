"""Mailgun's Messages API: https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages

Every domain is one of the account but those below `unknown.example`. Templates and recipient-variables are not served.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

from bridge.sandbox.addresses import parse_mailbox, split_list
from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.forms import Form, FormFile
from bridge.sandbox.mail import Attachment, Mail, Mailbox, make_attachment
from bridge.sandbox.twins.base import ApiError, BodyError, Call, Route, Twin, basic_credentials
from bridge.sandbox.twins.mimemail import mail_from_mime
from bridge.sandbox.twins.schema import PayloadError

MAX_SIZE = 25 * 1024 * 1024
MAX_RECIPIENTS = 1000
MAX_PARAMETERS = 16 * 1024  # of all o:, h:, v: and t: together
_SWITCH = r"yes|no|true|false"
OPTIONS = {
    "o:tag": r"[^\r\n]{1,128}",
    "o:dkim": _SWITCH,
    "o:testmode": _SWITCH,
    "o:tracking": rf"{_SWITCH}|htmlonly",
    "o:tracking-clicks": rf"{_SWITCH}|htmlonly",
    "o:tracking-opens": _SWITCH,
    "o:require-tls": _SWITCH,
    "o:skip-verification": _SWITCH,
    "o:sending-ip": r"[0-9a-fA-F.:]+",
    "o:sending-ip-pool": r"[\w-]+",
    "o:deliverytime": r".+",
    "o:deliver-within": r"(?:\d{1,2}h)?(?:\d{1,4}m)?",
}
ONCE = ("from", "subject", "text", "html", "amp-html")


def _answer(status: int, message: str) -> Answer:
    return Answer(status=status, body={"message": message})


class Mailgun(Twin):
    kind = "mailgun"
    max_body = MAX_SIZE + 128 * 1024  # the form around it
    errors: ClassVar[Mapping[str, Answer]] = {
        "invalid_to": _answer(400, "to parameter is not a valid address. please check documentation"),
        "from_missing": _answer(400, "from parameter is missing"),
        "no_body": _answer(400, "Need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified"),
        "sandbox_domain": _answer(
            400,
            "Sandbox subdomains are for test purposes only. Please add your own domain or add the address to authorized"
            " recipients in Account Settings.",
        ),
        "unauthorized": Answer(status=401, body="Forbidden"),
        "payment_required": _answer(402, "Payment Required"),
        "domain_not_allowed": _answer(403, "Domain example.com is not allowed to send: Please activate your account."),
        "domain_not_found": _answer(404, "Domain not found: example.com"),
        "too_large": _answer(413, "Request Entity Too Large"),
        "rate_limit": _answer(
            429,
            "Domain example.com is not allowed to send: account-requests-per-sec limit exceeded, try again after 120 seconds",
        ),
        "internal_error": _answer(500, "Internal Server Error"),
        "bad_gateway": Answer(status=502),
        "unavailable": _answer(503, "Service Unavailable"),
        "gateway_timeout": Answer(status=504),
    }

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/v3/{domain}/messages", self._parts, target="send"),
            Route("POST", "/v3/{domain}/messages.mime", self._mime, target="send"),
        )

    def authorize(self, call: Call) -> None:
        user, password = basic_credentials(call) or ("", "")
        if user != "api" or not self.is_key(password):
            raise self.error("unauthorized")

    def error_body(self, status: int, message: str = "") -> Response:
        return (
            Answer(status=401, body="Forbidden") if status == 401 else _answer(status, message or "error")
        ).response()

    def invalid(self, error: PayloadError) -> Response:
        return _answer(400, str(error)).response()

    def bad_body(self, error: BodyError) -> Response:
        return _answer(400, str(error)).response()

    def _mime(self, call: Call) -> Response:
        self._check_domain(call)
        form = call.form()
        _check_names(form, ("to",), ("message",))
        if not form.value("to"):
            raise PayloadError("to", "parameter is missing", "required")
        if len(form.named_files("message")) != 1:
            raise PayloadError("message", "parameter must be one file", "required")
        raw = form.named_files("message")[0].content
        mail = mail_from_mime(raw, [email for email, _ in _people(form, "to")])
        own = {name.lower(): value for name, value in mail.headers if name.lower().startswith("x-mailgun-")}
        return self._take(call, form, mail, dropped=own.get("x-mailgun-drop-message", "").lower() == "yes")

    def _parts(self, call: Call) -> Response:
        self._check_domain(call)
        form = call.form()
        _check_names(form, (*ONCE, "to", "cc", "bcc"), ("attachment", "inline"))
        for name in ONCE:
            if len(form.values(name)) > 1:
                raise PayloadError(name, "parameter is there more than once")
        for name in ("from", "to"):
            if not form.value(name):
                raise PayloadError(name, "parameter is missing", "required")
        if not any(form.value(name) for name in ("text", "html", "amp-html")):
            raise self.error("no_body")
        if any(not file.filename for file in form.files):
            raise PayloadError("attachment", "has no file name and would be dropped")
        return self._take(call, form, _mail(form))

    def _check_domain(self, call: Call) -> None:
        domain = call.parameters["domain"]
        if "/" in domain:
            raise ApiError(Response(status=200, body=b"Mailgun Magnificent API", content_type="text/plain"))
        if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", domain.lower()) or domain.endswith("unknown.example"):
            raise ApiError(_answer(404, f"Domain not found: {domain}").response())

    def _take(self, call: Call, form: Form, mail: Mail, *, dropped: bool = False) -> Response:
        _check_parameters(form, self.clock.now())
        if len(mail.recipients) > MAX_RECIPIENTS:
            raise PayloadError("to", f"parameter must have {MAX_RECIPIENTS} recipients or fewer", "limit")
        found = mail.message_id or f"<{secrets.token_hex(10)}@{call.parameters['domain']}>"
        if not dropped and form.value("o:testmode") not in ("yes", "true"):
            mail = replace(mail, tags=tuple(form.values("o:tag")), metadata=_prefixed(form, "v:"))
            call.accept(mail, id=found, payload=_shown(form))
        return json_response({"id": found, "message": "Queued. Thank you."})


def _check_names(form: Form, fields: Iterable[str], files: Iterable[str]) -> None:
    for name, _ in form.fields:
        if name not in fields and name not in OPTIONS and not re.fullmatch(r"[hv]:.+", name):
            raise PayloadError(name, "is not a known parameter", "unknown")
    for file in form.files:
        if file.name not in files:
            raise PayloadError(file.name, "is not a known file", "unknown")


def _check_parameters(form: Form, now: float) -> None:
    size = 0
    for name, value in form.fields:
        size += len(f"{name}{value}".encode()) if name[1:2] == ":" else 0
        if name in OPTIONS and not re.fullmatch(OPTIONS[name], value):
            raise PayloadError(name, "parameter has a value it may not have")
        if name.startswith("h:") and (not re.fullmatch(r"h:[!-9;-~]+", name) or re.search(r"[\r\n\0]", value)):
            raise PayloadError(name, "is not a header field")
    headers = [name.lower() for name, _ in form.fields if name.startswith("h:")]
    if len(set(headers)) != len(headers):
        raise PayloadError("h:", "each header field may have one value")
    if size > MAX_PARAMETERS:
        raise PayloadError("o: h: v: t:", "parameters must have 16 KB or fewer", "limit")
    if form.value("o:deliverytime"):
        _check_time(form.value("o:deliverytime"), now)


def _check_time(value: str, now: float) -> None:
    try:
        at = parsedate_to_datetime(value).timestamp()
    except ValueError:
        raise PayloadError("o:deliverytime", "parameter is not a date") from None
    if not now < at <= now + 7 * 86400:
        raise PayloadError("o:deliverytime", "parameter is not within the next days", "limit")


def _people(form: Form, name: str) -> tuple[Mailbox, ...]:
    """A repeated field or a list with commas; one bad address refuses the call."""
    found = []
    for text in (item for value in form.values(name) for item in split_list(value)):
        try:
            box = parse_mailbox(text)
        except ValueError:
            box = None
        if box is None or box.email == "invalid@refused.example":
            raise ApiError(
                _answer(400, f"{name} parameter is not a valid address. please check documentation").response()
            )
        found.append((box.email, box.name))
    return tuple(found)


def _prefixed(form: Form, prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in form.fields if name.startswith(prefix)}


def _mail(form: Form) -> Mail:
    ((sender, sender_name),) = _people(form, "from")
    to, cc, bcc = (_people(form, name) for name in ("to", "cc", "bcc"))
    everybody = {email.lower(): email for email, _ in reversed(to + cc + bcc)}  # duplicates are ignored
    headers = _prefixed(form, "h:")
    by_name = {name.lower(): value for name, value in headers.items()}
    reply_to = [parse_mailbox(text) for text in split_list(by_name.get("reply-to", ""))]
    return Mail(
        sender=sender,
        sender_name=sender_name,
        to=to,
        cc=cc,
        bcc=tuple(email for email, _ in bcc),
        recipients=tuple(reversed(everybody.values())),
        reply_to=tuple((box.email, box.name) for box in reply_to),
        subject=form.value("subject"),
        text=form.value("text"),
        html=form.value("html"),
        headers=tuple((n, v) for n, v in headers.items() if n.lower() not in ("reply-to", "message-id")),
        attachments=tuple(_attachment(file) for file in form.files),
        message_id=by_name.get("message-id", ""),
    )


def _attachment(file: FormFile) -> Attachment:
    """The name of an inline file is its Content-ID."""
    inline = file.name == "inline"
    return make_attachment(
        file.content,
        filename=file.filename,
        content_type=file.content_type,
        content_id=file.filename if inline else "",
        disposition="inline" if inline else "attachment",
    )


def _shown(form: Form) -> dict[str, Any]:
    """Names with all their values; files with their name and type."""
    files = [{"name": f.filename, "type": f.content_type, "content": f.content} for f in form.files]
    values: dict[str, Any] = {name: form.values(name) for name, _ in form.fields}
    return values | {
        name: [f for f, of in zip(files, form.files, strict=True) if of.name == name] for name in _names(form)
    }


def _names(form: Form) -> list[str]:
    return [file.name for file in form.files]
