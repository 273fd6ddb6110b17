"""The messages of a page of the list: the one place where the spool is searched for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.web.context import Web
from bridge.web.pages.query import Query

PAGE = 50
_ROUNDS = 20  # pages of the spool that are looked through for one of ours

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """Newest first. `before`: where the next page begins; "" when there is none."""

    rows: Sequence[Row]
    before: str = ""


async def find(web: Web, query: Query, before: str = "", *, limit: int = PAGE) -> Found:
    """Raises SpoolError."""
    rows: list[Row] = []
    for _ in range(_ROUNDS):
        page = await web.spool.list_messages(status=query.status, limit=limit + 1, before=before)
        rows += [row for row in page if _takes(query, row)]
        if len(rows) > limit:
            return Found(rows[:limit], rows[limit - 1]["queue_id"])
        if len(page) <= limit:
            return Found(rows)
        before = page[-1]["queue_id"]
    return Found(rows, before)


def _takes(query: Query, row: Row) -> bool:
    sender = row["sender"].lower()
    to = " ".join(one["address"] for one in row["recipients"]).lower()
    ids = {row["queue_id"].lower(), row["message_id"].strip("<>").lower()}
    ids |= {one["provider_message_id"].lower() for one in row["recipients"]}
    subject = row["subject"].lower()
    return (
        all(word.lower() in f"{sender} {to} {subject}" or word.lower() in ids for word in query.words)
        and all(word.lower() in to for word in query.to)
        and all(word.lower() in sender for word in query.sender)
        and all(word.lower() in f"{sender} {to}" for word in query.address)
        and all(word.lower() in subject for word in query.subject)
        and (not query.id or query.id.strip("<>").lower() in ids)
        and (not query.provider or any(one["provider"] == query.provider for one in row["recipients"]))
        and (not query.since or row["created_at"] >= query.since)
        and (not query.until or row["created_at"] < query.until)
    )
