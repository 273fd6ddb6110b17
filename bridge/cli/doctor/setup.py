"""From the settings: the daemon's listener that is meant, the values the rules judge by, and the daemon's word on a message."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

from bridge.cli.doctor.certificates import Certificates
from bridge.cli.doctor.dialogue import Setup
from bridge.cli.doctor.session import Verdict
from bridge.clock import SystemClock
from bridge.config.settings import Settings
from bridge.content import Content
from bridge.delivery.choice import Dispatchers
from bridge.delivery.preparation import Preparation
from bridge.mime.parse import Limits as MimeLimits
from bridge.mime.parse import parse
from bridge.model import Envelope, Origin
from bridge.reply import Reply
from bridge.smtp.auth import Authenticator
from bridge.smtp.conversation import CheckRecipient, Service
from bridge.smtp.logins import Logins
from bridge.wiring import ProviderError, build_providers, delivery
from bridge.wiring import smtp as smtp_wiring


@dataclass(frozen=True, slots=True)
class _Whole:
    """Content that is in memory."""

    octets: bytes

    def read(self, first: int) -> tuple[bytes, None]:
        return self.octets, None


def chosen_listener(settings: Settings, address: str) -> tuple[int, bool]:
    """(its index, whether it is at that very address): the one with this address, else with its port, else the first."""
    addresses = [str(listener.address) for listener in settings.smtp.listener]
    if not address or address in addresses:
        return (addresses.index(address) if address else 0), True
    port = address.rpartition(":")[2]
    same = [index for index, each in enumerate(addresses) if each.rpartition(":")[2] == port and ":" in address]
    return (same[0] if same else 0), False


def setup_of(settings: Settings, index: int, certificates: Certificates, *, here: bool) -> Setup:
    listener = settings.smtp.listener[index]
    return Setup(
        policy=smtp_wiring.policy(settings, index),
        address=str(listener.address),
        here=here,
        tls_minimum=listener.tls_minimum,
        proxy_protocol=listener.proxy_protocol,
        users=tuple(user.name for user in settings.user),
        max_message_size=settings.smtp.max_message_size,
        max_recipients=settings.smtp.max_recipients,
        sends=any(provider.kind != "capture" for provider in settings.provider),
        ciphers=certificates.ciphers,
        old_ciphers=certificates.old_ciphers,
        key=certificates.key,
        self_signed=not settings.tls.cert_file,
    )


def service_of(settings: Settings, index: int, auth: Authenticator, check_recipient: CheckRecipient) -> Service:
    """The daemon's listener, without what needs its queue: rates, suppressions, room on the disk."""

    async def gate() -> Reply | None:
        return None

    async def begin() -> Content:
        raise AssertionError("the daemon's side of the doctor takes no message")

    def submit(*_: object, **__: object) -> None:
        raise AssertionError("the daemon's side of the doctor is only asked")

    return Service(
        hostname=settings.hostname,
        policy=smtp_wiring.policy(settings, index),
        limits=smtp_wiring.limits(settings),
        logins=Logins(auth, None),
        begin=begin,
        submit=submit,  # type: ignore[arg-type]
        gate=gate,
        check_recipient=check_recipient,
    )


def judges(settings: Settings) -> tuple[Verdict, CheckRecipient]:
    """What the daemon says of a message and of a recipient, as far as that needs neither network nor queue.

    Providers that cannot be built are the business of `check`: nothing is said of the message then.
    """
    try:
        providers = build_providers(settings)
    except ProviderError:
        return (lambda envelope, content, origin: (None, _sender(content))), (
            lambda user, listener, sender, recipient: None
        )
    dispatchers = Dispatchers(
        delivery.dispatchers(settings, providers, SystemClock()),
        routes=delivery.routes(settings),
        degrade=settings.relay.degrade,
        mark=delivery.mark(settings),
    )
    return _verdict(settings, dispatchers), _recipients(settings, dispatchers)


def _verdict(settings: Settings, dispatchers: Dispatchers) -> Verdict:
    limits = MimeLimits(depth=settings.smtp.max_mime_depth, parts=settings.smtp.max_mime_parts)
    prepare = Preparation(dispatchers, functools.partial(parse, limits=limits), SystemClock())
    rules = delivery.rules(settings)

    def verdict(envelope: Envelope, content: bytes, origin: Origin) -> tuple[Reply | None, str]:
        prepared = prepare(rules, f"doctor{time.time_ns():x}", envelope, _Whole(content), origin)
        return (prepared, _sender(content)) if isinstance(prepared, Reply) else (None, prepared.email.sender.email)

    return verdict


def _sender(content: bytes) -> str:
    return parse(content).sender.email


def _recipients(settings: Settings, dispatchers: Dispatchers) -> CheckRecipient:
    """As `Submission.check_recipient`, without the suppressions."""
    replaces: Callable[[], bool] = lambda: bool(settings.relay.from_ or settings.relay.rewrite)  # noqa: E731

    def check(user: str, listener: str, sender: str, recipient: str) -> Reply | None:
        known = "" if replaces() else sender
        return dispatchers.refusal(user=user, listener=listener, sender=known, recipient=recipient)

    return check
