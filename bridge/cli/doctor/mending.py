"""What a listener refuses, made into what it takes, so that the conversation goes on. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

SOMEBODY = "somebody@device.invalid"  # RFC 2606: nobody's
_LOOSE = re.compile(r"[ \t]*(?:FROM|TO)?[ \t]*:?[ \t]*<?[ \t]*([^<>\s]*)[ \t]*>?", re.IGNORECASE)


def mend_path(argument: str, keyword: str, takes: Callable[[str], bool]) -> str:
    """The argument of MAIL or RCPT, `keyword` "FROM" or "TO": the first that `takes` likes, the given one before all."""
    return next(filter(takes, _candidates(argument, keyword)), argument)


def _candidates(argument: str, keyword: str) -> Iterator[str]:
    yield argument
    match = _LOOSE.match(argument)
    address = match[1] if match else ""
    yield f"{keyword}:<{address}>"
    yield f"{keyword}:<{address.rpartition('@')[0]}>"
    yield f"{keyword}:<{''.join(c if c.isascii() and c.isprintable() else 'x' for c in address)}>"
    yield f"{keyword}:<{SOMEBODY}>"


def without_size(argument: str) -> str:
    """MAIL without its SIZE parameter (RFC 1870)."""
    return re.sub(r"[ \t]+SIZE=\d{1,20}(?=[ \t]|\Z)", "", argument, flags=re.IGNORECASE)


def mend_line(line: bytes) -> bytes:
    """Without NUL, and without CR that ends nothing."""
    return line.replace(b"\0", b"").replace(b"\r", b"")
