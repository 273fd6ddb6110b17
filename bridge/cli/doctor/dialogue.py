"""A recorded dialogue, and the settings it is judged by: values only, without a secret in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from bridge.cli.doctor.content import Content
from bridge.cli.doctor.hello import Hello
from bridge.reply import Reply
from bridge.smtp.policy import ListenerPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxied:
    """A PROXY header stood before everything else; `source` is the client it names, "" for none; `by`: whose connection it is."""

    source: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """TLS. `implicit`: before any greeting. `late`: a hello on a connection that had been greeted in plain text.

    `version` as in "1.2", "" when it failed. `refused`: the alert the device sent, `alert`: the one we sent, as OpenSSL names
    them ("UNKNOWN_CA").
    """

    implicit: bool = False
    late: bool = False
    hello: Hello | None = None
    version: str = ""
    cipher: str = ""
    refused: str = ""
    alert: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One line of the device. `argument` without secrets. `refusals`: what the daemon's listener answers, the next being what it
    says when the one before is mended; none when it takes it. `faults`: "long", "controls", "tls".
    """

    verb: str
    argument: str = ""
    refusals: tuple[Reply, ...] = ()
    faults: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """`mechanism` in upper case. `name` "": the exchange did not get as far. `initial`: a response stood on the same line."""

    mechanism: str
    tls: bool = False
    name: str = ""
    known: bool = False
    right: bool = False
    hashed: bool = False
    initial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A message came to its end. `refusal`: what the daemon says of it, as far as that needs no network.

    `sender`: the address in From as a provider gets it, "" for none.
    """

    content: Content
    sender: str = ""
    refusal: Reply | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """The device waits. `where`: "start" (nothing was said at all), "command" (between two), "line" (a line without an end),
    "data". `tail`: the last octets it sent."""

    where: Literal["start", "command", "line", "data"]
    seconds: float = 0.0
    tail: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """`by`: "quit", "device" (without QUIT), "doctor" (421), "silence", "user" (Ctrl-C). `within`: DATA had begun."""

    by: Literal["quit", "device", "doctor", "silence", "user"]
    within_data: bool = False


Step = Proxied | Handshake | Command | Login | Delivered | Stall | Ended
S = TypeVar("S", bound=Step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """One connection. `offered_all`: EHLO listed more than the daemon's listener does. `bare_lf`: lines of commands ended so."""

    client: str
    steps: tuple[Step, ...] = ()
    offered_all: bool = False
    bare_lf: bool = False

    def all(self, kind: type[S]) -> tuple[S, ...]:
        return tuple(step for step in self.steps if isinstance(step, kind))

    def first(self, kind: type[S]) -> S | None:
        return next(iter(self.all(kind)), None)

    def commands(self, *verbs: str) -> tuple[Command, ...]:
        return tuple(step for step in self.all(Command) if step.verb in verbs)

    def refused(self, *replies: Reply, to: tuple[str, ...] = ()) -> Command | None:
        """The first command, of these verbs if some are named, that is answered so."""
        commands = self.commands(*to) if to else self.all(Command)
        return next((command for command in commands if set(replies) & set(command.refusals)), None)

    @property
    def brought_mail(self) -> bool:
        return bool(self.all(Delivered))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The daemon's listener. `address` as in the settings. `here`: the doctor listens at that very address.

    `ciphers`: what its context takes, number of the suite -> "rsa", "ecdsa" or "any" (the certificate that goes with it);
    `old_ciphers`: the same with `tls_minimum = "1.0"`. `key`: the kind of its certificate.
    `sends`: there is a provider that wants to know a sender.
    """

    policy: ListenerPolicy
    address: str = "127.0.0.1:2525"
    here: bool = True
    tls_minimum: str = "1.2"
    proxy_protocol: bool = False
    users: tuple[str, ...] = ()
    max_message_size: int = 25 * 1024 * 1024
    max_recipients: int = 1000
    sends: bool = True
    ciphers: Mapping[int, str] = field(default_factory=dict)
    old_ciphers: Mapping[int, str] = field(default_factory=dict)
    key: Literal["rsa", "ecdsa", ""] = ""
    self_signed: bool = True
