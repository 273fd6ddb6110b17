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
        page = await web.spool.search(wanted, limit=limit, before=before)
        rows += [row for row in page.rows if _takes(query, row)]
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


def _takes(query: Query, row: Row) -> bool:
    """The spool searches sender and recipients together; which of the two it is, is looked at here."""
    sender = row["sender"].lower()
    to = "\n".join(one["address"] for one in row["recipients"]).lower()
    return _all_in(query.to, to) and _all_in(query.sender, sender)


def _all_in(values: Sequence[str], text: str) -> bool:
    return all(word in text for value in values for word in value.lower().split())
