"""Header fields as bytes: folded, in ASCII, whatever the text (RFC 5322 2.2.3, RFC 2047, RFC 2231). Pure.

Each field comes with its last line break. No text can end a field or start another.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote

from bridge.mime.addressing import a_label
from bridge.mime.headers import clean
from bridge.model import Mailbox, split_address

LINE = 76  # RFC 5322 2.1.1 asks for 78, RFC 2047 2 for 76
MAX_LINE = 998  # RFC 5322 2.1.1: must
_WORD_OCTETS = 45  # 60 characters of base64: with its marks an encoded word has 72, the limit is 75
_ATOMS = re.compile(r"[\w!#$%&'*+/=?^`{|}~ -]+", re.ASCII)
_PLAIN_VALUE = re.compile(r"[ -!#-\[\]-~]{0,100}")  # between quotes, nothing to escape
_SECTION_LENGTH = 48


def text_field(name: str, text: str) -> bytes:
    """An unstructured field (Subject, X-...)."""
    return _folded(name, _words(clean(text)))


def address_field(name: str, mailboxes: Iterable[Mailbox]) -> bytes:
    """`To: "Lee, Ann" <ann@example.org>, ...`; a domain is written as A-labels, a local part as it is."""
    boxes = [_mailbox(mailbox) for mailbox in mailboxes]
    return _folded(name, (part for n, box in enumerate(boxes, 1) for part in _with_comma(box, n < len(boxes))))


def parameter_field(name: str, value: str, params: Mapping[str, str]) -> bytes:
    """Content-Type and its like; a parameter is quoted, or in the form of RFC 2231 where it must be."""
    sections = [section for param in params.items() for section in _parameter(*param)]
    return (
        "\r\n\t".join((f"{name}: {value}" + ";" * bool(sections), *_separated(sections))).encode("ascii", "replace")
        + b"\r\n"
    )


def _words(text: str) -> Iterator[str]:
    """The text itself when it can stand there; else as encoded words, whole, for a reader joins them without a blank."""
    if _bare(text) and all(len(word) < MAX_LINE - 100 for word in text.split(" ")):
        yield from text.split(" ")
    else:
        yield from encoded_words(text)


def _bare(text: str) -> bool:
    """Whether it can stand there as it is; `{{` is a mark of template languages that some APIs run over headers."""
    return text.isascii() and "=?" not in text and "{{" not in text


def encoded_words(text: str) -> Iterator[str]:
    """`=?utf-8?b?...?=` of at most 75 characters, each with whole characters."""
    piece = b""
    for character in text:
        octets = character.encode("utf-8", "replace")
        if len(piece) + len(octets) > _WORD_OCTETS:
            yield _word(piece)
            piece = b""
        piece += octets
    if piece:
        yield _word(piece)


def _word(octets: bytes) -> str:
    return f"=?utf-8?b?{base64.b64encode(octets).decode()}?="


def _mailbox(mailbox: Mailbox) -> list[str]:
    local, domain = split_address(clean(mailbox.email))
    address = f"{local}@{domain if domain.isascii() else a_label(domain)}" if domain else local
    name = clean(mailbox.name)
    if not name:
        return [address]
    return [*_phrase(name), f"<{address}>"]


def _phrase(name: str) -> Iterable[str]:
    if not _bare(name) or len(name) > MAX_LINE // 2:
        return encoded_words(name)
    if _ATOMS.fullmatch(name):
        return [name]
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return [f'"{escaped}"']


def _with_comma(parts: list[str], more: bool) -> list[str]:
    return [*parts[:-1], parts[-1] + "," * more]


def _folded(name: str, parts: Iterable[str]) -> bytes:
    """Parts with a blank between them, a line break before the blank where the line gets long.

    A part that is empty (two blanks in a row) never stands alone in a line: that would look like the header's end to some.
    """
    lines = [f"{name}:"]
    for part in parts:
        if len(lines[-1]) + 1 + len(part) > LINE and part and lines[-1].strip(" ") != f"{name}:":
            lines.append("")
        lines[-1] += f" {part}"
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n"


def _parameter(name: str, value: str) -> Iterator[str]:
    if _PLAIN_VALUE.fullmatch(value):
        yield f'{name}="{value}"'
        return
    pieces = [""]
    for character in value:
        encoded = quote(character, safe="")
        if len(pieces[-1]) + len(encoded) > _SECTION_LENGTH:
            pieces.append("")
        pieces[-1] += encoded
    if len(pieces) == 1:
        yield f"{name}*=utf-8''{pieces[0]}"
        return
    for number, piece in enumerate(pieces):
        charset = "" if number else "utf-8''"
        yield f"{name}*{number}*={charset}{piece}"


def _separated(sections: list[str]) -> list[str]:
    return [section + ";" * (number < len(sections)) for number, section in enumerate(sections, 1)]
