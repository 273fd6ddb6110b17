"""Features of a provider that an SMTP user names in headers: tags, metadata, options. The fields are taken out of the mail.

The neutral spelling works with every provider: `X-Bridge-Tag: welcome` (several: separated by commas, or several fields)
and `X-Bridge-Metadata: order=17; shop=3` (or a JSON object of texts). Beside it each adapter knows the fields of its own
provider's SMTP service. Only keys an adapter lists are taken from them: nothing in such a field may name, add or hide a
recipient, a sender or a credential, so what is not listed is dropped, and the log says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from bridge.providers.display import METADATA, TAG, one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one header field asks for. `options` are the adapter's own, by the name it gives them."""

    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()  # keys that are not taken, or "" for the field as a whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """All a mail asks for. `used`: the lower-case names of the fields that are no part of the mail any more."""

    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()  # "x-smtpapi: to"
    used: frozenset[str] = frozenset()


NOTHING = Features()
# From (lower-case field name, value) to what it asks for. A name that ends in * stands for all that begin so.
Reader = Callable[[str, str], Found]
Readers = Mapping[str, Reader]


def read_features(headers: Iterable[tuple[str, str]], readers: Readers) -> Features:
    """`headers`: the mail's own (name, value); `readers`: the adapter's fields, beside the neutral ones."""
    tags: dict[str, None] = {}
    metadata: dict[str, str] = {}
    options: dict[str, Any] = {}
    dropped: list[str] = []
    used: set[str] = set()
    for name, value in headers:
        lower = name.lower()
        # Nearly no header of a mail is one, so this is what it costs: a comparison of two letters.
        if not lower.startswith("x-"):
            continue
        reader = _reader(lower, readers)
        if reader is None:
            continue
        used.add(lower)
        found = reader(lower, one_line(value).strip())
        tags.update(dict.fromkeys(one_line(tag) for tag in found.tags if tag))
        metadata |= _one_line_each(found.metadata)
        options |= _one_line_each(found.options)
        dropped += [f"{lower}: {key}" if key else lower for key in found.dropped]
    if not used:
        return NOTHING
    return Features(
        tags=tuple(tags), metadata=metadata, options=options, dropped=tuple(dropped), used=frozenset(used)
    )  # fmt: skip


def _one_line_each(found: Any) -> Any:
    """Names and texts, however deep: JSON in a field may hold controls as escapes, which are none before it is read."""
    if isinstance(found, str):
        return one_line(found)
    if isinstance(found, Mapping):
        return {one_line(key): _one_line_each(value) for key, value in found.items()}
    return found


def _reader(name: str, readers: Readers) -> Reader | None:
    if name == TAG:
        return tag_list
    if name == METADATA:
        return pairs
    if name in readers:
        return readers[name]
    return next((reader for key, reader in readers.items() if key[-1] == "*" and name.startswith(key[:-1])), None)


# --- readers


def tag_list(name: str, value: str) -> Found:
    """`welcome, new-users` -> two tags."""
    return Found(tags=tuple(part.strip() for part in value.split(",")))


def one_tag(name: str, value: str) -> Found:
    """The whole value, commas and all."""
    return Found(tags=(value,))


def pairs(name: str, value: str) -> Found:
    """`order=17; shop=3` or `{"order": "17"}` as metadata."""
    return json_metadata(name, value) if value.startswith("{") else _split_pairs(value)


def _split_pairs(value: str) -> Found:
    parts = [part.partition("=") for part in value.replace(",", ";").split(";") if part.strip()]
    good = {key.strip(): text.strip() for key, equals, text in parts if equals and key.strip()}
    return Found(
        metadata=good, dropped=tuple(key.strip()[:40] for key, equals, _ in parts if not (equals and key.strip()))
    )


def json_metadata(name: str, value: str) -> Found:
    """A JSON object of texts or numbers as metadata."""
    found = json_object(value)
    return Found(metadata=texts_of(found), dropped=() if found else ("",))


def prefixed_metadata(prefix: str) -> Reader:
    """`X-PM-Metadata-order: 17` -> {"order": "17"} for the prefix `x-pm-metadata-`."""
    return lambda name, value: Found(metadata={name.removeprefix(prefix): value})


def option(key: str, convert: Callable[[str], Any] = str) -> Reader:
    """The value as one option; one that `convert` refuses (ValueError) or makes None of is dropped."""

    def read(name: str, value: str) -> Found:
        try:
            converted = convert(value)
        except ValueError:
            converted = None
        return Found(dropped=("",)) if converted is None else Found(options={key: converted})

    return read


def json_keys(allowed: Mapping[str, Callable[[Any], Found | None]]) -> Reader:
    """A JSON object of which only the keys of `allowed` are taken; None from a key's function: not of its type, dropped."""

    def read(name: str, value: str) -> Found:
        content = json_object(value)
        if not content:
            return Found(dropped=("",))
        tags: list[str] = []
        metadata: dict[str, str] = {}
        options: dict[str, Any] = {}
        dropped: list[str] = []
        for key, item in content.items():
            found = allowed[key](item) if key in allowed else None
            if found is None:
                dropped.append(one_line(key)[:40])
                continue
            tags += found.tags
            metadata |= found.metadata
            options |= found.options
            dropped += [f"{key}.{inner}" for inner in found.dropped]
        return Found(tags=tuple(tags), metadata=metadata, options=options, dropped=tuple(dropped))

    return read


def ignored(name: str, value: str) -> Found:
    """A field of the provider's that is taken out of the mail and does nothing."""
    return Found(dropped=("",))


# --- values


def json_object(value: str) -> dict[str, Any]:
    """{} for what is no JSON object."""
    try:
        content = orjson.loads(value)
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def texts_of(content: Any) -> dict[str, str]:
    """The texts, numbers and truth values of an object, as texts."""
    if not isinstance(content, dict):
        return {}
    return {one_line(k): _as_text(v) for k, v in content.items() if isinstance(v, str | int | float | bool)}


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return one_line(str(value))


def yes_or_no(value: str) -> bool:
    """Raises ValueError."""
    lower = value.lower()
    if lower in ("yes", "true", "1", "on", "enabled"):
        return True
    if lower in ("no", "false", "0", "off", "disabled"):
        return False
    raise ValueError("neither yes nor no")


def cut(tags: Iterable[str], *, most: int, length: int = 0) -> list[str]:
    """The first `most` tags, each of at most `length` characters (0: as long as it is)."""
    return [tag[: length or None] for tag in tags][:most]
