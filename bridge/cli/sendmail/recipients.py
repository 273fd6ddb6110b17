"""The addresses that are mailed, from an argument or a To, Cc or Bcc field (RFC 5322 3.4).

Not as the display of addresses is read (`bridge.mime.mailboxes`), which leaves out what it does not understand: whoever cannot
be understood here is an error, since nobody may be forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bridge.cli.exits import EX_DATAERR
from bridge.cli.sendmail.failure import Failure

_TOKEN = re.compile(
    r'(?P<quoted>"(?:[^"\\]|\\.)*+")|(?P<literal>\[[^\[\]]*+\])|(?P<mark>[,;:<>()])|(?P<blank>\s++)'
    r'|(?P<word>[^\s",;:<>()\[]++|["\[])',
    re.DOTALL,
)


def addresses(value: str, hostname: str) -> list[str]:
    """`Ann <ann@example.com>, friends: root, bob@x;` -> their addresses; one without a domain is of this host.

    Raises Failure with EX_DATAERR.
    """
    return [qualified(address, hostname) for address in _addresses(value)]


def qualified(address: str, hostname: str) -> str:
    if re.search(r"[\x00-\x20\x7f<>]", re.sub(r'^"(?:[^"\\]|\\.)*"', "", address)) or re.search(r"[\r\n\0]", address):
        raise Failure(EX_DATAERR, f"not an address: {address!r}")
    return address if _has_domain(address) else f"{address}@{hostname}"


def _has_domain(address: str) -> bool:
    return "@" in re.sub(r'^"(?:[^"\\]|\\.)*"', "", address)


def _addresses(value: str) -> Iterator[str]:
    bare: list[str] = []  # tokens since the last separator
    angle: str | None = None
    inside = False
    depth = 0
    for kind, text in _tokens(value):
        if text in "()" and kind == "mark":
            depth = max(0, depth + (1 if text == "(" else -1))
        elif depth:
            continue
        elif kind == "mark" and text == "<" and not inside:
            inside, angle = True, ""
        elif kind == "mark" and text == ">" and inside:
            inside = False
        elif inside:
            angle = (angle or "") + ("" if kind == "blank" else text)
        elif kind == "mark" and text in ",;":
            yield from _one(bare, angle)
            bare, angle = [], None
        elif kind == "mark" and text == ":":  # the name of a group
            bare, angle = [], None
        elif angle is not None and kind != "blank":  # <ann@x> bob@x: somebody would be forgotten
            raise Failure(EX_DATAERR, f"not a list of addresses: {value.strip()[:100]!r}")
        else:
            bare.append(" " if kind == "blank" else text)
    if inside or depth:
        raise Failure(EX_DATAERR, f"not a list of addresses: {value.strip()[:100]!r}")
    yield from _one(bare, angle)


def _tokens(value: str) -> Iterator[tuple[str, str]]:
    for found in _TOKEN.finditer(value):
        yield found.lastgroup or "", found[0]


def _one(bare: list[str], angle: str | None) -> Iterator[str]:
    if angle is not None:
        # RFC 5322 4.4: a route, <@a,@b:ann@c>, is no longer one.
        address = angle.rpartition(":")[2] if angle.startswith("@") else angle
        if address:
            yield address
        return
    address = "".join(bare).strip()
    if not address:
        return
    address = re.sub(r"\s*([@.])\s*", r"\1", address) if '"' not in address else address
    if " " in address and not address.startswith('"'):
        raise Failure(EX_DATAERR, f"not an address: {address[:100]!r}")
    yield address
