"""What a provider's webhook is: a call that is verified, and read as events.

Nothing of a call is believed before it is verified. What is signed with a time is taken within the tolerance around it;
the same event again is found by its id (`Event.event_id`), which the spool keeps.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import orjson

from bridge.model import Event, EventKind
from bridge.providers.answers import id_of, json_of, pointed

FORM = "application/x-www-form-urlencoded"
MAX_TEXT, MAX_ADDRESS = 1000, 320
OFF_LOOP_SIZE = 32 * 1024  # octets of a body from which it is read in a thread
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_CODE = re.compile(r"(?<![0-9.])([245][0-9][0-9])(?=[ -])")
_ENHANCED = re.compile(
    r"(?<![0-9.])([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9]|\.[0-9])"
)  # RFC 3463 2, and no part of an address

Fetch = Callable[[str], Awaitable[bytes]]


class Forged(Exception):
    """Not from the provider, or too old to tell. The text is for the log."""


class Malformed(Exception):
    """From the provider, and not what it is known to send."""


class Unverified(Exception):
    """What is needed to verify it (a certificate) could not be fetched now: the provider is to send it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSettings:
    """`secret`: shared with the provider. `key`: its public key. `topic`: of SNS. `url`: as the provider knows this webhook.
    `tolerance`: seconds that a signed time may be off."""

    secret: str = field(default="", repr=False)
    key: str = ""
    topic: str = ""
    url: str = ""
    tolerance: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One POST. `url`: with its host, as it was asked for; names of headers are lower-case."""

    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    now: float

    def header(self, name: str) -> str:
        return self.headers.get(name, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What a call says. `ignored`: how many things it told that are none of our events. `answer`: JSON to answer with."""

    events: tuple[Event, ...] = ()
    ignored: int = 0
    answer: Mapping[str, Any] | None = None


class Hook(ABC):
    """`needs`: which of the settings must be there, or there is no webhook. `early`: verified without the body, so that of
    who has not the secret none is read. Raises ValueError for an unusable setting."""

    needs: ClassVar[tuple[str, ...]] = ("secret",)
    early: ClassVar[bool] = False

    def __init__(self, settings: HookSettings) -> None:
        if missing := [name for name in self.needs if not getattr(settings, name)]:
            raise ValueError(f"no {missing[0]}")  # an empty key would be known to everybody
        self.settings = settings

    async def receive(self, call: Call, fetch: Fetch) -> Received:
        """Raises Forged, Malformed, Unverified."""
        if len(call.body) > OFF_LOOP_SIZE:
            return await asyncio.to_thread(self._received, call)
        return self._received(call)

    def _received(self, call: Call) -> Received:
        self.verify(call)
        return self.parse(call)

    @abstractmethod
    def verify(self, call: Call) -> None:
        """Raises Forged."""

    def consent(self, call: Call) -> Mapping[str, str] | None:
        """Headers of the answer to who asks by OPTIONS whether its events are wanted; None: nobody does. Raises Forged."""
        return None

    def parse(self, call: Call) -> Received:
        """Raises Malformed."""
        return collect(self.items(json_body(call)), self.read)

    def items(self, body: Any) -> Iterable[Any]:
        """The events in a body: it is a list of them, or one."""
        return body if isinstance(body, list) else [body]

    @abstractmethod
    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        """One item as events, by recipient where it is about several; none when it is none of ours."""


def collect(items: Iterable[Any], read: Callable[[dict[str, Any]], Iterable[Event]]) -> Received:
    """Raises Malformed when one of them is no object."""
    events: list[Event] = []
    ignored = 0
    for item in items:
        if not isinstance(item, dict):
            raise Malformed("an event that is no object")
        found = list(read(item))
        events += found
        ignored += not found
    return Received(events=tuple(events), ignored=ignored)


def json_body(call: Call) -> Any:
    """Raises Malformed."""
    found = json_of(call.body)
    if not isinstance(found, dict | list):
        raise Malformed("the body is no JSON object or list")
    return found


def form_of(call: Call, most: int) -> list[tuple[str, str]]:
    """The fields of a form, at most so many. Raises Malformed."""
    try:
        return parse_qsl(call.body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=most)
    except ValueError:
        raise Malformed("not a form") from None


# --- values from what providers send


def text_at(item: Any, pointer: str) -> str:
    """What stands there as text of one line; "" for nothing, and for an object or a list."""
    value = pointed(item, pointer)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return _CONTROL.sub(" ", str(value)).strip()[:MAX_TEXT]


def first_text(item: Any, *pointers: str) -> str:
    return next((text for pointer in pointers if (text := text_at(item, pointer))), "")


def id_at(item: Any, pointer: str) -> str:
    return id_of(pointed(item, pointer))


def address_of(value: Any) -> str:
    """An address, also out of `Ann <ann@x>`; "" for what is none."""
    text = value.strip() if isinstance(value, str) else ""
    if text.endswith(">") and "<" in text:
        text = text[text.rindex("<") + 1 : -1]
    return text if 0 < len(text) <= MAX_ADDRESS and not _CONTROL.search(text) else ""


def addresses_at(item: Any, pointer: str) -> Iterator[str]:
    """Of a list or a single one."""
    value = pointed(item, pointer)
    for one in value if isinstance(value, list) else [value]:
        if address := address_of(one):
            yield address


def time_of(value: Any) -> float | None:
    """Seconds since the epoch from a number of seconds or milliseconds, also as text, or from RFC 3339."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{9,14}(\.[0-9]{1,9})?", value):
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value / 1000 if value > 1e11 else float(value)
        return seconds if 1e9 < seconds < 1e10 else None
    if not isinstance(value, str):
        return None
    try:
        # Python 3.11 takes a fraction of any length; some say the zone with a blank before it.
        found = datetime.fromisoformat(re.sub(r" ?UTC$|Z$", "+00:00", value.strip()))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def status_in(text: str) -> tuple[int | None, str]:
    """The reply code and the enhanced one of `smtp; 550 5.1.1 No such user`."""
    code, enhanced = _CODE.search(text), _ENHANCED.search(text)
    return int(code[1]) if code else None, enhanced[1] if enhanced else ""


def make_event(
    kind: EventKind,
    item: Mapping[str, Any],
    *,
    recipient: str,
    event_id: str = "",
    message_id: str = "",
    queue_id: str = "",
    at: Any = None,
    text: str = "",
    code: str = "",
    enhanced: str = "",
    final: bool = False,
    permanent: bool = False,
) -> Event:
    """Without an id of the provider's, the event's own words are one."""
    raw = orjson.dumps(item, option=orjson.OPT_SORT_KEYS).decode()
    said_code, said_enhanced = status_in(text)
    number = int(code) if re.fullmatch(r"[2-5][0-9][0-9]", code) else said_code
    known = enhanced if _ENHANCED.fullmatch(enhanced) else said_enhanced
    return Event(
        kind=kind,
        event_id=event_id or hashlib.sha256(f"{recipient}\n{raw}".encode()).hexdigest()[:40],
        recipient=address_of(recipient),
        provider_message_id=message_id,
        queue_id=queue_id,
        at=time_of(at),
        final=final or permanent or kind == "rejected",
        permanent=permanent,
        code=number,
        enhanced=known,
        text=text,
        raw=raw,
    )
