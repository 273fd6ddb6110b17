"""DATA, block by block from the message: aiosmtplib makes copies of all of it, and writes them without asking for room.

Lines end in CRLF and nothing else (RFC 5321 2.3.8), a dot that begins one is doubled (4.5.2).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator

from aiosmtplib import SMTP, SMTPDataError, SMTPResponse, SMTPServerDisconnected

from bridge.mime.pieces import pieces_of
from bridge.model import Content
from bridge.providers.smtp_link import Link

START_INPUT = 354
COMPLETED = 250
_BREAK = re.compile(rb"\r\n|\r|\n")


async def send_data(client: SMTP, content: Content, *, before_end: Callable[[], None]) -> SMTPResponse:
    """The reply that took the message. `before_end` is called when its end is about to be written: until then whatever happens
    leaves the smarthost without a message (RFC 5321 4.1.1.10: it cancels what it has only a part of).

    Raises SMTPDataError for any other reply, to DATA, to the message, or in the middle of it; SMTPServerDisconnected when the
    connection is lost, or what is said is no reply.
    """
    link = Link.begin(client)
    good = False
    try:
        await link.write(b"DATA\r\n")
        answer = await link.reply()
        if answer.code != START_INPUT:
            good = not link.lost
            raise SMTPDataError(answer.code, answer.message)
        last = await _write(link, content)
        if link.replies or link.lost:
            _taken(await link.reply())
            # That was no verdict on what it had not read, and its verdict would be taken for one on the next message.
            raise SMTPServerDisconnected("Answered before the end")
        before_end()
        await link.write(last + b".\r\n")
        answer = _taken(await link.reply())
        good = True
        return answer
    finally:
        link.end(good=good)


async def size_of(content: Content) -> int:
    """Octets, as SIZE counts them: with the line ends it is sent with, without the doubled dots and the end (RFC 1870 5)."""
    size = 0
    for block in lines(pieces_of(content)):
        size += len(block)
        await asyncio.sleep(0)  # a thread would do the same under the same lock, and hold the loop up for longer
    return size


def is_ascii(content: Content) -> bool:
    return content.isascii() if isinstance(content, bytes) else all(piece.isascii() for piece in content)


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """With CRLF for every line end, and at the end of it all; never split between two blocks."""
    held = last = b""
    for piece in pieces:
        block = held + piece if held else piece
        held = b"\r" if block.endswith(b"\r") else b""
        if held:
            block = block[:-1]
        if block:
            last = block if _is_clean(block) else _BREAK.sub(b"\r\n", block)
            yield last
    if held or not last.endswith(b"\n"):
        yield b"\r\n"


def stuffed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """`blocks`: as `lines` gives them."""
    begins = True
    for block in blocks:
        doubled = block.replace(b"\n.", b"\n..")
        yield b"." + doubled if begins and block.startswith(b".") else doubled
        begins = block.endswith(b"\n")


def _is_clean(block: bytes) -> bool:
    pairs = block.count(b"\r\n")
    return pairs == block.count(b"\n") == block.count(b"\r")


def _taken(answer: SMTPResponse) -> SMTPResponse:
    if answer.code != COMPLETED:
        raise SMTPDataError(answer.code, answer.message)
    return answer


async def _write(link: Link, content: Content) -> bytes:
    """All but the last block, which is returned, or until the server says something."""
    last = b""
    for block in stuffed(lines(pieces_of(content))):
        if last:
            await link.write(last)
        if link.replies or link.lost:
            break
        last = block
    return last
