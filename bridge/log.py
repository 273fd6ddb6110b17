"""Structured logs: one line for each thing that happened to a message; on a terminal for people, else JSON.

Events are dotted and stable, facts are keys. Bodies and secrets are never passed in, and an exception is told by its type and
place, since its text may quote the mail; addresses are hashed when asked, also where a text quotes them.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Literal

import orjson
import structlog

_ADDRESS_KEYS = ("reverse_path", "recipient", "recipients")
_OWN_KEYS = ("event", "level", "timestamp")
# What a text of an API may quote; rather too much than a part of an address: blanks in a quoted local part, the "@" of URLs.
_QUOTED_ADDRESS = re.compile(
    r'"[^"@]*"@[^\s<>"(),;]+|[^\s<>"(),;:]+(?:@|%40)[^\s<>"(),;:]*[^\s<>"(),;:.]', re.IGNORECASE
)
_FRAMES = 6
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(
    *, level: str = "info", format: Literal["auto", "console", "json"] = "auto", addresses: str = "full"
) -> None:
    """Set up logging of the whole process, to standard error."""
    console = format == "console" or (format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _place_exception,
        *([_hash_addresses] if addresses == "hashed" else []),
    ]
    if console:
        processors = [*shared, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        factory: Any = structlog.WriteLoggerFactory(sys.stderr)
    else:
        processors = [*shared, structlog.processors.JSONRenderer(_dumps)]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    _adopt_stdlib()


def _dumps(event: MutableMapping[str, Any], **_: Any) -> bytes:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS)


def hashed(address: str) -> str:
    """Twelve hexadecimal digits that stand for an address: the same in every line, and no address."""
    return hashlib.sha256(address.lower().encode("utf-8", "replace")).hexdigest()[:12] if address else ""


def _hash_addresses(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    known = sorted(_addresses_of(event), key=len, reverse=True)
    for key, value in event.items():
        if key in _ADDRESS_KEYS:
            event[key] = [hashed(str(v)) for v in value] if isinstance(value, list | tuple) else hashed(str(value))
        elif key not in _OWN_KEYS:
            event[key] = _without_addresses(value, known)
    return event


def _addresses_of(event: MutableMapping[str, Any]) -> Iterator[str]:
    for key in _ADDRESS_KEYS:
        value = event.get(key, "")
        yield from (str(v) for v in (value if isinstance(value, list | tuple) else (value,)) if v)


def _without_addresses(value: Any, known: Iterable[str]) -> Any:
    """Texts of APIs quote addresses, and a user may be named by one."""
    if isinstance(value, list | tuple):
        return [_without_addresses(v, known) for v in value]
    if isinstance(value, dict):
        return {k: _without_addresses(v, known) for k, v in value.items()}
    if not isinstance(value, str):
        return value
    for address in known:
        value = re.sub(rf"(?<![\w.+=-]){re.escape(address)}", hashed(address), value, flags=re.IGNORECASE)
    return _QUOTED_ADDRESS.sub(lambda found: hashed(found[0].strip("'`")), value)


def _place_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """`exc_info` becomes the exception's type and the last places it came through: no text, no source, no values."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if error is not None:
        event.setdefault("error", type(error).__name__)
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        event["trace"] = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return event


class _ToStructlog(logging.Handler):
    """Warnings of libraries, without their arguments: those may hold what a client sent."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        structlog.get_logger().log(
            record.levelno,
            "library.warning",
            logger=record.name,
            text=str(record.msg).partition("\n")[0][:200],  # asyncio's further lines show the exception
            error=type(error).__name__ if error else "",
        )


def _adopt_stdlib() -> None:
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(logging.WARNING)
    # aiosmtpd logs the lines that clients send, passwords among them.
    logging.getLogger("mail.log").disabled = True
    logging.getLogger("mail.debug").disabled = True
