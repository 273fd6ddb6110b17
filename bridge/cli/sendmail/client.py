"""SMTP as a client that speaks to its own daemon: no TLS, no login, one message after another from a file."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from bridge.cli.exits import EX_TEMPFAIL
from bridge.cli.sendmail.failure import Failure, status_of

CONNECT_S = 10.0
REPLY_S = 600.0  # RFC 5321 4.5.3.2.6: what follows the final dot may take ten minutes
BLOCK = 64 * 1024
MAX_REPLY = 64 * 1024


class Reply(NamedTuple):
    code: int
    text: str  # lines joined by a blank, the enhanced code with it

    @property
    def enhanced(self) -> str:
        found = re.match(r"[245]\.\d{1,3}\.\d{1,3}\b", self.text)
        return found[0] if found else ""

    def __str__(self) -> str:
        return f"{self.code} {self.text}".strip()


def connect(places: Sequence[str]) -> socket.socket:
    """To the first that answers. Raises Failure with EX_TEMPFAIL."""
    why = ""
    for place in places:
        try:
            return connect_to(place)
        except (OSError, ValueError) as error:
            why = why or f"{place}: {getattr(error, 'strerror', '') or error}"
    raise Failure(EX_TEMPFAIL, f"the daemon cannot be reached: {why}")


def connect_to(place: str) -> socket.socket:
    """Raises OSError, ValueError."""
    if place.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_S)
            sock.connect(place.removeprefix("unix:"))
        except OSError:
            sock.close()
            raise
    else:
        host, _, port = place.rpartition(":")
        sock = socket.create_connection((host.strip("[]") or "127.0.0.1", int(port)), CONNECT_S)
    sock.settimeout(REPLY_S)
    return sock


class Client:
    """`tell` hears each line as it goes: ">>>" or "<<<", and the line."""

    def __init__(self, sock: socket.socket, tell: Callable[[str, str], None]) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", BLOCK)
        self._tell = tell
        self.extensions: dict[str, str] = {}

    def greet(self, hostname: str) -> None:
        """Raises Failure when it is not welcome."""
        _expect(self.reply(), 220)
        reply = self.command(f"EHLO {hostname}", keep_lines=True)
        _expect(reply, 250)
        for line in reply.text.split("\n")[1:]:
            word, _, rest = line.partition(" ")
            self.extensions[word.upper()] = rest

    def command(self, line: str, *, keep_lines: bool = False) -> Reply:
        self._tell(">>>", line)
        self.send(line.encode("utf-8", "surrogateescape") + b"\r\n")
        return self.reply(keep_lines=keep_lines)

    def data(self, blocks: Iterable[bytes]) -> Reply:
        """The content with CRLF line ends, dots stuffed, in blocks that end anywhere; the reply after its end."""
        _expect(self.command("DATA"), 354)
        for block in blocks:
            self.send(block)
        self._tell(">>>", ".")
        self.send(b".\r\n")
        return self.reply()

    def send(self, octets: bytes) -> None:
        try:
            self._sock.sendall(octets)
        except OSError as error:
            raise Failure(EX_TEMPFAIL, f"the connection to the daemon was lost: {error.strerror or error}") from None

    def reply(self, *, keep_lines: bool = False) -> Reply:
        """Raises Failure with EX_TEMPFAIL when none comes, or something that is none."""
        lines: list[str] = []
        while True:
            try:
                octets = self._file.readline(MAX_REPLY)
            except OSError as error:
                raise Failure(EX_TEMPFAIL, f"no reply of the daemon: {error.strerror or error}") from None
            line = octets.decode("utf-8", "replace").rstrip("\r\n")
            if not octets or not re.match(r"[2-5]\d\d([ -]|\Z)", line) or len(lines) > 1000:
                raise Failure(EX_TEMPFAIL, "the daemon hung up" if not octets else "that is not an SMTP server")
            self._tell("<<<", line)
            lines.append(line[4:])
            if line[3:4] != "-":
                return Reply(int(line[:3]), ("\n" if keep_lines else " ").join(lines))

    def close(self) -> None:
        """Without waiting for the answer: what counts has been said."""
        try:
            self._sock.sendall(b"QUIT\r\n")
        except OSError:
            pass
        self._file.close()
        self._sock.close()


def _expect(reply: Reply, code: int) -> None:
    if reply.code != code:
        raise Failure(status_of(reply.code, reply.enhanced), str(reply))


def stuffed(file: BinaryIO) -> Iterator[bytes]:
    """Lines that end in CRLF, in blocks: a dot before each that begins with one (RFC 5321 4.5.2)."""
    block = bytearray()
    at_start = True
    while line := file.readline(BLOCK):
        if at_start and line.startswith(b"."):
            block += b"."
        block += line
        at_start = line.endswith(b"\n")
        if len(block) >= BLOCK:
            yield bytes(block)
            block.clear()
    yield bytes(block)
