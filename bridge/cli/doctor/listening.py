"""Brings one connection after another to a LearningSession: first octets looked at, TLS where they are a hello."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bridge.budget import MemoryBudget
from bridge.cli.doctor.auth import LearningAuth
from bridge.cli.doctor.certificates import Certificates, Watch, lenient_context
from bridge.cli.doctor.dialogue import Command, Dialogue, Ended, Handshake, Proxied
from bridge.cli.doctor.hello import kind_of, parse_record
from bridge.cli.doctor.record import Record, Show
from bridge.cli.doctor.recording import Silence, failure
from bridge.cli.doctor.session import LearningSession, Verdict
from bridge.content import Contents
from bridge.smtp.auth import User
from bridge.smtp.conversation import Service
from bridge.smtp.logins import Logins
from bridge.smtp.policy import ListenerPolicy
from bridge.smtp.proxy import ProxyError, ProxyHeader, parse_proxy_header
from bridge.sockets import ListenError, bind_address, unix_path

LOOK = 16 * 1024
MEMORY = 1 << 30  # octets, of one connection
IN_MEMORY = 1 << 20
TAKEN_SIZE = 100 << 20  # octets of a message that are taken, so that its size is known
EVERYBODY = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


class Place:
    """Where the doctor listens. Raises ListenError when made."""

    def __init__(self, address: str) -> None:
        self.address = address
        try:
            self.sockets = bind_address(address, os.environ)
        except OSError as error:
            raise ListenError(error.strerror or str(error)) from error
        for sock in self.sockets:
            sock.listen(8)

    @property
    def port(self) -> int:
        name = self.sockets[0].getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    @property
    def shown(self) -> str:
        return f"{self.address.rpartition(':')[0]}:{self.port}" if self.port else self.address

    async def accept(self) -> tuple[socket.socket, str]:
        """(the connection, its client's address; "unix" for that)."""
        loop = asyncio.get_running_loop()
        tasks = [asyncio.ensure_future(loop.sock_accept(sock)) for sock in self.sockets]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        sock, name = done.pop().result()
        for other in done:
            other.result()[0].close()
        sock.setblocking(False)
        return sock, str(name[0]) if isinstance(name, tuple) else "unix"

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        if path := unix_path(self.address):
            Path(path).unlink(missing_ok=True)


class Examination:
    """One connection from its first octet to its end; `record` grows meanwhile."""

    def __init__(
        self,
        *,
        daemons: Service,
        users: Sequence[User],
        certificates: Certificates,
        silence: Silence,
        verdict: Verdict,
        show: Show,
        client: str,
        offer_all: bool = False,
    ) -> None:
        self.record = Record(client, show, offered_all=offer_all)
        self._daemons = daemons  # gets a context where it has TLS: what it lists depends on that
        self._users = users
        self._certificates = certificates
        self._silence = silence
        self._verdict = verdict
        self._contents = Contents(
            budget=MemoryBudget(MEMORY, wait_s=1), directory=Path(tempfile.gettempdir()), threshold=IN_MEMORY
        )
        self._session: LearningSession | None = None

    async def run(self, sock: socket.socket) -> Dialogue:
        first = await self._first_octets(sock)
        if kind_of(first) == "proxy":
            self._take_proxy_header(sock, first)
            first = await self._first_octets(sock)
        is_tls = kind_of(first) == "tls"
        context, watch = lenient_context(self._certificates)
        if self._daemons.policy.tls != "none":
            self._daemons = replace(self._daemons, tls_context=context)
        await self._serve(sock, context, watch, implicit=is_tls, first=first)
        return self.record.dialogue()

    async def _first_octets(self, sock: socket.socket) -> bytes:
        implicit = self._daemons.policy.tls == "implicit"
        return await look(sock, self._silence.greeting_implicit if implicit else self._silence.greeting, _is_enough)

    def _take_proxy_header(self, sock: socket.socket, first: bytes) -> None:
        header = _proxy_header(first)
        sock.recv(header.size if header else len(first))
        source = header.source if header else ""
        self.record.add(Proxied(source=source, by=self.record.client))
        self.record.show("C", f"(a PROXY header{f': the client is {source}' if source else ''})")
        self.record.client = source or self.record.client

    async def _serve(
        self, sock: socket.socket, context: ssl.SSLContext, watch: Watch, *, implicit: bool, first: bytes
    ) -> None:
        loop = asyncio.get_running_loop()
        session = self._session = self._make(context, watch)
        if implicit:
            self.record.show("C", "(TLS from the first octet)")
        try:
            await loop.connect_accepted_socket(
                lambda: session,
                sock,
                ssl=context if implicit else None,
                ssl_handshake_timeout=self._silence.ended if implicit else None,
            )
        except OSError:  # ssl.SSLError is one
            hello, refused, alert = watch()
            shake = Handshake(implicit=True, hello=hello or parse_record(first), refused=refused, alert=alert)
            self.record.add(shake)
            self.record.show("!", failure(shake))
            self.record.add(Ended(by="device"))
            return
        await session.closed

    def _make(self, context: ssl.SSLContext, watch: Watch) -> LearningSession:
        daemons = self._daemons
        limits = replace(
            daemons.limits,
            timeout=self._silence.ended,
            tls_handshake_timeout=self._silence.ended,
            max_message_size=max(daemons.limits.max_message_size, TAKEN_SIZE),
        )
        policy = ListenerPolicy(
            name=daemons.policy.name,
            protocol=daemons.policy.protocol,
            tls="starttls",
            allowed_networks=EVERYBODY,
            auth_mechanisms=("PLAIN", "LOGIN", "CRAM-MD5"),
            auth_without_tls=True,
        )
        service = replace(
            daemons,
            policy=policy,
            limits=limits,
            logins=Logins(LearningAuth(daemons.logins.auth, self._users, self.record), None),
            begin=self._contents.begin,
            take=self._contents.budget.take,
            tls_context=context,
            check_recipient=lambda *_: None,
        )
        return LearningSession(
            service,
            daemons,
            self.record,
            loop=asyncio.get_running_loop(),
            silence=self._silence,
            verdict=self._verdict,
            client=self.record.client,
            watch=watch,
        )

    def interrupt(self) -> Dialogue:
        """What was learnt so far."""
        if self._session:
            self._session.end("user")
            self._session.abort()
        return self.record.dialogue()


def left_early(dialogue: Dialogue) -> bool:
    """It heard what is offered, and sent nothing: next time it is offered everything."""
    return bool(dialogue.all(Command)) and not dialogue.brought_mail


def _is_enough(octets: bytes) -> bool:
    kind = kind_of(octets)
    return kind is not None and (kind != "proxy" or _proxy_header(octets) is not None)


def _proxy_header(octets: bytes) -> ProxyHeader | None:
    """None for one that is not whole, or is none."""
    try:
        return parse_proxy_header(octets)
    except ProxyError:
        return None


async def look(sock: socket.socket, seconds: float, enough: Callable[[bytes], bool]) -> bytes:
    """The octets that have come and are enough, left where they are; fewer after `seconds` or at the end of the stream."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    seen = b""
    while (left := deadline - loop.time()) > 0:
        with contextlib.suppress(BlockingIOError):
            octets = sock.recv(LOOK, socket.MSG_PEEK)
            if not octets or enough(octets):
                return octets
            if octets == seen:  # the socket stays readable as long as they lie there
                await asyncio.sleep(min(0.01, left))
            seen = octets
            continue
        await _readable(sock, left)
    return seen


async def _readable(sock: socket.socket, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(sock, lambda: None if ready.done() else ready.set_result(None))
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ready, seconds)
    finally:
        loop.remove_reader(sock)
