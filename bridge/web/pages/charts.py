"""Charts as shapes: a column for each span of time, what became of mail piled up in it. Pure; the template draws them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 600.0, 120.0
_GAP = 0.2  # of a column
_LEAST = 2.0  # height of what is not nothing, so that one among thousands is seen

# From the ground up, and as people read them.
WORDS: Mapping[str, str] = {"sent": "sent", "deferred": "deferred", "bounced": "failed"}


@dataclass(frozen=True, slots=True)
class Block:
    """A rectangle from its upper left corner; `word` says what it stands for."""

    word: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """`rows`: the columns in which something was, newest first, as a table has them. `start`, `end`: seconds since the epoch."""

    name: str
    title: str
    description: str
    blocks: tuple[Block, ...]
    peak: int
    each: str
    start: float
    end: float
    rows: tuple[Mapping[str, int], ...]


def make_chart(name: str, title: str, series: Sequence[Mapping[str, int]], *, each: str) -> Chart:
    """`series`: oldest first, each {"at", "accepted", "sent", "deferred", "bounced"}; `each`: what one stands for ("minute")."""
    heights = [sum(one[word] for word in WORDS) for one in series]
    peak = max(heights, default=0)
    rows = tuple(one for one in reversed(series) if one["accepted"] or any(one[word] for word in WORDS))
    start = float(series[0]["at"]) if series else 0.0
    end = float(series[-1]["at"]) if series else 0.0
    return Chart(
        name=name,
        title=title,
        description=_describe(series, peak, heights, each),
        blocks=tuple(_blocks(series, peak)),
        peak=peak,
        each=each,
        start=start,
        end=end,
        rows=rows,
    )


def _describe(series: Sequence[Mapping[str, int]], peak: int, heights: Sequence[int], each: str) -> str:
    if not peak:
        return "Nothing was sent or failed in this time."
    totals = ", ".join(f"{sum(one[word] for one in series)} {shown}" for word, shown in WORDS.items())
    at = time.strftime("%H:%M", time.gmtime(series[heights.index(peak)]["at"]))
    return f"Recipients: {totals}. The most in one {each}: {peak}, at {at} UTC. The table below has each number."


def _blocks(series: Sequence[Mapping[str, int]], peak: int) -> list[Block]:
    found: list[Block] = []
    if not peak:
        return found
    step = WIDTH / len(series)
    for place, one in enumerate(series):
        ground = HEIGHT
        for word in WORDS:
            if not one[word]:
                continue
            height = max(_LEAST, one[word] / peak * HEIGHT)
            ground = max(0.0, ground - height)
            left = step * (place + _GAP / 2)
            found.append(Block(word, round(left, 2), round(ground, 2), round(step * (1 - _GAP), 2), round(height, 2)))
    return found
