"""Structured logs: one line for each thing that happened to a message; on a terminal for people, else JSON.

Events are dotted and stable, facts are keys. Bodies and secrets are never passed in, and an exception is told by its type and
place, since its text may quote the mail; addresses are hashed when asked, also where a text quotes them.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import secrets
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
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
# sd-daemon(3): what the journal takes for the priority of a line.
_PRIORITIES = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>", "error": b"<3>", "critical": b"<2>"}
_KEY_OCTETS = 32
_DIGITS = 12

Processor = Callable[[Any, str, Any], Any]


class _Logger(structlog.make_filtering_bound_logger(20)):  # type: ignore[misc]
    """Its base is the level: loggers that were used keep this class, and so hear of another level."""


_pipeline: Sequence[Processor] = ()  # from the event to the line; replaced whole, since threads are in the middle of it
_address_key = b""


def _render(logger: Any, method: str, event: Any) -> Any:
    for processor in _pipeline:
        event = processor(logger, method, event)
    return event


_PROCESSORS = [_render]  # as above: loggers that were used keep this list


def configure(
    *,
    level: str = "info",
    format: Literal["auto", "console", "json"] = "auto",
    addresses: str = "full",
    priority: Literal["auto", "always", "never"] = "auto",
    key: bytes = b"",
) -> None:
    """Set up logging of the whole process, to standard error; again, it changes what is logged from then on.

    `key`: what addresses are hashed with. `priority` "auto": lines begin with one where standard error is the journal.
    """
    global _pipeline, _address_key
    console = format == "console" or (format == "auto" and sys.stderr.isatty())
    _address_key = key
    _pipeline = (
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _place_exception,
        *([_hash_addresses] if addresses == "hashed" else []),
        *(
            [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()), _encode]
            if console
            else [structlog.processors.JSONRenderer(_dumps)]
        ),
        *([_put_priority] if priority == "always" or (priority == "auto" and to_journal()) else []),
    )
    _Logger.__bases__ = (structlog.make_filtering_bound_logger(_LEVELS[level]),)
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=_Logger,
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    _adopt_stdlib()


def to_journal(environ: Mapping[str, str] = os.environ) -> bool:
    """systemd.exec(5), $JOURNAL_STREAM: whether standard error is what systemd connected to the journal, and not another file in
    a process that has only inherited the variable."""
    stream = environ.get("JOURNAL_STREAM")
    if not stream:
        return False
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return stream == f"{found.st_dev}:{found.st_ino}"


def complain(text: str) -> None:
    """A line for who started it, before there is a log or beside it."""
    print(f"{'<3>' if to_journal() else ''}smtp-bridge: {text}", file=sys.stderr)


def _put_priority(_: Any, method: str, line: bytes) -> bytes:
    return _PRIORITIES.get("error" if method == "exception" else method, b"<6>") + line


def _encode(_: Any, __: str, line: str) -> bytes:
    return line.encode(sys.stderr.encoding or "utf-8", "backslashreplace")


def _dumps(event: MutableMapping[str, Any], **_: Any) -> bytes:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS)


def address_key(path: Path) -> bytes:
    """The key of an installation, kept in PATH for its user alone and made at its first use. Raises OSError.

    Without it whoever reads a log could try addresses until one fits.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_hex(_KEY_OCTETS).encode())
    except FileExistsError:
        pass
    if key := path.read_bytes().strip():
        return key
    path.unlink(missing_ok=True)  # of a start that was cut off
    return address_key(path)


def hashed(address: str) -> str:
    """Twelve hexadecimal digits that stand for an address, the HMAC of its lower case: the same in every line, and no address."""
    if not address:
        return ""
    return hmac.digest(_address_key, address.lower().encode("utf-8", "replace"), "sha256").hex()[:_DIGITS]


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
        return {_without_addresses(k, known): _without_addresses(v, known) for k, v in value.items()}
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


def adopt_hooks() -> None:
    """What Python would print of an exception that nobody caught: its text and the source around it. For a daemon's process."""

    def told(event: str) -> Callable[..., None]:
        def tell(*given: Any) -> None:
            error = given[1] if len(given) > 1 else given[0].exc_value
            if isinstance(error, SystemExit | KeyboardInterrupt):  # nothing failed
                return
            structlog.get_logger().error(event, exc_info=error)

        return tell

    sys.excepthook = told("daemon.failed")
    threading.excepthook = told("thread.failed")
    sys.unraisablehook = told("library.unraisable")
