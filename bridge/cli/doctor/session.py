"""The product's own Session, which lets a device go on where the daemon's would refuse it, and notes that it would.

What the daemon's listener answers is asked of a shadow: a copy of this session under the daemon's settings, whose replies are
caught. So both sides of every remark are what the product does.
"""

from __future__ import annotations

import asyncio
import copy
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from bridge.cli.doctor.content import Content, NewlineCount, message_of, wrong_end
from bridge.cli.doctor.dialogue import Delivered, Ended, Handshake, Login, Stall
from bridge.cli.doctor.hello import Hello, parse_record
from bridge.cli.doctor.mending import mend_line, mend_path, without_size
from bridge.cli.doctor.record import HIDDEN, Record, mechanism_shown
from bridge.cli.screen import printable
from bridge.model import Answer, Envelope, Origin, Peer
from bridge.reply import MESSAGE_TOO_BIG, Reply
from bridge.smtp import replies
from bridge.smtp.auth import Authenticator, User
from bridge.smtp.conversation import BEFORE_TLS, Service
from bridge.smtp.session import Session
from bridge.smtp.syntax import parse_mail, parse_rcpt
from bridge.smtp.wire import LineTooLong

SAMPLE = 4 << 20  # octets of a message that are looked at
THROWN_AWAY = Reply(250, "2.0.0", "Ok: looked at and thrown away, nothing is sent")
# The daemon's refusal of a message, and the address in From as a provider would get it.
Verdict = Callable[[Envelope, bytes, Origin], tuple[Reply | None, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Seconds, after the connection was made until it is greeted (who speaks TLS at once has done so by then; on a listener
    with implicit TLS a slow device gets more time for its hello), until a device that waits is told of, until it is given up.
    """

    greeting: float = 0.4
    greeting_implicit: float = 1.5
    stalled: float = 4.0
    ended: float = 30.0

    def within(self, ended: float) -> Silence:
        """The same proportions, where the device is given up sooner."""
        share = min(1.0, ended / self.ended * 4)
        return Silence(
            greeting=self.greeting * share,
            greeting_implicit=self.greeting_implicit * share,
            stalled=min(self.stalled, ended / 2),
            ended=ended,
        )


class LearningAuth(Authenticator):
    """Lets everybody in, and notes who would have been."""

    def __init__(self, real: Authenticator, users: Iterable[User], record: Record) -> None:
        self.real = real
        self._known = {user.name: user for user in users}
        self._record = record
        self.user: User | None = None  # who would have logged in

    def __bool__(self) -> bool:
        return True

    async def check_password(self, name: str, password: bytes) -> User | None:
        return self._noted(name, await self.real.check_password(name, password))

    def check_cram_md5(self, name: str, challenge: bytes, digest: str) -> User | None:
        return self._noted(name, self.real.check_cram_md5(name, challenge, digest))

    def _noted(self, name: str, user: User | None) -> User:
        known, self.user = self._known.get(name), user
        if login := self._record.last(Login):
            hashed = bool(known and not known.password)
            self._record.amend_login(login, name=name, known=known is not None, right=user is not None, hashed=hashed)
        if user is None and self._known:
            self._record.refused(replies.BAD_CREDENTIALS)
        return User(name=name)


class _Data:
    """The octets of DATA as they come."""

    def __init__(self) -> None:
        self.size = 0
        self.sample = bytearray()
        self.tail = b""
        self.newlines = NewlineCount()

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        self.tail = (self.tail + data[-8:])[-8:]
        if len(self.sample) < SAMPLE:
            self.sample += data
        self.newlines.feed(data)


class LearningSession(Session):
    """`service` lets everything pass; `daemons` is the one of the daemon's listener."""

    def __init__(
        self,
        service: Service,
        daemons: Service,
        record: Record,
        *,
        loop: asyncio.AbstractEventLoop,
        silence: Silence,
        verdict: Verdict,
        client: str = "",
        watch: Callable[[], tuple[Hello | None, str, str]] = lambda: (None, "", ""),
    ) -> None:
        super().__init__(replace(service, submit=self._throw_away), loop=loop)
        self.record = record
        self.closed: asyncio.Future[None] = loop.create_future()
        self._daemons = daemons
        self._silence = silence
        self._verdict = verdict
        self._named_client = client
        self._watch = watch
        self._caught: list[Reply] | None = None  # of a shadow: what it would have said
        self._data: _Data | None = None
        self._judged: tuple[Reply | None, str] = (None, "")  # by the daemon: the message that has just come
        self._helped = False
        self._in_auth = False
        self._line_ends = NewlineCount()
        self._ended: Ended | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.client = self._named_client or self.client
        if self.tls:
            self._note_handshake(transport.get_extra_info("ssl_object"), implicit=True)
        self._wait_for_more()

    def connection_lost(self, error: Exception | None) -> None:
        self._cancel_stall()
        self.end("device")
        super().connection_lost(error)
        if not self.closed.done():
            self.closed.set_result(None)

    def end(self, by: Literal["quit", "device", "doctor", "silence", "user"]) -> None:
        """The first that is said holds."""
        if self._ended is None:
            self._ended = Ended(by=by, within_data=self._data is not None)
            self.record.add(self._ended)

    def data_received(self, data: bytes) -> None:
        if self._data is not None:
            self._data.feed(data)
        elif not self._in_auth:
            self._look_at_line_ends(data)
        self._helped = False
        self._wait_for_more()
        super().data_received(data)

    def _look_at_line_ends(self, data: bytes) -> None:
        if data[:2] == b"\x16\x03" and not self._buffer:
            self.record.add(Handshake(late=True, hello=parse_record(data)))
            return
        self._line_ends.feed(data)
        self.record.bare_lf = self.record.bare_lf or self._line_ends.value.lf > 0

    def say_and_close(self, reply: Reply) -> None:
        self.end("silence" if reply == replies.IDLE else "doctor")
        self.record.answered(reply.code, [_text(reply)])
        super().say_and_close(reply)

    # --- silence

    def _cancel_stall(self) -> None:
        if self._stall_timer:
            self._stall_timer.cancel()

    def _wait_for_more(self) -> None:
        self._cancel_stall()
        self._stall_timer = self.loop.call_later(self._silence.stalled, self._stalled)

    def _stalled(self) -> None:
        """Say what is waited for; where only a line end is missing, put it there, so that the rest can be seen."""
        if self.handshaking or self._done or self._helped:
            return
        self._helped = True
        seconds = self._silence.stalled
        if self._data is not None:
            self._stalled_in_data(self._data, seconds)
        elif self._reading_command and self._buffer:
            self.record.add(Stall(where="line", seconds=seconds, tail=bytes(self._buffer[-8:])))
            self._remark("the device waits, but its line has not ended: the listener of your settings would wait too")
            super().data_received(b"\n")
        elif self._reading_command:
            first = not self.helo
            self.record.add(Stall(where="start" if first else "command", seconds=seconds))
            self._remark(f"nothing for {seconds:g} s; waiting for {self._silence.ended:g} s in all")

    def _stalled_in_data(self, data: _Data, seconds: float) -> None:
        self.record.add(Stall(where="data", seconds=seconds, tail=data.tail))
        end = wrong_end(data.tail)
        if not end:
            self._remark(f"nothing for {seconds:g} s in the middle of the message ({data.size} octets so far)")
            return
        self._remark(
            f"the device waits: it has ended the message with {end}.{end}, which ends nothing; only CRLF.CRLF does"
        )
        super().data_received(b"\r\n.\r\n")

    def _remark(self, text: str) -> None:
        self.record.show("!", text)

    # --- what is said

    async def send(self, reply: Reply) -> None:
        if self._caught is not None:
            self._caught.append(reply)
            return
        if reply == replies.START_DATA:
            self._data = _Data()
            self._data.feed(bytes(self._buffer))  # of a client that did not wait for it
        self._note_reply(reply)
        await super().send(reply)
        self._wait_for_more()

    def _note_reply(self, reply: Reply) -> None:
        if reply == replies.BYE:
            self.end("quit")
        elif reply.code == 421:
            self.end("doctor")
        self.record.answered(reply.code, [_text(reply)], reply)

    async def send_lines(self, code: int, lines: Iterable[str]) -> None:
        texts = list(lines)
        if self._caught is not None:
            return
        self.record.answered(code, texts)
        await super().send_lines(code, texts)

    async def read_line(self, limit: int = 0) -> bytes:
        try:
            line = await super().read_line(limit)
        except LineTooLong:
            self.record.odd("(a line that is too long)", fault="long")
            raise
        if self._in_auth:
            self.record.secret()
        return line

    def _note_command(self, line: bytes, faults: frozenset[str]) -> str:
        verb = line.strip(b" \t").partition(b" ")[0].decode("ascii", "replace").upper()
        self.record.command(line, verb in self.commands, faults)
        return verb

    async def _execute(self, line: bytes) -> None:
        mended = line if line[:2] == b"\x16\x03" else mend_line(line)
        if line[:2] == b"\x16\x03":
            self.record.odd("(a TLS hello)", fault="tls")
        else:
            verb = self._note_command(mended, faults=frozenset({"controls"} if mended != line else ()))
            if mended != line:
                self.record.refused(replies.GARBLED)
            if self._daemons.policy.require_tls and not self.tls and verb in self.commands and verb not in BEFORE_TLS:
                self.record.refused(replies.NEED_TLS)
        await super()._execute(mended)

    # --- the daemon's listener

    def _shadow(self) -> LearningSession:
        """This session under the daemon's settings, as if what it refused before had been right."""
        shadow = copy.copy(self)
        shadow.service = self._daemons
        auth = self.service.auth
        if isinstance(auth, LearningAuth) and auth.user and self.user:
            shadow.user = auth.user
        shadow._allowed = None
        shadow._recipients = list(self._recipients)
        shadow._caught = []
        return shadow

    async def _ask_daemons(self, command: Callable[[Any, str], Awaitable[None]], argument: str) -> Reply | None:
        """Note the refusal of the daemon's listener, if it is one."""
        return await self._ask_shadow(self._shadow(), command, argument)

    async def _ask_shadow(
        self, shadow: LearningSession, command: Callable[[Any, str], Awaitable[None]], argument: str
    ) -> Reply | None:
        caught: list[Reply] = []
        shadow._caught = caught
        await command(shadow, argument)
        refusal = next((reply for reply in caught if reply.code >= 400), None)
        if refusal:
            self.record.refused(refusal)
        return refusal

    async def _ask_about_path(self, command: Callable[[Any, str], Awaitable[None]], argument: str, mended: str) -> None:
        """Ask again with what was refused made right, so that one fault does not hide another."""
        shadow = self._shadow()
        for _ in range(4):
            match await self._ask_shadow(shadow, command, argument):
                case replies.NEED_HELO:
                    shadow.helo = "unknown"
                case replies.NEED_AUTH | replies.RELAY_DENIED if not shadow._allowed:
                    shadow._allowed = True
                case None | replies.NESTED_MAIL | replies.NEED_MAIL:
                    return
                case reply if reply == MESSAGE_TOO_BIG:
                    argument = without_size(argument)
                case _ if argument != mended:
                    argument = mended
                case _:
                    return

    def _speak(self, protocol: Literal["smtp", "lmtp"]) -> None:
        self.service = replace(self.service, policy=replace(self.service.policy, protocol=protocol))

    async def smtp_HELO(self, argument: str) -> None:
        await self._ask_daemons(Session.smtp_HELO, argument)
        self._speak("smtp")
        await super().smtp_HELO(argument)

    async def smtp_EHLO(self, argument: str) -> None:
        await self._ask_daemons(Session.smtp_EHLO, argument)
        self._speak("smtp")
        await super().smtp_EHLO(argument)

    async def smtp_LHLO(self, argument: str) -> None:
        await self._ask_daemons(Session.smtp_LHLO, argument)
        self._speak("lmtp")
        await super().smtp_LHLO(argument)

    def _extensions(self) -> list[str]:
        """As the daemon's listener has them: what is not offered there is taken here, but not offered either.

        Unless all is offered. CRAM-MD5 is not a part of that: clients prefer it, and it asks the most of the settings.
        """
        shadow = self if self._caught is not None else self._shadow()
        if self.record.offered_all and self._caught is None:
            mechanisms = tuple(dict.fromkeys((*self._daemons.policy.auth_mechanisms, "PLAIN", "LOGIN")))
            policy = replace(self.service.policy, auth_mechanisms=mechanisms)
            shadow.service = replace(self.service, policy=policy, limits=self._daemons.limits)
        return Session._extensions(shadow)

    async def smtp_STARTTLS(self, argument: str) -> None:
        if not self.tls and not Session._can_start_tls(self._shadow()):
            self.record.refused(replies.NOT_IMPLEMENTED)
        await super().smtp_STARTTLS(argument)

    async def upgrade(self, context: ssl.SSLContext, *, timeout: float) -> bool:
        self.record.answered(220, [_text(replies.READY_FOR_TLS)])
        good = await super().upgrade(context, timeout=timeout)
        self._note_handshake(self._writer.get_extra_info("ssl_object") if good else None, implicit=False)
        if not good:
            self.end("device")
        return good

    def _note_handshake(self, done: Any, *, implicit: bool) -> None:
        """`done`: the SSLObject, None when it failed."""
        hello, refused, alert = self._watch()
        version = str(done.version() or "").removeprefix("TLSv") if done else ""
        shake = Handshake(
            implicit=implicit,
            hello=hello,
            version=version if "." in version or not version else f"{version}.0",
            cipher=str(done.cipher()[0]) if done else "",
            refused=refused,
            alert=alert,
        )
        self.record.add(shake)
        self._remark(f"TLS {shake.version}, {shake.cipher}" if done else failure(shake))

    async def smtp_AUTH(self, argument: str) -> None:
        if refusal := Session._auth_refusal(self._shadow(), argument):
            self.record.refused(refusal)
        mechanism, _, initial = argument.partition(" ")
        if argument and mechanism_shown(mechanism) != HIDDEN:
            self.record.add(Login(mechanism=mechanism.upper(), tls=self.tls, initial=bool(initial.strip())))
        self.extended = self.extended or not self.in_transaction
        self._in_auth = True
        try:
            await super().smtp_AUTH(argument)
        finally:
            self._in_auth = False

    async def smtp_MAIL(self, argument: str) -> None:
        hostname = self.service.hostname
        takes = lambda text: not isinstance(parse_mail(text, hostname=hostname, max_size=0), Reply)  # noqa: E731
        mended = mend_path(argument, "FROM", takes)
        await self._ask_about_path(Session.smtp_MAIL, argument, mended)
        self.helo = self.helo or "unknown"
        await super().smtp_MAIL(without_size(mended))

    async def smtp_RCPT(self, argument: str) -> None:
        if self._mail is None:
            await super().smtp_RCPT(argument)
            return
        hostname, utf8 = self.service.hostname, self._mail.smtputf8
        takes = lambda text: not isinstance(parse_rcpt(text, hostname=hostname, smtputf8=utf8), Reply)  # noqa: E731
        mended = mend_path(argument, "TO", takes)
        await self._ask_about_path(Session.smtp_RCPT, argument, mended)
        await super().smtp_RCPT(mended)

    async def smtp_DATA(self, argument: str) -> None:
        try:
            await super().smtp_DATA(argument)
        finally:
            if self._ended is None:
                self._data = None

    async def _answer_all(self, recipients: Any, answer: Answer) -> None:
        """The message has come to its end, whatever is said of it."""
        self._note_content(None if answer.reply.code == 250 else answer.reply)
        await super()._answer_all(recipients, answer)

    def _note_content(self, refusal: Reply | None) -> None:
        data, self._data = self._data, None
        if data is None:
            return
        content = message_of(bytes(data.sample), data.size, data.newlines.value)
        self.record.show("C", f"(the message: {_described(content)})")
        if content.size > self._daemons.limits.max_message_size:
            refusal = MESSAGE_TOO_BIG
        elif self._daemons.policy.bare_newlines == "reject" and (content.newlines.lf or content.newlines.cr):
            refusal = replies.BARE_NEWLINE
        (judged, sender), self._judged = self._judged, (None, "")
        refusal = refusal or judged
        self.record.add(Delivered(content=content, refusal=refusal, sender=sender))
        if refusal:
            self._remark(f"the listener of your settings would answer: {refusal}")

    def _throw_away(
        self, envelope: Envelope, content: Any, *, origin: Origin, peer: Peer, by_recipient: bool = False
    ) -> asyncio.Task[Answer]:
        return self.loop.create_task(self._look(envelope, content, origin))

    async def _look(self, envelope: Envelope, content: Any, origin: Origin) -> Answer:
        octets = content if isinstance(content, bytes) else bytes(self._data.sample if self._data else b"")
        self._judged = await asyncio.to_thread(self._verdict, envelope, octets, origin)
        return Answer(reply=THROWN_AWAY)

    commands = {  # noqa: RUF012 as declared in the base class
        **Session.commands,
        "HELO": smtp_HELO,
        "EHLO": smtp_EHLO,
        "LHLO": smtp_LHLO,
        "MAIL": smtp_MAIL,
        "RCPT": smtp_RCPT,
        "DATA": smtp_DATA,
        "AUTH": smtp_AUTH,
        "STARTTLS": smtp_STARTTLS,
    }


def _text(reply: Reply) -> str:
    return f"{reply.enhanced} {reply.text}".strip()


def failure(shake: Handshake) -> str:
    alert = shake.refused or shake.alert
    told = f" (the device's alert: {alert})" if shake.refused else f" (our alert: {alert})" if alert else ""
    return f"the TLS handshake failed{told}"


def _described(content: Content) -> str:
    names = ", ".join(printable(name) for name in content.names)
    return (
        f"{content.size} octets, {content.newlines.lines} lines; header: {names or 'none'}; text: {content.body} octets"
    )
