"""How things are put on the screen: widths, cells, and words for times and sizes.

On a terminal it is as wide as that; a pipe has no width, and nothing is cut off.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

ENOUGH_FOR_FOLDING = 140  # below, columns of addresses become towers of fragments
PIPE_WIDTH = 100_000
INDENT = " " * 4
NUMBERS = frozenset({"Age", "Size", "Tries", "Next"})
_FIXED = NUMBERS | {"ID", "Status", "When", "Event"}
COLOURS = {"sent": "green", "delivered": "green", "queued": "cyan", "deferred": "yellow", "held": "magenta"}


def new_console() -> Console:
    """On a terminal its width, or what COLUMNS says; a pipe has no width."""
    piped = not sys.stdout.isatty() and not os.environ.get("COLUMNS")
    return Console(width=PIPE_WIDTH if piped else None, highlight=False)


def unbounded(console: Console) -> Any:
    return console.options.update(width=PIPE_WIDTH)


def new_table(names: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        justify: Any = "right" if name in NUMBERS else "left"
        table.add_column(name, justify=justify, no_wrap=name in _FIXED, overflow="fold")
    return table


def cell(text: str, status: str = "") -> Text:
    return Text(printable(text), style=COLOURS.get(status, "red") if status else "")


def put(console: Console, what: RenderableType) -> None:
    """Without the blanks with which a table fills its last column."""
    with console.capture() as capture:
        console.print(what)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def printable(text: str) -> str:
    """What came with mail must not speak to the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def reply_of(row: Row) -> str:
    return printable(" ".join(str(x) for x in (row.get("code"), row.get("enhanced"), row.get("text")) if x))


def stamp(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def span(seconds: float) -> str:
    """`"42s"`, `"3m"`, `"5h"`, `"2d"`; two minutes are the first to be told in minutes."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(int(seconds), 0)}s"


def size(octets: int) -> str:
    for unit, length in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if octets >= length:
            return f"{octets / length:.1f}{unit}"
    return str(octets)
