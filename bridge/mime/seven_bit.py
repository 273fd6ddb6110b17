"""A message as 7-bit MIME (RFC 2045 2.7, RFC 6152 3): bytes above 127 and lines over 998 octets are encoded, the rest stays.

For those who take no 8BITMIME. What people read is the same; a signature over 8-bit content would break, and is not touched.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from bridge.mime.compose import MAX_LINE, address_field, parameter_field, text_field
from bridge.mime.encoded import InLines, Octets, is_utf8, quoted_printable, unquoted
from bridge.mime.fields import body_start, header_end, skip_mbox_line
from bridge.mime.headers import decode_words
from bridge.mime.mailboxes import parse_mailboxes
from bridge.mime.params import parse_value
from bridge.mime.pieces import LARGE, Base64Of, Decoded, Joined, Slice, clean_base64, in_one, joined
from bridge.mime.structure import Part, parse_structure
from bridge.mime.transfer import decode_transfer
from bridge.model import Content, split_address

ADDRESSES = frozenset(
    {"from", "sender", "reply-to", "to", "cc", "bcc", "errors-to", "return-receipt-to", "disposition-notification-to"}
    | {"mail-followup-to", "mail-reply-to"}
    | {f"resent-{name}" for name in ("from", "sender", "to", "cc", "bcc", "reply-to")}
)
_PARAMETERS = frozenset({"content-type", "content-disposition"})
# What may stand in them has no encoded form.
_TOKENS = frozenset({"message-id", "in-reply-to", "references", "date", "content-id", "content-transfer-encoding"})
MAX_MESSAGES = 20  # inside each other
_FIELD = re.compile(rb"([^\s:]++)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)(?:\n|\Z)")
_LONG_LINE = re.compile(rb"\n[^\n]{%d}" % (MAX_LINE + 2))  # with its literal start the engine skips what lies between
_MOSTLY_TEXT = 6  # quoted-printable triples each byte above 127: beyond one in six base64 is shorter


def is_seven_bit(data: bytes, start: int = 0, end: int | None = None) -> bool:
    """No byte above 127, no NUL, no line of more than 998 octets."""
    end = len(data) if end is None else end
    first = end - start < MAX_LINE + 2 or data.find(b"\n", start, start + MAX_LINE + 2) >= 0
    plain = all(piece.isascii() and b"\0" not in piece for piece in Slice(data, start, end))
    return first and plain and _LONG_LINE.search(data, start, end) is None


def to_seven_bit(raw: bytes, depth: int = 0) -> tuple[bytes, frozenset[str]]:
    """(the message, what could not be changed without harm); the same object where nothing has to change.

    Problems: `signed` (a signature covers it), `smtputf8` (an address that ASCII cannot write), `structure` (more parts than
    are looked into, or a boundary that is not ASCII). Parts with a problem are as they were. `depth`: messages around it.
    """
    content, problems = seven_bit(raw, depth)
    return in_one(content), problems


def seven_bit(content: Content, depth: int = 0) -> tuple[Content, frozenset[str]]:
    """The same for a message, or for one whose head alone was written anew (`with_head`): what stays is not copied."""
    head: bytes | None = None
    if isinstance(content, Joined):
        first, rest = content.parts
        assert isinstance(rest, Slice)
        raw, head = rest.raw, bytes(first)
    else:
        raw = bytes(content)
    if is_seven_bit(raw) and is_seven_bit(head or b""):
        return content, frozenset()
    if depth > MAX_MESSAGES:
        return content, frozenset({"structure"})
    work = _Work(raw, depth, head)
    made = joined(work.part(parse_structure(raw), top=True))
    return made, frozenset(work.problems)


class _Work:
    """`head`: what stands instead of the message's own; it may be empty. None: its own stays."""

    def __init__(self, raw: bytes, depth: int, head: bytes | None) -> None:
        self.raw = raw
        self.depth = depth
        self.head = head
        self.problems: set[str] = set()

    def part(self, part: Part, *, top: bool = False) -> Iterator[Content]:
        if (not top or self.head is None) and is_seven_bit(self.raw, part.start, part.end):
            yield Slice(self.raw, part.start, part.end)
        elif part.content_type == "multipart/signed":
            self.problems.add("signed")
            yield from self.untouched(part, top)
        elif part.opaque or not part.type.params.get("boundary", "").isascii():
            self.problems.add("structure")
            yield from self.untouched(part, top)
        elif part.delimiters:
            yield from self.multipart(part, top)
        else:
            yield from self.leaf(part, top)

    def untouched(self, part: Part, top: bool) -> Iterator[Content]:
        if top and self.head is not None:
            yield self.head
            yield Slice(self.raw, part.body, part.end)
        else:
            yield Slice(self.raw, part.start, part.end)

    def multipart(self, part: Part, top: bool) -> Iterator[Content]:
        """Preamble and epilogue are read by nobody."""
        yield self.header(part, b"7bit", top)
        yield self.ascii(part.body, part.delimiters[0][0])
        for (start, end), child in zip(part.delimiters, part.children, strict=False):
            yield self.raw[start:end]
            yield from self.part(child)
        if len(part.delimiters) > len(part.children):
            start, end = part.delimiters[-1]
            yield self.raw[start:end]
            yield self.ascii(end, part.end)

    def ascii(self, start: int, end: int) -> Content:
        return Slice(self.raw, start, end) if is_seven_bit(self.raw, start, end) else b""

    def leaf(self, part: Part, top: bool) -> Iterator[Content]:
        if part.content_type == "message/rfc822" and part.encoding in ("", "7bit", "8bit", "binary"):
            # RFC 2046 5.2.1: no other encoding is allowed for it
            yield self.header(part, b"7bit", top)
            yield from self.message(part.body, part.end)
            return
        if is_seven_bit(self.raw, part.body, part.end):
            yield self.header(part, b"", top)
            yield Slice(self.raw, part.body, part.end)
            return
        content = _decoded(self.raw, part)
        encoding, encoded = _encoded(content, part.content_type.startswith("text/"))
        yield self.header(part, encoding, top, described=_charset(content) if top else b"")
        yield encoded

    def message(self, start: int, end: int) -> Iterator[Content]:
        """A message inside; what it is made of is offsets into the whole."""
        if is_seven_bit(self.raw, start, end):
            yield Slice(self.raw, start, end)
        elif self.depth >= MAX_MESSAGES:
            self.problems.add("structure")
            yield Slice(self.raw, start, end)
        else:
            work = _Work(self.raw, self.depth + 1, None)
            yield from work.part(parse_structure(self.raw, start=start, end=end), top=True)
            self.problems |= work.problems

    def header(self, part: Part, encoding: bytes, top: bool, *, described: bytes = b"") -> bytes:
        """The fields in ASCII. `encoding`: the new Content-Transfer-Encoding, b"" where the old one still holds.
        `described`: the charset for a message that tells nothing about itself."""
        head = self.raw[part.start : part.body] if self.head is None or not top else self.head
        start = skip_mbox_line(head) if top else 0
        stop = header_end(head, start)
        fields = list(_FIELD.finditer(head, start, stop))
        out = [
            field[0] if is_seven_bit(field[0]) else self.field(field[1], field[2])
            for field in fields
            if not encoding or field[1].lower() != b"content-transfer-encoding"
        ]
        if out and not out[-1].endswith(b"\n"):
            out.append(b"\r\n")
        names = {field[1].lower() for field in fields}
        if described and b"mime-version" not in names:
            out.append(b"MIME-Version: 1.0\r\n")
        if described and b"content-type" not in names:
            out.append(b"Content-Type: text/plain; charset=" + described + b"\r\n")
        if encoding:
            out.append(b"Content-Transfer-Encoding: " + encoding + b"\r\n")
        gap = head[stop:] if body_start(head, stop) > stop else b"\r\n"
        return b"".join((*out, gap))

    def field(self, raw_name: bytes, value: bytes) -> bytes:
        """What is beyond all reason (a name of 1000 octets) goes."""
        name = raw_name.decode("ascii", "replace").replace("\ufffd", "?")
        found = self.encoded_field(name, value)
        return found if is_seven_bit(found) else b""

    def encoded_field(self, name: str, value: bytes) -> bytes:
        lower = name.lower()
        if lower in ADDRESSES:
            mailboxes = parse_mailboxes(value)
            if not all(split_address(mailbox.email)[0].isascii() for mailbox in mailboxes):
                self.problems.add("smtputf8")
            if mailboxes:
                return address_field(name, mailboxes)
        if lower in _PARAMETERS:
            parsed = parse_value(value)
            return parameter_field(name, parsed.value, parsed.params)
        text = decode_words(value)
        return text_field(name, text.encode("ascii", "replace").decode() if lower in _TOKENS else text)


def _decoded(raw: bytes, part: Part) -> Content:
    """What a leaf says. Of a large one nothing is copied, unless it is broken base64."""
    if part.end - part.body > LARGE:
        if part.encoding == "base64" and (found := clean_base64(raw, part.body, part.end)):
            return Decoded(*found)
        if part.encoding != "base64":
            body = Slice(raw, part.body, part.end)
            return unquoted(body) if part.encoding == "quoted-printable" else body
    return decode_transfer(raw[part.body : part.end], part.encoding)


def _encoded(content: Content, is_text: bool) -> tuple[bytes, Content]:
    """(encoding, body): quoted-printable for text with few bytes above 127, base64 for everything else."""
    if not isinstance(content, bytes) or len(content) > LARGE:
        octets = Octets.of(content)
        if is_text and octets.lines and octets.high * _MOSTLY_TEXT <= len(content):
            return b"quoted-printable", quoted_printable(content)
        return b"base64", InLines(content.encoded if isinstance(content, Decoded) else Base64Of(content))
    few = len(content.translate(None, bytes(range(128)))) * _MOSTLY_TEXT <= len(content)
    if is_text and few and b"\0" not in content and content.count(b"\r") == content.count(b"\r\n"):
        return b"quoted-printable", binascii.b2a_qp(content).replace(b"=\n", b"=\r\n")
    return b"base64", base64.encodebytes(content).replace(b"\n", b"\r\n").removesuffix(b"\r\n")


def _charset(content: Content) -> bytes:
    """As `charset.guess` reads it."""
    return b"utf-8" if is_utf8(content) else b"windows-1252"
