"""What the sandbox answers as HTML: the messages it took, for people. Pure.

Everything that came from outside is escaped, the HTML of a message is shown as its source, and the pages allow nothing but
their own style: no script, no image, no other address.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import quote

import orjson

from bridge.sandbox.exchange import Response
from bridge.sandbox.failures import Failure
from bridge.sandbox.state import Received

HTML = "text/html; charset=utf-8"
_ERROR = (
    b"<!DOCTYPE html><html><head><title>Error</title></head><body><h1>The page cannot be shown</h1></body></html>\n"
)
_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:1.5em;color:#1b1b1b;background:#fff}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3em .6em;"
    "border-bottom:1px solid #ddd;overflow-wrap:anywhere}th{white-space:nowrap}"
    "pre{background:#f4f4f4;padding:.8em;white-space:pre-wrap;overflow-wrap:anywhere}.quiet{color:#666}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = (
    (
        "Content-Security-Policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),  # no-referrer would make the Origin of our own form "null"
    ("Cache-Control", "no-store"),
)
_SHOWN_ADDRESSES = 20


def failed_page(failure: Failure) -> Response:
    """A web page where JSON was due."""
    wait = (("Retry-After", str(failure.retry_after)),) if failure.retry_after is not None else ()
    return Response(status=failure.status or 200, body=_ERROR, content_type=HTML, headers=wait)


def messages_page(messages: Sequence[Received], planned: Sequence[dict[str, Any]], kind: str = "") -> Response:
    """Newest first. `planned` is the failure plan as JSON, `kind` the one the messages were chosen by."""
    title = f"{len(messages)} message{'' if len(messages) == 1 else 's'}" + (f" of {kind}" if kind else "")
    head = "".join(f"<th>{name}" for name in ("Time", "API", "From", "To, Cc", "Mailed", "Subject", "Tags", "Files"))
    rows = "\n".join(_row(message) for message in reversed(messages))
    return _page(
        title,
        f"<h1>{escape(title)}</h1>\n{_plan(planned)}"
        '<form method="post" action="/sandbox/forget"><button>Forget all</button></form>\n'
        f"<table>\n<tr>{head}\n{rows}\n</table>",
    )


def message_page(message: Received) -> Response:
    mail = message.mail
    text, html = (mail.text, mail.html) if mail else (_text(message, "body"), _text(message, "html"))
    content = [
        f'<p><a href="/">All messages</a></p>\n<h1>{escape(message.subject) or "(no subject)"}</h1>',
        _table(_envelope(message)),
        _section("Headers", _table(mail.headers if mail else ())),
        _section("Text", _source(text)),
        _section("HTML", _source(html)),
        _section("Files", _files_table(message)),
        _section("Payload", _source(_pretty(message.payload))),
        _section("Headers of the request", _table(message.headers)),
    ]
    return _page(message.subject or message.id, "\n".join(part for part in content if part))


def _page(title: str, content: str) -> Response:
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{content}\n</body></html>\n"
    )
    return Response(status=200, body=page.encode("utf-8", "replace"), content_type=HTML, headers=_HEADERS)


def _plan(planned: Iterable[dict[str, Any]]) -> str:
    failures = [" ".join(f"{name}={value}" for name, value in failure.items()) for failure in planned]
    return f"<p>Planned failures: {escape('; '.join(failures) or 'none')}</p>\n"


def _row(message: Received) -> str:
    tags = message.mail.tags if message.mail else ()
    cells = (
        escape(_time(message.at)),
        f'<a href="/?kind={quote(message.shape)}">{escape(message.shape)}</a>',
        escape(message.sender),
        _shown(message),
        _mailed(message),
        f'<a href="/sandbox/messages/{quote(message.id)}">{escape(message.subject) or "(no subject)"}</a>',
        escape(", ".join(tags)),
        "<br>".join(escape(name) for name, *_ in _files(message)),
    )
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells)


def _shown(message: Received) -> str:
    """Who stands in To and Cc; who is not mailed all the same is struck out."""
    mailed = {address.lower() for address in message.recipients}
    return _some(
        [
            escape(address) if address.lower() in mailed else f"<s>{escape(address)}</s>"
            for address in message.to + message.cc
        ]
    )


def _mailed(message: Received) -> str:
    """Whom the message goes to; who is not shown in it is marked."""
    shown = {address.lower() for address in message.to + message.cc}
    return _some(
        [
            escape(address) + ("" if address.lower() in shown else ' <span class="quiet">(bcc)</span>')
            for address in message.recipients
        ]
    )


def _some(items: list[str]) -> str:
    more = [f"and {len(items) - _SHOWN_ADDRESSES} more"] if len(items) > _SHOWN_ADDRESSES else []
    return "<br>".join(items[:_SHOWN_ADDRESSES] + more)


def _envelope(message: Received) -> list[tuple[str, str]]:
    mail = message.mail
    rows = [
        ("Time", _time(message.at)),
        ("API", message.shape),
        ("Id", message.id),
        ("Id of the provider", message.provider_id),
        ("Envelope sender", "" if mail is None or mail.envelope_sender is None else f"<{mail.envelope_sender}>"),
        ("Mailed", ", ".join(message.recipients)),
        ("From", _mailbox(mail.sender, mail.sender_name) if mail else message.sender),
        ("To", ", ".join(_mailbox(*box) for box in mail.to) if mail else ", ".join(message.to)),
        ("Cc", ", ".join(_mailbox(*box) for box in mail.cc) if mail else ", ".join(message.cc)),
        ("Bcc", ", ".join(message.bcc)),
        ("Reply-To", ", ".join(_mailbox(*box) for box in mail.reply_to) if mail else ""),
        ("Message-ID", message.message_id),
        ("Tags", ", ".join(mail.tags) if mail else ""),
        ("Metadata", ", ".join(f"{name}={value}" for name, value in mail.metadata.items()) if mail else ""),
        ("Idempotency key", message.idempotency_key),
    ]
    return [(name, value) for name, value in rows if value]


def _mailbox(email: str, name: str) -> str:
    return f"{name} <{email}>" if name else email


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _files(message: Received) -> list[tuple[str, str, str]]:
    """Name, content type and size, as far as they are known."""
    if message.mail:
        return [(file.filename, file.content_type, f"{file.size} bytes") for file in message.mail.attachments]
    return [
        (str(item.get("filename", "")), str(item.get("content_type", "")), "")
        for item in message.payload.get("attachments", [])
    ]


def _files_table(message: Received) -> str:
    return _table((name or "(no name)", " ".join(rest)) for name, *rest in _files(message))


def _text(message: Received, field: str) -> str:
    value = message.payload.get(field, "")
    return value if isinstance(value, str) else ""


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = "\n".join(f"<tr><th>{escape(name)}<td>{escape(value)}" for name, value in rows)
    return f"<table>\n{lines}\n</table>" if lines else ""


def _source(text: str) -> str:
    return f"<pre>{escape(text)}</pre>" if text else ""


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}" if content else ""


def _pretty(payload: Any) -> str:
    return orjson.dumps(payload, option=orjson.OPT_INDENT_2).decode()
