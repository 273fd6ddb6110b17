"""What a request of the API asks for: its parameters and its JSON, checked, with errors that name the field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.requests import Request

from bridge.spool.base import Search
from bridge.web.context import Web
from bridge.web.errors import Problem, shown
from bridge.web.guard import read_body
from bridge.web.memory import while_read

MAX_BODY = 1 << 20
MAX_VALUES = 20_000  # in a body, commas in its texts among them
VALUE = 150  # octets of each, as an object
MAX_TEXT = 500  # characters of one word or text that is sought
MAX_TIME = 32_503_680_000.0  # the year 3000
STATUSES = (
    "queued", "deferred", "held", "sent", "delivered", "bounced", "expired", "dropped", "active", "failed",
)  # fmt: skip
SEARCHED = tuple(field.name for field in fields(Search))


def search_of(given: Mapping[str, Any], *, prefix: str = "") -> Search:
    """`q` is a search's `text`. Times: seconds since the epoch, or as RFC 3339 has them. Raises Problem 422."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        field = "text" if name == "q" else name
        if field not in SEARCHED or (name == "text"):
            raise Problem(422, f"There is no {shown(name)} to search by", field=f"{prefix}{name}")
        if field in ("since", "until"):
            values[field] = time_of(value, f"{prefix}{name}")
        else:
            values[field] = _text_of(value, f"{prefix}{name}")
    status = values.get("status", "")
    if status and status not in STATUSES:
        raise Problem(422, f"status is one of {', '.join(STATUSES)}", field=f"{prefix}status")
    return Search(**values)


def _text_of(value: Any, field: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
        raise Problem(422, f"{field} is a text of at most {MAX_TEXT} characters", field=field)
    return value.strip()


def time_of(value: Any, field: str) -> float:
    if value == "":
        return 0.0
    try:
        seconds = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        try:
            moment = datetime.fromisoformat(str(value))
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            seconds = math.nan
    if not 0 <= seconds <= MAX_TIME:
        raise Problem(422, f"{field} is a time: 2026-01-31T12:00:00Z, or seconds since 1970", field=field)
    return seconds


def number_of(request: Request, name: str, default: int, largest: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= largest):
        raise Problem(422, f"{name} is a number from 1 to {largest}", field=name)
    return int(text)


async def json_of(web: Web, request: Request, known: Mapping[str, type]) -> dict[str, Any]:
    """The body, an object with no other members than these. Raises Problem 400, 413, 422 and 503."""
    async with while_read(web, request, MAX_BODY) as hold:
        body = await read_body(request, MAX_BODY)
        values = sum(map(body.count, (b",", b"{", b"[")))
        if values > MAX_VALUES:
            raise Problem(413, f"The body has more than {MAX_VALUES} values")
        wide = not body.isascii() or b"\\u" in body
        hold.resize(len(body) * (6 if wide else 2) + VALUE * values)
        return _object(body, known)


def _object(body: bytes, known: Mapping[str, type]) -> dict[str, Any]:
    try:
        given = orjson.loads(body)
    except ValueError as error:
        raise Problem(400, f"The body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise Problem(400, "The body is not a JSON object")
    for name, value in given.items():
        if name not in known:
            raise Problem(422, f"There is no member {shown(name)}; known are {', '.join(known)}", field=name)
        if not isinstance(value, known[name]) or (known[name] is int and isinstance(value, bool)):
            raise Problem(422, f"{name} is not a {_NAMES[known[name]]}", field=name)
    return given


_NAMES = {str: "text", bool: "boolean", list: "list", dict: "object", int: "number"}
