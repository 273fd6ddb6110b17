"""Which messages a command is about: queue ids, or filters that are read page by page."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from bridge.cli.common import duration, fail
from bridge.cli.completion import queue_ids, statuses
from bridge.cli.exits import EX_USAGE
from bridge.cli.progress import CHUNK, Work
from bridge.spool.listing import GROUPS, Filter
from bridge.spool.sqlite import SqliteSpool


def _known(status: str | None) -> str | None:
    if status is not None and status not in GROUPS:
        raise typer.BadParameter(f"one of {', '.join(GROUPS)}")
    return status


def _not_empty(text: str | None) -> str | None:
    """An empty text would take everything, and in a script it is a variable that was never set."""
    if text is not None and not text.strip():
        raise typer.BadParameter("must not be empty")
    return text


IdsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", help="Queue ids.", show_default=False, autocompletion=queue_ids),
]
StatusOption = Annotated[
    str | None,
    typer.Option(
        "--status",
        metavar="STATUS",
        callback=_known,
        autocompletion=statuses,
        show_default=False,
        help="Every message with this status: queued, deferred, held, sent, bounced, expired or dropped; "
        "active (the first three) or failed (bounced and expired).",
    ),
]
ReasonOption = Annotated[
    str | None,
    typer.Option(
        "--reason",
        metavar="TEXT",
        callback=_not_empty,
        show_default=False,
        help="Messages with this text in the last reply, or with this fault: recipient, message, provider, account.",
    ),
]
ProviderOption = Annotated[
    str | None,
    typer.Option(
        "--provider", metavar="NAME", callback=_not_empty, show_default=False, help="Messages this provider had last."
    ),
]
SinceOption = Annotated[
    float | None,
    typer.Option(
        "--since",
        metavar="DURATION",
        parser=duration,
        show_default=False,
        help='Messages that came, or came to their end, within this time, as in "2h".',
    ),
]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The queue ids given, or else whatever passes one of the filters."""

    ids: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()


def narrowed(
    status: str | None = None, reason: str | None = None, provider: str | None = None, since: float | None = None
) -> Filter:
    """What the options say; `since` is how long ago."""
    return Filter(status or "", reason or "", provider or "", time.time() - since if since else 0.0)


def choose(ids: Sequence[str] | None, wanted: Filter, kinds: Sequence[str]) -> Chosen:
    """`kinds`: the statuses a command is about when none was asked for. Neither ids nor a filter is never everything."""
    if bool(ids) == bool(wanted.status or not wanted.plain):
        fail("give either queue ids or a filter: --status, --reason, --provider, --since", EX_USAGE)
    if ids:
        return Chosen(ids=tuple(dict.fromkeys(ids)))
    statuses = (wanted.status,) if wanted.status else kinds
    return Chosen(filters=tuple(Filter(one, wanted.reason, wanted.provider, wanted.since) for one in statuses))


async def pages(
    spool: SqliteSpool, wanted: Filter, *, before: str = "", size: int = CHUNK
) -> AsyncIterator[tuple[int, list[Mapping[str, Any]]]]:
    """Newest first: how many messages were looked at, and those of them that pass.

    The filter is applied here and not in the spool, where a search through a million messages could not be interrupted.
    """
    while page := await spool.list_messages(status=wanted.status, limit=size, before=before):
        yield len(page), [row for row in page if wanted.plain or wanted.takes(dict(row))]
        before = page[-1]["queue_id"]


async def first(spool: SqliteSpool, wanted: Filter, *, limit: int, before: str = "") -> list[Mapping[str, Any]]:
    """At most `limit` messages."""
    found: list[Mapping[str, Any]] = []
    async for _, passed in pages(spool, wanted, before=before, size=limit if wanted.plain else CHUNK):
        found += passed
        if len(found) >= limit:
            break
    return found[:limit]


async def find(spool: SqliteSpool, chosen: Chosen, work: Work) -> tuple[list[str], list[str]]:
    """Queue ids, newest first, and the ids given that are unknown. Nothing when the work was cut short."""
    if chosen.ids:
        return await _known_ids(spool, chosen.ids, work)
    found: set[str] = set()
    looked = 0
    for wanted in chosen.filters:
        async for count, passed in pages(spool, wanted):
            found.update(row["queue_id"] for row in passed)
            looked += count
            work.looked(looked)
            if not work.goes_on():
                return [], []
    return sorted(found, reverse=True), []


async def _known_ids(spool: SqliteSpool, ids: Sequence[str], work: Work) -> tuple[list[str], list[str]]:
    found: list[str] = []
    unknown: list[str] = []
    for queue_id in ids:
        (unknown if await spool.show(queue_id) is None else found).append(queue_id)
        if not work.goes_on():
            return [], []
    return found, unknown
