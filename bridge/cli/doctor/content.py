"""What a message is made of, as far as it matters for sending it: names and sizes, never what stands in it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bridge.mime.fields import body_start, header_end, read_fields, skip_mbox_line
from bridge.mime.headers import decode_words
from bridge.mime.mailboxes import parse_mailboxes

MAX_NAMES = 100
_LF_END = re.compile(rb"(?:\A|[^\r])\n\.\r?\n\Z|\r\n\.\n\Z|\A\.\n\Z", re.DOTALL)
_WRONG_END = re.compile(rb"\.[\r\n]*\Z")
_CR_END = re.compile(rb"\r\.\r\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Newlines:
    """How lines end: how many with CRLF, and how many CR and LF stand alone."""

    crlf: int = 0
    lf: int = 0
    cr: int = 0

    @property
    def lines(self) -> int:
        return self.crlf + self.lf + self.cr


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """`size` in octets as they came. `names`: of the header's fields, in order. `sender`: the address in From, "" for none.

    `subject`: there is one, and it is not empty. `eight_bit`: names of fields with octets above 127.
    """

    size: int = 0
    newlines: Newlines = Newlines()
    names: tuple[str, ...] = ()
    sender: str = ""
    subject: bool = False
    body: int = 0
    blank_body: bool = False
    eight_bit: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        return any(each.lower() == name for each in self.names)


def message_of(sample: bytes, size: int, newlines: Newlines) -> Content:
    """From the octets of DATA as they came, with the end or what stands for it, and perhaps more behind it.

    `sample`: all of the `size` octets, or the beginning of them; `newlines`: of all of them.
    """
    if len(sample) < size:
        return _read(sample, size - 3, newlines)
    if sample.startswith(b".\r\n"):
        return _read(b"", 0, Newlines())
    end = sample.find(b"\r\n.\r\n")
    mended = end < 0 and bool(wrong_end(sample[-8:]))
    text = sample[: end + 2] if end >= 0 else _WRONG_END.sub(b"", sample) if mended else sample
    count = NewlineCount()
    count.feed(text)
    return _read(text, len(text), count.value)


def _read(sample: bytes, size: int, newlines: Newlines) -> Content:
    text = sample.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    start = skip_mbox_line(text)
    end = header_end(text, start)
    fields = read_fields(text, start, end)
    values = {name.lower(): value for name, value in reversed(fields)}
    mailboxes = parse_mailboxes(values.get(b"from", b""))
    body = text[body_start(text, end) :]
    return Content(
        size=size,
        newlines=newlines,
        names=tuple(name.decode("ascii", "replace") for name, _ in fields[:MAX_NAMES]),
        sender=mailboxes[0].email if mailboxes else "",
        subject=bool(decode_words(values.get(b"subject", b"")).strip()),
        body=len(body) + size - len(sample),
        blank_body=not body.strip(),
        eight_bit=tuple(name.decode("ascii", "replace") for name, value in fields if not (name + value).isascii()),
    )


def wrong_end(tail: bytes) -> str:
    """ "LF" or "CR" when these last octets of DATA look like its end with those line ends; else ""."""
    if tail.endswith(b"\r\n.\r\n"):
        return ""
    return "LF" if _LF_END.search(tail) else "CR" if _CR_END.search(tail) else ""


class NewlineCount:
    """Counts over segments; a CR at the end of one belongs to the LF that begins the next."""

    def __init__(self) -> None:
        self._crlf = self._lf = self._cr = 0
        self._open_cr = False

    def feed(self, data: bytes) -> None:
        if not data:
            return
        joined = b"\r" + data if self._open_cr else data
        self._open_cr = data.endswith(b"\r")
        pairs = joined.count(b"\r\n")
        self._crlf += pairs
        self._lf += joined.count(b"\n") - pairs
        self._cr += joined.count(b"\r") - pairs - self._open_cr

    @property
    def value(self) -> Newlines:
        return Newlines(crlf=self._crlf, lf=self._lf, cr=self._cr + self._open_cr)
