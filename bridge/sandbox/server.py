"""HTTP/1.1 for the sandbox: h11 says what is valid, this moves the bytes. It knows nothing of mail.

Keep-alive and pipelining, Content-Length and chunked bodies, 100-continue, HEAD, 400 for what is not HTTP and 413 for a
body that is too large. Every wait is bounded, and `stop` ends what still hangs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus

import h11

from bridge.clock import Clock
from bridge.sandbox.exchange import Refusal, Request, Response
from bridge.sandbox.spoil import spoil

MAX_HEAD = 64 * 1024
READ_SIZE = 256 * 1024
SLOW_S = 2.0
LINGER_S = 2.0
LINGER_BYTES = 64 * 1024 * 1024
STOP_S = 2.0

_log = logging.getLogger(__name__)


class Connection:
    """One client. Requests are read one after the other; what a client pipelines waits inside h11."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, clock: Clock, idle_s: float
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.clock = clock
        self._idle_s = idle_s
        self._wire = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._method = ""

    async def read_request(self, max_body: int) -> Request | None:
        """The next request, None when the client has gone. Raises Refusal (413) and h11's RemoteProtocolError."""
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            return None
        headers = tuple((name.decode("ascii"), value.decode(errors="replace")) for name, value in head.headers)
        self._method = head.method.decode("ascii")
        # Checked before the client is told to go on (RFC 9110 10.1.1).
        if int(dict(headers).get("content-length", "0")) > max_body:
            raise _too_large(max_body)
        body = await self._read_body(max_body)
        path, query = _split(head.target.decode("ascii", "replace"))
        return Request(method=self._method, path=path, query=query, headers=headers, body=body)

    async def _read_body(self, max_body: int) -> bytes:
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > max_body:
                raise _too_large(max_body)
        return bytes(body)

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while (event := self._wire.next_event()) is h11.NEED_DATA:
            if self._wire.they_are_waiting_for_100_continue:
                await self.write(self._wire.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            async with asyncio.timeout(self._idle_s):
                self._wire.receive_data(await self.reader.read(READ_SIZE))
        return event  # type: ignore[return-value]  # NEED_DATA is gone

    def render(self, response: Response, *, close: bool = False) -> bytes:
        """The bytes of the answer to the request read last."""
        headers = [
            *([("Content-Type", response.content_type)] if response.content_type else []),
            # RFC 9110 8.6: never with 204.
            *([("Content-Length", str(len(response.body)))] if response.status != 204 else []),
            ("Date", formatdate(self.clock.now(), usegmt=True)),
            *response.headers,
            *([("Connection", "close")] if close else []),
        ]
        wire = self._wire
        head = h11.Response(status_code=response.status, headers=headers, reason=_reason(response.status))
        parts = [wire.send(head), *([] if self._method == "HEAD" else [wire.send(h11.Data(data=response.body))])]
        return b"".join(part or b"" for part in [*parts, wire.send(h11.EndOfMessage())])

    async def write(self, content: bytes) -> None:
        self.writer.write(content)
        async with asyncio.timeout(self._idle_s):
            await self.writer.drain()

    async def deliver(self, response: Response) -> bool:
        """Answer, or fail to as planned; True when another request may follow."""
        content = self.render(response) if response.status else b""
        failure = response.spoil
        if failure and failure.mode == "slow":
            await self.clock.wait(asyncio.Event(), SLOW_S if failure.seconds is None else failure.seconds)
        elif failure:
            await spoil(failure, content, self.reader, self.writer, self.clock)
            return False
        await self.write(content)
        if self._wire.our_state is not h11.DONE or self._wire.their_state is not h11.DONE:
            return False
        self._wire.start_next_cycle()
        return True

    async def refuse(self, refusal: Refusal) -> None:
        """Answer what cannot be read to its end, then close so that the answer arrives.

        Closing with unread input resets the connection, and the reset may overtake the answer (RFC 9112 9.6), so the
        rest is read and thrown away, for a while.
        """
        if self._wire.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        await self.write(self.render(refusal.response(), close=True))
        self.writer.write_eof()
        left = LINGER_BYTES
        async with asyncio.timeout(LINGER_S):
            while left > 0 and (content := await self.reader.read(READ_SIZE)):
                left -= len(content)


def _too_large(max_body: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is larger than {max_body} bytes")


def _split(target: str) -> tuple[str, str]:
    """`/a?b` and `http://host/a?b` -> `/a` and `b` (RFC 9112 3.2.2: a server must accept the absolute form)."""
    scheme, separator, rest = target.partition("://")
    if separator and "/" not in scheme:
        target = "/" + rest.partition("/")[2]
    path, _, query = target.partition("?")
    return path, query


def _reason(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"


class Server:
    """Listens, and keeps every connection's task so that `stop` can end it."""

    def __init__(
        self, answer: Callable[[Request], Awaitable[Response]], *, clock: Clock, max_body: int, idle_s: float = 75.0
    ) -> None:
        self._answer = answer
        self._clock = clock
        self._max_body = max_body
        self._idle_s = idle_s
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self, host: str, port: int) -> int:
        """The port in use. Raises OSError."""
        self._server = await asyncio.start_server(self._connected, host, port, limit=READ_SIZE)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Ends within seconds, whatever clients do."""
        if self._server is None:
            return
        self._server.close()
        for task, writer in self._connections.items():
            task.cancel()
            writer.transport.abort()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=STOP_S)
        self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            await self._serve(Connection(reader, writer, clock=self._clock, idle_s=self._idle_s))
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the client has gone or is too slow, or we stop: nobody is left to be told, and nothing runs after this
        finally:
            del self._connections[task]
            writer.close()

    async def _serve(self, connection: Connection) -> None:
        try:
            while request := await connection.read_request(self._max_body):
                if not await connection.deliver(await self._answered(request)):
                    return
                await asyncio.sleep(0)  # what is pipelined is read without a wait, and the others want their turn
        except h11.RemoteProtocolError as error:
            await connection.refuse(Refusal(error.error_status_hint, "bad_request", "this is not valid HTTP/1.1"))
        except Refusal as refusal:
            await connection.refuse(refusal)

    async def _answered(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except Exception:  # a fault of ours: the client gets an answer, the cause goes to the log
            _log.exception("request failed")
            return Refusal(500, "internal_error", "the sandbox failed").response()
