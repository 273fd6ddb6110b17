"""BINARYMIME (RFC 3030): parts that may hold any octets become base64, which everything after us can carry.

RFC 3030 3 lets a relay convert; a signature over a binary part would break by it, so such a message is not taken.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator

from bridge.mime.encoded import InLines
from bridge.mime.pieces import LARGE, Base64Of, Slice, pieces_of
from bridge.mime.seven_bit import MAX_MESSAGES
from bridge.mime.structure import Limits, Part, parse_structure
from bridge.mime.trace import has_bare_newline, normalize_newlines
from bridge.model import Content

_ENCODING = re.compile(
    rb"^content-transfer-encoding[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*+\n?", re.IGNORECASE | re.MULTILINE
)
_LONG_LINE = re.compile(rb"\n[^\n]{1000}")  # with a literal in front: without, each octet would be a place to begin


EVERYTHING = Limits(depth=1000, parts=10_000)  # what is too much is refused later; a part takes half a KiB


class Unconvertible(Exception):
    """A part that is signed, or nested too deeply, holds binary content."""


def without_binary(raw: bytes) -> bytes:
    """The message with CRLF line ends and no part in the encoding `binary`. Raises Unconvertible."""
    pieces = (piece for part in _message(raw, 0, len(raw), 0, signed=False) for piece in pieces_of(part))
    if len(raw) <= LARGE:
        return normalize_newlines(b"".join(pieces))
    whole = io.BytesIO()  # it gives its own buffer away: nothing is in memory twice
    whole.writelines(_normalized(pieces))
    return whole.getvalue()


def _message(raw: bytes, start: int, end: int, depth: int, *, signed: bool) -> Iterator[Content]:
    """Between two offsets of the whole."""
    if depth > MAX_MESSAGES:
        raise Unconvertible
    yield from _part(raw, parse_structure(raw, EVERYTHING, start, end), depth, signed)


def _normalized(parts: Iterable[bytes]) -> Iterator[bytes]:
    """As `normalize_newlines` of them all: a CRLF may lie across a seam."""
    open_end = False  # the last octet was a CR, which is written only now
    for part in parts:
        if open_end:
            part = b"\r" + part
        open_end = part.endswith(b"\r")
        yield normalize_newlines(part[:-1] if open_end else part)
    if open_end:
        yield b"\r\n"


def _part(raw: bytes, part: Part, depth: int, signed: bool) -> Iterator[Content]:
    plain = part.encoding not in ("base64", "quoted-printable")  # whatever else it says, the octets are what they are
    message = part.content_type == "message/rfc822" and plain
    packed = plain and not part.children and not message and not _is_text(raw, part.body, part.end)
    if packed and (signed or part.opaque or part.content_type.startswith("multipart/")):
        raise Unconvertible
    header = raw[part.start : part.body]
    yield (
        _relabelled(header, b"base64" if packed else b"8bit") if packed or (_is_binary(part) and not signed) else header
    )
    if packed:
        yield InLines(Base64Of(Slice(raw, part.body, part.end)))
    elif message:
        yield from _message(raw, part.body, part.end, depth + 1, signed=signed)
    elif not part.delimiters:
        yield Slice(raw, part.body, part.end)
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


def _multipart(raw: bytes, part: Part, depth: int, signed: bool) -> Iterator[Content]:
    yield Slice(raw, part.body, part.delimiters[0][0])
    for (start, end), child in zip(part.delimiters, part.children, strict=False):
        yield raw[start:end]
        yield from _part(raw, child, depth, signed)
    if len(part.delimiters) > len(part.children):
        yield Slice(raw, part.delimiters[-1][0], part.end)


def _is_text(raw: bytes, start: int, end: int) -> bool:
    """8-bit content as RFC 2045 2.8 means it."""
    if has_bare_newline(raw, start, end) or raw.find(b"\0", start, end) >= 0:
        return False
    first = raw.find(b"\n", start, end)
    return (end if first < 0 else first) - start < 1000 and _LONG_LINE.search(raw, start, end) is None
