"""The messages of a request, each with what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request

from bridge.model import Origin, Peer
from bridge.web import replies
from bridge.web.errors import Problem
from bridge.web.keys import Key
from bridge.web.once import Said
from bridge.web.order import Order, nearest, read_order

MOST = 500  # messages in one request
MESSAGES = "messages"


@dataclass(slots=True, kw_only=True)
class Job:
    """One message of a request. `where`: before its fields, as in `messages[3].`; `paid`: it is counted already; `part`: where
    it stands in what was written of the request, None when it is too large."""

    key: Key
    origin: Origin
    peer: Peer
    order: Order | None
    refused: Said | None
    where: str = ""
    idempotency_key: str = ""
    paid: bool = False
    part: range | None = None


def one(value: Any, max_recipients: int) -> list[Job]:
    return [_job(read_order(value, max_recipients=max_recipients))]


def several(value: Any, max_recipients: int) -> list[Job]:
    for name in value:
        if name != MESSAGES:
            raise Problem(400, f"There is no such field beside messages{nearest(name, (MESSAGES,))}", field=name[:80])
    given = value[MESSAGES]
    if not isinstance(given, list) or not 1 <= len(given) <= MOST:
        raise Problem(400, f"must be a list of 1 to {MOST} messages", field=MESSAGES)
    return [_member(one, number, max_recipients) for number, one in enumerate(given)]


def _member(value: Any, number: int, max_recipients: int) -> Job:
    where = f"{MESSAGES}[{number}]"
    try:
        return _job(read_order(value, max_recipients=max_recipients, among_others=True), where=f"{where}.")
    except Problem as problem:
        field = f"{where}.{problem.field}" if problem.field else where
        wrong = Problem(problem.status, problem.message, code=problem.code, field=field)
        return _job(None, refused=replies.refusal(wrong))


def _job(order: Order | None, *, refused: Said | None = None, where: str = "") -> Job:
    return Job(key=_NOBODY, origin=Origin(), peer=Peer(), order=order, refused=refused, where=where)


_NOBODY = Key(name="", key_hash="", scopes=frozenset())


def parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"The body is not JSON: {error}", code="not_json") from None


def check_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "The body must be JSON: send it with Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "The body must not be compressed")
