"""The built-in request bodies of `kind = "rest"`. Byte for byte the same at every retry, attachments passed through in
the base64 they have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from bridge.mime.fields import strip_bcc
from bridge.mime.params import write_type
from bridge.mime.pieces import base64_of
from bridge.mime.rewrite import with_head, without_fields
from bridge.model import Addressing, Attachment, Content, Email, Mailbox, Pieces
from bridge.providers.display import (
    NEUTRAL,
    bcc_of,
    format_all,
    format_mailbox,
    header_object,
    one_line,
    other_headers,
    sender_of,
)
from bridge.providers.features import read_features
from bridge.providers.htmltext import html_to_text


def simple(email: Email, addressing: Addressing) -> dict[str, Any]:
    """The four fields of `POST /send-email`, and the others only when there is something in them."""
    optional: dict[str, Any] = {
        "cc": _one_or_list(format_all(addressing.cc)),
        "bcc": _one_or_list(list(addressing.bcc)),
        "reply_to": _one_or_list(format_all(email.reply_to)),
        "html": email.html,
        "headers": header_object(other_headers(email)),
        "attachments": [_attachment(a) for a in email.attachments],
    }
    return {
        "to": _one_or_list(format_all(addressing.to)),
        "from": format_mailbox(sender_of(email, addressing)),
        "subject": one_line(email.subject),
        "body": body_text(email),
    } | {key: value for key, value in optional.items() if value}


def full(email: Email, addressing: Addressing, *, key: str) -> dict[str, Any]:
    """Everything we know. `envelope` says who is mailed; `to`, `cc` and `bcc` together name the same recipients."""
    features = read_features(email.headers, {})
    return {
        "id": key,
        "envelope": envelope(addressing),
        "from": person(sender_of(email, addressing)),
        "to": people(addressing.to),
        "cc": people(addressing.cc),
        "bcc": people(bcc_of(addressing)),
        "reply_to": people(email.reply_to),
        "subject": one_line(email.subject),
        "date": email.date,
        "message_id": email.message_id,
        "text": email.text,
        "html": email.html,
        "alternatives": [{"content_type": kind, "content": text} for kind, text in email.alternatives],
        "attachments": [whole_attachment(a) for a in email.attachments],
        "headers": [{"name": name, "value": value} for name, value in other_headers(email)],
        "tags": list(features.tags),
        "metadata": dict(features.metadata),
    }


def raw(email: Email, addressing: Addressing, *, key: str) -> dict[str, Any]:
    return {"id": key, "envelope": envelope(addressing), "raw": quoted(base64_of(mime(email)))}


def mime(email: Email) -> Content:
    """The message as it leaves: without Bcc and without the fields that are instructions for a provider."""
    return with_head(email.raw, lambda head: without_fields(strip_bcc(head), NEUTRAL))


def body_text(email: Email) -> str:
    """The text part, or the text of the HTML when there is none."""
    return email.text if email.text or not email.html else html_to_text(email.html)


def envelope(addressing: Addressing) -> dict[str, Any]:
    return {"from": addressing.reverse_path, "to": list(addressing.recipients)}


def people(mailboxes: Iterable[Mailbox]) -> list[dict[str, str]]:
    return [person(m) for m in mailboxes]


def person(mailbox: Mailbox) -> dict[str, str]:
    return {"email": mailbox.email, "name": one_line(mailbox.name)}


def _attachment(attachment: Attachment) -> dict[str, Any]:
    found = {
        "filename": attachment.filename,
        "content_type": typed(attachment),
        "content": quoted(attachment.encoded),
    }
    return found | ({"content_id": attachment.content_id} if attachment.content_id else {})


def whole_attachment(attachment: Attachment) -> dict[str, Any]:
    return {
        "filename": attachment.filename,
        "content_type": typed(attachment),
        "content_id": attachment.content_id,
        "disposition": attachment.disposition,
        "size": attachment.size,
        "content": quoted(attachment.encoded),
    }


def typed(attachment: Attachment) -> str:
    """`text/calendar; method=REQUEST; charset=iso-8859-1`: without these the content could not be read."""
    return write_type(attachment.content_type, attachment.parameters)


def is_image(attachment: Attachment) -> bool:
    """Where inline parts must be images, others go with the files."""
    return attachment.content_type.startswith("image/")


def quoted(encoded: Content) -> orjson.Fragment | Pieces:
    """Base64 as a JSON string without a look inside: its alphabet needs no escapes (`body.json_body`)."""
    return orjson.Fragment(b'"%b"' % encoded) if isinstance(encoded, bytes) else encoded


def _one_or_list(addresses: list[str]) -> str | list[str]:
    return addresses[0] if len(addresses) == 1 else addresses
