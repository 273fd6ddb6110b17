"""The HTTP side's values from the settings."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from pydantic import SecretStr

from bridge.config.provider_base import ProviderBase
from bridge.config.settings import Settings
from bridge.config.types import is_local
from bridge.providers.events import HOOKS, build_hook
from bridge.providers.events.base import HookSettings
from bridge.smtp.listener import Listener
from bridge.web.context import Place, Rules
from bridge.web.keys import Key, Keys
from bridge.wiring.providers import ProviderError


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
    bound = tuple(listener.where for listener in listeners)
    return bound or tuple(str(listener.address) for listener in settings.smtp.listener)


def loopback(settings: Settings) -> bool:
    return settings.http.address is not None and is_local(settings.http.address)


def places(settings: Settings) -> dict[str, Place]:
    """Where providers tell of their mail: by name, and by the kind where there is one of it. Raises ProviderError."""
    found = {chosen.name: _place(chosen, settings) for chosen in settings.provider if chosen.kind in HOOKS}
    kinds = Counter(chosen.kind for chosen in settings.provider)
    alone = {
        chosen.kind: found[chosen.name]
        for chosen in settings.provider
        if chosen.name in found and kinds[chosen.kind] == 1
    }
    return {**alone, **found}


def _place(chosen: ProviderBase, settings: Settings) -> Place:
    keys = {"secret": "webhook_secret", "key": "webhook_key", "topic": "webhook_topic"}
    given = HookSettings(
        **{name: _plain(getattr(chosen, key, "")) for name, key in keys.items()},
        url=getattr(chosen, "webhook_url", ""),
        tolerance=settings.events.tolerance,
    )
    wanted = next(key for name, key in keys.items() if hasattr(chosen, key))
    if not _plain(getattr(chosen, wanted)):
        return Place(provider=chosen.name, wanted=wanted)
    try:
        return Place(provider=chosen.name, hook=build_hook(chosen.kind, given))
    except ValueError as error:
        raise ProviderError(f"provider {chosen.name!r}: {wanted}: {error}") from error


def _plain(value: object) -> str:
    return str(value.get_secret_value()) if isinstance(value, SecretStr) else str(value)
