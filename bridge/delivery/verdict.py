"""What a client hears when the attempt it waited for has ended, and what the spool must hold then. Rules only (DESIGN 3.7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from bridge.model import Answer
from bridge.reply import LOCAL_ERROR, Reply, queued, sent
from bridge.spool.base import Result

OPEN = frozenset({"queued", "deferred", "held"})


def only_sent(results: Mapping[str, Result]) -> dict[str, Result]:
    return {address: result for address, result in results.items() if result.status == "sent"}


def to_keep(
    results: Mapping[str, Result], *, mode: Literal["auto", "queue", "direct"], gone: bool, by_recipient: bool
) -> dict[str, Result]:
    """Nothing, or the recipients that a 250 will cover.

    `by_recipient`: each hears its own reply (LMTP), so what was refused is not ours to bounce. `gone`: nobody hears anything.
    """
    open_ = {address: result for address, result in results.items() if result.status in OPEN}
    if open_ and gone:
        return {}
    if by_recipient:
        return open_ if mode == "auto" else {}
    # In direct mode a 4xx would mail those again that were sent already, so then the rest is kept.
    covered = only_sent(results) or (open_ if mode == "auto" else {})
    return dict(results) if covered else {}


def answer(queue_id: str, results: Mapping[str, Result], kept: Mapping[str, Result]) -> Answer:
    """250 if at least one recipient was sent or queued and none is left to the client; else the first 4xx, else the first 5xx."""
    each = {address: _own(queue_id, result, kept=address in kept) for address, result in results.items()}
    if any(result.status in OPEN for result in kept.values()):
        return Answer(reply=queued(queue_id), by_recipient=each)
    for wanted in (_temporary, _accepted, _any):
        if found := next(filter(wanted, each.values()), None):
            return Answer(reply=found, by_recipient=each)
    return Answer(reply=LOCAL_ERROR)


def _own(queue_id: str, result: Result, *, kept: bool) -> Reply:
    if result.status == "sent":
        return sent(result.provider_message_id)
    if kept and result.status in OPEN:
        return queued(queue_id)
    return result.reply or LOCAL_ERROR


def _temporary(reply: Reply) -> bool:
    return reply.temporary


def _accepted(reply: Reply) -> bool:
    return reply.code == 250


def _any(reply: Reply) -> bool:
    return True
