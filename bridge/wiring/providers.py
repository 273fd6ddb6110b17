"""The providers from their settings. What costs memory or time to load is imported only when it is configured."""

from __future__ import annotations

from typing import Literal, cast

from bridge.config.kinds import ApiProvider as ApiSection
from bridge.config.kinds import SmtpProvider as SmtpSection
from bridge.config.providers import Provider as ProviderSection
from bridge.config.providers import RestProvider as RestSection
from bridge.config.settings import Settings
from bridge.providers.base import Policy, Provider
from bridge.providers.capture import CaptureProvider


class ProviderError(Exception):
    """A provider cannot be built from its settings; the text is one line for the operator."""


def build_providers(settings: Settings) -> list[Provider]:
    """The providers in the order of the settings, the preferred one first. Raises ProviderError."""
    return [build_provider(chosen, settings) for chosen in settings.provider]


def build_provider(chosen: ProviderSection, settings: Settings) -> Provider:
    """Raises ProviderError for what only shows when it is used: a file that holds no key or no certificates."""
    policy = Policy(
        concurrency=chosen.concurrency,
        timeout=chosen.timeout,
        on_unknown=chosen.on_unknown,
        max_unknown=chosen.max_unknown,
    )
    try:
        if isinstance(chosen, RestSection):
            return _rest(chosen, policy)
        if isinstance(chosen, SmtpSection):
            return _smarthost(chosen, policy, settings.hostname)
        if isinstance(chosen, ApiSection):
            return _api(chosen, policy)
    except ValueError as error:
        raise ProviderError(f"provider {chosen.name!r}: {error}") from error
    return CaptureProvider(chosen.name, policy)


def _api(chosen: ApiSection, policy: Policy) -> Provider:
    from bridge.providers import catalogue

    _check_ca_file(chosen.ca_file)
    return catalogue.build(
        chosen.name, chosen.kind, policy, chosen, proxy=chosen.proxy.get_secret_value(), ca_file=chosen.ca_file
    )


def _smarthost(chosen: SmtpSection, policy: Policy, hostname: str) -> Provider:
    from bridge.providers.smtp import SmtpProvider, SmtpSettings

    _check_ca_file(chosen.ca_file)
    settings = SmtpSettings(
        host=chosen.host,
        port=chosen.port,
        tls=chosen.tls,
        username=chosen.username,
        password=chosen.password.get_secret_value(),
        ca_file=chosen.ca_file,
        max_size=chosen.max_size,
    )
    return SmtpProvider(chosen.name, policy, settings, hostname=hostname)


def _rest(chosen: RestSection, policy: Policy) -> Provider:
    from bridge.providers.http import transport_for
    from bridge.providers.rest import OutcomeRule, RestProvider, RestSettings

    settings = RestSettings(
        url=chosen.url,
        method=chosen.method,
        shape=chosen.shape,
        body=chosen.body,
        content_type=chosen.content_type,
        auth=cast(Literal["none", "bearer", "basic", "header"], chosen.auth),
        token=chosen.token.get_secret_value(),
        username=chosen.username,
        password=chosen.password.get_secret_value(),
        header=chosen.header,
        id=chosen.id,
        idempotency_header=chosen.idempotency_header,
        idempotent=chosen.idempotent,
        headers={name: value.get_secret_value() for name, value in chosen.headers.items()},
        outcomes=tuple(
            OutcomeRule(
                reply=rule.reply,
                fault=rule.fault,
                statuses=rule.status,
                error=rule.error,
                equals=rule.equals,
                contains=rule.contains,
            )
            for rule in chosen.outcome
        ),
        max_size=chosen.max_size,
    )
    _check_ca_file(chosen.ca_file)
    transport = transport_for(
        chosen.url,
        policy,
        proxy=chosen.proxy.get_secret_value(),
        ca_file=chosen.ca_file,
        keepalive_s=chosen.keepalive,
    )
    return RestProvider(chosen.name, policy, settings, transport=transport)


def _check_ca_file(path: str) -> None:
    """At start, so that it is one clear line and not the fate of every attempt. Raises ValueError."""
    if not path:
        return
    from bridge.providers.trust import client_context

    try:
        client_context(path)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"{path}: holds no certificates (PEM) to trust") from error
