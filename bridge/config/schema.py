"""The keys there are, as data: for finding a key by its name, and the nearest one to a name that is none."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator

from bridge.config.kinds import ApiProvider
from bridge.config.provider_base import ProviderBase
from bridge.config.section import Section, fields, has_marker, sections_in
from bridge.config.settings import Settings
from bridge.config.types import SecretMarker

Names = tuple[str, ...]


def keys_of(section: type[Section]) -> Iterator[str]:
    """Every key a table may have, `x_file` after each secret `x`."""
    for key, field in fields(section).items():
        yield key
        if has_marker(field, SecretMarker):
            yield f"{key}_file"


def walk(section: type[Section] = Settings, names: Names = ()) -> Iterator[tuple[Names, type[Section], bool]]:
    """Each table in the order of the file: its name, its class (several for `provider`), whether there may be many."""
    for key, field in fields(section).items():
        classes, many = sections_in(field)
        for inner in classes:
            yield (*names, key), inner, many
            yield from walk(inner, (*names, key))


@functools.cache
def tables() -> dict[Names, bool]:
    """The names of all tables, and whether there may be many of each."""
    return {names: many for names, _, many in walk()}


@functools.cache
def all_keys() -> frozenset[str]:
    """`smtp`, `smtp.hostname`, `smtp.listener`, ... in full."""
    named = {".".join((*names, key)) for names, section, _ in walk() for key in keys_of(section)}
    return frozenset(named | {".".join(names) for names in tables()})


def own_keys(section: type[ProviderBase]) -> Iterator[str]:
    """Those of a kind of provider that it does not share with most kinds."""
    shared = fields(ApiProvider if issubclass(section, ApiProvider) else ProviderBase)
    yield from (key for key in fields(section) if key not in shared)


def keys_of_other_kinds(own: frozenset[str]) -> frozenset[str]:
    """Those that providers have, in full, without those of one kind."""
    return frozenset(key for key in all_keys() - own if key.rpartition(".")[0] == "provider")


def nearest(unknown: str, siblings: frozenset[str] = frozenset()) -> str:
    """The known key that `unknown` was most likely meant to be, "" when none is near. Its own table is asked first."""
    for candidates, cutoff in ((siblings, 0.8), (all_keys(), 0.7)):
        found = difflib.get_close_matches(unknown, sorted(candidates), n=1, cutoff=cutoff)
        if found:
            return found[0]
    last = unknown.rpartition(".")[2]
    same = sorted(key for key in all_keys() if key.rpartition(".")[2] == last)
    return same[0] if same else ""
