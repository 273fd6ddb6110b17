"""Addresses as a program gives them: `Ann Lee <ann@example.com>, "Lee, Bob" <bob@example.com>`.

What cannot be read for certain is refused, where `mailboxes` makes the best of what mail has. Linear in the length.
"""

from __future__ import annotations

import re

from bridge.mime.addressing import a_label
from bridge.mime.headers import clean
from bridge.mime.path import is_address
from bridge.model import Mailbox, split_address

_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_PIECE = re.compile(rf'(?:{_QUOTED}|[^",]++)*+', re.DOTALL)
_NAMED = re.compile(rf'\s*+(?:({_QUOTED})|([^"<>]*+))\s*+<\s*+((?:{_QUOTED}|[^"<>]++)*+)>\s*+', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_SHOWN = 100  # characters of what is wrong, in the text that says so


class BadAddress(ValueError):
    """The text says what is wrong with which one."""


def read_addresses(text: str) -> list[Mailbox]:
    """In order; a domain in letters beyond ASCII is given in A-labels. Raises BadAddress."""
    return [_mailbox(piece) for piece in _pieces(text) if piece.strip()]


def _pieces(text: str) -> list[str]:
    found: list[str] = []
    position = 0
    while position <= len(text):
        match = _PIECE.match(text, position)
        end = match.end() if match else position
        if end < len(text) and text[end] != ",":
            raise BadAddress(f"{_shown(text)} has a quote that does not close")
        found.append(text[position:end])
        position = end + 1
    return found


def _mailbox(piece: str) -> Mailbox:
    named = _NAMED.fullmatch(piece)
    quoted, bare, address = named.groups() if named else ("", "", piece)
    name = _ESCAPE.sub(r"\1", quoted[1:-1]) if quoted else (bare or "").strip()
    if clean(name) != name.strip():
        raise BadAddress(f"{_shown(piece)} has a control character in its name")
    local, domain = split_address(address.strip())
    if domain and not domain.isascii():
        domain = a_label(domain)
    address = f"{local}@{domain}"
    if not domain.isascii() or not is_address(address):
        raise BadAddress(f"{_shown(piece)} is not an address; as in ann@example.com or Ann Lee <ann@example.com>")
    return Mailbox(address, clean(name))


def _shown(text: str) -> str:
    text = clean(text)
    return f'"{text[:_SHOWN]}..."' if len(text) > _SHOWN else f'"{text}"'
