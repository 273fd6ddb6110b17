"""What stands for each placeholder of a body template (`template.py`), made only when it is named."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from bridge.mime.pieces import base64_of
from bridge.model import Addressing, Content, Email, Mailbox, Pieces
from bridge.providers import shapes
from bridge.providers.display import (
    bcc_of,
    format_all,
    format_mailbox,
    header_object,
    one_line,
    other_headers,
    sender_of,
)
from bridge.providers.features import read_features
from bridge.providers.template import Values

_TEXT = frozenset({"text", "body"})


def template_values(email: Email, addressing: Addressing, *, names: frozenset[str], queue_id: str, key: str) -> Values:
    """`names`: the placeholders in use; a template with text only, or HTML only, gets the other kind converted."""
    sender = sender_of(email, addressing)
    values: dict[str, Callable[[], Any]] = {
        "id": lambda: key,
        "key": lambda: key,
        "queue_id": lambda: queue_id,
        "from": lambda: format_mailbox(sender),
        "from_email": lambda: sender.email,
        "from_name": lambda: one_line(sender.name),
        "from_object": lambda: _object(sender),
        "to_email": lambda: addressing.to[0].email if addressing.to else "",
        "to_name": lambda: one_line(addressing.to[0].name) if addressing.to else "",
        "subject": lambda: one_line(email.subject),
        "body": lambda: shapes.body_text(email),
        "text": lambda: email.text if "html" in names else shapes.body_text(email),
        "html": lambda: email.html or ("" if names & _TEXT else _as_html(email.text)),
        "message_id": lambda: email.message_id,
        "date": lambda: email.date,
        "envelope_from": lambda: addressing.reverse_path,
        "envelope_to": lambda: list(addressing.recipients),
        "headers": lambda: header_object(other_headers(email)),
        "header_list": lambda: [{"name": name, "value": value} for name, value in other_headers(email)],
        "attachments": lambda: [shapes.whole_attachment(a) for a in email.attachments],
        "alternatives": lambda: [{"content_type": kind, "content": text} for kind, text in email.alternatives],
        "raw": lambda: _text(base64_of(shapes.mime(email))),
        "tags": lambda: list(read_features(email.headers, {}).tags),
        "metadata": lambda: dict(read_features(email.headers, {}).metadata),
    }
    shown = {"to": addressing.to, "cc": addressing.cc, "bcc": bcc_of(addressing), "reply_to": email.reply_to}
    for field, mailboxes in shown.items():
        values |= _forms(field, mailboxes)
    return values


def _forms(field: str, mailboxes: tuple[Mailbox, ...]) -> dict[str, Callable[[], Any]]:
    return {
        field: lambda: format_all(mailboxes),
        f"{field}_line": lambda: ", ".join(format_all(mailboxes)),
        f"{field}_emails": lambda: [m.email for m in mailboxes],
        f"{field}_objects": lambda: [_object(m) for m in mailboxes],
    }


def _object(mailbox: Mailbox) -> dict[str, str]:
    """Without an empty name: some APIs refuse one."""
    return {"email": mailbox.email} | ({"name": one_line(mailbox.name)} if mailbox.name else {})


def _text(encoded: Content) -> str | Pieces:
    return encoded.decode() if isinstance(encoded, bytes) else encoded


def _as_html(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>" if text else ""
