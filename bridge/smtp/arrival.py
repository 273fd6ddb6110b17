"""Connections that are not a session's from their first octet: a balancer's header comes first, or TLS.

asyncio's servers hold one TLS context for ever and cannot read anything before the handshake, so these are accepted here: the
header is taken from the socket to the octet, and what follows it (a TLS hello, say) is left there for whoever comes next. The
context is the one that holds at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections import Counter
from typing import Any

import structlog

from bridge.smtp.conversation import HANDSHAKE_S, Service
from bridge.smtp.policy import UNIX, client_of, is_allowed
from bridge.smtp.proxy import ProxyError, ProxyHeader, parse_proxy_header
from bridge.smtp.rates import network_of
from bridge.smtp.session import Session
from bridge.smtp.tls import handshake_fault

log: Any = structlog.get_logger()

AT_ONCE = 64  # connections accepted before anything else has its turn
PAUSE_S = 1.0  # when there are no file descriptors left
_NOTHING_LEFT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PEEK = 4096


class Arrivals:
    """Accepts on one socket, and brings each connection to its session. As many at a time as there may be sessions."""

    def __init__(self, sock: socket.socket, service: Service) -> None:
        self._socket = sock
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_client: Counter[str] = Counter()
        self._pause: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)

    def is_serving(self) -> bool:
        return not self._closed and self._pause is None

    def close(self) -> None:
        """Nobody else is let in. Whoever is still on the way has a moment to become a session; sessions go on."""
        self._closed = True
        if self._pause:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._end = self._loop.call_later(HANDSHAKE_S, self.abandon)

    def abandon(self) -> None:
        """After `close`: whoever is still on the way is gone. Sessions go on."""
        if self._end:
            self._end.cancel()
        for task in self._tasks:
            task.cancel()

    @property
    def on_the_way(self) -> int:
        return len(self._tasks)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NOTHING_LEFT:
                    raise
                log.error("listener.paused", error=error.strerror)
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(PAUSE_S, self.start)
                return
            sock.setblocking(False)
            self._begin(sock, UNIX if self._socket.family == socket.AF_UNIX else client_of(peer))

    def _begin(self, sock: socket.socket, peer: str) -> None:
        if len(self._tasks) >= self._service.limits.max_connections:
            sock.close()
            return
        task = self._loop.create_task(self._arrive(sock, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _arrive(self, sock: socket.socket, peer: str) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            client, named = peer, True
            if self._service.policy.proxy_networks is not None:
                header = await self._header(sock, peer)
                if header is None:
                    return
                client, named = header.source or peer, bool(header.source)
            network = network_of(client)
            if self._by_client[network] >= self._service.limits.max_connections_per_client:
                return
            with self._counted(network):
                stack.pop_all()
                await self._hand_over(sock, client, named=named)

    @contextlib.contextmanager
    def _counted(self, network: str) -> Any:
        self._by_client[network] += 1
        try:
            yield
        finally:
            self._by_client[network] -= 1
            if not self._by_client[network]:
                del self._by_client[network]

    async def _header(self, sock: socket.socket, peer: str) -> ProxyHeader | None:
        """None when there is none that may be believed; the connection is then closed without a word."""
        if not is_allowed(peer, self._service.policy.proxy_networks or ()):
            log.warning("connection.refused", client=peer, text="not in proxy_networks")
            return None
        try:
            async with asyncio.timeout(self._service.limits.proxy_header_timeout):
                return await read_proxy_header(sock)
        except TimeoutError:
            why = "no PROXY header in time"
        except ConnectionError:  # a look whether the port is open, every few seconds
            log.debug("connection.closed", client=peer)
            return None
        except (ProxyError, OSError) as error:
            why = f"PROXY header: {error}"
        log.warning("connection.refused", client=peer, text=why)
        return None

    async def _hand_over(self, sock: socket.socket, client: str, *, named: bool) -> None:
        service = self._service
        context = service.tls_context if service.policy.tls == "implicit" else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: Session(service, loop=self._loop, client=client, named=named),
                sock,
                ssl=context,
                ssl_handshake_timeout=service.limits.tls_handshake_timeout if context else None,
            )
        except OSError as error:  # ssl.SSLError and TimeoutError are
            sock.close()
            log.info("connection.tls_failed", client=client, error=handshake_fault(error))
        except BaseException:
            sock.close()
            raise


async def read_proxy_header(sock: socket.socket) -> ProxyHeader:
    """Take the header from a non-blocking socket, and not one octet more.

    Raises ProxyError, OSError; ConnectionError when nothing came before the end.
    """
    data = b""
    while True:
        seen = await _peek(sock)
        if not seen:
            raise ProxyError("closed before it was complete") if data else ConnectionAbortedError
        header = parse_proxy_header(data + seen)
        # As long as it is not complete, everything that has come belongs to it.
        taken = len(seen) if header is None else header.size - len(data)
        data += sock.recv(taken)
        if header:
            return header


async def _peek(sock: socket.socket) -> bytes:
    """What has come, left where it is; b"" at the end of the stream."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return sock.recv(_PEEK, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            pass
        readable = loop.create_future()
        loop.add_reader(sock, _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(sock)


def _wake(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
