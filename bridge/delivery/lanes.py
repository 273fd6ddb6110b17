"""Lanes: the providers that may take a recipient, in order of failover, as a text that the spool keeps and can search.

`main>backup#5f2c9a01` waits for main, else for backup; `main>backup|1#5f2c9a01` was certainly not taken by main just now, so
backup is next; `?` before these marks lets it go on after a lost answer too (`route.failover_unknown`). `=main` was perhaps
mailed by main, so nobody else may take it. The number is a fingerprint of the settings: what was sorted under other settings
is sorted again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from bridge.spool.base import bound_lane

_LANE = re.compile(r"([A-Za-z0-9._>-]+)(\?)?(?:\|(\d{1,4}))?#([0-9a-f]{1,64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """`start`: whose turn it is in this round. `bound`: only the one name may take it. `risky`: also after a lost answer."""

    names: tuple[str, ...]
    start: int = 0
    bound: bool = False
    risky: bool = False
    mark: str = ""

    def __str__(self) -> str:
        if self.bound:
            return bound_lane(self.names[0])
        start = f"|{self.start}" if self.start else ""
        return f"{'>'.join(self.names)}{'?' if self.risky else ''}{start}#{self.mark}"

    @classmethod
    def parse(cls, text: str) -> Lane | None:
        """None for "" and whatever else is no lane."""
        if text.startswith("=") and len(text) > 1:
            return cls(names=(text[1:],), bound=True)
        match = _LANE.fullmatch(text)
        if match is None:
            return None
        names = tuple(match[1].split(">"))
        start = int(match[3] or 0)
        if not all(names) or start >= len(names):
            return None
        return cls(names=names, start=start, risky=bool(match[2]), mark=match[4])

    @property
    def order(self) -> tuple[str, ...]:
        """Who is asked, the next first: those whose turn is over come last, for when nobody else is there."""
        return self.names[self.start :] + self.names[: self.start]

    def after(self, name: str) -> tuple[str, ...]:
        """Who is left in this round when `name` did not take it."""
        place = self.names.index(name)
        return self.names[place + 1 :] if place >= self.start else ()

    def at(self, name: str) -> Lane:
        """From this provider on."""
        return replace(self, start=self.names.index(name))

    def afresh(self) -> Lane:
        """The next round begins with the first."""
        return replace(self, start=0)
