"""The queue as a person reads it: a table where it fits, else a few lines for each message; nothing is cut off.

Through a pipe a message is one line, however long, so that `grep` finds whole addresses.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bridge.cli.screen import (
    COLOURS,
    ENOUGH_FOR_FOLDING,
    INDENT,
    NUMBERS,
    Row,
    cell,
    new_console,
    new_table,
    printable,
    put,
    reply_of,
    size,
    span,
    stamp,
    unbounded,
)

SHOWN_RECIPIENTS = 3
_COLUMNS = ("ID", "Age", "Size", "Sender", "Recipients", "Status", "Tries", "Next", "Last reply")


def print_list(rows: Sequence[Row], *, now: float) -> None:
    console = new_console()
    table = new_table(_COLUMNS)
    for row in rows:
        table.add_row(*(cell(text, row["status"] if name == "Status" else "") for name, text in _facts(row, now)))
    if console.width >= min(ENOUGH_FOR_FOLDING, console.measure(table, options=unbounded(console)).maximum):
        put(console, table)
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
    console.print(Text(f"{INDENT}Sender > Recipients\n{INDENT}Last reply", style="bold"))
    for row in rows:
        facts = dict(_facts(row, now))
        console.print(Text(_line(facts, widths), style=COLOURS.get(row["status"], "red")))
        for text in (f"{facts['Sender']} > {facts['Recipients']}", facts["Last reply"]):
            for line in _wrapped(text, console.width):
                console.print(Text(line))


def _line(facts: Mapping[str, str], widths: Mapping[str, int]) -> str:
    cells = (
        facts[name].rjust(width) if name in NUMBERS else facts[name].ljust(width) for name, width in widths.items()
    )
    return "  ".join(cells).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, max(width, 20), initial_indent=INDENT, subsequent_indent=INDENT * 2, break_on_hyphens=False
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
    console = new_console()
    head = Table.grid(padding=(0, 2))
    for name, value in _head(row, now):
        head.add_row(Text(name, style="bold"), cell(value))
    put(console, head)
    console.print()
    put(console, _recipient_table(row["recipients"], now))
    if row["events"]:
        console.print()
        put(console, _event_table(row["events"]))


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
    table = new_table(names)
    for r in recipients:
        table.add_row(
            cell(r["address"]),
            cell(r["status"], r["status"]),
            cell(str(r["attempts"])),
            cell(_next([r], now)),
            cell(r["provider"] or ""),
            *((cell(r["provider_message_id"] or ""),) if with_id else ()),
            cell(reply_of(r)),
        )
    return table


def _event_table(events: Sequence[Row]) -> Table:
    table = new_table(("When", "Event", "Recipient", "What was said"))
    for event in events:
        detail = f" ({event['detail']})" if event.get("detail") else ""
        table.add_row(
            cell(stamp(event["at"])),
            cell(event["event"], event["event"]),
            cell(event["address"] or ""),
            cell(f"{reply_of(event)}{detail}".strip()),
        )
    return table
