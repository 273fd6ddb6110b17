"""The body of a request: small ones as bytes, with a large file in it as a stream that is made while it is sent.

A stream is told its length (no API need bear chunked transfer), and can be sent, hashed and sent again.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import operator
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from bridge.mime.pieces import LARGE, PIECE, Joined, pieces_of
from bridge.model import Content, Pieces

# Stands for a content until the JSON around it is written; nobody outside can know it, so no mail can hold it.
_TOKEN = secrets.token_hex(16).encode()
_texts_apart: ContextVar[bool] = ContextVar("texts_apart", default=False)
_AT_ONCE = 8192  # characters
_LONG_TEXT = 64 * 1024  # characters
_HOLDERS = (str, dict, list, tuple)
_MARK = orjson.Fragment(b'"%b"' % _TOKEN)


def json_body(value: Any) -> Content:
    """The JSON of a value. `Pieces` in it are strings of characters that need no escape, and are not read here."""
    value = _with_texts_apart(value) if _texts_apart.get() else value
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


def of_large(build: Callable[[], httpx.Request]) -> httpx.Request:
    """What `build` makes, its long texts escaped while they are sent. To look for them takes longer than the JSON of a small
    mail, so it is not done for all."""
    token = _texts_apart.set(True)
    try:
        return build()
    finally:
        _texts_apart.reset(token)


def _with_texts_apart(value: Any) -> Any:
    """The same object where none is long."""
    if isinstance(value, str):
        return _Escaped(value) if len(value) > _LONG_TEXT else value
    if isinstance(value, dict):
        changed = {
            key: found
            for key, inner in value.items()
            if isinstance(inner, _HOLDERS) and (found := _with_texts_apart(inner)) is not inner
        }
        return value | changed if changed else value
    if isinstance(value, list | tuple):
        apart = [_with_texts_apart(inner) if isinstance(inner, _HOLDERS) else inner for inner in value]
        return value if all(map(operator.is_, value, apart)) else apart
    return value


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
            yield _escaped(decoder.decode(piece))
        yield _escaped(decoder.decode(b"", final=True))


@dataclass(frozen=True, slots=True)
class _Escaped(Pieces):
    """A long text with JSON's escapes."""

    text: str = field(repr=False)

    def __len__(self) -> int:
        return sum(map(len, self))

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self.text), PIECE):
            yield _escaped(self.text[start : start + PIECE])


def _escaped(text: str) -> bytes:
    """Little at a time: orjson reserves eight times its size."""
    parts = (text[start : start + _AT_ONCE] for start in range(0, len(text), _AT_ONCE))
    return b"".join(orjson.dumps(part)[1:-1] for part in parts)


def size_in_json(text: str) -> int:
    """Octets, the quotes included."""
    return len(_Escaped(text)) + 2


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
