"""The sandbox put together: an API on a port, in this process or as one of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

from bridge.clock import Clock, SystemClock
from bridge.sandbox.api import Api
from bridge.sandbox.failures import Failure, parse_fail
from bridge.sandbox.server import Server
from bridge.sandbox.state import Journal, Received, State
from bridge.sandbox.twinning import Twins
from bridge.sandbox.twins import check_failure, kinds, twin_class

MAX_BODY = 64 * 1024 * 1024  # SES takes 40 MB, and base64 makes them 54
DEFAULT_KEY = "sandbox-key"
DEFAULT_PORT = 8026


class Sandbox:
    """A local REST email API: `async with Sandbox(key="k") as sandbox:` and send to `sandbox.url + "/send-email"`.

    Or as to a provider: `sandbox.twin_url("sendgrid")` is where its twin is, with the paths of the real API below it.

    `journal` is a file that gets a JSON line for each message. `on_received` is called with each message as it is taken,
    on the event loop: it must be short and must not raise. At most `max_messages` messages, and 64 MiB, are kept.
    """

    def __init__(
        self,
        *,
        key: str = DEFAULT_KEY,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        on_received: Callable[[Received], None] | None = None,
        journal: Path | str | None = None,
        max_messages: int = 1000,
        max_recipients: int = 1000,
        max_body: int = MAX_BODY,
    ) -> None:
        self._host = host
        self._port = port
        self._on_received = on_received
        self._journal_path = Path(journal) if journal else None
        self._arrived = asyncio.Event()
        clock = clock or SystemClock()
        self._state = State(clock=clock, max_messages=max_messages, on_received=self._received)
        self._twins = Twins(key=key, clock=clock, state=self._state)
        api = Api(key=key, state=self._state, twins=self._twins, max_recipients=max_recipients)
        self._server = Server(api.answer, clock=clock, max_body=max_body)

    async def start(self) -> None:
        """Listen. After `stop`, again on the same port. Raises OSError."""
        if self._journal_path:
            self._state.journal = Journal(self._journal_path)
        try:
            self._port = await self._server.start(self._host, self._port)
        except OSError:
            self._close_journal()
            raise

    async def stop(self) -> None:
        """Close every connection, hanging ones too; what was received stays readable."""
        await self._server.stop()
        self._close_journal()

    async def __aenter__(self) -> Sandbox:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Without a path; with the port in use once started."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    def twin_url(self, kind: str) -> str:
        """Where the twin of this provider is: the base of its paths. Raises ValueError for an unknown kind."""
        return f"{self.url}/{twin_class(kind).kind}"

    def received(self, kind: str) -> list[Received]:
        """What the twin of this provider took and is still kept, oldest first."""
        return [received for received in self._state.messages if received.shape == kind]

    @property
    def messages(self) -> list[Received]:
        """What was taken and is still kept, oldest first."""
        return self._state.messages

    @property
    def stats(self) -> dict[str, object]:
        """The counters of `GET /sandbox/stats`."""
        return self._state.stats()

    def fail(self, failure: Failure | str) -> None:
        """Add to the plan: a `Failure`, or its text, `"503:3"`. Raises ValueError."""
        planned = parse_fail(failure) if isinstance(failure, str) else failure
        check_failure(planned)
        self._state.plan.add(planned)

    def recover(self) -> None:
        """Forget all planned failures; a request that hangs already goes on hanging."""
        self._state.plan.clear()

    def clear(self) -> None:
        """Forget messages, idempotency keys and counters."""
        self._state.clear()
        self._twins.clear()

    async def wait_for(self, count: int, *, seconds: float = 10.0) -> list[Received]:
        """Wait until `count` messages were taken in all; returns those kept. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while self._state.total < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.messages

    def _received(self, received: Received) -> None:
        self._arrived.set()
        if self._on_received:
            self._on_received(received)

    def _close_journal(self) -> None:
        if self._state.journal:
            self._state.journal.close()
            self._state.journal = None


async def run_sandbox(
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    key: str = DEFAULT_KEY,
    journal: Path | str | None = None,
    failures: Iterable[Failure] = (),
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; `announce` gets the lines that say where, that of the API first. Raises OSError."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    sandbox = Sandbox(host=host, port=port, key=key, journal=journal)
    for failure in failures:
        sandbox.fail(failure)
    async with sandbox:
        say = announce or _print_line
        say(f"sandbox API on {sandbox.url}")
        say(f"messages: {sandbox.url}/")
        say(f"twins: {sandbox.url}/KIND for {', '.join(kinds())}")
        await stopping.wait()


def _print_line(line: str) -> None:
    print(line, flush=True)
