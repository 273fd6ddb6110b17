"""The settings of the SMTP side: limits, listeners, certificate, users."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from argon2 import extract_parameters
from argon2.exceptions import InvalidHash
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from bridge.config.section import Problem, Section, repeated
from bridge.config.types import (
    Address,
    AnyNetwork,
    Count,
    Duration,
    ExistingFile,
    Hostname,
    List,
    ListenAddress,
    MaybeName,
    MaybeRate,
    PositiveDuration,
    PositiveSize,
    Secret,
    Size,
    TextList,
    check_patterns,
    split_list,
)
from bridge.config.width import is_too_wide, too_wide_together


def _read_mechanisms(value: Any) -> Any:
    names = split_list(value)
    return tuple(dict.fromkeys(str(name).upper() for name in names)) if isinstance(names, list | tuple) else names


class Listener(Section):
    table: ClassVar[str] = "smtp.listener"

    address: Address = Field(
        default=ListenAddress("tcp", "127.0.0.1", 2525),
        description='"127.0.0.1:2525", "[::1]:2525", ":2525" (every interface), "unix:/run/smtp-bridge/lmtp.sock" or '
        '"systemd:NAME".',
    )
    name: MaybeName = Field(default="", description="What it is called in routes and in the log.")
    protocol: Literal["smtp", "lmtp"] = Field(default="smtp", description="smtp or lmtp.")
    tls: Literal["none", "starttls", "implicit"] = Field(
        default="starttls", description="none, starttls (offered) or implicit (from the first byte)."
    )
    require_tls: bool = Field(default=False, description="Refuse mail and logins before TLS.")
    require_auth: bool = Field(default=False, description="Everybody must log in.")
    allowed_networks: Annotated[tuple[AnyNetwork, ...], List] = Field(
        default=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")),
        description="Who may relay without a login when require_auth = false; everybody else must log in. "
        "Nothing wider than /8 (IPv6 /32), nor more public addresses than that in all: an open relay.",
    )
    auth_mechanisms: Annotated[tuple[Literal["PLAIN", "LOGIN", "CRAM-MD5"], ...], BeforeValidator(_read_mechanisms)] = (
        Field(
            default=("PLAIN", "LOGIN"),
            description="PLAIN, LOGIN, CRAM-MD5 (which needs users with a plain `password`).",
        )
    )
    auth_without_tls: bool = Field(default=False, description="Take passwords over a connection that anybody can read.")
    bare_newlines: Literal["normalize", "reject"] = Field(
        default="normalize",
        description="A CR or LF on its own in the content: normalize (becomes CRLF) or reject (550 5.5.2).",
    )
    bare_addresses: bool = Field(
        default=False,
        description="Take MAIL FROM:ann@example.com without angle brackets, as some old devices send it.",
    )
    tls_minimum: Literal["1.0", "1.1", "1.2", "1.3"] = Field(
        default="1.2", description="The oldest TLS version: 1.0, 1.1, 1.2 or 1.3. Below 1.2 only for old devices."
    )
    client_ca_file: ExistingFile = Field(
        default="",
        description="The authorities (PEM) whose client certificates are a login, as that of the [[user]] with this "
        "`certificate`. Empty: none is asked for.",
    )
    client_certificates: Literal["named", "any"] = Field(
        default="named",
        description="named: those of users; any: every one of these authorities may relay, under its own name. Any only with "
        "an authority of your own, never a public one.",
    )
    proxy_protocol: bool = Field(
        default=False,
        description="Every connection begins with a PROXY header (version 1 or 2), and the client is the one it names.",
    )
    proxy_networks: Annotated[tuple[AnyNetwork, ...], List] = Field(
        default=(),
        description="The load balancers, whose header is believed; others cannot connect. Needed with proxy_protocol = true, "
        "but for a unix socket, where whoever may connect is believed.",
    )

    def problems(self) -> Iterator[Problem]:
        yield from self._relay_problems()
        yield from self._proxy_problems()
        if self.tls == "none" and self.client_ca_file:
            yield "client_ca_file", 'is given, but tls = "none": no client could show a certificate'
        if self.client_certificates == "any" and not self.client_ca_file:
            yield "client_certificates", 'is "any", but client_ca_file is empty: none is asked for'
        if self.tls == "none" and self.require_tls:
            yield "require_tls", 'is true, but tls = "none": no mail could ever come in'
        if self.tls == "none" and self.require_auth and not self.auth_without_tls:
            yield "require_auth", 'is true, but tls = "none" and auth_without_tls = false: nobody could log in'
        if self.require_auth and not self.auth_mechanisms and not self.client_ca_file:
            yield "auth_mechanisms", "is empty, but require_auth = true: nobody could log in"
        if self.protocol == "lmtp" and self.address.kind == "tcp" and self.address.port == 25:
            yield "address", "LMTP may not be spoken on port 25 (RFC 2033 5)"

    def _relay_problems(self) -> Iterator[Problem]:
        if self.require_auth:
            return
        wide: list[str] = [str(network) for network in self.allowed_networks if is_too_wide(network)]
        if not wide and too_wide_together(self.allowed_networks):
            wide = ["so much of the Internet in all (more than a /8, IPv6 /32)"]
        for what in wide:
            yield (
                "allowed_networks",
                f"{what} with require_auth = false is an open relay; name your own networks, or set require_auth = true",
            )

    def _proxy_problems(self) -> Iterator[Problem]:
        if self.proxy_networks and not self.proxy_protocol:
            yield "proxy_networks", "is given, but proxy_protocol = false: no header is looked for"
        if self.proxy_protocol and not self.proxy_networks and self.address.kind != "unix":
            yield "proxy_networks", "is empty, but proxy_protocol = true: nobody could connect; name the load balancers"
        for network in filter(is_too_wide, self.proxy_networks):
            yield (
                "proxy_networks",
                f"{network}: whoever is in it may claim any client's address; name the load balancers",
            )


class Smtp(Section):
    table: ClassVar[str] = "smtp"

    hostname: Hostname = Field(
        default="", description="The name in the greeting and in Received. Empty: this machine's name."
    )
    max_message_size: PositiveSize = Field(
        default=25 * 1024**2, description="The largest message taken, as it comes in."
    )
    max_recipients: Count = Field(default=1000, description="Recipients per message, at most.")
    max_connections: Count = Field(
        default=1000, description="Connections at the same time, at most, over all listeners."
    )
    max_connections_per_client: Count = Field(
        default=100, description="Connections at the same time from one address (IPv6: one /64), at most."
    )
    max_errors: Count = Field(default=20, description="Refused commands in one connection, at most; then it is closed.")
    max_junk_commands: Count = Field(
        default=100,
        description="Commands without mail (NOOP, RSET, VRFY) in one connection, at most; then it is closed.",
    )
    max_unknown_commands: Count = Field(
        default=10, description="Unknown commands in one connection, at most; then it is closed."
    )
    max_commands: Count = Field(
        default=100_000,
        description="Commands in one connection, at most; then it is closed between two messages, and the client connects again.",
    )
    max_hops: Count = Field(
        default=50, description="Received headers in a message, at most; more is a loop (554 5.4.6)."
    )
    max_header_size: PositiveSize = Field(
        default=1024**2, description="The largest header of a message; a larger one is refused (554 5.6.0)."
    )
    max_mime_depth: Count = Field(
        default=100, description="Parts within parts in a message, at most; deeper is refused (554 5.6.0)."
    )
    max_mime_parts: Count = Field(
        default=1000, description="Parts in a message, at most; more are refused (554 5.6.0)."
    )
    rate_per_client: MaybeRate = Field(
        default=None,
        description='Messages per period from one address without a login, as in "600/h"; beyond it 451 4.7.1. Empty: no limit.',
    )
    timeout: PositiveDuration = Field(default=300.0, description="How long a client may be silent.")
    min_data_rate: Size = Field(
        default=500,
        description="Octets per second at which a message must come in, all in all; slower is cut off (421). 0: any.",
    )
    memory_budget: PositiveSize = Field(
        default=256 * 1024**2,
        description="Memory that all sessions and attempts may hold together; beyond it they wait.",
    )
    memory_wait: PositiveDuration = Field(
        default=30.0, description="How long a session waits for memory before it hears 452 4.3.1."
    )
    tls_handshake_timeout: PositiveDuration = Field(default=30.0, description="How long a TLS handshake may take.")
    shutdown_timeout: Duration = Field(
        default=25.0, description="At shutdown, how long open transactions and attempts may still take."
    )
    auth_cache: Duration = Field(
        default=300.0, description="How long a right password is remembered, as a keyed hash. 0: not at all."
    )
    auth_delay: Duration = Field(
        default=1.0,
        description="How long a client, and who tries the same name, waits after a failed login; twice as long after each "
        "further one. 0: not at all.",
    )
    auth_delay_maximum: PositiveDuration = Field(
        default=30.0, description="The longest such wait; a login that would have to wait longer hears 454 4.7.0."
    )
    auth_forget: PositiveDuration = Field(
        default=900.0, description="How long after the last failed login they are forgotten."
    )
    listener: tuple[Listener, ...] = Field(default=(Listener(),), description="Where it listens.")

    def problems(self) -> Iterator[Problem]:
        if not self.listener:
            yield "listener", "is empty: no mail could ever come in"
        if self.auth_delay > self.auth_delay_maximum:
            yield "auth_delay", "is longer than 'smtp.auth_delay_maximum'"
        # With port 0 the system chooses another port for each.
        addresses = ("" if str(each.address).endswith(":0") else str(each.address) for each in self.listener)
        for index, address in repeated(addresses):
            yield f"listener.{index}.address", f"{address} is there twice"
        for index, name in repeated(each.name for each in self.listener):
            yield f"listener.{index}.name", f"the name '{name}' is there twice"


class Tls(Section):
    table: ClassVar[str] = "tls"

    cert_file: ExistingFile = Field(
        default="",
        description="The certificate with its chain (PEM). Empty: a self-signed one is made at first start and kept in the "
        "state directory.",
    )
    key_file: ExistingFile = Field(default="", description="Its private key (PEM). Empty: it stands in cert_file.")

    def problems(self) -> Iterator[Problem]:
        if self.key_file and not self.cert_file:
            yield "cert_file", "is required with 'tls.key_file'"


def _check_hash(secret: SecretStr) -> SecretStr:
    if secret.get_secret_value():
        try:
            extract_parameters(secret.get_secret_value())
        except (InvalidHash, ValueError):
            pass
        else:
            return secret
        raise ValueError("not an argon2 hash; 'smtp-bridge hash-password' makes one")
    return secret


def _check_user_name(name: str) -> str:
    # RFC 4616 2: what a client can say is UTF-8 without NUL.
    if not name or len(name) > 255 or re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", name):
        raise ValueError("a user's name is 1 to 255 characters without control characters")
    return name


def _check_certificate_name(name: str) -> str:
    if len(name) > 255 or re.search(r"[\x00-\x1f\x7f]", name):
        raise ValueError("a certificate's name is at most 255 characters without control characters")
    return name


class User(Section):
    table: ClassVar[str] = "user"

    name: Annotated[str, AfterValidator(_check_user_name)] = Field(
        description="The name to log in with.", examples=["printer"]
    )
    password_hash: Annotated[Secret, AfterValidator(_check_hash)] = Field(
        default=SecretStr(""), description="The password's argon2 hash, made by `smtp-bridge hash-password`."
    )
    password: Secret = Field(default=SecretStr(""), description="The plain password instead, which CRAM-MD5 needs.")
    certificate: Annotated[str, AfterValidator(_check_certificate_name)] = Field(
        default="",
        description="The name (DNS name, email address or common name) in this user's client certificate, see "
        "`smtp.listener.client_ca_file`; a user with one needs no password.",
    )
    senders: Annotated[TextList, AfterValidator(check_patterns)] = Field(
        default=("*",), description='Who this user may send as, in the envelope and in From, as in "*@example.com".'
    )
    rate: MaybeRate = Field(
        default=None, description='Messages per period, as in "100/h"; beyond it 451 4.7.1. Empty: no limit.'
    )

    @property
    def has_password(self) -> bool:
        return bool(self.password_hash.get_secret_value() or self.password.get_secret_value())

    def problems(self) -> Iterator[Problem]:
        given = bool(self.password_hash.get_secret_value()), bool(self.password.get_secret_value())
        if given == (False, False) and not self.certificate:
            yield (
                "password_hash",
                "is missing: give 'password_hash' (or 'password', which CRAM-MD5 needs; or 'certificate')",
            )
        if given == (True, True):
            yield "password", "give either 'password_hash' or 'password'"
