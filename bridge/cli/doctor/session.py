"""The product's own Session, which lets a device go on where the daemon's would refuse it, and notes that it would.

What the daemon's listener answers is asked of a shadow: a copy of this session under the daemon's settings, whose replies are
caught. So both sides of every remark are what the product does.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

from bridge.cli.doctor.auth import LearningAuth
from bridge.cli.doctor.content import Content, message_of
from bridge.cli.doctor.dialogue import Delivered, Login
from bridge.cli.doctor.mending import mend_line, mend_path, without_size
from bridge.cli.doctor.record import HIDDEN, Record, mechanism_shown
from bridge.cli.doctor.recording import RecordingSession, Silence, Watched, nothing_watched
from bridge.cli.screen import printable
from bridge.content import Content as Incoming
from bridge.content import join
from bridge.model import Answer, Envelope, Origin, Peer
from bridge.reply import MESSAGE_TOO_BIG, Reply
from bridge.smtp import replies
from bridge.smtp.conversation import BEFORE_TLS, Service
from bridge.smtp.session import Session
from bridge.smtp.syntax import parse_mail, parse_rcpt

THROWN_AWAY = Reply(250, "2.0.0", "Ok: looked at and thrown away, nothing is sent")
# The daemon's refusal of a message, and the address in From as a provider would get it.
Verdict = Callable[[Envelope, bytes, Origin], tuple[Reply | None, str]]


class LearningSession(RecordingSession):
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
        watch: Watched = nothing_watched,
    ) -> None:
        super().__init__(
            replace(service, submit=self._throw_away), record, loop=loop, silence=silence, client=client, watch=watch
        )
        self._daemons = daemons
        self._verdict = verdict
        self._judged: tuple[Reply | None, str] = (None, "")  # by the daemon: the message that has just come
        self._caught: list[Reply] | None = None  # of a shadow: what it would have said

    async def send(self, reply: Reply) -> None:
        if self._caught is not None:
            self._caught.append(reply)
        else:
            await super().send(reply)

    async def send_lines(self, code: int, lines: Iterable[str]) -> None:
        if self._caught is None:
            await super().send_lines(code, lines)

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
        auth = self.service.logins.auth
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
        # Without CHUNKING everybody uses DATA, which is what is looked at.
        return [word for word in Session._extensions(shadow) if word not in ("CHUNKING", "BINARYMIME")]

    async def smtp_STARTTLS(self, argument: str) -> None:
        if not self.tls and not Session._can_start_tls(self._shadow()):
            self.record.refused(replies.NOT_IMPLEMENTED)
        await super().smtp_STARTTLS(argument)

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
        self, envelope: Envelope, content: Incoming, *, origin: Origin, peer: Peer, by_recipient: bool = False
    ) -> asyncio.Task[Answer]:
        return self.loop.create_task(self._look(envelope, content, origin))

    async def _look(self, envelope: Envelope, content: Incoming, origin: Origin) -> Answer:
        try:
            await content.keep()
            octets = await asyncio.to_thread(lambda: join(*content.read(0)))
        finally:
            content.abandon()
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


def _described(content: Content) -> str:
    names = ", ".join(printable(name) for name in content.names)
    return (
        f"{content.size} octets, {content.newlines.lines} lines; header: {names or 'none'}; text: {content.body} octets"
    )
