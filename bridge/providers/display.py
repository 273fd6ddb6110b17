"""Addresses and headers as APIs take them: one line each, Unicode as it is, nothing that could start another header."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bridge.model import Addressing, Email, Mailbox

# The neutral spelling of tags and metadata (features.py): instructions for a provider, no part of the mail.
TAG, METADATA = "x-bridge-tag", "x-bridge-metadata"
NEUTRAL = frozenset({TAG, METADATA})
# RFC 5322 3.2.3: what needs quotes in a display name; the dot too, which only the obsolete syntax allows bare.
_SPECIALS = re.compile(r'[()<>\[\]:;@\\,."]')
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_ESCAPED = re.compile(r'(["\\])')


def one_line(text: str) -> str:
    return _CONTROLS.sub(" ", text)


def format_mailbox(mailbox: Mailbox) -> str:
    """`Ann <ann@example.com>`, quoted where a header would need it, without encoded words."""
    email, name = one_line(mailbox.email), one_line(mailbox.name).strip()
    if not name:
        return email
    if _SPECIALS.search(name):
        name = '"' + _ESCAPED.sub(r"\\\1", name) + '"'
    return f"{name} <{email}>"


def format_all(mailboxes: Iterable[Mailbox]) -> list[str]:
    return [format_mailbox(m) for m in mailboxes]


def sender_of(email: Email, addressing: Addressing) -> Mailbox:
    """Who the mail is from: its From, or the reverse path where it has none."""
    return email.sender if email.sender.email else Mailbox(addressing.reverse_path, email.sender.name)


def bcc_of(addressing: Addressing) -> tuple[Mailbox, ...]:
    return tuple(Mailbox(address) for address in addressing.bcc)


def other_headers(email: Email) -> list[tuple[str, str]]:
    """The headers an API may add to the mail it makes: those without a field of their own."""
    return [(name, one_line(value)) for name, value in email.headers if name.lower() not in NEUTRAL]


def header_object(headers: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """By name in any case, the first spelling kept; a header that stands there twice has a list of values."""
    spelling: dict[str, str] = {}
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(spelling.setdefault(name.lower(), name), []).append(value)
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}
