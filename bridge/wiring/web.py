"""The HTTP side's values from the settings."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bridge.config.settings import Settings
from bridge.config.types import is_local
from bridge.smtp.listener import Listener
from bridge.web.context import Rules
from bridge.web.keys import Key, Keys


def keys(settings: Settings) -> list[Key]:
    return [
        Key(
            name=key.name,
            key_hash=key.key_hash.get_secret_value(),
            scopes=frozenset(key.scopes),
            rate=key.rate,
            senders=key.senders,
        )
        for key in settings.http.key
    ]


def key_ring(settings: Settings) -> Keys:
    return Keys(keys(settings), clock=time.monotonic)


def rules(settings: Settings, listeners: Sequence[Listener] = ()) -> Rules:
    """`listeners`: those of the settings, in their order, as they are bound."""
    return Rules(
        hostname=settings.hostname,
        max_message_size=settings.smtp.max_message_size,
        max_recipients=settings.smtp.max_recipients,
        capture=all(provider.kind == "capture" for provider in settings.provider),
        addresses=_addresses(settings, listeners),
    )


def _addresses(settings: Settings, listeners: Sequence[Listener]) -> tuple[str, ...]:
    """With the port that the system chose where the settings left it to it."""
    found = [str(listener.address) for listener in settings.smtp.listener]
    ports = [listener.port for listener in listeners] or [0] * len(found)
    return tuple(
        f"{text.removesuffix(':0')}:{port}" if text.endswith(":0") else text
        for text, port in zip(found, ports, strict=False)
    )


def loopback(settings: Settings) -> bool:
    return settings.http.address is not None and is_local(settings.http.address)
