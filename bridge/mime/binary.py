"""BINARYMIME (RFC 3030): parts that may hold any octets become base64, which everything after us can carry.

RFC 3030 3 lets a relay convert; a signature over a binary part would break by it, so such a message is not taken.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

from bridge.mime.seven_bit import MAX_MESSAGES
from bridge.mime.structure import Limits, Part, parse_structure
from bridge.mime.trace import has_bare_newline, normalize_newlines

_ENCODING = re.compile(
    rb"^content-transfer-encoding[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*+\n?", re.IGNORECASE | re.MULTILINE
)
_LONG_LINE = re.compile(rb"\n[^\n]{1000}")  # with a literal in front: without, each octet would be a place to begin


EVERYTHING = Limits(depth=1000, parts=100_000)  # what is too much is refused later


class Unconvertible(Exception):
    """A part that is signed, or nested too deeply, holds binary content."""


def without_binary(raw: bytes) -> bytes:
    """The message with CRLF line ends and no part in the encoding `binary`. Raises Unconvertible."""
    return normalize_newlines(b"".join(_message(raw, 0, signed=False)))


def _message(raw: bytes, depth: int, *, signed: bool) -> Iterator[bytes]:
    if depth > MAX_MESSAGES:
        raise Unconvertible
    yield from _part(raw, parse_structure(raw, EVERYTHING), depth, signed)


def _part(raw: bytes, part: Part, depth: int, signed: bool) -> Iterator[bytes]:
    body = b"" if part.children else raw[part.body : part.end]
    plain = part.encoding not in ("base64", "quoted-printable")  # whatever else it says, the octets are what they are
    message = part.content_type == "message/rfc822" and plain
    packed = plain and not part.children and not message and not _is_text(body)
    if packed and (signed or part.opaque or part.content_type.startswith("multipart/")):
        raise Unconvertible
    header = raw[part.start : part.body]
    yield (
        _relabelled(header, b"base64" if packed else b"8bit") if packed or (_is_binary(part) and not signed) else header
    )
    if packed:
        yield base64.encodebytes(body).replace(b"\n", b"\r\n").removesuffix(b"\r\n")
    elif message:
        yield from _message(body, depth + 1, signed=signed)
    elif not part.delimiters:
        yield body
    else:
        yield from _multipart(raw, part, depth, signed or part.content_type == "multipart/signed")


def _is_binary(part: Part) -> bool:
    return part.encoding == "binary"


def _relabelled(header: bytes, encoding: bytes) -> bytes:
    """With another Content-Transfer-Encoding, and no other of that name."""
    rest = _ENCODING.sub(b"", header)
    blank = b"\r\n" if rest.endswith((b"\r\n\r\n", b"\n\n")) or rest in (b"\r\n", b"\n") else b""
    fields = rest.removesuffix(b"\n").removesuffix(b"\r") if blank else rest
    ended = fields if not fields or fields.endswith(b"\n") else fields + b"\r\n"
    return ended + b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\n"


def _multipart(raw: bytes, part: Part, depth: int, signed: bool) -> Iterator[bytes]:
    yield raw[part.body : part.delimiters[0][0]]
    for (start, end), child in zip(part.delimiters, part.children, strict=False):
        yield raw[start:end]
        yield from _part(raw, child, depth, signed)
    if len(part.delimiters) > len(part.children):
        yield raw[part.delimiters[-1][0] : part.end]


def _is_text(body: bytes) -> bool:
    """8-bit content as RFC 2045 2.8 means it."""
    if has_bare_newline(body) or b"\0" in body:
        return False
    first = body.find(b"\n")
    return (len(body) if first < 0 else first) < 1000 and _LONG_LINE.search(body) is None
