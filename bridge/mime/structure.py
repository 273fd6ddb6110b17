"""The parts of a MIME message (RFC 2045, 2046) as offsets into its bytes: linear, bounded, never raising, losing no byte.

A part is its header, and then either a body or, in a multipart, the preamble, the children with a delimiter line before
each, and the epilogue. Bodies are never copied; boundaries are looked for with bytes.find. What lies beyond a limit stays
as one opaque leaf. `regions` gives back every byte of the message exactly once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from bridge.mime.fields import Field, body_start, header_end, read_fields, skip_mbox_line
from bridge.mime.params import Value, parse_value

_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+", re.ASCII)
_DELIMITER_END = rb"(--)?[ \t]*+(?:\r?\n|\Z)"
_TEXT = Value("text/plain")
_MESSAGE = Value("message/rfc822")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one message may cost. `passes`: how often, on average, a byte may be searched for boundaries
    (4 MiB are always searched)."""

    depth: int = 100
    parts: int = 1000
    header_bytes: int = 1 << 20  # of the message's header, and again of all its parts' headers together
    passes: int = 12


DEFAULT_LIMITS = Limits()


@dataclass(slots=True, eq=False)
class Part:
    """Offsets: header `start`..`body`, body or children `body`..`end`. `opaque`: not looked into, because of a limit."""

    start: int
    body: int
    end: int
    depth: int = 0
    fields: list[Field] = field(default_factory=list)
    type: Value = _TEXT
    typed: bool = False  # a valid Content-Type was given
    children: list[Part] = field(default_factory=list)
    delimiters: list[tuple[int, int]] = field(default_factory=list)
    opaque: bool = False
    defects: list[str] = field(default_factory=list)  # of the whole message, on its top part only
    beyond: Literal["", "header", "depth", "parts"] = ""  # of the whole message too: the first limit it does not keep

    @property
    def content_type(self) -> str:
        return self.type.value

    @property
    def encoding(self) -> str:
        """Content-Transfer-Encoding in lower case, "" for none; blanks and comments around it do not count."""
        raw = self.first(b"content-transfer-encoding")
        return parse_value(raw).value if raw else ""

    def first(self, name: bytes) -> bytes:
        """The raw value of the first field of that name (given in lower case), b"" for none."""
        for field_name, value in self.fields:
            if field_name.lower() == name:
                return value
        return b""


def parse_structure(raw: bytes, limits: Limits = DEFAULT_LIMITS, start: int = 0, end: int | None = None) -> Part:
    """The tree of parts of a message, which is all of `raw` or stands between two offsets of it."""
    end = len(raw) if end is None else end
    scan = _Scan(raw, limits, start, end)
    top = scan.read_part(skip_mbox_line(raw, start, end), end, 0, _TEXT)
    scan.header_left = limits.header_bytes
    scan.split_all(top)
    top.start = start
    top.defects = list(dict.fromkeys(scan.defects))
    top.beyond = scan.beyond
    return top


def regions(top: Part) -> Iterator[tuple[str, int, int]]:
    """Every byte of the message once and in order, as (header | body | preamble | delimiter | epilogue, start, end)."""
    stack: list[Part | tuple[str, int, int]] = [top]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            yield item
            continue
        yield ("header", item.start, item.body)
        stack.extend(reversed(list(_inside(item))))


def _inside(part: Part) -> Iterator[Part | tuple[str, int, int]]:
    if not part.delimiters:
        yield ("body", part.body, part.end)
        return
    yield ("preamble", part.body, part.delimiters[0][0])
    for (start, end), child in zip(part.delimiters, part.children, strict=False):
        yield ("delimiter", start, end)
        yield child
    if len(part.delimiters) > len(part.children):
        yield ("delimiter", *part.delimiters[-1])
        yield ("epilogue", part.delimiters[-1][1], part.end)


class _Scan:
    """One message being split, with what is left of its limits."""

    def __init__(self, raw: bytes, limits: Limits, start: int, end: int) -> None:
        self.raw = raw
        self.start = start
        self.limits = limits
        self.header_left = limits.header_bytes
        self.parts_left = limits.parts
        self.work_left = limits.passes * (end - start) + (4 << 20)
        self.defects: list[str] = []
        self.beyond: Literal["", "header", "depth", "parts"] = ""

    def exceed(self, limit: Literal["header", "depth", "parts"], defect: str) -> None:
        self.beyond = self.beyond or limit
        self.defects.append(defect)

    def read_part(self, start: int, end: int, depth: int, default: Value) -> Part:
        """A part with its fields and type, its body not yet looked into."""
        stop = header_end(self.raw, start, end)
        part = Part(start, body_start(self.raw, stop, end), end, depth, type=default)
        if stop > start:
            read = min(stop, start + self.header_left)
            self.header_left -= read - start
            if read < stop:
                self.exceed("header", "header longer than the limit, its end is not read")
            part.fields = read_fields(self.raw, start, read)
            self._read_type(part)
        if stop > self.start and stop == part.body and stop < end:
            self.defects.append("no empty line between header and body")
        return part

    def _read_type(self, part: Part) -> None:
        raw = part.first(b"content-type")
        if not raw:
            return
        value = parse_value(raw)
        if _TYPE.fullmatch(value.value):
            part.type, part.typed = value, True
        else:  # RFC 2045 5.2: as if there were none
            part.type = Value("text/plain", value.params)
            self.defects.append("unreadable Content-Type")

    def split_all(self, top: Part) -> None:
        stack = [top]
        while stack:
            part = stack.pop()
            if part.content_type.startswith("multipart/"):
                self._split(part)
                stack.extend(reversed(part.children))

    def _split(self, part: Part) -> None:
        boundary = part.type.params.get("boundary", "").rstrip()
        if not boundary:
            self.defects.append("multipart without a boundary")
            return
        if part.depth >= self.limits.depth or self.work_left < part.end - part.body:
            part.opaque = part.body < part.end
            self.exceed("depth", "nested deeper than the limit, the rest is kept as one part")
            return
        self.work_left -= part.end - part.body
        part.delimiters, closed = self._delimiters(part, boundary.encode("utf-8", "replace"))
        part.opaque = not part.delimiters and self.parts_left <= 0
        if not closed:
            self.defects.append("multipart without its closing boundary")
        self._read_children(part, closed)

    def _delimiters(self, part: Part, boundary: bytes) -> tuple[list[tuple[int, int]], bool]:
        """The delimiter lines, each with the line break before it (RFC 2046 5.1.1), and whether the last one closes."""
        raw, end = self.raw, part.end
        needle = b"\n--" + boundary
        pattern = re.compile(re.escape(needle) + _DELIMITER_END)
        found: list[tuple[int, int]] = []
        position = max(part.body - 1, self.start)  # the line break before may be the header's or the last delimiter's
        free = part.body
        while True:
            hit = raw.find(needle, position, end)
            # Boundaries that only begin like ours are skipped by the regex, at its own speed.
            match = pattern.search(raw, hit, end) if hit >= 0 else None
            if match is None:
                return found, False
            if self.parts_left <= 0 and not match[1]:
                break
            start = match.start()
            start -= start > free and raw[start - 1] == 13  # CR
            found.append((max(start, free), match.end()))
            if match[1]:
                return found, True
            self.parts_left -= 1
            free = match.end()
            position = free - 1
        self.exceed("parts", "more parts than the limit, the rest is kept as one part")
        return found, False

    def _read_children(self, part: Part, closed: bool) -> None:
        default = _MESSAGE if part.content_type == "multipart/digest" else _TEXT
        opened = part.delimiters[:-1] if closed else part.delimiters
        ends = [start for start, _ in part.delimiters[1:]]
        if opened and not closed:
            ends.append(part.end)
        part.children = [
            self.read_part(start, end, part.depth + 1, default) for (_, start), end in zip(opened, ends, strict=True)
        ]
        if self.parts_left <= 0 and not closed and part.children:
            self._make_opaque(part.children[-1])

    def _make_opaque(self, rest: Part) -> None:
        """The last part runs over delimiters nobody counted: nothing of it is taken for its header or type."""
        rest.body, rest.fields, rest.type, rest.typed, rest.opaque = (
            rest.start,
            [],
            Value("application/octet-stream"),
            False,
            True,
        )
