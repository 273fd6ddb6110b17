"""What a client sends as content, block by block on its way to a `Content`: measured, its line ends made CRLF.

What is refused is read to its end all the same (RFC 5321 4.2.5), and thrown away.
"""

from __future__ import annotations

from typing import Literal

from bridge.content import Content, NoRoom
from bridge.mime.trace import has_bare_newline, normalize_newlines
from bridge.reply import MESSAGE_TOO_BIG, SPOOL_FULL, Reply
from bridge.smtp import replies

Newlines = Literal["normalize", "reject", "keep"]  # keep: BINARYMIME, where they are no line ends


class Receiver:
    """`write` each block, then `end`; `refusal` says why it will not be taken."""

    def __init__(self, content: Content, *, max_size: int, newlines: Newlines) -> None:
        self.content = content
        self.refusal: Reply | None = None
        self.size = 0  # octets as they came, without what dot-stuffing added
        self._max_size = max_size
        self._newlines = newlines
        self._cr = False  # the last block ended with a CR, which may be half of a CRLF

    async def write(self, block: bytes) -> None:
        self.size += len(block)
        if self.size > self._max_size:
            self.refuse(MESSAGE_TOO_BIG)
        if self.refusal is MESSAGE_TOO_BIG:
            return
        if self._newlines != "keep":
            block = self._lines(block)
        await self._pass_on(block)

    async def end(self) -> None:
        if self._cr:
            self._cr = False
            await self._pass_on(self._with_crlf(b"\r"))

    def refuse(self, reply: Reply) -> None:
        if self.refusal is None or reply is MESSAGE_TOO_BIG:
            self.refusal = reply
            self.content.drop()

    async def _pass_on(self, block: bytes) -> None:
        if self.refusal is None:
            try:
                await self.content.write(block)
            except NoRoom:
                self.refuse(SPOOL_FULL)

    def _lines(self, block: bytes) -> bytes:
        if self._cr:
            block = b"\r" + block
        self._cr = block.endswith(b"\r")
        return self._with_crlf(block[:-1] if self._cr else block)

    def _with_crlf(self, block: bytes) -> bytes:
        if not has_bare_newline(block):
            return block
        if self._newlines == "reject":
            self.refuse(replies.BARE_NEWLINE)
            return b""
        return normalize_newlines(block)
