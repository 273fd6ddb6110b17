"""HTML forms as clients post them: `application/x-www-form-urlencoded` and `multipart/form-data` (RFC 7578). Pure.

The parts are cut out as octets and only their heads are parsed, so a file comes back exactly as it was sent, also when it
is a message or a multipart itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from urllib.parse import parse_qsl

MAX_PARTS = 10_000
MAX_HEAD = 16 * 1024
_LINE_END = rb"(?:[ \t]*\r\n)"
_ESCAPES = {"%0a": "\n", "%0d": "\r", "%22": '"'}
_ESCAPED = re.compile("%(?:0a|0d|22)", re.IGNORECASE)


class FormError(ValueError):
    """The body is not the form that its Content-Type says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormFile:
    """A part with a file name; `name` is that of the field."""

    name: str
    filename: str
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Form:
    """Both in the order sent; a name may repeat."""

    fields: tuple[tuple[str, str], ...] = ()
    files: tuple[FormFile, ...] = ()

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def value(self, name: str) -> str:
        """The first value of that field, "" when there is none."""
        return next(iter(self.values(name)), "")

    def named_files(self, name: str) -> list[FormFile]:
        return [file for file in self.files if file.name == name]

    def names(self) -> list[str]:
        """Of all fields and files, each once, as they first came."""
        return list(dict.fromkeys([*(name for name, _ in self.fields), *(file.name for file in self.files)]))


def read_form(content_type: str, body: bytes) -> Form:
    """Raises FormError."""
    head = _parse_head(f"Content-Type: {content_type}") if "\n" not in content_type else Message()
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return _read_urlencoded(body)
    if kind == "multipart/form-data":
        return _read_multipart(str(head.get_param("boundary", "")), body)
    raise FormError("the Content-Type is not that of a form")


def _read_urlencoded(body: bytes) -> Form:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARTS)
    except ValueError:  # also what is not UTF-8
        raise FormError("the form cannot be decoded") from None
    return Form(tuple(pairs))


def _read_multipart(boundary: str, body: bytes) -> Form:
    if not boundary or len(boundary) > 200 or not boundary.isascii():
        raise FormError("the boundary is missing or wrong")
    delimiter = re.compile(rb"\r\n--" + re.escape(boundary.encode()) + rb"(?:(--)|" + _LINE_END + rb")")
    fields: list[tuple[str, str]] = []
    files: list[FormFile] = []
    for part in _cut(delimiter, b"\r\n" + body):
        item = _read_part(part)
        if isinstance(item, FormFile):
            files.append(item)
        else:
            fields.append(item)
        if len(fields) + len(files) > MAX_PARTS:
            raise FormError("the form has too many parts")
    return Form(tuple(fields), tuple(files))


def _cut(delimiter: re.Pattern[bytes], body: bytes) -> list[bytes]:
    parts: list[bytes] = []
    start = -1
    for match in delimiter.finditer(body):
        if start >= 0:
            parts.append(body[start : match.start()])
        if match[1]:
            return parts
        start = match.end()
    raise FormError("the form has no end")


def _read_part(part: bytes) -> FormFile | tuple[str, str]:
    head_end = part.find(b"\r\n\r\n", 0, MAX_HEAD)
    if head_end < 0:
        raise FormError("a part of the form has no head")
    try:
        head = _parse_head(part[:head_end].decode())
    except UnicodeDecodeError:
        raise FormError("the head of a part is not UTF-8") from None
    content = part[head_end + 4 :]
    name = _parameter(head, "name")
    if head.get_content_disposition() != "form-data" or name is None:
        raise FormError("a part of the form has no name")
    filename = _parameter(head, "filename")
    if filename is not None:
        return FormFile(
            name=name, filename=filename, content_type=str(head.get("content-type", "text/plain")), content=content
        )
    try:
        return name, content.decode()
    except UnicodeDecodeError:
        raise FormError("a field of the form is not UTF-8") from None


def _parse_head(text: str) -> Message:
    return HeaderParser().parsestr(text + "\r\n\r\n")


def _parameter(head: Message, name: str) -> str | None:
    value = head.get_param(name, None, "content-disposition")
    if value is None:
        return None
    if isinstance(value, tuple):  # RFC 2231: charset, language, percent-decoded octets
        try:
            return value[2].encode("latin-1", "replace").decode(value[0] or "us-ascii", "replace")
        except LookupError:
            raise FormError("a file name is in a charset that nobody knows") from None
    # Only these three are escaped (WHATWG HTML 4.10.21.8).
    return _ESCAPED.sub(lambda match: _ESCAPES[match[0].lower()], value)
