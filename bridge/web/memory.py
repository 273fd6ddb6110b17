"""What a request holds: taken from the memory budget of the mail before there is anything, given back when it is sent.

A large answer is sent piece by piece, each when the client has taken the one before.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from bridge.budget import Exhausted, Hold
from bridge.content import SHORT
from bridge.mime.pieces import PIECE
from bridge.spool.base import StoredBody
from bridge.web.context import Web
from bridge.web.errors import Problem

PASSING = 4 * PIECE  # octets of a stream: the piece, and what of it waits to be taken by the client


async def take(web: Web, octets: int) -> Hold:
    """Waits as a session does. Raises Problem 503."""
    try:
        return await web.hold(octets, large=octets > SHORT)
    except Exhausted:
        raise no_memory() from None


def no_memory() -> Problem:
    return Problem(503, "No memory for it now", headers={"Retry-After": "30"})


@contextlib.asynccontextmanager
async def while_read(web: Web, request: Request, limit: int) -> AsyncIterator[Hold]:
    """For a body of who may send one, while it comes in, which it may do slowly, and is parsed. Raises Problem 503."""
    declared = request.headers.get("content-length", "")
    hold = await take(web, 2 * min(int(declared) if declared.isdigit() else limit, limit))
    try:
        yield hold
    finally:
        hold.release()


class _Source:
    """The thread that made the last piece keeps this one until its next work; not what the pieces are made from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.pieces)


class Streamed(StreamingResponse):
    """`close` is called when it is sent, or is not wanted any more. Pieces that are made without `await` are made in a thread."""

    def __init__(
        self,
        pieces: Iterable[bytes] | AsyncIterable[bytes],
        *,
        close: Callable[[], None],
        headers: dict[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        self._source = _Source(iter(pieces)) if isinstance(pieces, Iterable) else None
        super().__init__(self._source or pieces, headers=headers, media_type=media_type)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] == "HEAD":
                await Response(status_code=self.status_code, headers=dict(self.headers))(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)
        finally:
            if self._source:
                self._source.pieces = iter(())
            self._close()


def streamed(response: Response, hold: Hold) -> Streamed:
    """One that is made already, of which no more is held from here on."""
    body = bytes(response.body)
    hold.resize(len(body) + PASSING)
    found = Streamed(_slices(body), close=hold.release)
    found.status_code, found.raw_headers = response.status_code, response.raw_headers
    return found


def _slices(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), PIECE):
        yield body[start : start + PIECE]


async def stored(web: Web, queue_id: str) -> tuple[StoredBody, Callable[[], None]] | None:
    """A body to be sent, and what gives all back; None when it is not kept. Raises Problem 503, SpoolError."""
    hold = await take(web, PASSING)
    body = None
    try:
        body = await web.spool.open_body(queue_id)
    finally:
        if body is None:
            hold.release()
    if body is None:
        return None
    hold.resize(PASSING + body.held)

    def close() -> None:
        body.close()
        hold.release()

    return body, close
