"""uvicorn in the daemon's own loop. Signals are the daemon's, and so is the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import ClassVar

from starlette.types import ASGIApp

from bridge.sockets import BACKLOG, Bound

if (
    sys.modules.get("click", sys) is None
):  # `smtp-bridge run` keeps it out, and uvicorn wants it for its own command line
    del sys.modules["click"]
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

KEEP_ALIVE_S = 75
UNREAD_S = 60.0  # seconds in which a client takes something of its answer
HEADER_S = 30.0  # seconds in which the header of a request must be there
GRACE_S = 3


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()

    async def main_loop(self) -> None:
        """uvicorn looks ten times a second whether it is to end; the Date of its answers is due once."""
        tenths = 0
        while not await self.on_tick(tenths):
            tenths = (tenths + 10) % 864_000
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self.ended.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Config(uvicorn.Config):
    max_connections = 0


class _Connection(H11Protocol):
    """uvicorn lets a connection that asks for nothing be for ever, and counts it only when it asks."""

    header_s: ClassVar[float] = HEADER_S
    unread_s: ClassVar[float] = UNREAD_S
    _waiting: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        assert isinstance(self.config, _Config)
        if len(self.connections) >= self.config.max_connections:
            self.transport = transport
            transport.close()
            return
        super().connection_made(transport)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waiting is not None and self._busy:
            self._waiting.cancel()  # from here on the handler's times hold
            self._waiting = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._busy and not self.transport.is_closing():
            self._expect_request(KEEP_ALIVE_S)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_at_progress(sys.maxsize)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _look_at_progress(self, before: int) -> None:
        """Who takes nothing of his answer for so long holds it in our memory."""
        left = self.transport.get_write_buffer_size()
        if left >= before:
            self.transport.abort()
        else:
            self._unread = self.loop.call_later(self.unread_s, self._look_at_progress, left)

    @property
    def _busy(self) -> bool:
        """A request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_request(self, more_s: float = 0.0) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(self.header_s + more_s, self.transport.close)


class WebServer:
    """`bind`, then `start`; `close` ends it within some seconds."""

    def __init__(self, address: str, *, max_connections: int = 500) -> None:
        self.address = address
        self._max_connections = max_connections
        self._bound: Bound | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    def bind(self) -> None:
        """Raises ListenError."""
        self._bound = Bound(self.address)

    @property
    def port(self) -> int:
        """The port in fact bound; 0 for a unix socket."""
        assert self._bound
        return self._bound.port

    async def start(self, app: ASGIApp) -> None:
        assert self._bound
        logging.getLogger("uvicorn").disabled = True
        logging.getLogger("uvicorn.error").disabled = True  # what a handler raises is in our log already
        config = _Config(
            app,
            lifespan="off",
            http=_Connection,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        config.max_connections = self._max_connections
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=self._bound.sockets), name="http")
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 a few turns of the loop
            await asyncio.sleep(0)

    @property
    def task(self) -> asyncio.Task[None]:
        assert self._task
        return self._task

    async def close(self) -> None:
        if self._server:
            self._server.should_exit = True
            self._server.ended.set()
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)
        if self._bound:
            self._bound.close()
