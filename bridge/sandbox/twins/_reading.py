"""What many payloads have in common, read into the values of `mail.py`; the field names are each API's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bridge.sandbox.addresses import parse_mailbox, split_list
from bridge.sandbox.mail import Attachment, Mailbox, make_attachment
from bridge.sandbox.twins.schema import decode_base64


def people(boxes: Iterable[Mapping[str, str]], email: str = "email", name: str = "name") -> tuple[Mailbox, ...]:
    """`[{"email": "ann@example.com", "name": "Ann"}]`"""
    return tuple((box[email], box.get(name, "")) for box in boxes)


def written(values: Iterable[str]) -> tuple[Mailbox, ...]:
    """`["Ann <ann@example.com>"]`; a value may hold several with commas between."""
    boxes = [parse_mailbox(item) for value in values for item in split_list(value)]
    return tuple((box.email, box.name) for box in boxes)


def emails(boxes: Iterable[Mailbox]) -> tuple[str, ...]:
    return tuple(email for email, _ in boxes)


def other_headers(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Those that have no place of their own in a Mail."""
    apart = ("message-id", "reply-to", "cc")
    return tuple((name, value) for name, value in headers.items() if name.lower() not in apart)


def header_of(headers: Mapping[str, str], wanted: str) -> str:
    return next((value for name, value in headers.items() if name.lower() == wanted), "")


def file(
    item: Mapping[str, Any],
    *,
    content: str = "content",
    name: str = "filename",
    kind: str = "type",
    cid: str = "content_id",
    inline: bool | None = None,
) -> Attachment:
    """One file of a JSON payload; `inline` None: by its `disposition`, or because it has a content id."""
    content_id = item.get(cid) or ""
    shown = item.get("disposition") == "inline" if inline is None and "disposition" in item else inline
    return make_attachment(
        decode_base64(item[content]),
        filename=item.get(name) or "",
        content_type=item.get(kind) or "application/octet-stream",
        content_id=content_id,
        disposition="inline" if (shown if shown is not None else bool(content_id)) else "attachment",
    )
