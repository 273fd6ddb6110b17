"""Settings that the design names and this version does not act on yet, in one table.

Such a key is accepted at the value that means "off" and refused at any other, so that nobody believes it works.
A feature that arrives removes its line here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = tuple[Callable[[Any], bool], str]  # is this value one that may stand here? what the operator is told if not


def _leave(off: object, how: str) -> Row:
    return (lambda value: bool(value == off)), f"not available yet in this version; leave it {how}"


def _is_local_file(url: Any) -> bool:
    return not url.get_secret_value().lower().startswith("postgres")


PENDING: dict[str, Row] = {
    "provider.auth": (
        lambda auth: auth not in ("hmac", "oauth2"),
        'hmac and oauth2 are not available yet in this version; use "bearer", "basic", "header" or "none"',
    ),
    "spool.url": (
        _is_local_file,
        "PostgreSQL is not available yet in this version; leave it empty, or give a sqlite:/// address",
    ),
    "workers.count": _leave(1, "at 1"),
}


def not_available(key: str, value: object) -> str:
    """Empty when `key` may have this value, else what the operator is told."""
    if key not in PENDING:
        return ""
    may_stand, text = PENDING[key]
    return "" if may_stand(value) else text
