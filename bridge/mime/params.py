"""Content-Type and Content-Disposition: the value and its parameters (RFC 2045 5.1, RFC 2231), as real mail has them.

Understood: comments, blanks, missing quotes, duplicates (the first counts), charset'language'percent-encoding,
continuations `name*0 name*1*` in any order, and RFC 2047 words inside quotes as Outlook writes them. Linear in the length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

from bridge.mime.charset import decode
from bridge.mime.headers import clean, decode_words, header_text

MAX_FILENAME = 255
TOKEN = re.compile(r"[\w!#$%&'*+.^`{|}~-]+", re.ASCII)  # RFC 2045 5.1
_CACHED_LENGTH = 200  # most mail repeats a few short values; long ones would fill the cache
_COMMENT = re.compile(r"\([^()]*+\)")
_VALUE = re.compile(r"\s*([^\s;=()]++)(?=[\s;(]|\Z)")
# A quote that does not close belongs to an unquoted value. Only the last `="` can fail to close, so this stays linear.
_PARAM = re.compile(r'[;\s]*+(?:\([^()]*+\)\s*+)?([^\s;="()]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^;]*+))', re.DOTALL)
_NO_PARAM = re.compile(r"[;\s]*+[^;]*+;?")
_SECTION = re.compile(r"([^*]+)\*(?:(\d{1,4})(\*?))?\Z")
_ESCAPE = re.compile(r'\\(["\\])')
# Names people give files hold blanks and parentheses; in every other bare value they end it.
_FREE_TEXT = frozenset({"name", "filename"})
_BIDI = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # "invoice\u202efdp.exe" reads as "invoiceexe.pdf"


@dataclass(frozen=True, slots=True)
class Value:
    """`value` in lower case, "" when missing; `params` by lower-case name, decoded and without control characters."""

    value: str
    params: Mapping[str, str] = field(default_factory=dict)
    extended: frozenset[str] = frozenset()  # the names given in RFC 2231 form


def parse_value(raw: bytes) -> Value:
    return _cached(raw) if len(raw) <= _CACHED_LENGTH else _parse(raw)


@lru_cache(maxsize=512)
def _cached(raw: bytes) -> Value:
    return _parse(raw)


def _parse(raw: bytes) -> Value:
    text = header_text(raw).strip()
    if text.startswith("("):
        text = _COMMENT.sub("", text, count=1)
    match = _VALUE.match(text)
    value = clean(match[1]).lower() if match else ""
    start = text.find(";", match.end()) if match else 0
    if start < 0:
        return Value(value, MappingProxyType({}))
    params, extended = _parameters(text, start)
    return Value(value, MappingProxyType(params), extended)


def _parameters(text: str, start: int) -> tuple[dict[str, str], frozenset[str]]:
    plain: dict[str, str] = {}
    sections: dict[str, dict[int, tuple[str, bool]]] = {}
    while start < len(text):
        match = _PARAM.match(text, start)
        if match:
            _collect(match[1].lower(), _bare(match), plain, sections)
        match = match or _NO_PARAM.match(text, start)
        start = match.end() if match else len(text)
    params = {name: decode_words(value) for name, value in plain.items()}
    params |= {name: _join(parts) for name, parts in sections.items()}
    return params, frozenset(sections)


def _bare(match: re.Match[str]) -> str:
    """The value without quotes. Only quotes and backslashes are unescaped: `"C:\\temp\\a.txt"` comes from old programs."""
    if match[2] is not None:
        return _ESCAPE.sub(r"\1", match[2])
    value = match[3].strip().strip('"')
    if match[1].lower() in _FREE_TEXT:
        return value
    return value.split(None, 1)[0] if value else ""


def _collect(name: str, value: str, plain: dict[str, str], sections: dict[str, dict[int, tuple[str, bool]]]) -> None:
    match = _SECTION.match(name) if "*" in name else None
    if match is None:
        plain.setdefault(name, value)
    elif match[2] is None:  # name*: one extended value outranks continuations
        sections.setdefault(match[1], {}).setdefault(-1, (value, True))
    else:
        sections.setdefault(match[1], {}).setdefault(int(match[2]), (value, bool(match[3])))


def _join(parts: dict[int, tuple[str, bool]]) -> str:
    if -1 in parts:
        parts = {-1: parts[-1]}
    ordered = [parts[index] for index in sorted(parts)]
    charset, data = "utf-8", bytearray()
    for position, (value, encoded) in enumerate(ordered):
        if encoded and position == 0 and value.count("'") >= 2:
            charset, _, value = value.split("'", 2)
        data += unquote_to_bytes(value) if encoded else value.encode("utf-8", "replace")
    text = decode(bytes(data), charset)
    return clean(text) if any(encoded for _, encoded in ordered) else decode_words(text)


def file_name(content_type: Value, disposition: Value) -> str:
    """The name of an attachment, "" for none: filename* > filename > name* > name, without any path."""
    for value, key in ((disposition, "filename"), (content_type, "name")):
        name = clean_filename(value.params.get(key, ""))
        if name:
            return name
    return ""


def clean_filename(name: str) -> str:
    """Unicode in NFC without control characters and direction marks, the last component of a path, at most 255 characters."""
    name = _BIDI.sub("", clean(name)).replace("\\", "/").rstrip("/ ").rpartition("/")[2].strip()
    if not name.strip("."):
        return ""
    name = name if name.isascii() else unicodedata.normalize("NFC", name)
    if len(name) <= MAX_FILENAME:
        return name
    stem, dot, suffix = name.rpartition(".")
    suffix = dot + suffix if stem and len(suffix) <= 16 else ""
    return name[: MAX_FILENAME - len(suffix)] + suffix


def write_type(content_type: str, parameters: Iterable[tuple[str, str]]) -> str:
    """`text/calendar; method=REQUEST; charset=utf-8`, values quoted where they are no tokens (RFC 2045 5.1)."""
    return "; ".join((content_type, *(f"{key}={_quoted(value)}" for key, value in parameters)))


def _quoted(value: str) -> str:
    if TOKEN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
