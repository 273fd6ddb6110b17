"""Structured logs: one line for each thing that happened to a message; on a terminal for people, else JSON.

Events are dotted and stable, facts are keys. Bodies and secrets are never passed in; addresses are hashed when asked.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import orjson
import structlog

_ADDRESS_KEYS = ("reverse_path", "recipient", "recipients")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(
    *, level: str = "info", format: Literal["auto", "console", "json"] = "auto", addresses: str = "full"
) -> None:
    """Set up logging of the whole process, to standard error."""
    console = format == "console" or (format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([_hash_addresses] if addresses == "hashed" else []),
    ]
    if console:
        processors = [*shared, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        factory: Any = structlog.WriteLoggerFactory(sys.stderr)
    else:
        processors = [*shared, structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dumps)]
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
    for key in _ADDRESS_KEYS:
        value = event.get(key)
        if isinstance(value, str):
            event[key] = hashed(value)
        elif isinstance(value, list | tuple):
            event[key] = [hashed(str(v)) for v in value]
    return event


class _ToStructlog(logging.Handler):
    """Warnings of libraries, without their arguments: those may hold what a client sent."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        structlog.get_logger().log(
            record.levelno,
            "library.warning",
            logger=record.name,
            text=str(record.msg)[:200],
            error=type(error).__name__ if error else "",
        )


def _adopt_stdlib() -> None:
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(logging.WARNING)
    # aiosmtpd logs the lines that clients send, passwords among them.
    logging.getLogger("mail.log").disabled = True
    logging.getLogger("mail.debug").disabled = True
