"""The body of a request: small ones as bytes, with a large file in it as a stream that is made while it is sent.

A stream is told its length (no API need bear chunked transfer), and can be sent, hashed and sent again.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from bridge.mime.pieces import LARGE, Joined, pieces_of
from bridge.model import Content, Pieces

# Stands for a content until the JSON around it is written; nobody outside can know it, so no mail can hold it.
_TOKEN = secrets.token_hex(16).encode()
_MARK = orjson.Fragment(b'"%b"' % _TOKEN)


def json_body(value: Any) -> Content:
    """The JSON of a value. `Pieces` in it are strings of characters that need no escape, and are not read here."""
    found: list[Pieces] = []

    def mark(inner: Any) -> orjson.Fragment:  # orjson asks in the order of the document
        if not isinstance(inner, Pieces):
            raise TypeError(f"{type(inner).__name__} in a request")
        found.append(inner)
        return _MARK

    dumped = orjson.dumps(value, default=mark, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    if not found:
        return dumped
    start, *texts = dumped.split(_TOKEN)
    return Joined((start, *(part for pair in zip(found, texts, strict=True) for part in pair)))


def json_text(content: Content) -> str | Pieces:
    """UTF-8 as a JSON string, what is not UTF-8 in it replaced."""
    return (
        content.decode("utf-8", "replace") if isinstance(content, bytes) and len(content) <= LARGE else _Text(content)
    )


@dataclass(frozen=True, slots=True)
class _Text(Pieces):
    """With JSON's escapes. Its length is known only by making it."""

    content: Content = field(repr=False)

    def __len__(self) -> int:
        return sum(map(len, self))

    def __iter__(self) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for piece in pieces_of(self.content):
            yield orjson.dumps(decoder.decode(piece))[1:-1]
        yield orjson.dumps(decoder.decode(b"", final=True))[1:-1]


class _Stream(httpx.AsyncByteStream, httpx.SyncByteStream):
    def __init__(self, content: Pieces) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        return filter(None, self._content)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Others get their turn between the pieces, also when the network takes all at once; never after the last one, or
        whoever is cancelled then could not tell that it was written."""
        first = True
        for piece in self:
            if not first:
                await asyncio.sleep(0)
            first = False
            yield piece


def request(method: str, url: httpx.URL, headers: Any, content: Content) -> httpx.Request:
    """Always with a Content-Length. That of `Pieces` can be read by `read()` and its stream alone."""
    if isinstance(content, bytes):
        return httpx.Request(method, url, headers=headers, content=content)
    found = httpx.Headers(headers)
    found["Host"], found["Content-Length"] = url.netloc.decode("ascii"), str(len(content))
    return httpx.Request(method, url, headers=found, stream=_Stream(content))


def size_of(request: httpx.Request) -> int:
    """Octets of its body."""
    return int(request.headers.get("content-length", 0))


def sha256_of(request: httpx.Request) -> bytes:
    digest = hashlib.sha256()
    assert isinstance(request.stream, httpx.SyncByteStream)
    for piece in request.stream:
        digest.update(piece)
    return digest.digest()
