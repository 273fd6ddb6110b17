"""The header block in bytes: where it ends, which fields it has; removing Bcc; Message-ID and Subject for the list.

A header ends at an empty line or, as in Postfix, at the first line that is neither a field nor a continuation: from there
on it is body. A first line `From ann@... Mon ...` or `>From ` (mbox) belongs to the header and is no field.
"""

from __future__ import annotations

import re
import sys

from bridge.mime.headers import clean, decode_words

MAX_SUBJECT = 200  # characters, for the list
MAX_MESSAGE_ID = 998
MAX_NAME = 998

# RFC 5322 3.6.8 ftext, and what other bytes a name may hold to be taken for a (bad) field; blanks before the colon: 4.5.
_NAME = rb"[^\s:]++[ \t]*+:"
_FIELD_START = re.compile(_NAME)
_HEADER_END = re.compile(rb"\n(?![ \t]|" + _NAME + rb")")
_FIELD = re.compile(rb"([^\s:]++)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)\n?")
_FTEXT = re.compile(rb"[!-9;-~]+")
_MBOX = re.compile(rb">?From [^\n]*\n?")
_MAYBE_BCC = re.compile(rb"bcc[^\n:]{0,20}:", re.IGNORECASE)
# Also misspelt with marks that are no letters (`"Bcc":`, a control character before it): the readers would see it as well.
_BCC = re.compile(
    rb"^(?![ \t])[^A-Za-z\n:]*+(?:resent[^A-Za-z\n:]*+)?bcc[^A-Za-z\n:]*+:[^\n]*+(?:\n[ \t][^\n]*+)*+(?:\n|\Z)",
    re.IGNORECASE | re.MULTILINE,
)
_EMPTY_LINE = re.compile(rb"^\r?\n", re.MULTILINE)

Field = tuple[bytes, bytes]


def skip_mbox_line(raw: bytes, start: int = 0, end: int = sys.maxsize) -> int:
    """Where the fields begin: after a `From ` line, if there is one."""
    if not raw.startswith((b"From ", b">From "), start, end):
        return start
    match = _MBOX.match(raw, start, end)
    return match.end() if match else start


def header_end(raw: bytes, start: int = 0, end: int | None = None) -> int:
    """Offset of the first byte that is no longer header: the empty line, or a line that is no field; `start` without fields."""
    end = len(raw) if end is None else end
    if not _FIELD_START.match(raw, start, end):
        return start
    match = _HEADER_END.search(raw, start, end)
    return match.end() if match else end


def header_exceeds(raw: bytes, limit: int) -> bool:
    """Whether the header is longer than `limit` octets, in time bounded by that."""
    start = skip_mbox_line(raw)
    # A field cut off within its name would look like the end of the header, so the look goes a name further.
    return header_end(raw, start, min(len(raw), start + limit + MAX_NAME)) > start + limit


def strip_stray_bcc(body: bytes) -> bytes:
    """A broken line ended the header early: without the Bcc fields that were meant to be header, up to the first empty line."""
    found = _EMPTY_LINE.search(body)
    end = found.start() if found else len(body)
    return _BCC.sub(b"", body[:end]) + body[end:] if _MAYBE_BCC.search(body, 0, end) else body


def body_start(raw: bytes, offset: int, end: int | None = None) -> int:
    """After the empty line that stands at `offset`, or `offset` where there is none."""
    if raw.startswith(b"\r\n", offset, end):
        return offset + 2
    return offset + 1 if raw.startswith(b"\n", offset, end) else offset


def read_fields(raw: bytes, start: int, end: int) -> list[Field]:
    """(name, raw value) of each field between the offsets, in order; the value begins after the colon."""
    return _FIELD.findall(raw, start, end)


def top_fields(raw: bytes, limit: int = 1 << 20) -> list[Field]:
    """The fields of the message's own header, of at most `limit` bytes of it."""
    start = skip_mbox_line(raw)
    return read_fields(raw, start, min(header_end(raw, start), start + limit))


def valid_name(name: bytes) -> bool:
    """RFC 5322 3.6.8: printable ASCII without the colon."""
    return _FTEXT.fullmatch(name) is not None


def strip_bcc(raw: bytes) -> bytes:
    """Without the Bcc and Resent-Bcc fields of the top header; all else byte for byte. The same object if there are none."""
    start = skip_mbox_line(raw)
    end = header_end(raw, start)
    if not _MAYBE_BCC.search(raw, start, end):
        return raw
    header = raw[start:end]
    stripped = _BCC.sub(b"", header)
    return raw if len(stripped) == len(header) else raw[:start] + stripped + raw[end:]


def summary(raw: bytes) -> tuple[str, str]:
    """(Message-ID, Subject) for the list: decoded, one line, shortened; only the header is looked at."""
    found: dict[bytes, bytes] = {}
    for name, value in top_fields(raw):
        found.setdefault(name.lower(), value)
    message_id = clean(decode_words(found.get(b"message-id", b"")[: 2 * MAX_MESSAGE_ID]))
    subject = decode_words(found.get(b"subject", b"")[: 20 * MAX_SUBJECT])
    return message_id[:MAX_MESSAGE_ID], subject[:MAX_SUBJECT]
