"""The messages of one request as they were written, in one `Content`: what they were written from is gone before any is sent.

Who waits for memory holds none: several are in a file, and each gets a content of its own when its turn has come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from bridge.content import Content, NoRoom

BLOCK = 64 * 1024  # octets at a time


class TooLarge(Exception):
    """A message has more octets than it may."""


class Written:
    """`add` each, `end`, then `take` each; `close` in any case. `begin`: a new content. For the loop's thread."""

    def __init__(self, content: Content, begin: Callable[[], Awaitable[Content]]) -> None:
        self._content: Content | None = content
        self._begin = begin
        self._shared = False
        self._takers = 0
        self._closed = False

    async def add(self, pieces: Iterable[bytes], limit: int) -> range:
        """Where it stands. Raises TooLarge, NoRoom."""
        content = self._there()
        start = content.size
        for block in _blocks(pieces):
            if content.size - start + len(block) > limit:
                raise TooLarge
            await content.write(block)
        return range(start, content.size)

    async def end(self, *, shared: bool) -> None:
        """`shared`: it has several. Raises NoRoom."""
        self._shared = shared
        if shared:
            await self._there().put_away()

    async def take(self, part: range) -> Content:
        """A content of this message alone, which is the caller's. Raises `budget.Exhausted`, NoRoom."""
        if self._shared:
            return await self._copied(part)
        content, self._content = self._there(), None
        return content

    def not_sent(self) -> None:
        """The only one is not wanted; one among several holds nothing."""
        if not self._shared:
            self.close()

    def close(self) -> None:
        """It is gone when nobody takes of it any more."""
        self._closed = True
        if self._content and not self._takers:
            self._content.abandon()
            self._content = None

    async def _copied(self, part: range) -> Content:
        source = self._there()
        self._takers += 1
        own: Content | None = None
        try:
            own = await self._begin()
            for start in range(part.start, part.stop, BLOCK):
                await own.write(await asyncio.to_thread(source.part, start, min(start + BLOCK, part.stop)))
            found, own = own, None
            return found
        except OSError:
            raise NoRoom from None
        finally:
            if own:
                own.abandon()
            self._takers -= 1
            if self._closed:
                self.close()

    def _there(self) -> Content:
        """Raises NoRoom."""
        if self._content is None or self._closed:
            raise NoRoom
        return self._content


def _blocks(pieces: Iterable[bytes]) -> Iterable[bytes]:
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        if len(gathered) >= BLOCK:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)
