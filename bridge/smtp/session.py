"""One SMTP or LMTP session: the commands, in the order RFC 5321 4.1.4 and RFC 2033 allow, and what each answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

import structlog

from bridge import metrics, tracing
from bridge.budget import Exhausted, Hold
from bridge.content import Content
from bridge.model import NO_WISH, Answer, Envelope, Origin, Peer, Wish, merge_recipients, same_recipient_key
from bridge.reply import NO_MEMORY, SHUTTING_DOWN, Reply
from bridge.smtp import replies
from bridge.smtp.conversation import BLIND_LINES, HANDSHAKE_S, Conversation, Service
from bridge.smtp.incoming import Receiver
from bridge.smtp.logins import Visitor
from bridge.smtp.sasl import Refused, authenticate, challenge_text
from bridge.smtp.syntax import MailCommand, RcptCommand, leading_size, parse_bdat, parse_mail, parse_rcpt
from bridge.smtp.wire import MAX_AUTH_LINE, LineTooLong

log: Any = structlog.get_logger()


class _Nowhere:
    async def write(self, block: bytes) -> None:
        """Nobody wants it."""


NOWHERE = _Nowhere()
WIDEST = 4  # octets of a character, where one of them is an emoji
RECIPIENT_COST = 500  # octets, beside the text
FREE = 64 * 1024  # octets of an envelope that are not asked for
ENVELOPE_STEP = 256 * 1024


class Session(Conversation):
    """The commands of one client, and the transaction it is in."""

    def __init__(
        self, service: Service, *, loop: asyncio.AbstractEventLoop, client: str = "", named: bool = True
    ) -> None:
        super().__init__(service, loop=loop, client=client, named=named)
        self.helo = ""
        self.extended = False
        self._allowed: bool | None = None
        self._throttled = False
        self._turn: tuple[str, str] | None = None  # (user, client) whose rate this transaction was counted against
        self._envelope_hold: Hold | None = None  # of many recipients
        self._envelope_size = 0
        self._receiver: Receiver | None = None  # of the content, from DATA or the first BDAT on
        self._reset()

    def _reset(self) -> None:
        self._mail: MailCommand | None = None
        self._began = 0
        self._put_off = False  # the last MAIL was refused for now
        self._recipients: list[RcptCommand] = []
        self._refused_recipients = False
        self._lost_chunks: Reply | None = None  # why further BDATs of a message that was refused are thrown away
        if self._receiver:
            self._receiver.content.abandon()
            self._receiver = None
        if self._envelope_hold:
            self._envelope_hold.release()
            self._envelope_hold = None
        self._envelope_size = 0
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
        if self.service.logins and self._auth_is_safe():
            words.append("AUTH " + " ".join(self.service.policy.auth_mechanisms))
        words += ["ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "BINARYMIME"]
        return [*words, f"LIMITS RCPTMAX={self.service.limits.max_recipients}"]  # RFC 9422

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

    async def smtp_unavailable(self, argument: str) -> None:
        """Commands of the standards that this server has no use for (RFC 5321 4.2.4, F.1, F.6; RFC 1985)."""
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
        limit = self.service.limits.tls_handshake_timeout
        if not await self.upgrade(context, timeout=min(limit, HANDSHAKE_S) if self.service.stopping else limit):
            log.info("connection.tls_failed", client=self.client, error=self.tls_fault)
            self._done = True
            return
        # RFC 3207 4.2: what was said before counts no more.
        self.helo, self.extended, self.user = "", False, None
        self._reset()
        self._log_in_by_certificate()

    async def smtp_AUTH(self, argument: str) -> None:
        if refusal := self._auth_refusal(argument):
            await self._refuse_auth(refusal)
            return
        mechanism, _, initial = argument.partition(" ")
        try:
            self.user = await authenticate(
                mechanism.upper(),
                initial.strip().encode("utf-8", "surrogateescape"),
                ask=self._ask,
                visitor=self._visitor(),
                hostname=self.service.hostname,
            )
        except Refused as refused:
            self._log_refused(refused.reply)
            await self._refuse_auth(refused.reply)
            return
        self.certified = False
        log.info("connection.auth", client=self.client, ok=True, user=self.user.name, mechanism=mechanism.upper())
        await self.send(replies.AUTHENTICATED)

    def _visitor(self) -> Visitor:
        return Visitor(
            logins=self.service.logins, client=self.client, patience_s=self.service.limits.timeout, pause=self.pause
        )

    def _log_refused(self, reply: Reply) -> None:
        """Of what is refused without a check one line a session is enough: it costs the client nothing to go on."""
        if reply is not replies.TOO_MANY_FAILED_LOGINS:
            log.warning("connection.auth", client=self.client, ok=False, code=reply.code)
            return
        self._junk += 1
        note = log.debug if self._throttled else log.warning
        self._throttled = True
        note("connection.auth", client=self.client, ok=False, code=reply.code, reason="throttled")

    async def _refuse_auth(self, reply: Reply) -> None:
        self._blind = BLIND_LINES
        await self._refuse(reply)

    def _auth_refusal(self, argument: str) -> Reply | None:
        if not self.service.logins:
            return replies.NOT_IMPLEMENTED
        if not self._auth_is_safe():
            return replies.AUTH_NEEDS_TLS
        if not self.extended:
            return replies.NEED_EHLO
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
        self._lost_chunks = None
        refusal = self._mail_refusal()
        if refusal:
            await self._refuse(refusal, reverse_path="")
            return
        service = self.service
        mail = parse_mail(
            argument,
            hostname=service.hostname,
            max_size=service.limits.max_message_size,
            bare=service.policy.bare_addresses,
        )
        if isinstance(mail, Reply):
            await self._refuse(mail, reverse_path="")
        elif self.user and not self.user.may_send_as(mail.reverse_path):
            await self._refuse(replies.SENDER_NOT_ALLOWED, reverse_path=mail.reverse_path)
        elif closed := await self.service.gate() or self._take_turn():
            self._put_off = closed.temporary
            await self._refuse(closed, reverse_path=mail.reverse_path)
        else:
            self._mail = mail
            self._last_begun = self.service.stopping
            self._began = tracing.tracer.now()
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
        if self.service.stopping and (self.mailed or self._last_begun):
            self._done = True
            return SHUTTING_DOWN
        if self._may_relay():
            return None
        return replies.NEED_AUTH if self.service.logins else replies.RELAY_DENIED

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
        if self._receiver:
            await self._refuse(replies.BAD_SEQUENCE)
            return
        if len(self._recipients) >= self.service.limits.max_recipients:
            self._refused_recipients = True
            await self.send(
                replies.TOO_MANY_RECIPIENTS
            )  # no error of the client: it sends the rest again (RFC 5321 4.5.3.1.10)
            return
        policy = self.service.policy
        rcpt = parse_rcpt(
            argument,
            hostname=self.service.hostname,
            smtputf8=self._mail.smtputf8,
            bare=policy.bare_addresses,
        )
        sender, listener = self._mail.reverse_path, policy.name
        if isinstance(rcpt, Reply):
            self._refused_recipients = True
            await self._refuse(rcpt, reverse_path=sender)
        elif refusal := self.service.check_recipient(self.user_name, listener, sender, rcpt.address):
            self._refused_recipients = True
            await self._refuse(refusal, reverse_path=sender, recipient=rcpt.address)
        elif not self._has_room(rcpt):
            self._refused_recipients = True
            await self._refuse(NO_MEMORY, reverse_path=sender, recipient=rcpt.address)
        else:
            self._recipients.append(rcpt)
            await self.send(replies.RECIPIENT_OK)

    def _has_room(self, rcpt: RcptCommand) -> bool:
        """Whether the budget has room for another recipient; a few cost nothing."""
        self._envelope_size += WIDEST * (len(rcpt.address) + len(rcpt.wish.orcpt)) + RECIPIENT_COST
        if self._envelope_size <= (self._envelope_hold.octets if self._envelope_hold else FREE):
            return True
        if self._envelope_hold is None:
            self._envelope_hold = self.service.take(ENVELOPE_STEP)
            return self._envelope_hold is not None
        return self._envelope_hold.grow(ENVELOPE_STEP)

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
        elif self._receiver or mail.body == "BINARYMIME":  # RFC 3030 2 and 3
            await self._refuse(replies.BAD_SEQUENCE)
        else:
            try:
                if receiver := await self._receive(mail):
                    await self.send(replies.START_DATA)
                    await self.read_data(receiver)
                    await self._accept(mail, receiver)
                else:
                    await self._refuse(NO_MEMORY, reverse_path=mail.reverse_path)
            finally:
                self._reset()

    async def smtp_BDAT(self, argument: str) -> None:
        """RFC 3030 2. Whatever is wrong, the octets of the chunk are read and never taken for commands."""
        chunk = parse_bdat(argument)
        if chunk is None:
            await self._skip_payload("BDAT", argument.encode("utf-8", "replace"))
            await self._refuse(replies.BDAT_SYNTAX)
            return
        size, last = chunk
        mail = self._mail
        refused = self._lost_chunks
        if refused or mail is None or not self._recipients:
            self.begin_content()
            await self.read_octets(size, NOWHERE)
            if refused:  # one answer each, but no other error
                self._lost_chunks = None if last else refused
                await self.send(refused)
            elif mail is None:
                await self._miss_mail()
            else:
                await self._refuse(replies.NO_VALID_RECIPIENTS if self._refused_recipients else replies.NEED_RCPT)
            return
        await self._chunk(mail, size, last=last)

    async def _skip_payload(self, verb: str, argument: bytes) -> None:
        """Of a BDAT: as far as its size can be read."""
        size = leading_size(argument) if verb == "BDAT" else 0
        if size:
            self.begin_content()
            await self.read_octets(size, NOWHERE)

    async def _chunk(self, mail: MailCommand, size: int, *, last: bool) -> None:
        done = False
        try:
            receiver = self._receiver or await self._receive(mail)
            await self.read_octets(size, receiver or NOWHERE)
            if last and receiver is None:
                done = True
                await self._answer_all(self._recipients, Answer(reply=NO_MEMORY))
            elif receiver is None or (receiver.refusal and not last):
                refusal = receiver.refusal if receiver and receiver.refusal else NO_MEMORY
                self._reset()
                self._lost_chunks = refusal
                await self._refuse(refusal, reverse_path=mail.reverse_path)
            elif last:
                done = True
                await self._accept(mail, receiver)
            else:
                await self.send(replies.CHUNK_OK)
        finally:
            if done:
                self._reset()

    async def _receive(self, mail: MailCommand) -> Receiver | None:
        """Where the content goes; None when there is no memory to spare for it."""
        try:
            content = await self.service.begin()
        except Exhausted:
            return None
        finally:
            self.begin_content()
        newlines = "keep" if mail.body == "BINARYMIME" else self.service.policy.bare_newlines
        self._receiver = Receiver(content, max_size=self.service.limits.max_message_size, newlines=newlines)
        return self._receiver

    async def _accept(self, mail: MailCommand, receiver: Receiver) -> None:
        await receiver.end()
        recipients, refusal = self._recipients, receiver.refusal
        if refusal:
            await self._answer_all(recipients, Answer(reply=refusal))
            metrics.rejected.add(self.service.policy.protocol, refusal.code)
            log.info(
                "message.rejected",
                client=self.client,
                reverse_path=mail.reverse_path,
                code=refusal.code,
                enhanced=refusal.enhanced,
                text=refusal.text,
            )
            return
        self._receiver = None  # the content is the submission's from here on
        answer = await self._submit(_envelope(mail, recipients), receiver.content)
        await self._answer_all(recipients, answer)
        if answer.reply.code == 250:
            self._forgive()

    async def _submit(self, envelope: Envelope, content: Content) -> Answer:
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
            began=self._began,
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
        "BDAT": smtp_BDAT,
        "RSET": smtp_RSET,
        "NOOP": smtp_NOOP,
        "QUIT": smtp_QUIT,
        "HELP": smtp_HELP,
        "VRFY": smtp_VRFY,
        **dict.fromkeys(("EXPN", "ETRN", "TURN", "SEND", "SOML", "SAML"), smtp_unavailable),
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
        binary=mail.body == "BINARYMIME",
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
