"""Large content in a transfer encoding (RFC 2045 6.7, 6.8), made piece by piece: to the octet as the whole would be encoded."""

from __future__ import annotations

import binascii
import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field

from bridge.mime.pieces import grouped, pieces_of
from bridge.model import Content, Pieces

WIDTH = 76  # characters of a line (RFC 2045 6.7 (5), 6.8)
_LINES = 256  # at a time: as objects of their own they take more
_AHEAD = 8  # characters at the end of what was encoded that may depend on what follows: the last ones, and a break before them
_ASCII = bytes(range(128))


@dataclass(frozen=True, slots=True)
class InLines(Pieces):
    """Base64 in one line as lines of 76 characters, with CRLF between them."""

    encoded: Content = field(repr=False)

    def __len__(self) -> int:
        length = len(self.encoded)
        return length + (length - 1) // WIDTH * 2 if length else 0

    def __iter__(self) -> Iterator[bytes]:
        between = b""
        for group in grouped(self.encoded, WIDTH):
            for position in range(0, len(group), _LINES * WIDTH):
                lines = bytes(group[position : position + _LINES * WIDTH])
                yield between + b"\r\n".join(lines[start : start + WIDTH] for start in range(0, len(lines), WIDTH))
                between = b"\r\n"


@dataclass(frozen=True, slots=True)
class QuotedPrintable(Pieces):
    """As `binascii.b2a_qp` writes the whole: every line break as the first one. Soft line breaks are CRLF."""

    content: Content = field(repr=False)
    length: int = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[bytes]:
        rest = ending = b""
        for piece in pieces_of(self.content):
            data = rest + piece
            ending = ending or _line_end(data)
            if cut := data.rfind(b"\n") + 1:
                yield _written(data[:cut], ending)
                rest = data[cut:]
            else:
                soft, rest = _soft_lines(data)
                yield soft
        yield _written(rest, ending)


def quoted_printable(content: Content) -> QuotedPrintable:
    """It is made once here, for its length."""
    return QuotedPrintable(content, sum(map(len, QuotedPrintable(content))))


def _line_end(data: bytes) -> bytes:
    """The first; b"" for none."""
    found = data.find(b"\n")
    if found < 0:
        return b""
    return b"\r\n" if data.endswith(b"\r", 0, found) else b"\n"


def _written(data: bytes, ending: bytes) -> bytes:
    encoded = binascii.b2a_qp(data).replace(b"\r\n", b"\n")
    return encoded.replace(b"\n", b"\r\n") if ending == b"\r\n" else encoded.replace(b"=\n", b"=\r\n")


def _soft_lines(data: bytes) -> tuple[bytes, bytes]:
    """(the lines that a soft line break ends for certain, encoded; the rest, not encoded) of a line that is not at its end."""
    encoded = binascii.b2a_qp(data)
    cut = encoded.rfind(b"=\n", 0, max(len(encoded) - _AHEAD, 0)) + 2
    if cut < 2:
        return b"", data
    tail = encoded[cut:].replace(b"=\n", b"")
    left = len(tail) - 2 * tail.count(b"=")  # octets: `=C3` is one
    return encoded[:cut].replace(b"=\n", b"=\r\n"), data[len(data) - left :]


@dataclass(frozen=True, slots=True)
class Unquoted(Pieces):
    """What quoted-printable says, `size` octets; as `binascii.a2b_qp` reads the whole."""

    content: Content = field(repr=False)
    size: int = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        for piece in pieces_of(self.content):
            data = rest + piece
            cut = data.rfind(b"\n") + 1 or _before_an_escape(data)
            yield binascii.a2b_qp(data[:cut])
            rest = data[cut:]
        yield binascii.a2b_qp(rest)


def unquoted(content: Content) -> Unquoted:
    """It is made once here, for its length."""
    return Unquoted(content, sum(map(len, Unquoted(content))))


def _before_an_escape(data: bytes) -> int:
    """Where a line can be cut: its whole length, unless what follows may belong to its last `=`. After `=` and CR all is
    skipped up to the next LF."""
    if b"=\r" in data:
        return 0
    if b"=" not in data[-2:]:
        return len(data)
    return len(data[: data.rfind(b"=")].rstrip(b"="))  # `==` is one `=`


@dataclass(frozen=True, slots=True)
class Octets:
    """What decides how content is encoded: how many octets are above 127, and whether it can have lines at all (no NUL, no CR
    alone)."""

    high: int
    lines: bool

    @classmethod
    def of(cls, content: Content) -> Octets:
        high = alone = nul = 0
        last = b""
        for piece in pieces_of(content):
            high += len(piece.translate(None, _ASCII))
            nul += piece.count(b"\0")
            alone += piece.count(b"\r") - piece.count(b"\r\n") - (last == b"\r" and piece.startswith(b"\n"))
            last = piece[-1:] or last
        return cls(high, not alone and not nul)


def is_utf8(content: Content) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for piece in pieces_of(content):
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
