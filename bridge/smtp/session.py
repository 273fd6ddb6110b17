"""One SMTP or LMTP session: the commands, in the order RFC 5321 4.1.4 and RFC 2033 allow, and what each answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

import structlog

from bridge.mime.trace import has_bare_newline
from bridge.model import NO_WISH, Answer, Envelope, Origin, Peer, Wish, merge_recipients, same_recipient_key
from bridge.reply import MESSAGE_TOO_BIG, SHUTTING_DOWN, Reply
from bridge.smtp import replies
from bridge.smtp.conversation import Conversation, Service
from bridge.smtp.sasl import Refused, authenticate, challenge_text
from bridge.smtp.syntax import MailCommand, RcptCommand, parse_mail, parse_rcpt
from bridge.smtp.wire import MAX_AUTH_LINE, LineTooLong

log: Any = structlog.get_logger()

OFF_LOOP_SIZE = 256 * 1024  # octets of a message from which scanning it goes to a thread


class Session(Conversation):
    """The commands of one client, and the transaction it is in."""

    def __init__(
        self, service: Service, *, loop: asyncio.AbstractEventLoop, client: str = "", named: bool = True
    ) -> None:
        super().__init__(service, loop=loop, client=client, named=named)
        self.helo = ""
        self.extended = False
        self._allowed: bool | None = None
        self._turn: tuple[str, str] | None = None  # (user, client) whose rate this transaction was counted against
        self._reset()

    def _reset(self) -> None:
        self._mail: MailCommand | None = None
        self._put_off = False  # the last MAIL was refused for now
        self._recipients: list[RcptCommand] = []
        self._refused_recipients = False
        if self._turn and self.service.rates:
            self.service.rates.give_back(*self._turn)
        self._turn = None

    @property
    def in_transaction(self) -> bool:
        return self._mail is not None

    # --- greeting

    async def smtp_HELO(self, argument: str) -> None:
        if self.service.policy.protocol == "lmtp":
            await self._refuse(replies.UNKNOWN_COMMAND)  # RFC 2033 4.1
        elif not argument:
            await self._refuse(replies.NEED_HOSTNAME)
        else:
            self._greeted(argument, extended=False)
            await self.send_lines(250, [self.service.hostname])

    async def smtp_EHLO(self, argument: str) -> None:
        if self.service.policy.protocol == "lmtp":
            await self._refuse(replies.UNKNOWN_COMMAND)
        else:
            await self._extended_hello(argument)

    async def smtp_LHLO(self, argument: str) -> None:
        if self.service.policy.protocol != "lmtp":
            await self._refuse(replies.UNKNOWN_COMMAND)
        else:
            await self._extended_hello(argument)

    async def _extended_hello(self, argument: str) -> None:
        if not argument:
            await self._refuse(replies.NEED_HOSTNAME)
            return
        self._greeted(argument, extended=True)
        await self.send_lines(250, [self.service.hostname, *self._extensions()])

    def _greeted(self, argument: str, *, extended: bool) -> None:
        self.helo = argument
        self.extended = extended
        self._reset()

    def _extensions(self) -> list[str]:
        words = ["PIPELINING", f"SIZE {self.service.limits.max_message_size}"]
        if self._can_start_tls():
            words.append("STARTTLS")
        if self.service.auth and self._auth_is_safe():
            words.append("AUTH " + " ".join(self.service.policy.auth_mechanisms))
        return [*words, "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "DSN"]

    def _can_start_tls(self) -> bool:
        return self.service.policy.tls == "starttls" and self.service.tls_context is not None and not self.tls

    def _auth_is_safe(self) -> bool:
        return self.tls or self.service.policy.auth_without_tls

    # --- small commands

    async def smtp_NOOP(self, argument: str) -> None:
        await self.send(replies.OK)

    async def smtp_RSET(self, argument: str) -> None:
        if argument:
            await self._refuse(replies.NO_ARGUMENT)
            return
        self._reset()
        await self.send(replies.OK)

    async def smtp_QUIT(self, argument: str) -> None:
        if argument:
            await self._refuse(replies.NO_ARGUMENT)
            return
        await self._goodbye(replies.BYE)

    async def smtp_HELP(self, argument: str) -> None:
        await self.send(replies.HELP)

    async def smtp_VRFY(self, argument: str) -> None:
        await (self.send(replies.CANNOT_VRFY) if argument else self._refuse(replies.BAD_PARAMETER))

    async def smtp_EXPN(self, argument: str) -> None:
        await self._refuse(replies.NOT_IMPLEMENTED)

    # --- TLS and AUTH

    async def smtp_STARTTLS(self, argument: str) -> None:
        if argument:
            await self._refuse(replies.NO_ARGUMENT)
        elif self.tls:
            await self._refuse(replies.TLS_ACTIVE)
        elif self.in_transaction:
            await self._refuse(replies.BAD_SEQUENCE)
        elif self.service.tls_context is None or not self._can_start_tls():
            await self._refuse(replies.NOT_IMPLEMENTED)
        else:
            await self._start_tls(self.service.tls_context)

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        if not await self.upgrade(context, timeout=self.service.limits.tls_handshake_timeout):
            log.info("connection.tls_failed", client=self.client, error=self.tls_fault)
            self._done = True
            return
        # RFC 3207 4.2: what was said before counts no more.
        self.helo, self.extended, self.user = "", False, None
        self._reset()
        self._log_in_by_certificate()

    async def smtp_AUTH(self, argument: str) -> None:
        if refusal := self._auth_refusal(argument):
            await self._refuse(refusal)
            return
        mechanism, _, initial = argument.partition(" ")
        try:
            self.user = await authenticate(
                mechanism.upper(),
                initial.strip().encode("utf-8", "surrogateescape"),
                ask=self._ask,
                auth=self.service.auth,
                hostname=self.service.hostname,
            )
        except Refused as refused:
            log.warning("connection.auth", client=self.client, ok=False, code=refused.reply.code)
            await self._refuse(refused.reply)
            return
        self.certified = False
        log.info("connection.auth", client=self.client, ok=True, user=self.user.name, mechanism=mechanism.upper())
        await self.send(replies.AUTHENTICATED)

    def _auth_refusal(self, argument: str) -> Reply | None:
        if not self.service.auth:
            return replies.NOT_IMPLEMENTED
        if not self._auth_is_safe():
            return replies.AUTH_NEEDS_TLS
        if not self.extended:
            return replies.NEED_HELO
        if self.user and not self.certified:  # AUTH may name another user than the certificate did
            return replies.ALREADY_AUTHENTICATED
        if self.in_transaction:
            return replies.BAD_SEQUENCE
        if not argument:
            return replies.AUTH_SYNTAX
        known = argument.partition(" ")[0].upper() in self.service.policy.auth_mechanisms
        return None if known else replies.UNKNOWN_MECHANISM

    async def _ask(self, challenge: bytes) -> bytes:
        await self.send(challenge_text(challenge))
        try:
            return (await self._read_line(MAX_AUTH_LINE)).strip(b" \t")
        except LineTooLong:
            raise Refused(replies.AUTH_LINE_TOO_LONG) from None

    # --- the transaction

    async def smtp_MAIL(self, argument: str) -> None:
        self._put_off = False
        refusal = self._mail_refusal()
        if refusal:
            await self._refuse(refusal, reverse_path="")
            return
        mail = parse_mail(argument, hostname=self.service.hostname, max_size=self.service.limits.max_message_size)
        if isinstance(mail, Reply):
            await self._refuse(mail, reverse_path="")
        elif self.user and not self.user.may_send_as(mail.reverse_path):
            await self._refuse(replies.SENDER_NOT_ALLOWED, reverse_path=mail.reverse_path)
        elif closed := await self.service.gate() or self._take_turn():
            self._put_off = closed.temporary
            await self._refuse(closed, reverse_path=mail.reverse_path)
        else:
            self._mail = mail
            await self.send(replies.SENDER_OK)

    def _take_turn(self) -> Reply | None:
        """None when another message may come now; it is counted then, and `_reset` takes it back."""
        if self.service.rates is None:
            return None
        turn = (self.user_name, self.client)
        if seconds := self.service.rates.take(*turn):
            return replies.rate_limited(seconds)
        self._turn = turn
        return None

    def _mail_refusal(self) -> Reply | None:
        if not self.helo:
            return replies.NEED_HELO
        if self._mail:
            return replies.NESTED_MAIL
        if self.service.stopping:
            self._done = True
            return SHUTTING_DOWN
        if self._may_relay():
            return None
        return replies.NEED_AUTH if self.service.auth else replies.RELAY_DENIED

    def _may_relay(self) -> bool:
        if self.user:
            return True
        if self._allowed is None:
            self._allowed = self.named and self.service.policy.may_relay(self.client, authenticated=False)
        return self._allowed

    async def smtp_RCPT(self, argument: str) -> None:
        if self._mail is None:
            await self._miss_mail()
            return
        if len(self._recipients) >= self.service.limits.max_recipients:
            self._refused_recipients = True
            await self.send(
                replies.TOO_MANY_RECIPIENTS
            )  # no error of the client: it sends the rest again (RFC 5321 4.5.3.1.10)
            return
        rcpt = parse_rcpt(argument, hostname=self.service.hostname, smtputf8=self._mail.smtputf8)
        sender, listener = self._mail.reverse_path, self.service.policy.name
        if isinstance(rcpt, Reply):
            self._refused_recipients = True
            await self._refuse(rcpt, reverse_path=sender)
        elif refusal := self.service.check_recipient(self.user_name, listener, sender, rcpt.address):
            self._refused_recipients = True
            await self._refuse(refusal, reverse_path=sender, recipient=rcpt.address)
        else:
            self._recipients.append(rcpt)
            await self.send(replies.RECIPIENT_OK)

    async def _miss_mail(self) -> None:
        """Who pipelines has sent RCPT and DATA before it could hear that MAIL was put off: these are no errors either."""
        await (self.send(replies.NEED_MAIL) if self._put_off else self._refuse(replies.NEED_MAIL))

    async def smtp_DATA(self, argument: str) -> None:
        mail = self._mail
        if argument:
            await self._refuse(replies.NO_ARGUMENT)
        elif mail is None:
            await self._miss_mail()
        elif not self._recipients:
            await self._refuse(replies.NO_VALID_RECIPIENTS if self._refused_recipients else replies.NEED_RCPT)
        else:
            recipients = self._recipients
            await self.send(replies.START_DATA)
            try:
                content = await self.read_data(self.service.limits.max_message_size)
                await self._accept(mail, recipients, content)
            finally:
                self._reset()

    async def _accept(self, mail: MailCommand, recipients: list[RcptCommand], content: bytes | None) -> None:
        refusal = await self._content_refusal(content)
        if refusal or content is None:
            refusal = refusal or MESSAGE_TOO_BIG
            await self._answer_all(recipients, Answer(reply=refusal))
            log.info(
                "message.rejected",
                client=self.client,
                reverse_path=mail.reverse_path,
                code=refusal.code,
                enhanced=refusal.enhanced,
                text=refusal.text,
            )
            return
        answer = await self._submit(_envelope(mail, recipients), content)
        await self._answer_all(recipients, answer)
        if answer.reply.code == 250:
            self._forgive()

    async def _content_refusal(self, content: bytes | None) -> Reply | None:
        if content is None:
            return MESSAGE_TOO_BIG
        if self.service.policy.bare_newlines == "reject":
            bare = (
                await asyncio.to_thread(has_bare_newline, content)
                if len(content) > OFF_LOOP_SIZE
                else has_bare_newline(content)
            )
            if bare:
                return replies.BARE_NEWLINE
        return None

    async def _submit(self, envelope: Envelope, content: bytes) -> Answer:
        self._peer = peer = Peer(gone=self.eof)
        task = self.service.submit(
            envelope,
            content,
            origin=self._origin(),
            peer=peer,
            by_recipient=self.service.policy.protocol == "lmtp",
        )
        self._leave_turn(task)
        try:
            # The task is its maker's: a client that hangs up now ends this session, not the commit.
            return await asyncio.shield(task)
        finally:
            self._peer = None

    def _leave_turn(self, task: asyncio.Task[Answer]) -> None:
        """From now on the message decides whether its turn counts, also when its client hangs up: it may be sent all the same."""
        turn, self._turn = self._turn, None
        if turn and (rates := self.service.rates):
            task.add_done_callback(lambda done: None if _is_taken(done) else rates.give_back(*turn))

    async def _answer_all(self, recipients: list[RcptCommand], answer: Answer) -> None:
        """One reply for SMTP; for LMTP one for each RCPT that was accepted, in order (RFC 2033 4.2)."""
        if self.service.policy.protocol != "lmtp":
            await self.send(answer.reply)
            return
        by_key: Mapping[str, Reply] = {same_recipient_key(a): r for a, r in answer.by_recipient.items()}
        for rcpt in recipients:
            await self.send(by_key.get(same_recipient_key(rcpt.address), answer.reply))

    def _origin(self) -> Origin:
        return Origin(
            client=self.client,
            helo=self.helo,
            user=self.user_name,
            listener=self.service.policy.name,
            protocol=self._protocol_word(),
            tls=self.tls_description(),
        )

    def _protocol_word(self) -> str:
        """The `with` word of the Received header (RFC 3848)."""
        base = "LMTP" if self.service.policy.protocol == "lmtp" else "ESMTP" if self.extended else "SMTP"
        if base == "SMTP":
            return base
        return base + ("S" if self.tls else "") + ("A" if self.user else "")

    commands = {  # noqa: RUF012 as declared in the base class
        "HELO": smtp_HELO,
        "EHLO": smtp_EHLO,
        "LHLO": smtp_LHLO,
        "MAIL": smtp_MAIL,
        "RCPT": smtp_RCPT,
        "DATA": smtp_DATA,
        "RSET": smtp_RSET,
        "NOOP": smtp_NOOP,
        "QUIT": smtp_QUIT,
        "HELP": smtp_HELP,
        "VRFY": smtp_VRFY,
        "EXPN": smtp_EXPN,
        "AUTH": smtp_AUTH,
        "STARTTLS": smtp_STARTTLS,
    }


def _envelope(mail: MailCommand, rcpts: list[RcptCommand]) -> Envelope:
    """Of a recipient given twice the first RCPT holds, its spelling and its wish."""
    recipients = merge_recipients(rcpt.address for rcpt in rcpts)
    first: dict[str, Wish] = {}
    for rcpt in rcpts:
        first.setdefault(same_recipient_key(rcpt.address), rcpt.wish)
    wishes = {address: first[same_recipient_key(address)] for address in recipients}
    return Envelope(
        reverse_path=mail.reverse_path,
        recipients=recipients,
        smtputf8=mail.smtputf8,
        ret=mail.ret,
        envid=mail.envid,
        wishes={address: wish for address, wish in wishes.items() if wish != NO_WISH},
    )


def _is_taken(task: asyncio.Task[Answer]) -> bool:
    """Whether some recipient heard 250, or would have."""
    if task.cancelled() or task.exception():
        return False
    answer = task.result()
    return any(reply.code == 250 for reply in (answer.reply, *answer.by_recipient.values()))
