"""`kind = "smtp"`: a smarthost. The mail goes on as it is, with its envelope, over STARTTLS or implicit TLS, with a login.

Every verdict of the smarthost's is a recipient's own: its replies to RCPT count each for itself, its reply to the message
for those that were left. Recipients in one transaction: RFC 5321 4.5.3.1.8.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import aiosmtplib
import structlog

from bridge.clock import Clock, SystemClock
from bridge.mime.addressing import Caps, address, capped
from bridge.mime.fidelity import Carries, losses
from bridge.mime.seven_bit import seven_bit
from bridge.model import Addressing, Content, Email, Envelope, Fault, Outcome, Wish
from bridge.providers import shapes
from bridge.providers.answers import safe_words
from bridge.providers.base import Policy, Provider, Unfit, Verified
from bridge.providers.outcomes import MISCONFIGURED, TEMPORARY, UNREACHABLE, bounced, deferred, unknown
from bridge.providers.smtp_data import is_ascii, send_data, size_of
from bridge.providers.trust import client_context
from bridge.reply import Reply, sent

MAX_RECIPIENTS = 100  # a server takes at least as many (RFC 5321 4.5.3.1.8)
IDLE_S = 5.0  # an idle connection is not used any more after that; the smarthost may have closed it
PORTS = {"none": 25, "starttls": 587, "implicit": 465}
_ENHANCED = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})\s+")
_LOGIN_CODES = frozenset({454, 530, 534, 535, 538})  # RFC 4954 6: about us, never about the mail

log: Any = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpSettings:
    """`port` 0: by `tls`. `max_size`: octets, 0 for what the smarthost says."""

    host: str
    port: int = 0
    tls: Literal["none", "starttls", "implicit"] = "starttls"
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""
    max_size: int = 0


class SmtpProvider(Provider):
    kind = "smtp"
    passes_wishes = True

    def __init__(
        self, name: str, policy: Policy, settings: SmtpSettings, *, hostname: str = "", clock: Clock | None = None
    ) -> None:
        super().__init__(name, policy)
        self.settings = settings
        self.remote = settings.host
        self._hostname = hostname or None
        self._clock = clock or SystemClock()
        self._idle: list[tuple[float, aiosmtplib.SMTP]] = []
        # Whether a local part beyond ASCII can go on is the smarthost's to say (SMTPUTF8).
        self._carries = Carries(raw=True, envelope=True, smtputf8=True, max_size=settings.max_size)

    def unfit(self, email: Email, envelope: Envelope) -> Unfit | None:
        found = losses(email, envelope, self._carries)
        return Unfit(reply=found[0].reply, losses=(found[0].text,), degradable=False) if found else None

    def calls(self, email: Email, reverse_path: str, recipients: tuple[str, ...]) -> tuple[Addressing, ...]:
        found = address(email, reverse_path, recipients, carries_envelope=True)
        return tuple(c for one in found for c in capped(one, Caps(total=MAX_RECIPIENTS), carries_envelope=True))

    # --- one transaction

    async def send(self, email: Email, addressing: Addressing, *, queue_id: str, key: str) -> Mapping[str, Outcome]:
        transaction = _Transaction(addressing)
        client: aiosmtplib.SMTP | None = None
        try:
            async with asyncio.timeout(self.policy.timeout):
                client = await self._connection()
                await self._transact(client, email, transaction)
        except Exception as exc:  # the contract of send: never raises
            transaction.rest(self._failure(exc, transaction))
            _close(client)
        except asyncio.CancelledError:
            _close(client)
            raise
        else:
            self._idle.append((self._clock.now(), client))
        return transaction.outcomes

    async def _transact(self, client: aiosmtplib.SMTP, email: Email, transaction: _Transaction) -> None:
        to = transaction.addressing
        content, options = await self._content(client, email)
        if content is None:  # it would arrive as something else
            text = "The smarthost takes no 8-bit content, and this message cannot do without"
            transaction.rest(bounced(554, "5.6.3", text, Fault.MESSAGE))
            return
        international = not all(a.isascii() for a in (to.reverse_path, *to.recipients))
        if international and not client.supports_extension("SMTPUTF8"):
            text = "The smarthost cannot carry a non-ASCII address"
            transaction.rest(bounced(553, "5.6.7", text, Fault.MESSAGE))
            return
        encoding = "utf-8" if international else "ascii"
        options += ["SMTPUTF8"] if international else []
        wishes = to.envelope if to.envelope and client.supports_extension("DSN") else None
        options += _mail_options(wishes) if wishes else []
        await client.mail(to.reverse_path, options=options, encoding=encoding)
        for recipient in to.recipients:
            asked = _rcpt_options(wishes.wish(recipient)) if wishes else []
            try:
                await client.rcpt(recipient, options=asked, encoding=encoding)
            except aiosmtplib.SMTPRecipientRefused as refused:
                transaction.outcomes[recipient] = self._recipient(refused)
        if transaction.left:
            answer = await send_data(client, content, before_end=transaction.ends)
            words = safe_words(answer.message, self._secrets)
            found = _queue_id(words)
            outcome = Outcome(status="sent", reply=sent(found), detail=words, provider_message_id=found)
            transaction.rest(replace(outcome, passed_on=wishes is not None))
        else:
            await client.rset()

    async def _content(self, client: aiosmtplib.SMTP, email: Email) -> tuple[Content | None, list[str]]:
        """What goes on, with the options of MAIL that tell of it; None where it would have to be 7-bit and cannot."""
        content: Content = shapes.mime(email)
        options: list[str] = []
        if client.supports_extension("8BITMIME"):
            options.append("BODY=8BITMIME")
        elif not is_ascii(content):
            content, problems = await asyncio.to_thread(seven_bit, content)
            if problems:
                return None, options
        if client.supports_extension("SIZE"):
            options.append(f"SIZE={await size_of(content)}")
        return content, options

    async def _connection(self) -> aiosmtplib.SMTP:
        """One that is idle and still answers, else a new one. Raises aiosmtplib's exceptions and OSError."""
        while self._idle:
            since, client = self._idle.pop()
            if self._clock.now() - since > IDLE_S or not client.is_connected:
                _close(client)
                continue
            try:
                await client.rset()
            except (aiosmtplib.SMTPException, OSError):
                _close(client)
                continue
            return client
        return await self._connect()

    async def _connect(self) -> aiosmtplib.SMTP:
        settings = self.settings
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port or PORTS[settings.tls],
            local_hostname=self._hostname,
            timeout=self.policy.timeout,
            use_tls=settings.tls == "implicit",
            start_tls=False,  # its own way names a smarthost without STARTTLS like one that is down
            tls_context=client_context(settings.ca_file) if settings.tls != "none" else None,
        )
        try:
            await client.connect()
            try:
                await client.ehlo()
            except aiosmtplib.SMTPHeloError:  # one that knows no EHLO
                await client.helo()
            if settings.tls == "starttls":  # required: a smarthost without it is an error, not a fallback
                if not client.supports_extension("STARTTLS"):
                    raise aiosmtplib.SMTPNotSupported("the smarthost has no STARTTLS")
                await client.starttls()
                await client.ehlo()
            if settings.username:
                await client.login(settings.username, settings.password)
        except BaseException:
            _close(client)
            raise
        return client

    # --- verdicts

    def _failure(self, exc: Exception, transaction: _Transaction) -> Outcome:
        if isinstance(exc, aiosmtplib.SMTPDataError):
            return self._verdict(exc, Fault.MESSAGE)
        if isinstance(exc, aiosmtplib.SMTPSenderRefused):
            return self._verdict(exc, Fault.MESSAGE)
        if isinstance(exc, aiosmtplib.SMTPAuthenticationError | aiosmtplib.SMTPNotSupported):
            return deferred(MISCONFIGURED, Fault.ACCOUNT, self._detail(exc))
        # To the greeting, EHLO or STARTTLS: nothing about the mail. After the message: an answer that cannot be read.
        if isinstance(exc, aiosmtplib.SMTPResponseException) and not transaction.written:
            fault = Fault.ACCOUNT if exc.code >= 500 else Fault.PROVIDER
            return deferred(MISCONFIGURED if exc.code >= 500 else UNREACHABLE, fault, self._detail(exc))
        if isinstance(exc, aiosmtplib.SMTPException | OSError | TimeoutError):
            if transaction.written:
                return unknown(self._detail(exc))
            return deferred(UNREACHABLE, Fault.PROVIDER, self._detail(exc))
        log.error("provider.error", provider=self.name, error=type(exc).__name__)
        return unknown() if transaction.written else deferred(TEMPORARY, None, type(exc).__name__)

    def _recipient(self, refused: aiosmtplib.SMTPRecipientRefused) -> Outcome:
        return self._verdict(refused, Fault.RECIPIENT)

    def _verdict(self, exc: aiosmtplib.SMTPResponseException, fault: Fault) -> Outcome:
        """Its own reply, handed on; about a login it is the account's."""
        if exc.code in _LOGIN_CODES:
            return deferred(MISCONFIGURED, Fault.ACCOUNT, self._detail(exc))
        reply = reply_of(exc.code, safe_words(exc.message, self._secrets))
        if not reply.temporary:
            return Outcome(status="bounced", reply=reply, fault=fault, detail=self._detail(exc))
        # 421: it closes the connection; a 4xx to RCPT (greylisting) is about that recipient alone
        kept = fault if fault is Fault.RECIPIENT and exc.code != 421 else Fault.PROVIDER
        return deferred(reply, kept, self._detail(exc))

    def _detail(self, exc: Exception) -> str:
        words = exc.message if isinstance(exc, aiosmtplib.SMTPException) else str(exc)
        code = f"{exc.code} " if isinstance(exc, aiosmtplib.SMTPResponseException) else ""
        return f"{type(exc).__name__}: {code}{safe_words(str(words), self._secrets)}"

    @property
    def _secrets(self) -> tuple[str, ...]:
        return (self.settings.password,)

    # --- credentials, and the end

    async def verify(self) -> Verified:
        try:
            async with asyncio.timeout(self.policy.timeout):
                client = await self._connect()
                await client.quit()
        except aiosmtplib.SMTPAuthenticationError as exc:
            return Verified(ok=False, text=f"the login is refused ({self._detail(exc)})")
        except Exception as exc:  # whatever it is, it is told; a host that is none is a ValueError
            return Verified(ok=False, text=self._detail(exc))
        return Verified(ok=True, text="connected" + (" and logged in" if self.settings.username else ""))

    async def aclose(self) -> None:
        idle, self._idle = self._idle, []
        for _, client in idle:
            _close(client)


class _Transaction:
    """`written`: the message may have reached the smarthost, its end with it."""

    def __init__(self, addressing: Addressing) -> None:
        self.addressing = addressing
        self.outcomes: dict[str, Outcome] = {}
        self.written = False

    @property
    def left(self) -> list[str]:
        return [r for r in self.addressing.recipients if r not in self.outcomes]

    def ends(self) -> None:
        self.written = True

    def rest(self, outcome: Outcome) -> None:
        self.outcomes.update(dict.fromkeys(self.left, outcome))


def reply_of(code: int, words: str) -> Reply:
    """`550`, `5.1.1 No such user` -> the reply, with a general enhanced code where it gives none or one of another class."""
    match = _ENHANCED.match(words)
    enhanced, text = (match[1], words[match.end() :]) if match else ("", words)
    if not 400 <= code <= 599:
        code = 451
    if not enhanced.startswith(str(code)[0]):
        enhanced = f"{str(code)[0]}.0.0"
    return Reply.safe(code, enhanced, text or "refused by the smarthost")


def _queue_id(words: str) -> str:
    """`2.0.0 Ok: queued as 4bX1yZ2` -> `4bX1yZ2`, "" where it says no such thing."""
    found = re.search(r"(?:queued as|id=?)\s*([A-Za-z0-9._-]{4,64})", words, re.IGNORECASE)
    return found[1] if found else ""


def _close(client: aiosmtplib.SMTP | None) -> None:
    if client is not None:
        client.close()


def _mail_options(envelope: Envelope) -> list[str]:
    """RFC 3461 5.2.1: what the client asked for goes on as it came."""
    return [f"{name}={value}" for name, value in (("RET", envelope.ret), ("ENVID", envelope.envid)) if value]


def _rcpt_options(wish: Wish) -> list[str]:
    return [f"{name}={value}" for name, value in (("NOTIFY", wish.notify), ("ORCPT", wish.orcpt)) if value]
