"""What is shown of a request's headers: everything but its credentials. Pure."""

from __future__ import annotations

import re

_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie"})
_WORD_END = re.compile(r"[\s,;:=]+")


def mask(headers: tuple[tuple[str, str], ...], key: str) -> tuple[tuple[str, str], ...]:
    """Providers have headers of their own for a key, so the key itself is looked for too."""
    return tuple((name, "***" if name in _CREDENTIALS or (key and key in value) else value) for name, value in headers)
