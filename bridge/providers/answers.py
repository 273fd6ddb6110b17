"""Reading a provider's answer with suspicion: JSON or not, its message to people, its pointers, when it wants us again."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterable, Mapping
from datetime import UTC
from typing import Any

import httpx
import orjson

MAX_WORDS = 200
_CONTROL = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]+")
_MARKUP = re.compile(r"<\s*(?:!|/|html|head|body|div|p|script|title|h\d|pre|br|center)\b", re.IGNORECASE)
_SECONDS = re.compile(r"\d{1,15}(?:\.\d{1,6})?")
_POINTERS = (
    "/error/message",
    "/error/detail",
    "/errors/0/message",
    "/errors/0/detail",
    "/message",
    "/Message",
    "/error_description",
    "/detail",
    "/error",
    "/errors/0",
    "/title",
    "/reason",
)
_LEFT = ("ratelimit-remaining", "x-ratelimit-remaining", "x-rate-limit-remaining", "x-sib-ratelimit-remaining")
_RESETS = ("ratelimit-reset", "x-ratelimit-reset", "x-rate-limit-reset", "x-sib-ratelimit-reset")


def json_of(body: bytes) -> Any:
    """The value, or None for what is no JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def pointed(value: Any, pointer: str) -> Any:
    """RFC 6901; None where nothing stands. "" points at the whole."""
    for token in pointer.split("/")[1:] if pointer else ():
        token = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(token)
        elif isinstance(value, list) and re.fullmatch(r"0|[1-9]\d{0,8}", token):
            value = value[int(token)] if int(token) < len(value) else None
        else:
            return None
    return value


def id_of(value: Any) -> str:
    """An id as text: one printable word of at most 200 characters, "" for anything else."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if len(text) <= MAX_WORDS and not _CONTROL.search(text) else ""


def words_of(body: Any, secrets: Iterable[str] = ()) -> str:
    """What the API says to people, from where APIs put it: short, one line, no markup, none of our secrets."""
    found = (pointed(body, pointer) for pointer in _POINTERS)
    return safe_words(next((w for w in found if isinstance(w, str) and w.strip()), ""), secrets)


def safe_words(text: str, secrets: Iterable[str] = ()) -> str:
    if _MARKUP.search(text):
        return ""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _CONTROL.sub(" ", text).strip()[:MAX_WORDS]


def is_html(response: httpx.Response) -> bool:
    """A web page, plainly: by its first tag, since PHP calls JSON text/html unless told otherwise."""
    start = response.content[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    declared = response.headers.get("content-type", "").lower().startswith(("text/html", "application/xhtml"))
    return start.startswith((b"<!doctype html", b"<html")) or (declared and start.startswith(b"<"))


def retry_delay(headers: Mapping[str, str], now: float) -> float | None:
    """Retry-After in seconds or as a date (RFC 9110 10.2.3), as seconds from now; None when absent or unreadable."""
    value = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now)


def reset_delay(headers: Mapping[str, str], now: float) -> float | None:
    """When the rate limit starts afresh: seconds from now, or since the epoch, in seconds or milliseconds."""
    value = next((headers[name].strip() for name in _RESETS if name in headers), "")
    if not _SECONDS.fullmatch(value):
        return None
    seconds = float(value)
    if seconds > 1e11:
        seconds /= 1000
    return max(0.0, seconds - now) if seconds > 1e9 else seconds


def allowance(headers: Mapping[str, str], now: float) -> tuple[int, float] | None:
    """Calls left, and seconds until there are more; None when the API says only one of them, or neither."""
    left = next((headers[name].strip() for name in _LEFT if name in headers), "")
    reset = reset_delay(headers, now) if left else None
    if reset is None or not re.fullmatch(r"\d{1,9}", left):
        return None
    return int(left), reset
