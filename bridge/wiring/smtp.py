"""The SMTP side's values from the settings."""

from __future__ import annotations

import time

from bridge.config.settings import Settings
from bridge.smtp.auth import User
from bridge.smtp.policy import Limits, ListenerPolicy
from bridge.smtp.rates import Rates
from bridge.smtp.throttle import Throttle
from bridge.units import Rate


def users(settings: Settings) -> list[User]:
    return [
        User(
            name=user.name,
            password_hash=user.password_hash.get_secret_value(),
            password=user.password.get_secret_value(),
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
        auth_mechanisms=listener.auth_mechanisms,
        auth_without_tls=listener.auth_without_tls,
        bare_newlines=listener.bare_newlines,
        bare_addresses=listener.bare_addresses,
    )


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
