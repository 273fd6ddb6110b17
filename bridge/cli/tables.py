"""The queue as a person reads it: a table where it fits, else a few lines for each message; nothing is cut off.

Through a pipe a message is one line, however long, so that `grep` finds whole addresses.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

ENOUGH_FOR_FOLDING = 140  # below, columns of addresses become towers of fragments
PIPE_WIDTH = 100_000
SHOWN_RECIPIENTS = 3
_INDENT = " " * 4
_NUMBERS = ("Age", "Size", "Tries", "Next")
_COLUMNS = ("ID", "Age", "Size", "Sender", "Recipients", "Status", "Tries", "Next", "Last reply")
_COLOURS = {"sent": "green", "delivered": "green", "queued": "cyan", "deferred": "yellow", "held": "magenta"}


def print_list(rows: Sequence[Row], *, now: float) -> None:
    console = _console()
    table = _table(_COLUMNS)
    for row in rows:
        table.add_row(*(_cell(text, row["status"] if name == "Status" else "") for name, text in _facts(row, now)))
    if console.width >= min(ENOUGH_FOR_FOLDING, console.measure(table, options=_unbounded(console)).maximum):
        _put(console, table)
    else:
        _put_stacked(console, rows, now)


def _put_stacked(console: Console, rows: Sequence[Row], now: float) -> None:
    """What is short stands in columns; addresses and the last reply have lines of their own below."""
    short = tuple(name for name in _COLUMNS if name not in ("Sender", "Recipients", "Last reply"))
    widths = {
        name: max([len(name), *(len(dict(_facts(row, now))[name]) for row in rows)])
        for name in short
    }  # fmt: skip
    console.print(Text(_line({name: name for name in short}, widths), style="bold"))
    console.print(Text(f"{_INDENT}Sender > Recipients\n{_INDENT}Last reply", style="bold"))
    for row in rows:
        facts = dict(_facts(row, now))
        console.print(Text(_line(facts, widths), style=_COLOURS.get(row["status"], "red")))
        for text in (f"{facts['Sender']} > {facts['Recipients']}", facts["Last reply"]):
            for line in _wrapped(text, console.width):
                console.print(Text(line))


def _line(facts: Mapping[str, str], widths: Mapping[str, int]) -> str:
    cells = (
        facts[name].rjust(width) if name in _NUMBERS else facts[name].ljust(width) for name, width in widths.items()
    )
    return "  ".join(cells).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, max(width, 20), initial_indent=_INDENT, subsequent_indent=_INDENT * 2, break_on_hyphens=False
    )


def _facts(row: Row, now: float) -> Iterator[tuple[str, str]]:
    """In the order of `_COLUMNS`."""
    recipients = row["recipients"]
    last = next((r for r in recipients if r["code"] and r["status"] == row["status"]), None)
    yield "ID", row["queue_id"]
    yield "Age", span(now - row["created_at"])
    yield "Size", size(row["size"])
    yield "Sender", printable(row["sender"]) or "<>"
    yield "Recipients", _recipients(recipients)
    yield "Status", row["status"]
    yield "Tries", str(max((r["attempts"] for r in recipients), default=0))
    yield "Next", _next(recipients, now)
    yield "Last reply", reply_of(last) if last else ""


def _recipients(recipients: Sequence[Row]) -> str:
    shown = ", ".join(printable(r["address"]) for r in recipients[:SHOWN_RECIPIENTS])
    more = len(recipients) - SHOWN_RECIPIENTS
    return f"{shown} and {more} more" if more > 0 else shown


def _next(recipients: Sequence[Row], now: float) -> str:
    """When the next attempt comes; "running" during one."""
    waiting = [r for r in recipients if r["status"] in ("queued", "deferred")]
    if any((r["leased_until"] or 0.0) > now for r in waiting):
        return "running"
    due = [r["next_attempt_at"] for r in waiting if r["next_attempt_at"] is not None]
    if not due:
        return ""
    return span(min(due) - now) if min(due) > now else "now"


def print_message(row: Row, *, now: float) -> None:
    console = _console()
    head = Table.grid(padding=(0, 2))
    for name, value in _head(row, now):
        head.add_row(Text(name, style="bold"), _cell(value))
    _put(console, head)
    console.print()
    _put(console, _recipient_table(row["recipients"], now))
    if row["events"]:
        console.print()
        _put(console, _event_table(row["events"]))


def _head(row: Row, now: float) -> Iterator[tuple[str, str]]:
    yield "Queue id", row["queue_id"]
    yield "Status", row["status"]
    yield "Arrived", f"{stamp(row['created_at'])} ({span(now - row['created_at'])} ago)"
    if row["status"] in ("queued", "deferred"):
        yield "Expires", stamp(row["expires_at"])
    yield "Size", f"{size(row['size'])}{'' if row['has_body'] else ', the body is not kept'}"
    yield "Sender", row["sender"] or "<>"
    yield "Client", " ".join(x for x in (row["client"], row["helo"], row["protocol"], row["user"]) if x)
    yield "Subject", row["subject"]
    yield "Message-ID", row["message_id"]


def _recipient_table(recipients: Sequence[Row], now: float) -> Table:
    with_id = any(r["provider_message_id"] for r in recipients)
    names = ("Recipient", "Status", "Tries", "Next", "Provider", *(("Provider's id",) if with_id else ()), "Last reply")
    table = _table(names)
    for r in recipients:
        table.add_row(
            _cell(r["address"]),
            _cell(r["status"], r["status"]),
            _cell(str(r["attempts"])),
            _cell(_next([r], now)),
            _cell(r["provider"] or ""),
            *((_cell(r["provider_message_id"] or ""),) if with_id else ()),
            _cell(reply_of(r)),
        )
    return table


def _event_table(events: Sequence[Row]) -> Table:
    table = _table(("When", "Event", "Recipient", "What was said"))
    for event in events:
        detail = f" ({event['detail']})" if event.get("detail") else ""
        table.add_row(
            _cell(stamp(event["at"])),
            _cell(event["event"], event["event"]),
            _cell(event["address"] or ""),
            _cell(f"{reply_of(event)}{detail}".strip()),
        )
    return table


# --- how it is put on the screen


def _console() -> Console:
    """On a terminal its width, or what COLUMNS says; a pipe has no width."""
    piped = not sys.stdout.isatty() and not os.environ.get("COLUMNS")
    return Console(width=PIPE_WIDTH if piped else None, highlight=False)


def _unbounded(console: Console) -> Any:
    return console.options.update(width=PIPE_WIDTH)


def _table(names: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        fixed = name in ("ID", "Age", "Size", "Status", "Tries", "Next", "When", "Event")
        justify: Any = "right" if name in _NUMBERS else "left"
        table.add_column(name, justify=justify, no_wrap=fixed, overflow="fold")
    return table


def _cell(text: str, status: str = "") -> Text:
    return Text(printable(text), style=_COLOURS.get(status, "red") if status else "")


def _put(console: Console, what: RenderableType) -> None:
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
