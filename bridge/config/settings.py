"""The settings: every key with its type, default and meaning, and the rules between keys.

`bridge.config.load` finds, reads and merges them; `bridge.config.show` shows them. A description stands here (listeners and
users: `bridge.config.smtp`, providers: `bridge.config.providers`) and nowhere else: the example file and the schema are made
from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import unquote

from pydantic import AfterValidator, Field, PrivateAttr, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bridge.config.machine import default_hostname
from bridge.config.named_files import NamedFile
from bridge.config.providers import Provider
from bridge.config.section import Problem, Section, repeated
from bridge.config.smtp import Smtp, Tls, User
from bridge.config.types import (
    AnyNetwork,
    BounceFrom,
    Count,
    Duration,
    EmailAddress,
    Factor,
    List,
    MaybeAddress,
    MaybeRate,
    Name,
    Pattern,
    PositiveDuration,
    RequiredMailbox,
    RequiredPattern,
    Secret,
    SecretUrl,
    SenderMailbox,
    Size,
    TextList,
    WebhookSecret,
    WebhookUrl,
    check_patterns,
    is_local,
)
from bridge.config.width import is_too_wide

SPOOL_FILE = "spool.db"


class Rewrite(Section):
    table: ClassVar[str] = "relay.rewrite"

    sender: RequiredPattern = Field(description="Whose mail: a pattern of the sender's address.", examples=["root@*"])
    from_: RequiredMailbox = Field(
        alias="from",
        description="What it gets instead, in the header and in the envelope; the old address goes to Reply-To, unless "
        "there is one.",
        examples=["Servers <noreply@example.com>"],
    )


class Relay(Section):
    table: ClassVar[str] = "relay"

    mode: Literal["auto", "queue", "direct"] = Field(
        default="auto",
        description="auto: try at once while the client waits, and keep the mail if the provider cannot take it now. "
        "queue: keep it first, answer 250 at once. direct: keep nothing, a temporary failure is the client's to retry.",
    )
    attempt_timeout: PositiveDuration = Field(
        default=10.0,
        description="auto: how long the client waits for the provider; then the mail is queued. direct: after this no further "
        "call is begun, and the client waits for those that were, at most the provider's `timeout` more.",
    )
    degrade: bool = Field(
        default=False,
        description="Send what a provider can express, with the loss in the log, instead of refusing the mail.",
    )
    dedupe_window: Duration = Field(
        default=0.0,
        description="The same mail again within this time is answered with the first one's 250 and not sent. 0: never.",
    )
    from_: SenderMailbox = Field(
        default="",
        alias="from",
        description="Replaces a sender that no provider takes (none, no dot in the domain, localhost, an address literal), in "
        "the header and in the envelope; the old one goes to Reply-To, unless there is one. Empty: never.",
    )
    rewrite: tuple[Rewrite, ...] = Field(default=(), description="A new sender for some mail; the first match wins.")


class Route(Section):
    table: ClassVar[str] = "route"

    user: str = Field(default="", description="Only mail of this user. Empty: anybody's.")
    sender: Pattern = Field(
        default="", description='Only mail from senders like this, as in "*@news.example.com". Empty: any.'
    )
    recipient: Pattern = Field(default="", description='Only recipients like this, as in "*@example.org". Empty: any.')
    listener: str = Field(
        default="", description="Only mail that came in through the listener of this name. Empty: any."
    )
    providers: TextList = Field(
        default=(), description='The providers\' names, in order of failover, as in ["main", "backup"].'
    )
    refuse: bool = Field(
        default=False, description="Instead of `providers`: who comes this way is refused with 550 at RCPT."
    )
    failover_unknown: bool = Field(
        default=False,
        description="Go on to the next provider also when an answer was lost, so that it is not known whether the mail was "
        "sent: somebody may get it twice.",
    )

    def problems(self) -> Iterator[Problem]:
        if self.refuse and self.providers:
            yield "refuse", "is true, but the route has 'providers': it is one or the other"
        if not self.providers and not self.refuse:
            yield "providers", "is empty: this mail would have nowhere to go; 'refuse = true' refuses it"
        for _, name in repeated(self.providers):
            yield "providers", f"the name '{name}' is there twice"


class Breaker(Section):
    table: ClassVar[str] = "breaker"

    failures: Count = Field(
        default=5,
        description="A provider is left alone after so many failed calls within `window`, if they are also `share` of all calls.",
    )
    share: Factor = Field(default=0.5, gt=0, le=1, description="See `failures`: 0.5 is half of the calls.")
    window: PositiveDuration = Field(default=60.0, description="The time over which failures are counted.")
    wait: PositiveDuration = Field(
        default=15.0,
        description="Then it is tried again after this time, with one message; each further wait is twice as long.",
    )
    maximum: PositiveDuration = Field(default=300.0, description="The longest wait between two such tries.")

    def problems(self) -> Iterator[Problem]:
        if self.wait > self.maximum:
            yield "wait", "is longer than 'breaker.maximum'"


def spool_file(url: str, state: Path) -> Path:
    """`sqlite:///var/lib/x.db` (also with the four slashes of SQLAlchemy) -> /var/lib/x.db. Raises ValueError."""
    if not url:
        return state / SPOOL_FILE
    scheme, found, rest = url.partition("://")
    path = "/" + unquote(rest).lstrip("/")
    if scheme != "sqlite" or not found or not rest.startswith("/") or re.search(r"[\0?#]|^/$", path):
        raise ValueError('not a spool; write for example "sqlite:////var/lib/smtp-bridge/spool.db", an absolute path')
    return Path(path)


def _check_spool_url(url: SecretStr) -> SecretStr:
    if not re.match(r"(?i)postgres(ql)?://", url.get_secret_value()):
        spool_file(url.get_secret_value(), Path("/"))
    return url


class Spool(Section):
    table: ClassVar[str] = "spool"

    url: Annotated[SecretUrl, AfterValidator(_check_spool_url)] = Field(
        default=SecretStr(""),
        description=f"Where mail is kept: sqlite:/// and an absolute path. Empty: {SPOOL_FILE} in the state directory.",
    )
    max_bytes: Size = Field(default=10 * 1024**3, description="Space the spool may use. 0: no limit.")
    min_free: Size = Field(default=500 * 1024**2, description="Space that must stay free on its disk. 0: no floor.")
    file_threshold: Size = Field(
        default=256 * 1024,
        description="Messages above this are kept as files beside the database, so that memory stays bounded.",
    )
    history: Duration = Field(
        default=7 * 86400.0,
        description="How long it is known what became of a finished message, without its body. 0: not at all.",
    )
    failed: Duration = Field(
        default=30 * 86400.0,
        description="How long bounced and expired messages are kept with their bodies, to be retried by hand.",
    )


class Retry(Section):
    table: ClassVar[str] = "retry"

    first: PositiveDuration = Field(default=1.0, description="The wait before the second attempt.")
    factor: Factor = Field(default=2.0, ge=1, le=100, description="Each further wait is this many times as long.")
    maximum: PositiveDuration = Field(default=30 * 60.0, description="The longest wait between two attempts.")
    jitter: Factor = Field(
        default=0.2,
        ge=0,
        le=1,
        description="How much of a wait is left to chance, as a fraction: 0.2 is plus or minus 20 %.",
    )
    expire: PositiveDuration = Field(
        default=2 * 86400.0, description="After this time mail that could not be sent is given up."
    )
    delay_notice: Duration = Field(
        default=4 * 3600.0, description="After this time the sender hears that mail is late. 0: never."
    )

    def problems(self) -> Iterator[Problem]:
        if self.first > self.maximum:
            yield "first", "is longer than 'retry.maximum'"


class Bounce(Section):
    table: ClassVar[str] = "bounce"

    from_: BounceFrom = Field(
        default="",
        alias="from",
        description="From of the notices that tell a sender what failed. Empty: `relay.from`, else the sender's own address; "
        '"off": no notices, only events and the failed queue.',
    )
    senders: Annotated[TextList, AfterValidator(check_patterns)] = Field(
        default=(),
        description='Whose mail taken without a login is answered with notices, as in "*@example.com"; a forged sender would '
        "get notices of mail it never sent. Empty: whoever sends from a private network or from this machine. Who logs in "
        "always gets them.",
    )
    postmaster: EmailAddress = Field(
        default="", description="Gets a copy of the notices, and what cannot be returned. Empty: nobody."
    )
    max_size: Size = Field(
        default=1024**2, description="A returned message above this is returned as its header alone (RFC 3461 6.2)."
    )
    webhook: WebhookUrl = Field(
        default=SecretStr(""), description="POSTed to, as JSON, when a message finally fails. Empty: none."
    )
    webhook_secret: WebhookSecret = Field(
        default=SecretStr(""),
        description='The key of its signature, "whsec_" and base64 (Standard Webhooks). Empty: it is not signed.',
    )

    def problems(self) -> Iterator[Problem]:
        if self.from_ == "off" and self.postmaster:
            yield "postmaster", 'gets nothing with from = "off"; leave it empty'


class Alert(Section):
    table: ClassVar[str] = "alert"

    queue_age: Duration = Field(
        default=3600.0,
        description="Tell when a message has waited this long; what is on hold does not count. 0: never.",
    )
    disk_free: Size = Field(
        default=1024**3,
        description="Tell when less than this is free on the spool's disk, or less than a quarter above "
        "`spool.min_free`. 0: never.",
    )
    webhook: WebhookUrl = Field(
        default=SecretStr(""), description="POSTed to, as JSON, when an alert begins and when it is over. Empty: none."
    )
    webhook_secret: WebhookSecret = Field(
        default=SecretStr(""), description="The key of its signature, as in `bounce.webhook_secret`."
    )


class Events(Section):
    table: ClassVar[str] = "events"

    webhook: WebhookUrl = Field(
        default=SecretStr(""),
        description="POSTed to, as JSON, when a provider tells of mail it took: delivered, bounced, opened ... Empty: none.",
    )
    webhook_secret: WebhookSecret = Field(
        default=SecretStr(""), description="The key of its signature, as in `bounce.webhook_secret`."
    )
    suppress: bool = Field(
        default=True,
        description="An address that bounces for good, complains or unsubscribes is refused at RCPT from then on "
        "(`smtp-bridge suppress list`).",
    )
    max_size: Size = Field(
        default=1024**2, description="The largest body of a provider's webhook; a larger one gets 413."
    )
    tolerance: PositiveDuration = Field(
        default=300.0,
        description="How old a signed call may be, and how far ahead its clock; else it is refused as a replay.",
    )


def _check_key_hash(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    if value and not re.fullmatch(r"sha256\$[0-9a-f]{64}", value):
        raise ValueError("is not the hash of a key; make both with: smtp-bridge new-key")
    return secret


class HttpKey(Section):
    table: ClassVar[str] = "http.key"

    name: Name = Field(description="What this key is called in the log.", examples=["shop"])
    key_hash: Annotated[Secret, AfterValidator(_check_key_hash)] = Field(
        default=SecretStr(""), description="The key's hash; `smtp-bridge new-key` makes both."
    )
    scopes: Annotated[tuple[Literal["send", "read", "manage"], ...], List] = Field(
        default=("send",), description="What it may be used for: send, read, manage."
    )
    rate: MaybeRate = Field(default=None, description="Messages that it may send. Empty: any number.")
    senders: Annotated[TextList, AfterValidator(check_patterns)] = Field(
        default=("*",), description='Who it may send as, `*` for any characters: ["*@example.com"].'
    )

    def problems(self) -> Iterator[Problem]:
        if not self.key_hash.get_secret_value():
            yield "key_hash", "is missing; make a key and its hash with: smtp-bridge new-key"
        if not self.scopes:
            yield "scopes", "is empty: the key could do nothing"


class Http(Section):
    table: ClassVar[str] = "http"

    address: MaybeAddress = Field(
        default=None,
        description='Health, metrics, API and web pages: "127.0.0.1:8025" or "unix:/run/smtp-bridge/http.sock". Empty: off.',
    )
    max_connections: Count = Field(default=500, description="Connections at once; more are closed.")
    trusted_proxies: Annotated[tuple[AnyNetwork, ...], List] = Field(
        default=(),
        description="Your reverse proxies, whose X-Forwarded-For and X-Forwarded-Proto are believed; over a unix socket those of "
        'everybody, once one is named. Empty: nobody\'s. ["127.0.0.1/32"]',
    )
    key: tuple[HttpKey, ...] = Field(default=(), description="Who may POST /send-email or use the API.")

    def problems(self) -> Iterator[Problem]:
        if self.address and not is_local(self.address) and not self.key:
            yield "address", "can be reached from other machines: give an [[http.key]], or listen on 127.0.0.1"
        for network in filter(is_too_wide, self.trusted_proxies):
            yield "trusted_proxies", f"{network}: whoever is in it may claim any client's address; name the proxies"


class Workers(Section):
    table: ClassVar[str] = "workers"

    count: Count = Field(default=1, le=256, description="Processes that share the listening sockets.")


class Log(Section):
    table: ClassVar[str] = "log"

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error."
    )
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="console, json, or auto: console on a terminal, JSON otherwise."
    )
    addresses: Literal["full", "hashed"] = Field(
        default="full",
        description="How email addresses are written: full, or hashed with a key of this installation (log.key in the state "
        "directory), so that one address is one word in every line; the domain is not kept.",
    )
    priority: Literal["auto", "always", "never"] = Field(
        default="auto",
        description='Begin each line with its syslog priority, as in "<4>", which the journal takes off: always, never, or '
        "auto: where standard error is the journal.",
    )


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the keys: where state is kept, which file was read, whether nothing at all was set; and for when a
    secret's file changes, `tree` (what was validated) with the files that were named in it.

    `as_at_start`: variables, and keys whose file is a credential of the service (systemd). A process has both from its start on.
    """

    state: Path
    source: str = ""
    implicit_capture: bool = False
    tree: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    files: tuple[NamedFile, ...] = field(default=(), compare=False)
    as_at_start: tuple[str, ...] = field(default=(), compare=False)


class Settings(Section, BaseSettings):
    """All of it. `load_settings` is the way to get one; attributes are named as the keys, `from_` for `from`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    smtp: Smtp = Field(default=Smtp(), description="The SMTP side.")
    tls: Tls = Field(default=Tls(), description="The certificate of the listeners.")
    user: tuple[User, ...] = Field(default=(), description="Who may log in.")
    relay: Relay = Field(default=Relay(), description="What happens to a message.")
    provider: tuple[Provider, ...] = Field(default=(), description="Who sends the mail.")
    route: tuple[Route, ...] = Field(
        default=(),
        description="Which provider sends what, and what is refused; the first match wins. None: all, in order.",
    )
    spool: Spool = Field(default=Spool(), description="The queue on disk.")
    retry: Retry = Field(default=Retry(), description="When a deferred recipient is tried again.")
    breaker: Breaker = Field(default=Breaker(), description="When a provider that fails is left alone.")
    bounce: Bounce = Field(default=Bounce(), description="What the sender hears of mail that failed.")
    alert: Alert = Field(default=Alert(), description="What the operator is told.")
    events: Events = Field(default=Events(), description="What providers tell later of the mail they took.")
    http: Http = Field(default=Http(), description="The HTTP side.")
    workers: Workers = Field(default=Workers(), description="Processes.")
    log: Log = Field(default=Log(), description="The log.")

    _facts: Facts = PrivateAttr(Facts(Path("/nonexistent")))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """One source, the tree that `load` merged from file, environment and secret files.

        The environment's own source ignores unknown variables, cannot aim one at an array of tables, and does not know which
        line or variable a value came from.
        """
        return (init_settings,)

    @classmethod
    def read(cls, tree: Mapping[str, Any], facts: Facts) -> Self:
        """Raises pydantic's ValidationError."""
        settings = cls(**tree)
        settings._facts = facts
        return settings

    @property
    def facts(self) -> Facts:
        return self._facts

    @property
    def state_directory(self) -> Path:
        return self._facts.state

    @property
    def source(self) -> str:
        """The file they were read from, "" for none."""
        return self._facts.source

    @property
    def implicit_capture(self) -> bool:
        """Nothing was set at all: mail is captured, and `run` says so loudly."""
        return self._facts.implicit_capture

    @property
    def files(self) -> tuple[NamedFile, ...]:
        """The secret files, and others that providers are built from, as they were found."""
        return self._facts.files

    @property
    def as_at_start(self) -> tuple[str, ...]:
        """The variables and the keys with a credential of the service: what changed there is seen at a restart only."""
        return self._facts.as_at_start

    @property
    def hostname(self) -> str:
        return self.smtp.hostname or default_hostname()

    @property
    def spool_path(self) -> Path:
        return spool_file(self.spool.url.get_secret_value(), self.state_directory)

    def problems(self) -> Iterator[Problem]:
        if not self.provider:
            yield "provider", "is missing: add a [[provider]] table, or mail would have nowhere to go"
        if any(provider.kind == "capture" for provider in self.provider) and self.spool.history <= 0:
            yield "spool.history", "is 0, but capture keeps mail for that long: it would be gone at once"
        for key, names in (("provider", self.provider), ("user", self.user), ("http.key", self.http.key)):
            for index, name in repeated(item.name for item in names):
                yield f"{key}.{index}.name", f"the name '{name}' is there twice"
        yield from self._login_problems()
        yield from self._route_problems()
        if 0 < self.spool.max_bytes < self.smtp.max_message_size:
            yield "spool.max_bytes", "is smaller than 'smtp.max_message_size': such a message could never be kept"

    def _route_problems(self) -> Iterator[Problem]:
        known = {
            "providers": {provider.name for provider in self.provider},
            "user": {user.name for user in self.user},
            "listener": {listener.name for listener in self.smtp.listener},
        }
        for index, route in enumerate(self.route):
            wanted = {"providers": route.providers, "user": (route.user,), "listener": (route.listener,)}
            for key, names in wanted.items():
                for name in names:
                    if name and name not in known[key]:
                        yield f"route.{index}.{key}", f"names '{name}', and there is none of that name"

    def _login_problems(self) -> Iterator[Problem]:
        with_password = any(user.password.get_secret_value() for user in self.user)
        certified = any(listener.client_ca_file for listener in self.smtp.listener)
        for index, user in enumerate(self.user):
            if user.certificate and not certified:
                yield f"user.{index}.certificate", "is given, but no listener has 'client_ca_file': none is asked for"
        for index, name in repeated(user.certificate.lower() for user in self.user):
            yield f"user.{index}.certificate", f"the certificate '{name}' is there twice"
        anybody = any(user.has_password for user in self.user)
        for index, listener in enumerate(self.smtp.listener):
            key = f"smtp.listener.{index}"
            if listener.require_auth and not anybody and not listener.client_ca_file:
                nobody = "no [[user]] has a password" if self.user else "there is no [[user]]"
                yield f"{key}.require_auth", f"is true, but {nobody}: nobody could log in"
            if "CRAM-MD5" in listener.auth_mechanisms and not with_password:
                yield f"{key}.auth_mechanisms", "CRAM-MD5 needs a user with 'password' (not 'password_hash')"
