"""What of one item is an event's own, where a provider tells of many recipients at once.

The item in each of its events would be the square of it: five thousand bounces of 200 octets would be 5 GB. So each keeps what
is said of it alone, and of the rest as much as its share of `REPEATED` has room for. One alone keeps all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson

REPEATED = 64 * 1024  # octets in all events of an item of what they have in common
LEAST = 512  # of them in each
MAX_OWN = 4096  # octets of what is one's own
# Characters of a text and members of a list or an object: the first that leave it short enough.
_BOUNDS = ((1000, 50), (200, 10), (50, 5), (20, 3))


def own_parts(item: Mapping[str, Any], path: tuple[str, ...], owns: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The item for each of `owns`, which stand in the list at `path`: with that one alone in it."""
    if len(owns) == 1:
        yield dict(item)
        return
    most = max(REPEATED // max(len(owns), 1), LEAST)
    shared = shortened(_with(item, path, []), most)
    for own in owns:
        yield _with(shared, path, [shortened(own, MAX_OWN)])


def shortened(value: Any, most: int) -> Any:
    """As it is where it has no more octets as JSON; else with less of its texts, lists and objects, `{}` at the least."""
    if len(orjson.dumps(value)) <= most:
        return value
    for text, members in _BOUNDS:
        found = _cut(value, text, members)
        if len(orjson.dumps(found)) <= most:
            return found
    return {}


def _cut(value: Any, text: int, members: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= text else f"{value[:text]}…"
    if isinstance(value, dict):
        return {name[:text]: _cut(inner, text, members) for name, inner in islice(value.items(), 2 * members)}
    if isinstance(value, list):
        return [_cut(inner, text, members) for inner in value[:members]]
    return value


def _with(item: Any, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with this value there."""
    here = item if isinstance(item, Mapping) else {}
    name, *rest = path
    return {**here, name: _with(here.get(name), tuple(rest), value) if rest else value}
