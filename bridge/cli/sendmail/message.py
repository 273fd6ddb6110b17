"""The message on standard input: its header in memory, the rest in a file beyond 1 MiB, with CRLF line ends.

It is read to its end before the daemon is spoken to: what a program writes over an hour must not hold a connection, and what is
cut off is not sent.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO

from bridge.cli.exits import EX_DATAERR
from bridge.cli.sendmail.failure import Failure

IN_MEMORY = 1024 * 1024
PIECE = 64 * 1024
MAX_HEADER = 16 * 1024 * 1024  # the daemon has a limit of its own, and a reply for it
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_RECIPIENT_FIELDS = ("to", "cc", "bcc")


@dataclass(slots=True)
class Message:
    """`fields`: each with its line ends, as it came. `body` stands at its beginning."""

    fields: list[bytes]
    body: IO[bytes]
    eight_bit: bool

    def named(self, *names: str) -> Iterator[str]:
        """The values of these fields, unfolded."""
        for field in self.fields:
            if name_of(field) in names:
                yield field.partition(b":")[2].decode("utf-8", "surrogateescape").replace("\r\n", "")

    def recipient_values(self) -> list[str]:
        """Of To, Cc and Bcc; of their Resent- namesakes where the message is a resent one, as Postfix takes them."""
        resent = any(name_of(field).startswith("resent-") for field in self.fields)
        names = [f"resent-{name}" if resent else name for name in _RECIPIENT_FIELDS]
        return list(self.named(*names))

    def without_bcc(self) -> None:
        self.fields = [field for field in self.fields if name_of(field) not in ("bcc", "resent-bcc")]

    def complete(self, sender: str, full_name: str, hostname: str) -> None:
        """From, Date and Message-ID where there are none (RFC 6409 8)."""
        present = {name_of(field) for field in self.fields}
        if "from" not in present:
            self._add("From", mailbox(full_name, sender))
        if "date" not in present:
            self._add("Date", time.strftime("%a, %d %b %Y %H:%M:%S %z"))
        if "message-id" not in present:
            self._add("Message-ID", f"<{time.time_ns():x}.{os.urandom(8).hex()}@{hostname}>")

    def _add(self, name: str, value: str) -> None:
        self.fields.append(f"{name}: {value}\r\n".encode("utf-8", "surrogateescape"))


def name_of(field: bytes) -> str:
    found = _FIELD.match(field)
    return found[1].decode("ascii").lower() if found else ""


def mailbox(full_name: str, address: str) -> str:
    name = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", full_name).split())
    if not name:
        return address
    if re.fullmatch(r"[\w !#$%&'*+/=?^`{|}~-]+", name, re.ASCII):
        return f"{name} <{address}>"
    if name.isascii():
        return '"{}" <{}>'.format(re.sub(r'(["\\])', r"\\\1", name), address)
    words = (name[at : at + 12] for at in range(0, len(name), 12))  # RFC 2047 2: a word of at most 75 characters
    encoded = (b64encode(word.encode("utf-8", "replace")).decode() for word in words)
    return "{} <{}>".format("\r\n ".join(f"=?utf-8?B?{word}?=" for word in encoded), address)


def read_message(stdin: BinaryIO, *, ignore_dots: bool) -> Message:
    """Raises Failure with EX_DATAERR for a header without end, OSError when it cannot be read or kept."""
    lines = _Lines(stdin, ignore_dots=ignore_dots)
    fields, first = _header(lines)
    body: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 it outlives this
    piece = first
    ended = True
    while piece:
        body.write(piece)
        ended = piece.endswith(b"\r\n")
        piece = next(lines, b"")
    if not ended:
        body.write(b"\r\n")
    body.seek(0)
    return Message(fields, body, lines.eight_bit)


def _header(lines: _Lines) -> tuple[list[bytes], bytes]:
    """The fields, and the first piece of the body. What begins with no field has none, as `echo hello | sendmail`."""
    fields: list[bytes] = []
    size = 0
    at_start = True
    for line in lines:
        size += len(line)
        if size > MAX_HEADER:
            raise Failure(EX_DATAERR, "the header has no end")
        if not at_start or (fields and line[:1] in b" \t" and line.strip()):
            fields[-1:] = [field + line for field in fields[-1:]]
        elif line == b"\r\n":
            return fields, next(lines, b"")
        elif _FIELD.match(line):
            fields.append(line)
        elif not fields and re.match(rb">*From ", line):  # the separator of a mailbox
            pass
        else:
            return _ended(fields), line
        at_start = line.endswith(b"\r\n")
    return _ended(fields), b""


def _ended(fields: list[bytes]) -> list[bytes]:
    if fields and not fields[-1].endswith(b"\r\n"):
        fields[-1] += b"\r\n"
    return fields


class _Lines:
    """Lines with CRLF; a long one in pieces. Ends at a dot alone, unless told to ignore it."""

    def __init__(self, stdin: BinaryIO, *, ignore_dots: bool) -> None:
        self._stdin = stdin
        self._ignore_dots = ignore_dots
        self._at_start = True
        self.eight_bit = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> bytes:
        piece = self._stdin.readline(PIECE)
        if piece.endswith(b"\r"):  # its LF may be the next octet
            piece += self._stdin.readline(1)
        if not piece or (self._at_start and not self._ignore_dots and piece.rstrip(b"\r\n") == b"."):
            raise StopIteration
        self._at_start = piece.endswith(b"\n")
        self.eight_bit = self.eight_bit or not piece.isascii()
        return piece.rstrip(b"\r\n") + b"\r\n" if self._at_start else piece
