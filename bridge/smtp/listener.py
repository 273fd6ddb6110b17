"""Who is let in, and what is listened on for him."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bridge.reply import Reply
from bridge.smtp import replies
from bridge.smtp.arrival import Arrivals
from bridge.smtp.conversation import Service
from bridge.smtp.policy import UNIX, Limits
from bridge.smtp.rates import network_of
from bridge.smtp.session import Session
from bridge.sockets import BACKLOG, Bound

# Whose file a unix socket is, `Bound` knows: that of systemd is there for the next start. Python 3.13 removes any.
_KEEP_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class Connections:
    """Counts the open connections of all listeners, in all and by client, of IPv6 by /64."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._by_client: Counter[str] = Counter()
        self.sessions: set[Session] = set()

    def admit(self, session: Session) -> Reply | None:
        """None when the session may go on, which `leave` ends; else what it hears."""
        client = network_of(session.client)
        crowded = self._by_client[client] >= self.limits.max_connections_per_client
        if crowded or len(self.sessions) >= self.limits.max_connections:
            return replies.TOO_MANY_CONNECTIONS
        self._by_client[client] += 1
        self.sessions.add(session)
        return None

    def leave(self, session: Session) -> None:
        self.sessions.discard(session)
        client = network_of(session.client)
        self._by_client[client] -= 1
        if self._by_client[client] <= 0:
            del self._by_client[client]


class Listener:
    """One bound address and the service behind it. `where`: the address, with the port that was in fact bound."""

    def __init__(self, address: str, service: Service) -> None:
        self.address = self.where = address
        self.service = service
        self._bound: Bound | None = None
        self._servers: list[asyncio.Server | Arrivals] = []
        self._arrivals: list[Arrivals] = []

    def bind(self, environ: Mapping[str, str] = os.environ) -> None:
        """Raises ListenError."""
        self._bound = Bound(self.address, environ)
        if self.address.endswith(":0"):
            self.where = f"{self.address.removesuffix(':0')}:{self.port}"

    @property
    def port(self) -> int:
        """The port in fact bound (useful for ":0"); 0 for a unix socket."""
        assert self._bound
        return self._bound.port

    @property
    def up(self) -> bool:
        """Whether it takes connections now."""
        return bool(self._servers) and all(server.is_serving() for server in self._servers)

    async def start(self) -> None:
        assert self._bound
        loop = asyncio.get_running_loop()
        policy = self.service.policy
        for sock in self._bound.sockets:
            if policy.tls == "implicit" or policy.proxy_networks is not None:
                arrivals = Arrivals(sock, self.service)
                arrivals.start()
                self._servers.append(arrivals)
                self._arrivals.append(arrivals)
                continue
            server: asyncio.Server
            if sock.family == socket.AF_UNIX:
                local = lambda: Session(self.service, loop=loop, client=UNIX)  # noqa: E731
                server = await loop.create_unix_server(local, sock=sock, backlog=BACKLOG, **_KEEP_FILE)
            else:
                make = lambda: Session(self.service, loop=loop)  # noqa: E731
                server = await loop.create_server(make, sock=sock, backlog=BACKLOG)
            self._servers.append(server)

    def close(self) -> None:
        """Stop accepting; open sessions go on, and those in their handshake have a moment to finish it."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._bound:
            self._bound.close()

    def abandon(self) -> None:
        """After `close`: who is no session yet is gone."""
        for arrivals in self._arrivals:
            arrivals.abandon()

    @property
    def on_the_way(self) -> int:
        """Connections that are no sessions yet."""
        return sum(arrivals.on_the_way for arrivals in self._arrivals)
