"""What is typed into the search box, as a value. Pure.

`to:ann status:failed provider:main after:2026-11-01 words`: each part has to hold; quotes keep words together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

MAX_QUERY = 500  # characters
STATUSES: Final = (
    "active", "failed", "queued", "deferred", "held", "sent", "delivered", "bounced", "expired", "dropped",
)  # fmt: skip
_PART = re.compile(r'(?:(?P<key>[a-z]+):)?(?:"(?P<quoted>[^"]*)"?|(?P<plain>\S+))', re.IGNORECASE)
_AGO = re.compile(r"(\d{1,5})(min|m|h|d|w)")
_UNITS = {"m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TIMES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M")
_NAMES = {
    "to": "to", "from": "sender", "sender": "sender", "address": "address", "subject": "subject", "id": "id",
    "status": "status", "is": "status", "provider": "provider", "after": "since", "since": "since",
    "before": "until", "until": "until",
}  # fmt: skip


class QueryError(Exception):
    """What cannot be searched for; the text says what can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which messages: all of what is given. `since`, `until`: seconds since the epoch, 0 for none."""

    words: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    sender: tuple[str, ...] = ()
    address: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()
    id: str = ""
    status: str = ""
    provider: str = ""
    since: float = 0.0
    until: float = 0.0


def parse_query(text: str, *, now: float) -> Query:
    """Raises QueryError. A word with a colon whose beginning is no name of a field is a word like any other."""
    several: dict[str, list[str]] = {"words": [], "to": [], "sender": [], "address": [], "subject": []}
    single: dict[str, str] = {}
    for part in _PART.finditer(text[:MAX_QUERY]):
        name = _NAMES.get((part["key"] or "").lower(), "")
        value = part["quoted"] if part["quoted"] is not None else part["plain"]
        if not name:
            name, value = "words", f"{part['key']}:{value}" if part["key"] else value
        if not value.strip():
            continue
        if name in several:
            several[name].append(value.strip())
        else:
            single[name] = value.strip()
    status = single.pop("status", "").lower()
    if status and status not in STATUSES:
        raise QueryError(f"There is no status “{status}”; one of {', '.join(STATUSES)}")
    since, until = (_time(single.pop(name, ""), now) for name in ("since", "until"))
    lists = {name: tuple(values) for name, values in several.items()}
    return Query(**lists, **single, status=status, since=since, until=until)  # type: ignore[arg-type]


def _time(text: str, now: float) -> float:
    if not text:
        return 0.0
    if ago := _AGO.fullmatch(text.lower()):
        return max(1.0, now - int(ago[1]) * _UNITS[ago[2]])
    if text.lower() in ("today", "yesterday"):
        day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return (day - timedelta(days=1 if text.lower() == "yesterday" else 0)).timestamp()
    for form in _TIMES:
        try:
            return max(1.0, datetime.strptime(text.upper().rstrip("Z"), form).replace(tzinfo=UTC).timestamp())
        except (ValueError, OverflowError):
            continue
    raise QueryError(f"“{text}” is no time: 2026-11-01, 2026-11-01T18:00 (UTC), today, 2h or 3d are")
