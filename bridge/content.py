"""The content of one message while it comes in: in memory as long as it is short, then in a file beside the spool.

The file has no name (O_TMPFILE where there is such a thing), so that nothing is left of it whatever happens. Where the disk
has no room, content goes on in memory as far as the budget allows.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from bridge.block import filled
from bridge.budget import Hold, MemoryBudget
from bridge.mime.pieces import held
from bridge.model import Email

READING = 128 * 1024  # octets: what a session needs to read a message at all
AT_ONCE = 1024 * 1024  # octets written to a file in one go
SHORT = 64 * 1024  # octets
SHORT_COST = 8  # times the size of a short message: it and all that is made of it
LONG_COST = 4  # and of what a long one has beyond that, until it is known how much of it is text (`mime.parse.Costly`)


class NoRoom(Exception):
    """Neither the disk nor the budget has room for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is the same for all: `threshold` octets stay in memory, `min_free` octets of the disk stay free."""

    budget: MemoryBudget
    directory: Path
    threshold: int
    min_free: int = 0

    async def begin(self) -> Content:
        """Waits for room in the budget. Raises `budget.Exhausted`."""
        return Content(self, self.budget.take(READING) or await self.budget.hold(READING))


@dataclass(frozen=True, slots=True)
class Tail:
    """What is in memory, from `start`."""

    whole: bytes
    start: int

    def __len__(self) -> int:
        return len(self.whole) - self.start

    def read_into(self, view: memoryview) -> None:
        view[:] = memoryview(self.whole)[self.start :]


@dataclass(frozen=True, slots=True)
class Rest:
    """What a file holds from `start` to `end`."""

    file: IO[bytes]  # not its number, which may be another's by the time it is read
    start: int
    end: int

    def __len__(self) -> int:
        return max(self.end - self.start, 0)

    def read_into(self, view: memoryview) -> None:
        """Blocks. Raises OSError."""
        position = self.start
        while position < self.end:
            there = os.preadv(self.file.fileno(), [view[position - self.start :]], position)
            if not there:
                raise OSError(errno.EIO, "the file is shorter than what was written")
            position += there


class Readable(Protocol):
    def read(self, first: int) -> tuple[bytes, Rest | None]: ...


class Content:
    """`write` as it comes, then `keep` what it costs and `read` it; `close` in any case."""

    __slots__ = ("_blocks", "_contents", "_file", "_in_file", "_no_file", "_writing", "hold", "size")

    def __init__(self, contents: Contents, hold: Hold) -> None:
        self.hold = hold
        self.size = 0
        self._contents = contents
        self._blocks: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._in_file = 0
        self._no_file = False
        self._writing: asyncio.Future[None] | None = None  # in a thread, which must not find its file closed

    async def write(self, block: bytes) -> None:
        """Raises NoRoom."""
        self._blocks.append(block)
        self.size += len(block)
        if self._no_file:
            self._stay(len(block))
        elif self._file is None:
            if self.size > self._contents.threshold or not self.hold.grow(len(block)):
                await self._write_out()
        elif self.size - self._in_file > AT_ONCE or not self.hold.grow(len(block)):
            await self._write_out()

    @property
    def long(self) -> bool:
        """Whether it is in a file."""
        return self._file is not None

    async def keep(self, least: int = 0) -> bool:
        """From a hold for reading to one for what the whole message costs; True when that had to be waited for. `least`: octets
        that it is known to cost.

        Raises `budget.Exhausted`, NoRoom.
        """
        whole = max(cost(self.size), least)
        if self._file is None and self._fits(whole):
            return False
        if self._no_file:
            raise NoRoom
        await self._write_out()
        if self._file is None:  # the disk would not have it
            if not self._fits(whole):
                raise NoRoom
            return False
        self.hold.resize(0)  # who waits holds nothing: else all could wait for each other
        large = self.size > self._contents.threshold
        at_once = self._contents.budget.take(whole, large=large)
        self.hold = at_once or await self._contents.budget.hold(whole, large=large)
        return at_once is None

    def _fits(self, whole: int) -> bool:
        more = whole - self.hold.octets
        if more > 0 and not self.hold.grow(more):
            return False
        self.hold.resize(whole)
        return True

    def split(self) -> Content:
        """Another one that begins with a part of this one's hold, so that it need not wait for its own."""
        hold = self._contents.budget.charge(READING)
        self.hold.resize(max(self.hold.octets - READING, 0))
        return Content(self._contents, hold)

    async def put_away(self) -> None:
        """All of it to the file, where it holds nothing; where the disk has no room it stays as it is. Raises NoRoom."""
        if not self._no_file:
            await self._write_out()
        if self._file is not None:
            self.hold.resize(0)

    def part(self, start: int, end: int) -> bytes:
        """Of one that was put away. Blocks. Raises OSError."""
        if self._file is not None:
            return join(b"", Rest(self._file, start, end))
        found, place = [], 0
        for block in self._blocks:  # never joined: several may take their parts at once
            if place < end and place + len(block) > start:
                found.append(block[max(start - place, 0) : end - place])
            place += len(block)
        return b"".join(found)

    def read(self, first: int) -> tuple[bytes, Rest | None]:
        """The first octets, at least so many (or all there are), and the rest. Blocks when it is long. Raises OSError."""
        if self._file is None:
            return (self._blocks[0] if len(self._blocks) == 1 else b"".join(self._blocks)), None
        return os.pread(self._file.fileno(), first, 0), Rest(self._file, first, self.size)

    def close(self) -> None:
        """The content is gone; the hold is its owner's."""
        self._blocks = []
        if self._writing and not self._writing.done():
            self._writing.add_done_callback(self._close_file)
        else:
            self._close_file()

    def _close_file(self, written: asyncio.Future[None] | None = None) -> None:
        if written and not written.cancelled():
            written.exception()  # nobody else asks
        if self._file is not None:
            self._file.close()

    def abandon(self) -> None:
        """It and its hold are given up."""
        self.close()
        self.hold.release()

    def drop(self) -> None:
        """Nothing of it will be wanted, though the rest is still to be read."""
        self.close()
        self.hold.resize(READING)

    async def _write_out(self) -> None:
        """All that is in memory goes to the file; if that cannot be, all stays in memory."""
        blocks, self._blocks = self._blocks, []
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._append, blocks))
        try:
            await asyncio.shield(self._writing)
        except OSError:
            self._no_file = True
            self._stay(max(self.size + READING - self.hold.octets, 0))
            written = await asyncio.to_thread(self._take_back)
            self._blocks = [written, *blocks] if written else blocks
            self._in_file = 0
        else:
            self._in_file = self.size
            self.hold.resize(READING)

    def _append(self, blocks: list[bytes]) -> None:
        size = sum(map(len, blocks))
        if self._file is None:
            self._file = open_unnamed(self._contents.directory)
        status = os.fstatvfs(self._file.fileno())
        if status.f_bavail * status.f_frsize - size < self._contents.min_free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for block in blocks:
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        blocks.clear()  # whoever else knows the list (the thread, until its next work) holds nothing by it

    def _take_back(self) -> bytes:
        """What the file holds for certain; a half written block of it is still in memory. Raises NoRoom."""
        file, self._file = self._file, None
        if file is None:
            return b""
        try:
            with file:
                file.seek(0)
                return file.read(self._in_file)
        except OSError:
            raise NoRoom from None

    def _stay(self, octets: int) -> None:
        if not self.hold.grow(octets):
            raise NoRoom


def join(first: bytes, rest: Rest | Tail | None) -> bytes:
    """All of it in one object, which is never in memory twice: the file is read to where it stays. Raises OSError."""
    if not rest:
        return first

    def fill(view: memoryview) -> None:
        view[: len(first)] = first
        rest.read_into(view[len(first) :])

    return filled(len(first) + len(rest), fill)


def cost(size: int) -> int:
    """Octets that a message of `size` octets and all that is made of it may hold."""
    return LONG_COST * size + (SHORT_COST - LONG_COST) * min(size, SHORT)


def footprint(email: Email) -> int:
    """Octets that a message holds while it is attempted: itself; its text as characters, as what is made of them for some
    providers (HTML, a form), and as octets; its files go from the message to the request piece by piece."""
    texts = (email.text, email.html, *(text for _, text in email.alternatives))
    files = sum(held(attachment.encoded) for attachment in email.attachments)
    return len(email.raw) + sum(2 * sys.getsizeof(text) + len(text) for text in texts) + files + AT_ONCE


def open_unnamed(directory: Path) -> IO[bytes]:
    """Raises OSError."""
    return tempfile.TemporaryFile(dir=directory, buffering=0)
