"""What the shell offers after TAB where that is known: queue ids, words for --status. Silent, whatever is wrong."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from contextlib import redirect_stderr

import typer

from bridge.spool.listing import GROUPS, Filter

NEWEST = 200


def statuses(incomplete: str) -> list[str]:
    return [name for name in GROUPS if name.startswith(incomplete)]


def queue_ids(context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """The newest ones, each with sender and subject."""
    from bridge.cli.chosen import first
    from bridge.cli.spool import with_spool

    config = str(context.params.get("config") or "")
    rows = []
    with contextlib.suppress(Exception, SystemExit), redirect_stderr(io.StringIO()):
        rows = with_spool(config, lambda spool: first(spool, Filter(), limit=NEWEST, before=""))
    for row in rows:
        if str(row["queue_id"]).startswith(incomplete):
            yield str(row["queue_id"]), f"{row['sender'] or '<>'} {row['subject']}"
