"""Changes to the header of a message; every other byte stays. Pure.

Each looks at the header alone, so `with_head` lets it see no more, and a large body is not copied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from bridge.mime.compose import address_field
from bridge.mime.fields import body_start, header_end, skip_mbox_line
from bridge.mime.pieces import Joined, Slice, joined
from bridge.mime.repair import SIGNATURES, matches
from bridge.model import Content, Mailbox

_FIELD = re.compile(rb"([^\s:]++)[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*+(?:\n|\Z)")
# RFC 5322 3.6.6: a resent block without its recipients says nothing, and some APIs would mail those it names.
_MARKS = re.compile(
    rb"\A[^A-Za-z0-9]+|[^A-Za-z0-9]+\Z"
)  # a name misspelt with them might be read as the name all the same
RECIPIENTS = frozenset({"to", "cc", "bcc", "resent-*"})


def with_head(raw: Content, change: Callable[[bytes], bytes]) -> Content:
    """With its head (the header and the empty line after it) as `change` makes it; the same object if that changes nothing.
    `raw`: a message, or what this made of one."""
    if isinstance(raw, Joined):
        head, *rest = raw.parts
        return joined((change(bytes(head)), *rest))
    raw = bytes(raw)
    end = body_start(raw, header_end(raw, skip_mbox_line(raw)))
    head = raw[:end]
    changed = change(head)
    return raw if changed == head else joined((changed, Slice(raw, end, len(raw))))


def without_fields(raw: bytes, names: Collection[str]) -> bytes:
    """Without the fields of these names (lower case; `x-mc-*`: all that begin so). The same object if there are none."""
    start = skip_mbox_line(raw)
    end = header_end(raw, start)
    kept: list[bytes] = []
    position = start
    for field in _FIELD.finditer(raw, start, end):
        name = _MARKS.sub(b"", field[1]).lower().decode("ascii", "replace")
        if matches(name, names):
            kept.append(raw[position : field.start()])
            position = field.end()
    if position == start:
        return raw
    return b"".join((raw[:start], *kept, raw[position:]))


def with_fields(raw: bytes, fields: Sequence[bytes]) -> bytes:
    """With these fields, each with its line break, at the end of the header."""
    end = header_end(raw, skip_mbox_line(raw))
    header = raw[:end]
    if header and not header.endswith(b"\n"):
        header += b"\r\n"
    empty_line = b"" if body_start(raw, end) > end else b"\r\n"
    return b"".join((header, *fields, empty_line, raw[end:]))


def with_recipients(raw: bytes, *, to: Sequence[Mailbox], cc: Sequence[Mailbox], bcc: Sequence[str]) -> bytes:
    """With exactly these in To, Cc and Bcc: for an API that mails whom the header names.

    Signatures over the header would fail now, so they go.
    """
    slots = {"To": to, "Cc": cc, "Bcc": [Mailbox(address) for address in bcc]}
    fields = [address_field(name, mailboxes) for name, mailboxes in slots.items() if mailboxes]
    return with_fields(without_fields(raw, RECIPIENTS | SIGNATURES), fields)


def with_from(raw: bytes, sender: Mailbox) -> bytes:
    """With this From in the place of whatever stood there."""
    return with_fields(without_fields(raw, {"from"}), [address_field("From", [sender])])
