"""The three shapes of a message, read and checked: bytes in, a `Submission` out or a `Refusal` raised. Pure.

`simple` is strict, as the real APIs are: what it does not know it refuses and names. `full` and `raw` check what must be
there and let the rest pass.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from typing import Any, Literal
from urllib.parse import unquote

import orjson

from bridge.sandbox.addresses import split_list
from bridge.sandbox.checks import (
    bare_address,
    check_fields,
    check_recipients,
    decode_base64,
    displayed,
    invalid,
    items,
    line,
    load_object,
    mailbox,
    mailboxes,
    member,
    text,
)
from bridge.sandbox.exchange import Request

KEPT_CONTENT = 256 * 1024  # larger attachments are kept as size and sha256
_HEAD_READ = 256 * 1024
_SIMPLE_REQUIRED = ("to", "from", "subject", "body")
_SIMPLE_OPTIONAL = ("html", "cc", "bcc", "reply_to", "headers", "attachments")
_ATTACHMENT_REQUIRED = ("filename", "content")
_ATTACHMENT_OPTIONAL = ("content_type", "content_id")
# These have a field of their own or belong to the MIME structure; a Bcc among them would be a leak.
_RESERVED_HEADERS = frozenset(
    (
        "bcc",
        "cc",
        "content-disposition",
        "content-transfer-encoding",
        "content-type",
        "from",
        "mime-version",
        "reply-to",
        "resent-bcc",
        "subject",
        "to",
    )
)
_HEADER_NAME = re.compile(r"[!-9;-~]+")  # RFC 5322 3.6.8
_TYPE_NAME = r"[!#$%&'*+.^_`|~{}\w-]+"  # RFC 2045 5.1
_CONTENT_TYPE = re.compile(rf"{_TYPE_NAME}/{_TYPE_NAME}(?:\s*;.*)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A message that was asked for. Addresses are bare; `payload` is what is kept of the request's content."""

    shape: Literal["simple", "full", "raw"]
    sender: str
    to: tuple[str, ...]
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    recipients: tuple[str, ...]  # who is mailed: to + cc + bcc, or the envelope where the shape has one
    subject: str
    message_id: str
    payload: Mapping[str, Any]
    fingerprint: str  # equal for equal payloads


Reader = Callable[[Request, int], Submission]


def read_simple(request: Request, max_recipients: int) -> Submission:
    """`{"to", "from", "subject", "body"}` and what may come with them."""
    payload = load_object(request.body)
    check_fields(payload, _SIMPLE_REQUIRED, _SIMPLE_OPTIONAL)
    to, cc, bcc = (mailboxes(payload.get(field, []), field) for field in ("to", "cc", "bcc"))
    if not to:
        raise invalid("to", "must name at least one address")
    check_recipients(to + cc + bcc, max_recipients, ["to"] * len(to) + ["cc"] * len(cc) + ["bcc"] * len(bcc))
    mailboxes(payload.get("reply_to", []), "reply_to")
    text(payload["body"], "body")
    text(payload.get("html", ""), "html")
    headers = _headers(payload.get("headers", {}))
    return Submission(
        shape="simple",
        sender=mailbox(payload["from"], "from"),
        to=to,
        cc=cc,
        bcc=bcc,
        recipients=to + cc + bcc,
        subject=line(payload["subject"], "subject"),
        message_id=headers.get("message-id", ""),
        payload=_with_attachments(payload, _read_attachments(payload, _strict_attachment)),
        fingerprint=_fingerprint("simple", payload),
    )


def read_full(request: Request, max_recipients: int) -> Submission:
    """Envelope and content side by side; who is mailed stands in `envelope`."""
    payload = load_object(request.body)
    sender, recipients = _envelope(payload, max_recipients)
    author = member(payload, "from")
    text(author.get("email"), "from.email")
    to, cc, bcc = (displayed(payload.get(field, []), field) for field in ("to", "cc", "bcc"))
    return Submission(
        shape="full",
        sender=sender,
        to=to,
        cc=cc,
        bcc=bcc,
        recipients=recipients,
        subject=text(payload.get("subject"), "subject"),
        message_id=text(payload.get("message_id", ""), "message_id"),
        payload=_with_attachments(payload, _read_attachments(payload, _loose_attachment)),
        fingerprint=_fingerprint("full", payload),
    )


def read_raw(request: Request, max_recipients: int) -> Submission:
    """JSON with the MIME in base64, or the MIME itself as message/rfc822 with the envelope in headers."""
    if request.header("content-type").partition(";")[0].strip().lower() == "message/rfc822":
        payload = _rfc822_payload(request)
        field, raw = "body", request.body
    else:
        payload = load_object(request.body)
        field, raw = "raw", decode_base64(payload.get("raw"), "raw")
    if not raw:
        raise invalid(field, "must hold a message")
    sender, recipients = _envelope(payload, max_recipients)
    subject, message_id = _raw_headers(raw)
    return Submission(
        shape="raw",
        sender=sender,
        to=recipients,
        recipients=recipients,
        subject=subject,
        message_id=message_id,
        payload={name: value for name, value in payload.items() if name != "raw"}
        | _kept(raw, "raw", payload.get("raw")),
        fingerprint=_fingerprint("raw", payload),
    )


def _rfc822_payload(request: Request) -> dict[str, Any]:
    if not request.values("x-envelope-from"):
        raise invalid("X-Envelope-From", "is required")
    # Percent-encoded where they are not plain ASCII (RFC 3986 2.1), since a header has no other way to say it.
    recipients = [unquote(address) for value in request.values("x-envelope-to") for address in split_list(value)]
    envelope = {"from": unquote(request.header("x-envelope-from")), "to": recipients}
    return {"envelope": envelope, "raw": binascii.b2a_base64(request.body, newline=False).decode()}


def _fingerprint(shape: str, payload: Mapping[str, Any]) -> str:
    return hashlib.sha256(shape.encode() + orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _envelope(payload: Mapping[str, Any], most: int) -> tuple[str, tuple[str, ...]]:
    envelope = member(payload, "envelope")
    sender = text(envelope.get("from"), "envelope.from").strip()
    if sender not in ("", "<>"):  # the null reverse path is one
        bare_address(sender, "envelope.from")
    recipients = tuple(
        bare_address(item, f"envelope.to[{index}]")
        for index, item in enumerate(items(envelope.get("to"), "envelope.to"))
    )
    if not recipients:
        raise invalid("envelope.to", "must name at least one address")
    check_recipients(recipients, most, ["envelope.to"] * len(recipients))
    return sender.strip("<>"), recipients


def _headers(value: Any) -> dict[str, str]:
    """Names in lower case with their value, the last one of a header given as a list."""
    if not isinstance(value, dict):
        raise invalid("headers", "must be an object")
    return {name.lower(): _header(name, content, f"headers.{name}") for name, content in value.items()}


def _header(name: str, content: Any, field: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise invalid("headers", "holds a name that is not one of a header")
    if name.lower() in _RESERVED_HEADERS:
        raise invalid(field, "has a field of its own")
    # A header that occurs several times (Received) is a list of its values.
    lines = [line(value, field) for value in (content if isinstance(content, list) else [content])]
    return lines[-1] if lines else ""


def _read_attachments(payload: Mapping[str, Any], check: Callable[[dict[str, Any], str], None]) -> list[dict[str, Any]]:
    """The attachments as they are kept."""
    kept = []
    for index, item in enumerate(items(payload.get("attachments", []), "attachments")):
        field = f"attachments[{index}]"
        if not isinstance(item, dict):
            raise invalid(field, "must be an object")
        check(item, f"{field}.")
        content = decode_base64(item.get("content"), f"{field}.content")
        kept.append({k: v for k, v in item.items() if k != "content"} | _kept(content, "content", item["content"]))
    return kept


def _strict_attachment(item: dict[str, Any], at: str) -> None:
    check_fields(item, _ATTACHMENT_REQUIRED, _ATTACHMENT_OPTIONAL, at)
    name = line(item["filename"], f"{at}filename")
    if "/" in name or "\\" in name:  # empty for a part that has none, an inline image for instance
        raise invalid(f"{at}filename", "must be a plain file name")
    if not _CONTENT_TYPE.fullmatch(line(item.get("content_type", "a/b"), f"{at}content_type")):
        raise invalid(f"{at}content_type", "must be a media type")
    line(item.get("content_id", ""), f"{at}content_id")


def _loose_attachment(item: dict[str, Any], at: str) -> None:
    text(item.get("content_type"), f"{at}content_type")


def _kept(content: bytes, name: str, encoded: Any) -> dict[str, Any]:
    if len(content) <= KEPT_CONTENT:
        return {name: encoded}
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _with_attachments(payload: dict[str, Any], attachments: list[dict[str, Any]]) -> dict[str, Any]:
    return {**payload, "attachments": attachments} if attachments else payload


def _raw_headers(raw: bytes) -> tuple[str, str]:
    """Subject and Message-ID, decoded as well as they can be."""
    head = re.split(rb"\r?\n\r?\n", raw[:_HEAD_READ], maxsplit=1)[0]
    message = message_from_bytes(head + b"\r\n\r\n", policy=policy.compat32)
    return _decoded(str(message.get("Subject", ""))), str(message.get("Message-ID", "")).strip()


def _decoded(value: str) -> str:
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, ValueError):  # an unknown or wrong charset: the text as it came
        return value
