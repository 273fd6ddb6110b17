"""Keys of the HTTP side: random, kept as their hash, each with what it may be used for and how often."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from bridge.units import Rate
from bridge.window import Window

Scope = Literal["send", "read", "manage"]
PREFIX = "sb_"
_OCTETS = 24  # of chance: 192 bits, so a hash that is fast tells nobody the key
HASH = re.compile(r"sha256\$[0-9a-f]{64}")
MAX_KEY = 256  # characters


def new_key() -> tuple[str, str]:
    """(`sb_...`, its hash as it stands in the settings)."""
    key = PREFIX + secrets.token_urlsafe(_OCTETS)
    return key, hash_key(key)


def hash_key(key: str) -> str:
    return f"sha256${hashlib.sha256(key.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    name: str
    key_hash: str = field(repr=False)
    scopes: frozenset[Scope]
    rate: Rate | None = None  # messages
    senders: tuple[str, ...] = ("*",)

    def may(self, scope: Scope) -> bool:
        """Who may change things may look at them; who may send may not."""
        return scope in self.scopes or (scope == "read" and "manage" in self.scopes)


class Keys:
    """Those of the settings. For the loop's thread alone."""

    def __init__(self, keys: Iterable[Key], *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._windows: dict[str, Window] = {}
        self.replace(keys)

    def replace(self, keys: Iterable[Key]) -> None:
        """After a reload. What was counted goes on counting where the rate is the same."""
        found = tuple(keys)
        before = {key.name: key.rate for key in self._keys}
        kept = self._windows
        self._windows = {
            key.name: kept[key.name] if before.get(key.name) == key.rate and key.name in kept else Window.of(key.rate)
            for key in found
            if key.rate
        }
        self._keys = found

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, secret: str) -> Key | None:
        """All are looked at, so that the time tells nothing."""
        given = hash_key(secret[:MAX_KEY]).encode()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.key_hash.encode(), given):
                found = key
        return found

    def named(self, name: str) -> Key | None:
        return next((key for key in self._keys if key.name == name), None)

    def wait(self, key: Key, number: int = 1) -> float:
        """Seconds until so many messages may come; 0.0 for now."""
        window = self._windows.get(key.name)
        return window.wait(self._clock(), number) if window else 0.0

    def take(self, key: Key, number: int = 1) -> float:
        """0.0 when so many messages may come now, and then they are counted; else the seconds to wait."""
        window = self._windows.get(key.name)
        if window is None:
            return 0.0
        now = self._clock()
        wait = window.wait(now, number)
        if not wait:
            window.add(now, number)
        return wait

    def give_back(self, key: Key, number: int = 1) -> None:
        """So many of them did not count."""
        if window := self._windows.get(key.name):
            for _ in range(number):
                window.give_back()
