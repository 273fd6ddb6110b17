"""Content made piece by piece from the message's own bytes, so that a large file is whole in memory once, in `Email.raw`.

Every iteration begins anew, as a retry needs it, and holds one piece at a time.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bridge.mime.transfer import ALPHABET, BLANKS, canonical, decode_base64_pieces, decode_transfer, encode_payload
from bridge.model import Content, Pieces

LARGE = 256 * 1024  # octets: what is smaller stays plain bytes, which is fastest
SMALL_PART = 4 * 1024  # also in a large message
PIECE = 96 * 1024  # octets at a time; whole groups of base64, decoded (3) and encoded (4)


@dataclass(frozen=True, slots=True)
class Slice(Pieces):
    """Part of the message as it is."""

    raw: bytes = field(repr=False)
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[bytes]:
        for start in range(self.start, self.end, PIECE):
            yield self.raw[start : min(start + PIECE, self.end)]


@dataclass(frozen=True, slots=True)
class Joined(Pieces):
    """One after the other."""

    parts: tuple[Content, ...] = field(repr=False)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            yield from pieces_of(part)


@dataclass(frozen=True, slots=True)
class Base64Lines(Pieces):
    """Clean base64 as it stands in the message, without its blanks. `length`: octets without them; `last`: the last four."""

    raw: bytes = field(repr=False)
    start: int
    end: int
    length: int
    last: bytes

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[bytes]:
        left = self.length - len(self.last)
        for start in range(self.start, self.end, PIECE):
            piece = self.raw[start : min(start + PIECE, self.end)].translate(None, BLANKS)[:left]
            left -= len(piece)
            if piece:
                yield piece
        yield self.last


@dataclass(frozen=True, slots=True)
class Base64Of(Pieces):
    """Base64 of the content, in one line."""

    content: Content = field(repr=False)

    def __len__(self) -> int:
        return (len(self.content) + 2) // 3 * 4

    def __iter__(self) -> Iterator[bytes]:
        for group in grouped(self.content, 3):
            yield binascii.b2a_base64(group, newline=False)


@dataclass(frozen=True, slots=True)
class Decoded(Pieces):
    """What clean base64 says, `size` octets."""

    encoded: Content = field(repr=False)
    size: int

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        for group in grouped(self.encoded, 4):
            yield binascii.a2b_base64(group)


def pieces_of(content: Content) -> Iterable[bytes]:
    if isinstance(content, Pieces):
        return content
    return (content,) if len(content) <= PIECE else Slice(content, 0, len(content))


def grouped(content: Content, octets: int) -> Iterator[bytes | memoryview]:
    """In pieces of whole groups of so many octets, the last group as it is."""
    rest = b""
    for piece in pieces_of(content):
        data = rest + piece if rest else piece
        whole = len(data) // octets * octets
        if whole:
            yield memoryview(data)[:whole]
        rest = data[whole:]
    if rest:
        yield rest


def joined(parts: Iterable[Content]) -> Content:
    """Small ones as bytes."""
    found = tuple(parts)
    if sum(map(len, found)) <= LARGE:
        return b"".join(map(bytes, found))
    return Joined(found)


def in_one(content: Content) -> bytes:
    """As one object, which is never in memory twice: BytesIO gives its own buffer away."""
    if isinstance(content, bytes):
        return content
    whole = io.BytesIO()
    for piece in content:
        whole.write(piece)
    return whole.getvalue()


def base64_of(content: Content) -> Content:
    return base64.b64encode(bytes(content)) if len(content) <= LARGE else Base64Of(content)


def decoded(encoded: Content, size: int) -> Content:
    """The content of an attachment, `size` octets."""
    if isinstance(encoded, bytes):
        return base64.b64decode(encoded)
    return encoded.content if isinstance(encoded, Base64Of) else Decoded(encoded, size)


def encoded_part(raw: bytes, start: int, end: int, encoding: str) -> tuple[Content, int, bool]:
    """As `encode_payload` of the bytes between the offsets. In a large message base64 that is clean, and what is not encoded
    at all, is not copied; broken base64 and quoted-printable (rare in files) are decoded once."""
    if len(raw) <= LARGE or end - start <= SMALL_PART:
        return encode_payload(raw[start:end], encoding)
    if encoding == "base64":
        if found := clean_base64(raw, start, end):
            return found[0], found[1], True
        content = decode_base64_pieces(Slice(raw, start, end))
        return Base64Of(content), len(content), False
    if encoding != "quoted-printable":
        return Base64Of(Slice(raw, start, end)), end - start, True
    content = decode_transfer(raw[start:end], encoding)
    return Base64Of(content), len(content), True


def clean_base64(raw: bytes, start: int, end: int) -> tuple[Base64Lines, int] | None:
    """With the size of what they say; None for broken base64: not whole quanta of the alphabet, padded only at the end."""
    length = pads = 0
    for position in range(start, end, PIECE):
        piece = raw[position : min(position + PIECE, end)]
        other = piece.translate(None, ALPHABET)
        length += len(piece) - len(other)
        other = other.translate(None, BLANKS)
        if other or pads:
            padded = piece if pads else piece[piece.find(b"=") :]
            if other.strip(b"=") or padded.translate(None, BLANKS) != other:
                return None
            pads += len(other)
    length += pads
    if length % 4 or pads > 2:
        return None
    return Base64Lines(raw, start, end, length, canonical(_last(raw, start, end))), length // 4 * 3 - pads


def _last(raw: bytes, start: int, end: int) -> bytes:
    """The last four characters that are no blanks."""
    found = b""
    while len(found) < 4 and end > start:
        begin = max(end - 1024, start)
        found = raw[begin:end].translate(None, BLANKS) + found
        end = begin
    return found[-4:]


def held(content: Content) -> int:
    """Octets that it holds itself, beside the message it is a part of."""
    if isinstance(content, bytes):
        return len(content)
    if isinstance(content, Joined):
        return sum(map(held, content.parts))
    return held(content.content) if isinstance(content, Base64Of) else 0
