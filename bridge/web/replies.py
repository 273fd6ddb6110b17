"""From what the submission answers to what HTTP says (DESIGN 6). Rules only.

250 is 200 (a provider has it) or 202 (it is in the queue); 4xx is 503, or 429 where it is about how many; 5xx is 422, or 413.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bridge.model import Answer
from bridge.reply import Reply
from bridge.web.errors import Problem, body_of
from bridge.web.once import Said

RETRY_S = 30  # seconds, where nobody knows better
_QUEUED = re.compile(r"Ok: queued as (\S+)")
_OF_THE_RECIPIENT = ("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "5.2.2")
_OF_THE_SENDER = ("5.1.7", "5.1.8")
_RATE = ("4.4.5", "4.7.1")
_TOO_LARGE = ("5.3.4", "5.2.3")


def said(answer: Answer, queue_id: str, fields: Mapping[str, str]) -> Said:
    """`fields`: of the recipients, where they stand in the request."""
    reply = answer.reply
    detail = recipients(answer.by_recipient, fields)
    if reply.code == 250:
        queued = _QUEUED.fullmatch(reply.text)
        body: dict[str, Any] = {
            "id": queued[1] if queued else queue_id,  # as a duplicate, that of the first
            "status": "queued" if queued else "sent",
        }
        mixed = any(
            one.code != 250 or bool(_QUEUED.fullmatch(one.text)) != bool(queued) for one in answer.by_recipient.values()
        )
        return Said(202 if queued else 200, body | ({"recipients": detail} if mixed else {}))
    refused = problem(reply, field=_field(answer, fields))
    return refusal(refused, detail)


def refusal(problem: Problem, detail: list[dict[str, Any]] | None = None) -> Said:
    return Said(problem.status, body_of(problem) | ({"recipients": detail} if detail else {}), problem.headers)


def problem(reply: Reply, *, field: str = "") -> Problem:
    if reply.temporary:
        status = 429 if reply.enhanced in _RATE else 503
        return Problem(status, str(reply), field=field, headers={"Retry-After": str(RETRY_S)})
    if reply.enhanced in _TOO_LARGE:
        return Problem(413, str(reply), field=field)
    return Problem(422, str(reply), code="refused", field=field)


def recipients(replies: Mapping[str, Reply], fields: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "address": address,
            "field": fields.get(address, ""),
            "status": _status(reply),
            "code": reply.code,
            "enhanced": reply.enhanced,
            "text": reply.text,
        }
        for address, reply in replies.items()
    ]


def _status(reply: Reply) -> str:
    if reply.code == 250:
        return "queued" if _QUEUED.fullmatch(reply.text) else "sent"
    return "deferred" if reply.temporary else "refused"


def _field(answer: Answer, fields: Mapping[str, str]) -> str:
    """Which one is to blame, where that is known."""
    if answer.reply.enhanced in _OF_THE_SENDER:
        return "from"
    blamed = [address for address, reply in answer.by_recipient.items() if reply == answer.reply]
    if answer.reply.enhanced in _OF_THE_RECIPIENT:
        return fields.get(blamed[0], "to") if blamed else next(iter(fields.values()), "to")
    return ""
