"""BINARYMIME (RFC 3030): parts that may hold any octets become base64, which everything after us can carry.

RFC 3030 3 lets a relay convert; a signature over a binary part would break by it, so such a message is not taken.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

from bridge.mime.seven_bit import MAX_MESSAGES
from bridge.mime.structure import Part, parse_structure
from bridge.mime.trace import has_bare_newline, normalize_newlines

_ENCODING = re.compile(
    rb"^(content-transfer-encoding[ \t]*+:)[^\n]*+(?:\n[ \t][^\n]*+)*+", re.IGNORECASE | re.MULTILINE
)
_LONG_LINE = re.compile(rb"[^\n]{1000}")


class Unconvertible(Exception):
    """A part that is signed, or nested too deeply, holds binary content."""


def without_binary(raw: bytes) -> bytes:
    """The message with CRLF line ends and no part in the encoding `binary`. Raises Unconvertible."""
    return normalize_newlines(b"".join(_message(raw, 0, signed=False)))


def _message(raw: bytes, depth: int, *, signed: bool) -> Iterator[bytes]:
    if depth > MAX_MESSAGES:
        raise Unconvertible
    yield from _part(raw, parse_structure(raw), depth, signed)


def _part(raw: bytes, part: Part, depth: int, signed: bool) -> Iterator[bytes]:
    binary = part.encoding == "binary"
    body = b"" if part.children else raw[part.body : part.end]
    message = part.content_type == "message/rfc822" and part.encoding in ("", "7bit", "8bit", "binary")
    packed = binary and not part.children and not message and not _is_text(body)
    if packed and (signed or part.opaque):
        raise Unconvertible
    header = raw[part.start : part.body]
    yield _ENCODING.sub(rb"\1 base64\r" if packed else rb"\1 8bit\r", header) if binary and not signed else header
    if packed:
        yield base64.encodebytes(body).replace(b"\n", b"\r\n").removesuffix(b"\r\n")
    elif message:
        yield from _message(body, depth + 1, signed=signed)
    elif not part.delimiters:
        yield body
    else:
        yield from _multipart(raw, part, depth, signed or part.content_type == "multipart/signed")


def _multipart(raw: bytes, part: Part, depth: int, signed: bool) -> Iterator[bytes]:
    yield raw[part.body : part.delimiters[0][0]]
    for (start, end), child in zip(part.delimiters, part.children, strict=False):
        yield raw[start:end]
        yield from _part(raw, child, depth, signed)
    if len(part.delimiters) > len(part.children):
        yield raw[part.delimiters[-1][0] : part.end]


def _is_text(body: bytes) -> bool:
    """8-bit content as RFC 2045 2.8 means it."""
    return not has_bare_newline(body) and b"\0" not in body and _LONG_LINE.search(body) is None
