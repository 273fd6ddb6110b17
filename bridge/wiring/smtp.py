"""The SMTP side's values from the settings."""

from __future__ import annotations

import time
from pathlib import Path

from bridge.config.settings import Settings
from bridge.smtp.auth import User
from bridge.smtp.policy import Limits, ListenerPolicy
from bridge.smtp.rates import Rates
from bridge.smtp.throttle import Throttle
from bridge.smtp.tls import self_signed
from bridge.smtp.tls_files import TlsFiles
from bridge.units import Rate


def users(settings: Settings) -> list[User]:
    return [
        User(
            name=user.name,
            password_hash=user.password_hash.get_secret_value(),
            password=user.password.get_secret_value(),
            certificate=user.certificate,
            senders=user.senders,
        )
        for user in settings.user
    ]


def rates_of(settings: Settings) -> tuple[dict[str, Rate], Rate | None]:
    """By user, and for each client without a login."""
    return {user.name: user.rate for user in settings.user if user.rate}, settings.smtp.rate_per_client


def rates(settings: Settings) -> Rates | None:
    """None when nobody is limited."""
    per_user, per_client = rates_of(settings)
    if not per_user and per_client is None:
        return None
    return Rates(per_user=per_user, per_client=per_client, clock=time.monotonic)


def throttle(settings: Settings) -> Throttle | None:
    """None when a failed login slows nobody."""
    smtp = settings.smtp
    if not smtp.auth_delay:
        return None
    return Throttle(
        delay_s=smtp.auth_delay,
        maximum_s=smtp.auth_delay_maximum,
        forget_s=smtp.auth_forget,
        clock=time.monotonic,
    )


def policy(settings: Settings, index: int) -> ListenerPolicy:
    listener = settings.smtp.listener[index]
    return ListenerPolicy(
        name=listener.name,
        protocol=listener.protocol,
        tls=listener.tls,
        require_tls=listener.require_tls,
        require_auth=listener.require_auth,
        allowed_networks=listener.allowed_networks,
        proxy_networks=listener.proxy_networks if listener.proxy_protocol else None,
        auth_mechanisms=listener.auth_mechanisms,
        auth_without_tls=listener.auth_without_tls,
        bare_newlines=listener.bare_newlines,
        bare_addresses=listener.bare_addresses,
        any_certificate=listener.client_certificates == "any",
    )


def certificate(settings: Settings) -> tuple[Path, Path | None]:
    """The files of certificate and key; one that is signed by itself is made when none are given. Raises CertificateError."""
    tls = settings.tls
    if tls.cert_file:
        return Path(tls.cert_file), Path(tls.key_file) if tls.key_file else None
    return self_signed(settings.state_directory, settings.hostname)


def tls_files(settings: Settings, index: int) -> TlsFiles | None:
    """Of one listener, None without TLS. Raises CertificateError."""
    listener = settings.smtp.listener[index]
    if listener.tls == "none":
        return None
    cert, key = certificate(settings)
    client_ca = Path(listener.client_ca_file) if listener.client_ca_file else None
    return TlsFiles(cert=cert, key=key, client_ca=client_ca, minimum=listener.tls_minimum)


def limits(settings: Settings) -> Limits:
    smtp = settings.smtp
    return Limits(
        max_message_size=smtp.max_message_size,
        max_recipients=smtp.max_recipients,
        max_connections=smtp.max_connections,
        max_connections_per_client=smtp.max_connections_per_client,
        max_errors=smtp.max_errors,
        max_junk_commands=smtp.max_junk_commands,
        max_unknown_commands=smtp.max_unknown_commands,
        max_commands=smtp.max_commands,
        timeout=smtp.timeout,
        min_data_rate=smtp.min_data_rate,
        tls_handshake_timeout=smtp.tls_handshake_timeout,
    )
