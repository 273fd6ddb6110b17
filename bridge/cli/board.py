"""A look at the queue as a person reads it; 80 columns are enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bridge.cli.common import counted
from bridge.cli.look import COUNTERS, Look, number
from bridge.cli.screen import ENOUGH_FOR_FOLDING, INDENT, Row, cell, new_table, reply_of, size, span, stamp

AGE_NAMES = ("up to 1 min", "up to 10 min", "up to 1 h", "up to 4 h", "up to 1 d", "older")
STATUSES = ("queued", "deferred", "held", "bounced", "expired", "dropped")
NOT_KNOWN_YET = "(not known yet)"
_STATE_COLOURS = {"closed": "green", "half-open": "yellow", "open": "red", "blocked": "red"}


def board(look: Look, console: Console) -> RenderableType:
    parts = [Text(_headline(look), style="bold"), Text(_about_daemon(look)), *_alerts(look)]
    numbers = Table.grid(padding=(0, 3, 0, 0))
    numbers.add_row(_ages(look), _statuses(look), _rates(look))
    parts += [Text(), numbers]
    if providers := _providers(look):
        parts += [Text(), *providers]
    if look.failures:
        parts += [Text(), *_failures(look, wide=console.width >= ENOUGH_FOR_FOLDING)]
    return Group(*parts)


def _headline(look: Look) -> str:
    waiting = sum(look.ages)
    oldest = f", the oldest for {span(look.at - look.stats.oldest)}" if look.stats.oldest is not None else ""
    return f"{stamp(look.at)}  {counted(waiting, 'message')} waiting{oldest}; {size(look.stats.bytes)} on disk"


def _about_daemon(look: Look) -> str:
    daemon = look.daemon
    if daemon is None:
        return "no daemon has told anything of itself here yet"
    if daemon.silent(look.at):
        return f"no daemon is running, or it has had nothing to do since {_when(daemon.at)}"
    running = f", running for {span(look.at - daemon.started_at)}" if daemon.started_at else ""
    return f"daemon {daemon.pid}{running}"


def _when(at: float) -> str:
    try:
        return stamp(at)
    except (OverflowError, ValueError, OSError):  # no time of this world
        return "long ago"


def _alerts(look: Look) -> Iterator[RenderableType]:
    for alert in look.daemon.alerts if look.daemon else ():
        subject = f" {alert['subject']}" if alert.get("subject") else ""
        line = cell(f"! {alert.get('kind', '')}{subject}: {alert.get('text', '')}{_for(alert, look.at)}")
        line.stylize("red")
        yield line


def _for(row: Row, now: float) -> str:
    since = number(row.get("since"))
    return f" (for {span(now - since)})" if since else ""


def _ages(look: Look) -> Table:
    """Messages, while the other numbers are of recipients."""
    return _numbers(("Waiting", "Messages"), zip(AGE_NAMES, map(str, look.ages), strict=True))


def _statuses(look: Look) -> Table:
    counts = look.stats.by_status
    return _numbers(("Status", "Recipients"), ((cell(name, name), str(counts.get(name, 0))) for name in STATUSES))


def _rates(look: Look) -> Table:
    table = _numbers(("", "Rate", "Total"), ())
    for name in COUNTERS:
        total = f"{look.daemon.counters[name]:.0f}" if look.daemon else "-"
        table.add_row(name, rate(look.rates[name]) if look.rates else "-", total)
    return table


def rate(per_second: float) -> str:
    """Per second, or per minute when that is less than one."""
    if per_second >= 1:
        return f"{per_second:.{0 if per_second >= 10 else 1}f}/s"
    per_minute = 60 * per_second
    return f"{per_minute:.{0 if per_minute >= 10 or not per_minute else 1}f}/min"


def _numbers(names: Sequence[str], rows: Any) -> Table:
    """A name, then numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


_PROVIDER_NUMBERS = ("running", "sent", "deferred", "bounced")


def _providers(look: Look) -> list[RenderableType]:
    """Those the daemon told of, and those for which somebody waits; why one is not used, below the table."""
    told = {str(one.get("name", "")): one for one in (look.daemon.providers if look.daemon else ())}
    names = [*told, *(name for name in sorted(look.providers) if name and name not in told)]
    if look.providers.get(""):
        names.append("")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Provider", overflow="fold")
    table.add_column("State", no_wrap=True)
    for name in ("Waiting", "Running", "Sent", "Deferred", "Bounced", "Today"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in names:
        table.add_row(*_provider(name, told.get(name, {}), look.providers.get(name, 0)))
    reasons = [line for name in names for line in _reasons(name, told.get(name, {}), look.at)]
    return [table, *reasons] if names else []


def _provider(name: str, told: Row, waiting: int) -> Iterator[RenderableType]:
    state = str(told.get("state", ""))
    yield cell(name) if name else Text(NOT_KNOWN_YET)
    yield Text(cell(state).plain, style=_STATE_COLOURS.get(state, ""))
    yield str(waiting)
    for one in _PROVIDER_NUMBERS:
        yield _count(told.get(one))
    most = _count(told.get("max_per_day")) if number(told.get("max_per_day")) else ""
    yield f"{_count(told.get('sent_today'))}{'/' if most else ''}{most}"


def _count(value: Any) -> str:
    known = number(value)
    return "" if known is None else f"{known:.0f}"


def _reasons(name: str, told: Row, now: float) -> Iterator[RenderableType]:
    until, paused = number(told.get("until")), number(told.get("paused_until"))
    if told.get("state", "closed") != "closed":
        again = f"; next try in {span(until - now)}" if until and until > now else ""
        yield _below(f"{name}: {told.get('reason') or told['state']}{_for(told, now)}{again}")
    if paused and paused > now:
        yield _below(f"{name}: asked to pause, for {span(paused - now)} more")


def _below(text: str) -> RenderableType:
    return Padding(cell(text), (0, 0, 0, len(INDENT)))


def _failures(look: Look, *, wide: bool) -> Iterator[RenderableType]:
    yield Text("Last failures", style="bold")
    if wide:
        table = new_table(("ID", "Status", "Recipient", "Provider", "Last reply"))
        for row in look.failures:
            table.add_row(*_failure(row), cell(reply_of(row)))
        yield table
        return
    for row in look.failures:
        queue_id, status, address, provider = _failure(row)
        yield Text("  ").join((queue_id, status, address, provider))
        yield _below(reply_of(row))


def _failure(row: Mapping[str, Any]) -> tuple[Text, Text, Text, Text]:
    return cell(row["queue_id"]), cell(row["status"], row["status"]), cell(row["address"]), cell(row["provider"] or "")
