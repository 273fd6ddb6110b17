"""What a session is by the rules: RFC 5321 and its extensions, DESIGN 4, the reply table. Nothing of bridge/ is in it.

A reply is written as "250 2.1.0"; one without an enhanced status code (RFC 2034) as its code; that of EHLO with its keywords,
sorted; a challenge with its text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

from tests.smtp.address import Mail, Refusal, read_mail, read_rcpt

HTTP = {"GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "CONNECT", "PATCH", "TRACE"}
JUNK = {"NOOP", "RSET", "VRFY", "EXPN", "HELP", "HELO", "EHLO", "LHLO"}
BEFORE_TLS = {"EHLO", "HELO", "LHLO", "NOOP", "STARTTLS", "QUIT", "RSET", "HELP"}
END_OF_DATA = b"\r\n.\r\n"
AUTH_LINE = 12288  # RFC 4954 4

Reading = Generator[None, None, bytes]
Doing = Generator[None, None, None]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a listener is set. `users`: name -> (password, the senders it may use, in lower case; none: all).

    `extra`: keywords of EHLO that come and go with the version; what they change is asked by `offers`.
    `max_unknown`: unknown commands, then 421.
    """

    hostname: str = "bridge.example"
    protocol: str = "smtp"
    starttls: bool = True
    require_tls: bool = False
    open_relay: bool = True
    auth_without_tls: bool = False
    mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")
    reject_bare_newlines: bool = False
    max_message_size: int = 2000
    max_recipients: int = 3
    max_errors: int = 8
    max_junk: int = 9
    users: dict[str, tuple[bytes, tuple[str, ...]]] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    max_unknown: int = 6

    def offers(self, keyword: str) -> bool:
        return keyword in self.extra


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A message that was answered 250: its content as it must be stored, without the bridge's Received field."""

    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes
    user: str
    helo: str
    protocol: str


class Model:
    """`feed` it what the client sends; then `replies` are all that must have been heard, `kept` all that must be stored.

    `awaits_tls`: 220 was said to STARTTLS; `secured` goes on. `closed`: the server has closed.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.replies: list[str] = []
        self.kept: list[Kept] = []
        self.closed = False
        self.awaits_tls = False
        self.dropped = 0  # octets that were thrown away at STARTTLS
        self._tls = False
        self._helo = ""
        self._extended = False
        self._user = ""
        self._errors = self._junk = self._unknown = 0
        self._blind = 0  # lines after a refused AUTH that a client may not have meant as commands
        self._forget()
        self._stream = bytearray()
        self._run = self._session()
        self.feed(b"")

    def feed(self, data: bytes) -> None:
        if not self.closed:
            self._stream += data
            next(self._run, None)

    @property
    def unread(self) -> int:
        """Octets behind the last command."""
        return len(self._stream)

    def secured(self) -> None:
        """RFC 3207 4.2: nothing that was said or sent before counts any more."""
        self.awaits_tls, self._tls = False, True
        self._helo, self._extended, self._user = "", False, ""
        self._forget()

    # --- lines

    def _session(self) -> Doing:
        self._say("220")
        while not self.closed:
            line = yield from self._until(b"\n")
            yield from self._obey(line)
            if self._junk > self.rules.max_junk or self._unknown >= self.rules.max_unknown:
                self._close("421 4.7.0")

    def _until(self, mark: bytes) -> Reading:
        while (end := self._stream.find(mark)) < 0:
            yield
        found = bytes(self._stream[:end])
        del self._stream[: end + len(mark)]
        return found

    def _take(self, count: int) -> Reading:
        while len(self._stream) < count:
            yield
        found = bytes(self._stream[:count])
        del self._stream[:count]
        return found

    def _obey(self, line: bytes) -> Doing:
        if len(line) + 1 > self._longest(line):
            self._refuse_line("500 5.5.2")
            return
        line = line.removesuffix(b"\r")
        if line.startswith(b"\x16\x03"):  # a TLS hello: what follows are no commands
            self._close("500 5.5.2")
            return
        word, _, rest = line.strip(b" \t").partition(b" ")
        verb = word.decode("latin-1").upper()
        argument = rest.strip(b" \t").decode("utf-8", "surrogateescape")
        if (b"\0" in line or b"\r" in line) and verb not in ("MAIL", "RCPT"):
            self._refuse_line("500 5.5.2")
        elif verb in HTTP:
            self._close("421 4.7.0")
        elif not word.isascii() or not word:
            self._refuse_line("500 5.5.2")
        elif verb not in self._commands():
            self._unknown += not self._blind
            self._refuse_line("500 5.5.1")
        elif self.rules.require_tls and not self._tls and verb not in BEFORE_TLS:
            if verb == "BDAT" and (size := re.match("[0-9]{1,20}(?=[ \\t]|$)", argument)):
                yield from self._take(int(size[0]))
            self._refuse("530 5.7.0")
        else:
            self._blind = 0
            self._junk += verb in JUNK
            yield from self._commands()[verb](argument)

    def _longest(self, line: bytes) -> int:
        """RFC 5321 4.5.3.1.4 and what the extensions add to it; the LF is counted."""
        return {b"MAIL": 2048, b"RCPT": 2048, b"AUTH": AUTH_LINE + 32}.get(line[:4].upper(), 512)

    def _say(self, reply: str) -> None:
        self.replies.append(reply)

    def _refuse(self, reply: str) -> None:
        self._say(reply)
        self._errors += reply[0] == "5"
        if self._errors >= self.rules.max_errors:
            self._close("421 4.7.0")

    def _refuse_line(self, reply: str) -> None:
        """What is no command."""
        if self._blind:
            self._blind -= 1
            self._say(reply)
        else:
            self._refuse(reply)

    def _close(self, reply: str) -> None:
        if not self.closed:
            self._say(reply)
            self.closed = True

    def _forget(self) -> None:
        self._mail: Mail | None = None
        self._recipients: list[str] = []
        self._refused_one = False
        self._chunks: list[bytes] | None = None  # of BDAT, from the first on
        self._lost = ""  # why further chunks are thrown away

    # --- commands

    def _commands(self) -> Mapping[str, Callable[[str], Doing]]:
        known = {
            "HELO": self._helo_command, "EHLO": self._ehlo, "LHLO": self._lhlo, "MAIL": self._mail_command,
            "RCPT": self._rcpt, "DATA": self._data, "RSET": self._rset, "NOOP": self._noop, "QUIT": self._quit,
            "HELP": self._help, "VRFY": self._vrfy, "AUTH": self._auth, "STARTTLS": self._starttls,
            **dict.fromkeys(("EXPN", "TURN", "ETRN", "SEND", "SOML", "SAML"), self._unavailable),
        }  # fmt: skip
        return known | ({"BDAT": self._bdat} if self.rules.offers("CHUNKING") else {})

    def _helo_command(self, argument: str) -> Doing:
        yield from self._greet(argument, protocol="smtp", extended=False)

    def _ehlo(self, argument: str) -> Doing:
        yield from self._greet(argument, protocol="smtp", extended=True)

    def _lhlo(self, argument: str) -> Doing:
        yield from self._greet(argument, protocol="lmtp", extended=True)

    def _greet(self, argument: str, *, protocol: str, extended: bool) -> Doing:
        if self.rules.protocol != protocol:
            self._refuse("500 5.5.1")  # RFC 2033 4.1
        elif not argument:
            self._refuse("501 5.5.4")
        else:
            self._helo, self._extended = argument, extended
            self._forget()
            self._say("250 " + " | ".join(sorted(self._keywords())) if extended else "250")
        yield from ()

    def _keywords(self) -> list[str]:
        words = [
            "PIPELINING",
            f"SIZE {self.rules.max_message_size}",
            "ENHANCEDSTATUSCODES",
            "8BITMIME",
            "SMTPUTF8",
            "DSN",
        ]
        if self.rules.starttls and not self._tls:
            words.append("STARTTLS")
        if self.rules.users and self._auth_is_safe():
            words.append("AUTH " + " ".join(self.rules.mechanisms))
        return [*words, *self.rules.extra]

    def _noop(self, argument: str) -> Doing:
        self._say("250 2.0.0")
        yield from ()

    def _help(self, argument: str) -> Doing:
        self._say("214 2.0.0")
        yield from ()

    def _rset(self, argument: str) -> Doing:
        if argument:
            self._refuse("501 5.5.4")
        else:
            self._forget()
            self._say("250 2.0.0")
        yield from ()

    def _quit(self, argument: str) -> Doing:
        if argument:
            self._refuse("501 5.5.4")
        else:
            self._close("221 2.0.0")
        yield from ()

    def _vrfy(self, argument: str) -> Doing:
        if argument:
            self._say("252 2.0.0")
        else:
            self._refuse("501 5.5.4")
        yield from ()

    def _unavailable(self, argument: str) -> Doing:
        self._refuse("502 5.5.1")
        yield from ()

    def _starttls(self, argument: str) -> Doing:
        if argument:
            self._refuse("501 5.5.4")
        elif self._tls or self._mail:
            self._refuse("503 5.5.1")
        elif not self.rules.starttls:
            self._refuse("502 5.5.1")
        else:
            self._say("220 2.0.0")
            self.dropped = len(self._stream)
            self._stream.clear()  # CVE-2011-0411
            self.awaits_tls = True
            while self.awaits_tls:
                yield

    # --- AUTH

    def _auth_is_safe(self) -> bool:
        return self._tls or self.rules.auth_without_tls

    def _auth(self, argument: str) -> Doing:
        mechanism, _, initial = argument.partition(" ")
        try:
            self._may_log_in(argument, mechanism.upper())
            given = yield from self._exchange(mechanism.upper(), initial.strip().encode("utf-8", "surrogateescape"))
        except Refusal as refusal:
            self._blind = 2
            self._refuse(refusal.reply)
            return
        name, password = given
        if name not in self.rules.users or self.rules.users[name][0] != password:
            self._blind = 2
            self._refuse("535 5.7.8")
        else:
            self._user = name
            self._say("235 2.7.0")

    def _may_log_in(self, argument: str, mechanism: str) -> None:
        for wrong, reply in (
            (not self.rules.users, "502 5.5.1"),
            (not self._auth_is_safe(), "538 5.7.11"),
            (not self._extended or bool(self._user) or self._mail is not None, "503 5.5.1"),
            (not argument, "501 5.5.4"),
            (mechanism not in self.rules.mechanisms, "504 5.5.4"),
        ):
            if wrong:
                raise Refusal(reply)

    def _exchange(self, mechanism: str, initial: bytes) -> Generator[None, None, tuple[str, bytes]]:
        """Raises Refusal. The name is "" for what can be nobody's."""
        if mechanism == "PLAIN":  # RFC 4616
            answer = decoded(initial) if initial else (yield from self._ask(""))
            authorize, name, password = (
                (*answer.split(b"\0"), b"", b"")[:3] if answer.count(b"\0") == 2 else (b"", b"", b"")
            )
            if not name or authorize not in (b"", name) or not is_utf8(name):
                raise Refusal("501 5.5.2")
            return name.decode(), password
        if mechanism == "LOGIN":
            name = decoded(initial) if initial else (yield from self._ask("Username:"))
            password = yield from self._ask("Password:")
            if not is_utf8(name):
                raise Refusal("501 5.5.2")
            return name.decode(), password
        if initial:  # RFC 2195: the server speaks first
            raise Refusal("501 5.5.4")
        answer = yield from self._ask("CRAM-MD5")
        if not is_utf8(answer) or not re.fullmatch(r"(?s:.+) [0-9a-fA-F]{32}", answer.decode()):
            raise Refusal("501 5.5.2")
        return "", b""  # the challenge is another each time, so that no program holds the right answer

    def _ask(self, challenge: str) -> Reading:
        self._say(f"334 {challenge}".strip())
        line = yield from self._until(b"\n")
        if len(line) + 1 > AUTH_LINE:
            raise Refusal("500 5.5.6")
        return decoded(line.removesuffix(b"\r").strip(b" \t"))

    # --- the transaction

    def _mail_command(self, argument: str) -> Doing:
        self._lost = ""
        try:
            self._may_send()
            mail = read_mail(
                argument,
                hostname=self.rules.hostname,
                max_size=self.rules.max_message_size,
                bodies={"7BIT", "8BITMIME"} | ({"BINARYMIME"} if self.rules.offers("BINARYMIME") else set()),
            )
            senders = self.rules.users[self._user][1] if self._user else ()
            if senders and mail.reverse_path and mail.reverse_path.lower() not in senders:
                raise Refusal("550 5.7.1")
        except Refusal as refusal:
            self._refuse(refusal.reply)
        else:
            self._mail = mail
            self._say("250 2.1.0")
        yield from ()

    def _may_send(self) -> None:
        if not self._helo or self._mail:
            raise Refusal("503 5.5.1")
        if not (self._user or self.rules.open_relay):
            raise Refusal("530 5.7.0" if self.rules.users else "550 5.7.1")

    def _rcpt(self, argument: str) -> Doing:
        if self._mail is None or self._chunks is not None:
            self._refuse("503 5.5.1")
        elif len(self._recipients) >= self.rules.max_recipients:
            self._refused_one = True
            self._say("452 4.5.3")
        else:
            self._add(argument, smtputf8=self._mail.smtputf8)
        yield from ()

    def _add(self, argument: str, *, smtputf8: bool) -> None:
        try:
            self._recipients.append(read_rcpt(argument, hostname=self.rules.hostname, smtputf8=smtputf8))
        except Refusal as refusal:
            self._refused_one = True
            self._refuse(refusal.reply)
        else:
            self._say("250 2.1.5")

    def _data(self, argument: str) -> Doing:
        if argument:
            self._refuse("501 5.5.4")
        elif self._mail is None:
            self._refuse("503 5.5.1")
        elif not self._recipients:
            self._refuse("554 5.5.1" if self._refused_one else "503 5.5.1")
        elif self._chunks is not None or self._mail.binary:  # RFC 3030 2 and 3
            self._refuse("503 5.5.1")
        else:
            self._say("354")
            # The CRLF of the DATA line is that of a dot in the very first line (RFC 5321 4.1.1.4).
            self._stream[:0] = b"\r\n"
            content = yield from self._until(END_OF_DATA)
            self._take_message((content + b"\r\n").replace(b"\r\n.", b"\r\n")[2:])

    def _bdat(self, argument: str) -> Doing:
        """RFC 3030 2: the chunk is read whatever its command is answered."""
        size = re.match("[0-9]{1,20}(?=[ \\t]|$)", argument)
        chunk = (yield from self._take(int(size[0]))) if size else b""
        words = re.split("[ \\t]+", argument.upper())
        if not size or len(size[0]) > 15 or words[1:] not in ([], ["LAST"]):
            self._refuse("501 5.5.4")
            return
        last = bool(words[1:])
        if self._lost:  # one answer each, and no more errors
            self._say(self._lost)
            self._lost = "" if last else self._lost
        elif self._mail is None:
            self._refuse("503 5.5.1")
        elif not self._recipients:
            self._refuse("554 5.5.1" if self._refused_one else "503 5.5.1")
        else:
            self._chunks = [*(self._chunks or ()), chunk]
            content = b"".join(self._chunks)
            # A CR at the end may be half of a CRLF.
            if last:
                self._take_message(content)
            elif refusal := self._refusal_of(content.removesuffix(b"\r"), size=len(content)):
                self._forget()
                self._lost = refusal
                self._refuse(refusal)
            else:
                self._say("250 2.0.0")

    def _take_message(self, content: bytes) -> None:
        """RFC 2033 4.2: LMTP answers for each recipient."""
        assert self._mail
        refusal = self._refusal_of(content)
        if not refusal:
            self._errors = self._junk = self._unknown = 0  # who brings mail may go on
            self.kept.append(self._message(self._mail, content))
        for _ in self._recipients if self.rules.protocol == "lmtp" else [""]:
            self._say(refusal or "250 2.0.0")
        self._forget()

    def _refusal_of(self, content: bytes, size: int = 0) -> str:
        assert self._mail
        if max(len(content), size) > self.rules.max_message_size:
            return "552 5.3.4"
        strict = self.rules.reject_bare_newlines and not self._mail.binary
        return "550 5.5.2" if strict and content != normal(content) else ""

    def _message(self, mail: Mail, content: bytes) -> Kept:
        first: dict[str, str] = {}
        for recipient in self._recipients:  # the domain is the same in any case, the local part is not (RFC 5321 2.4)
            local, _, domain = recipient.rpartition("@")
            first.setdefault(f"{local}@{domain.lower()}", recipient)
        word = {"lmtp": "LMTP", "smtp": "ESMTP" if self._extended else "SMTP"}[self.rules.protocol]
        marks = "" if word == "SMTP" else ("S" if self._tls else "") + ("A" if self._user else "")  # RFC 3848
        return Kept(
            reverse_path=mail.reverse_path,
            recipients=tuple(first.values()),
            content=normal(content),
            user=self._user,
            helo=self._helo,
            protocol=word + marks,
        )


def normal(content: bytes) -> bytes:
    """Every line end is CRLF (Postfix: smtpd_forbid_bare_newline = normalize)."""
    return re.sub(rb"\r\n|\r|\n", b"\r\n", content)


def is_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def decoded(line: bytes) -> bytes:
    """RFC 4954 4. Raises Refusal for "*", and for what is no base64; "=" is the empty string."""
    if line == b"*":
        raise Refusal("501 5.7.0")
    if line == b"=":
        return b""
    try:
        found = base64.b64decode(line, validate=True)
    except binascii.Error:
        raise Refusal("501 5.5.2") from None
    if len(line) % 4:
        raise Refusal("501 5.5.2")
    return found
