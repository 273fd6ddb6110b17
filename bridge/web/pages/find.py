"""The messages of a page of the list: the one place where the spool is searched for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.spool.base import Search
from bridge.web.context import Web
from bridge.web.pages.query import Query

PAGE = 50
_ROUNDS = 5  # pages of the spool that are looked through for one of ours, at most

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """Newest first. `before`: where the next page begins; "" when there is none. `partial`: the time was up before the page
    was full."""

    rows: Sequence[Row]
    before: str = ""
    partial: bool = False


async def find(web: Web, query: Query, before: str = "", *, limit: int = PAGE) -> Found:
    """Raises SpoolError."""
    wanted, rows = _search(query), list[Row]()
    for _ in range(_ROUNDS):
        page = await web.spool.search(wanted, limit=limit, before=before, recipients=1)
        rows += await _those(web, query, page.rows)
        before = page.before if page.more else ""
        if len(rows) >= limit or not before:
            break
    if len(rows) > limit:
        return Found(rows[:limit], rows[limit - 1]["queue_id"])
    return Found(rows, before, partial=bool(before) and len(rows) < limit)


def _search(query: Query) -> Search:
    return Search(
        text=" ".join(query.words),
        address=" ".join((*query.address, *query.to, *query.sender)),
        subject=" ".join(query.subject),
        id=query.id,
        status=query.status,
        provider=query.provider,
        since=query.since,
        until=query.until,
    )


async def _those(web: Web, query: Query, rows: Sequence[Row]) -> list[Row]:
    """The spool searches sender and recipients together; which of the two it is, is looked at here. Raises SpoolError."""
    found = [row for row in rows if all(word in row["sender"].lower() for word in _words(query.sender))]
    if not query.to or not found:
        return found
    words = [word for value in query.to for word in value.split()]
    mailed = await web.spool.mailed_to([row["queue_id"] for row in found], words)
    return [row for row in found if row["queue_id"] in mailed]


def _words(values: Sequence[str]) -> list[str]:
    return [word for value in values for word in value.lower().split()]
