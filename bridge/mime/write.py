"""A message written anew: from what a program says of it to MIME (RFC 2045, 2046, 5322), in pieces. Pure.

No value can end a field or a part: fields are written by `compose`, and a boundary is random. A Bcc has no place here.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from bridge.mime.compose import MAX_LINE, address_field, parameter_field, text_field
from bridge.mime.encoded import InLines, Octets, QuotedPrintable
from bridge.mime.params import parse_value
from bridge.mime.trace import normalize_newlines
from bridge.model import Mailbox

_TYPES = mimetypes.MimeTypes(filenames=())  # the same on every machine
_ENCODED_AT_ONCE = 1024 * 57  # octets of a file: whole lines of 76 characters
_MANY = 6  # one octet in so many above 127, and base64 is shorter than quoted-printable
MESSAGE = "message/rfc822"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """`content_type` with its parameters, "" when it is to be told from the name; `content_id` without angle brackets."""

    filename: str
    content: bytes = field(repr=False)
    content_type: str = ""
    content_id: str = ""

    @property
    def type(self) -> str:
        return self.content_type or _TYPES.guess_type(self.filename)[0] or "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the message says. `text` and `html` None: there is none; `headers`: further fields, each one line of text."""

    sender: Mailbox
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    reply_to: tuple[Mailbox, ...] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    files: tuple[File, ...] = ()


def write(draft: Draft, new_boundary: Callable[[], str]) -> Iterator[bytes]:
    """The whole message with CRLF line ends, but for the fields that `trace.stamp` adds."""
    yield address_field("From", (draft.sender,))
    for name, mailboxes in (("To", draft.to), ("Cc", draft.cc), ("Reply-To", draft.reply_to)):
        if mailboxes:
            yield address_field(name, mailboxes)
    yield text_field("Subject", draft.subject)
    for name, value in draft.headers:
        yield text_field(name, value)
    yield b"MIME-Version: 1.0\r\n"
    yield from _content(draft, new_boundary)
    yield b"\r\n"


Part = Iterable[bytes]  # with its header


def _content(draft: Draft, new_boundary: Callable[[], str]) -> Part:
    inline = [file for file in draft.files if file.content_id and draft.html is not None]
    attached = [file for file in draft.files if file not in inline] if inline else list(draft.files)
    shown: list[Part] = []
    if draft.text is not None or draft.html is None:
        shown.append(_text("plain", draft.text or ""))
    if draft.html is not None:
        html = _text("html", draft.html)
        images = [_file(file, "inline") for file in inline]
        shown.append(_several("related", [html, *images], new_boundary(), type="text/html") if images else html)
    body = _several("alternative", shown, new_boundary()) if len(shown) > 1 else shown[0]
    if not attached:
        return body
    return _several("mixed", [body, *(_file(file, "attachment") for file in attached)], new_boundary())


def _several(kind: str, parts: Iterable[Part], boundary: str, **parameters: str) -> Part:
    yield parameter_field("Content-Type", f"multipart/{kind}", {**parameters, "boundary": boundary}) + b"\r\n"
    for part in parts:
        yield b"--%b\r\n" % boundary.encode()
        yield from part
        yield b"\r\n"
    yield b"--%b--" % boundary.encode()


def _text(kind: str, text: str) -> Part:
    content = normalize_newlines(text.encode("utf-8", "replace"))
    octets = Octets.of(content)
    charset = "utf-8" if octets.high else "us-ascii"
    yield parameter_field("Content-Type", f"text/{kind}", {"charset": charset})
    if not octets.high and octets.lines and _lines_fit(content):
        yield b"Content-Transfer-Encoding: 7bit\r\n\r\n"
        yield content
    elif octets.high * _MANY > len(content) or not octets.lines:
        yield b"Content-Transfer-Encoding: base64\r\n\r\n"
        yield from _base64(content)
    else:
        yield b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        yield from QuotedPrintable(content)


def _file(file: File, disposition: str) -> Part:
    given = parse_value(file.type.encode("utf-8", "replace"))
    names = {"filename": file.filename} if file.filename else {}
    yield parameter_field("Content-Type", given.value, {**given.params, **({"name": file.filename} if names else {})})
    yield parameter_field("Content-Disposition", disposition, names)
    if file.content_id:
        yield b"Content-ID: <%b>\r\n" % file.content_id.encode("ascii", "replace")
    if given.value == MESSAGE:  # in no encoding that hides it (RFC 2046 5.2.1)
        content = normalize_newlines(file.content)
        yield b"Content-Transfer-Encoding: %b\r\n\r\n" % (b"7bit" if content.isascii() else b"8bit")
        yield content
        return
    yield b"Content-Transfer-Encoding: base64\r\n\r\n"
    yield from _base64(file.content)


def can_be_message(content: bytes) -> bool:
    """Whether it can stand in a message as it is: lines that are not too long, and no NUL."""
    return b"\0" not in content and _lines_fit(normalize_newlines(content))


def _lines_fit(content: bytes) -> bool:
    """Lines of at most 998 octets (RFC 5322 2.1.1)."""
    start = 0
    while (end := content.find(b"\r\n", start)) >= 0:
        if end - start > MAX_LINE:
            return False
        start = end + 2
    return len(content) - start <= MAX_LINE


def _base64(content: bytes) -> Iterator[bytes]:
    between = b""
    for start in range(0, len(content), _ENCODED_AT_ONCE):
        encoded = base64.b64encode(memoryview(content)[start : start + _ENCODED_AT_ONCE])
        yield between
        yield from InLines(encoded)
        between = b"\r\n"
