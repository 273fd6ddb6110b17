"""uvicorn in the daemon's own loop. Signals are the daemon's, and so is the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator

from starlette.types import ASGIApp

from bridge.sockets import BACKLOG, Bound

if (
    sys.modules.get("click", sys) is None
):  # `smtp-bridge run` keeps it out, and uvicorn wants it for its own command line
    del sys.modules["click"]
import uvicorn

KEEP_ALIVE_S = 75
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
        config = uvicorn.Config(
            app,
            lifespan="off",
            http="h11",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            limit_concurrency=self._max_connections,
        )
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
