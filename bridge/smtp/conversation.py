"""What every session has in common, whatever its commands: it is greeted, reads commands, counts errors, and ends."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import structlog

from bridge import metrics
from bridge.budget import Hold
from bridge.content import Content
from bridge.model import Answer, Peer
from bridge.reply import LOCAL_ERROR, SHUTTING_DOWN, Reply
from bridge.smtp import replies
from bridge.smtp.auth import User
from bridge.smtp.client_certificate import certificate_names, has_expired
from bridge.smtp.logins import Logins
from bridge.smtp.policy import Limits, ListenerPolicy
from bridge.smtp.rates import Rates
from bridge.smtp.throttle import Crowded
from bridge.smtp.wire import Disconnected, LineTooLong, Wire

log: Any = structlog.get_logger()

PARTING_S = 0.5  # silence at a shutdown that ends a session
HANDSHAKE_S = 2.0  # for a TLS handshake at a shutdown: a few round trips over a slow line
_JUNK = frozenset({"NOOP", "RSET", "VRFY", "EXPN", "HELP", "HELO", "EHLO", "LHLO"})
BEFORE_TLS = frozenset({"EHLO", "HELO", "LHLO", "NOOP", "STARTTLS", "QUIT", "RSET", "HELP"})
_SAY_WHERE = frozenset({"MAIL", "RCPT"})  # they know whether it is in the address
_HTTP = frozenset({"GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "CONNECT", "PATCH", "TRACE", "PRI"})

Begin = Callable[[], Awaitable[Content]]  # where content goes; raises budget.Exhausted
# A client that did not expect its AUTH to be refused says the rest all the same: at most a name and a password.
BLIND_LINES = 2
AT_ONCE = 32  # commands that are in the buffer already, until others have their turn

Take = Callable[[int], Hold | None]  # octets of the budget, None when they are not left
Charge = Callable[[int], Hold]  # the same for what is there already, whatever is left
# The door to the spool: (envelope, content, origin=, peer=, by_recipient=) -> a task that its maker keeps.
Submit = Callable[..., "asyncio.Task[Answer]"]
Gate = Callable[[], Awaitable[Reply | None]]  # asked at MAIL: a reply when nothing can be accepted now
# Asked at RCPT: (user, listener, sender, recipient) -> the reply that refuses this recipient.
CheckRecipient = Callable[[str, str, str, str], Reply | None]


@dataclass(kw_only=True)
class Service:
    """What all sessions of one listener share."""

    hostname: str
    policy: ListenerPolicy
    limits: Limits
    logins: Logins
    submit: Submit
    gate: Gate
    begin: Begin
    take: Take = lambda octets: None
    charge: Charge | None = None
    tls_context: ssl.SSLContext | None = None
    admit: Callable[[Any], Reply | None] = lambda session: None
    leave: Callable[[Any], None] = lambda session: None
    check_recipient: CheckRecipient = lambda user, listener, sender, recipient: None
    rates: Rates | None = None
    now: Callable[[], float] = time.time
    stopping: bool = False
    label: str = ""  # of this listener, in the metrics


class Conversation(Wire):
    """One client's connection as a conversation. Subclasses bring the commands and the transaction."""

    commands: ClassVar[Mapping[str, Callable[[Any, str], Awaitable[None]]]] = {}

    def __init__(
        self, service: Service, *, loop: asyncio.AbstractEventLoop, client: str = "", named: bool = True
    ) -> None:
        """`client`: its address when it is not the connection's own. `named` False: the address is not the client's but a
        balancer's, and gives no right to relay."""
        limits = service.limits
        super().__init__(loop=loop, timeout=limits.timeout, min_data_rate=limits.min_data_rate, client=client)
        self.service = service
        self.named = named
        self.user: User | None = None
        self.certified = False  # the user is the certificate's, not AUTH's
        self._errors = 0
        self._junk = 0
        self._unknown = 0
        self._commands = 0
        self._blind = 0  # lines of a refused AUTH that may still come
        self._done = False
        self.mailed = False  # a message was taken
        self._last_begun = False  # the one transaction that may begin during a shutdown
        self._reading_command = False
        self._parting: asyncio.TimerHandle | None = None  # ends it if the line that is read now does not come
        self._admitted = False
        self._told = False  # that it was put off is in the log
        self._peer: Peer | None = None  # while a message is being taken
        self._unread: Hold | None = None

    @property
    def in_transaction(self) -> bool:
        raise NotImplementedError

    @property
    def user_name(self) -> str:
        """Of who logged in, else ""."""
        return self.user.name if self.user else ""

    def _reset(self) -> None:
        """Forget the transaction."""
        raise NotImplementedError

    async def serve(self) -> None:
        if refusal := self.service.admit(self):
            self.uncounted = True
            metrics.connections_refused.add(self.service.label)
            await self.send(refusal)
            return
        self._admitted = True
        metrics.connections.add(self.service.label)
        metrics.connections_open.add(1, self.service.label)
        log.debug("connection.opened", client=self.client)
        try:
            if self.tls:
                self._log_in_by_certificate()
            await self.send(replies.banner(self.service.hostname, self.service.policy.protocol))
            while not self._done:
                await self._next_command()
        finally:
            self._reset()
            log.debug("connection.closed", client=self.client, errors=self._errors)

    def _log_in_by_certificate(self) -> None:
        """TLS is up: a certificate that the client showed, and that was verified, is a login (as SASL EXTERNAL)."""
        certificate = self.peer_certificate()
        if not certificate:
            return
        names = certificate_names(certificate)
        if not has_expired(certificate, self.service.now()):
            self.user = self.service.logins.auth.user_of_certificate(names, anybody=self.service.policy.any_certificate)
        self.certified = self.user is not None
        shown = names[0] if names else ""
        if self.user:
            facts = {"ok": True, "user": self.user.name, "certificate": shown}
            log.info("connection.auth", client=self.client, mechanism="EXTERNAL", **facts)
        else:
            log.warning("connection.auth", client=self.client, mechanism="EXTERNAL", ok=False, certificate=shown)

    def left(self) -> None:
        """It counts until then, whatever was said: what it still has is a descriptor."""
        if self._admitted:
            self._admitted = False
            metrics.connections_open.add(-1, self.service.label)
            self.service.leave(self)

    def count_unread(self, octets: int) -> None:
        if self._unread is None and self.service.charge and octets:
            self._unread = self.service.charge(octets)
        elif self._unread is not None:
            self._unread.resize(octets)

    def connection_lost(self, error: Exception | None) -> None:
        if self._peer:
            self._peer.gone = True
        super().connection_lost(error)

    def eof_received(self) -> bool:
        if self._peer:
            self._peer.gone = True
        return super().eof_received()

    def stop(self, *, force: bool = False) -> None:
        """Shutdown: a session that is silent between transactions hears 421, one in a transaction after it, or now if `force`.

        Never while its message is being taken: that has an answer of its own. Who is talking may send the one message he came
        for, his TLS handshake and his login included: many programs try once, and a 421 between two of their commands is a
        mail they lose.
        """
        if self.draining or (force and self.handshaking):
            self.abort()
        elif self.handshaking:
            self.loop.call_later(HANDSHAKE_S, self._end_handshake)
        elif force and self._peer is None:
            self.say_and_close(SHUTTING_DOWN)
        elif not force and self._reading_command:
            self._part_if_silent()

    def _end_handshake(self) -> None:
        if self.handshaking:
            self.abort()

    def _part_if_silent(self) -> None:
        """The client has the word, and keeps it for so long."""
        if not self.in_transaction:
            self._parting = self.loop.call_later(PARTING_S, self.say_and_close, SHUTTING_DOWN)

    def _begin_waiting(self) -> None:
        """For the client; meanwhile a shutdown may end the session."""
        self._reading_command = True
        if self.service.stopping:
            self._part_if_silent()

    def _end_waiting(self) -> None:
        self._reading_command = False
        if self._parting:
            self._parting.cancel()
            self._parting = None

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    async def _next_command(self) -> None:
        leaving = self.service.stopping and not self.in_transaction
        if self._commands % AT_ONCE == AT_ONCE - 1:
            await asyncio.sleep(0)  # who pipelines is read from a buffer, and would have the loop for himself
        try:
            line = await self._read_line()
        except LineTooLong:
            await self._refuse_line(replies.LINE_TOO_LONG)
            return
        if leaving and (self.mailed or self._last_begun) and line.strip().upper() != b"QUIT":
            await self._goodbye(SHUTTING_DOWN)
            return
        try:
            await self._execute(line)
        except (Disconnected, ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            # Whatever it was, it is ours and temporary; the cause stays in the log.
            log.exception("session.error", client=self.client)
            self._reset()
            # In the middle of content the rest of it would be read as commands.
            await (self._goodbye(replies.BROKEN) if self.receiving else self._refuse(LOCAL_ERROR))

    async def _read_line(self, limit: int = 0) -> bytes:
        """As `read_line`; meanwhile a shutdown may end the session."""
        self._begin_waiting()
        try:
            return await self.read_line(limit)
        finally:
            self._end_waiting()

    async def pause(self, until: asyncio.Future[None], seconds: float) -> None:
        """As `logins.Pause` says; meanwhile a shutdown may end the session."""
        self._more = until
        self._begin_waiting()
        timer = self.loop.call_later(seconds, self._wake)
        try:
            if not self.eof:
                await until
        finally:
            timer.cancel()
            self._end_waiting()
            self._more = None
        if self.eof:
            raise Crowded

    async def _execute(self, line: bytes) -> None:
        self._commands += 1
        limits = self.service.limits
        most = limits.max_commands + (
            limits.max_recipients if self.in_transaction else 0
        )  # a message is not cut in two
        if self._commands > most:
            await self._goodbye(replies.TOO_MANY_COMMANDS)
            return
        if line[:2] == b"\x16\x03":  # a TLS hello on a plain port: the rest of it is no commands
            await self._goodbye(replies.GARBLED)
            return
        word, _, argument = line.strip(b" \t").partition(b" ")
        verb = word.decode("ascii", "replace").upper()
        if (b"\0" in line or b"\r" in line) and verb not in _SAY_WHERE:
            await self._refuse_line(replies.GARBLED)
            return
        command = self.commands.get(verb)
        if command is None:
            await self._answer_unknown(verb)
        elif self.service.policy.require_tls and not self.tls and verb not in BEFORE_TLS:
            await self._skip_payload(verb, argument)
            await self._refuse(replies.NEED_TLS)
        else:
            self._blind = 0
            if verb in _JUNK:
                self._junk += 1
            await command(self, argument.strip(b" \t").decode("utf-8", "surrogateescape"))
        if self._junk > self.service.limits.max_junk_commands:
            await self._goodbye(replies.TOO_MANY_ERRORS)

    async def _skip_payload(self, verb: str, argument: bytes) -> None:
        """What follows a command that is not obeyed, and is no command itself."""

    async def _answer_unknown(self, verb: str) -> None:
        if verb in _HTTP:  # a browser or a cross-protocol attack (ALPACA): its headers are no commands
            await self._goodbye(replies.NOT_HTTP)
        elif not verb.isascii() or not verb:
            await self._refuse_line(replies.GARBLED)
        else:
            self._unknown += not self._blind
            await self._refuse_line(replies.UNKNOWN_COMMAND)
            if self._unknown >= self.service.limits.max_unknown_commands:
                await self._goodbye(replies.TOO_MANY_ERRORS)

    async def _refuse_line(self, reply: Reply) -> None:
        """What is no command: after a refused AUTH its client did not mean it as one, and may still log in another way."""
        if self._blind:
            self._blind -= 1
            await self.send(reply)
        else:
            await self._refuse(reply)

    async def _refuse(self, reply: Reply, **facts: Any) -> None:
        """Answer with an error; too many of them end the session, but temporary ones are no errors of the client's."""
        self._errors += not reply.temporary
        if facts:
            # A client that is put off may ask again and again: one line is enough.
            note = log.info if not reply.temporary else log.debug if self._told else log.warning
            self._told = self._told or reply.temporary
            note(
                "message.rejected",
                client=self.client,
                user=self.user_name,
                code=reply.code,
                enhanced=reply.enhanced,
                text=reply.text,
                **facts,
            )
        await self.send(reply)
        if self._errors >= self.service.limits.max_errors:
            await self._goodbye(replies.TOO_MANY_ERRORS)

    async def _goodbye(self, reply: Reply) -> None:
        if not self._done:
            self._done = True
            await self.send(reply)

    def _forgive(self) -> None:
        """As in Postfix: a connection that brings mail may go on for ever, with RSET between its messages."""
        self._errors = self._junk = self._unknown = 0
        self.mailed = True
