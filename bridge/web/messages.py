"""`GET /messages/{id}`: what became of a message, for who sent it through the REST door and for who may read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bridge.mime.trace import iso8601
from bridge.spool.base import SpoolError
from bridge.web import guard
from bridge.web.api import part_of
from bridge.web.context import Web
from bridge.web.errors import Json, Problem
from bridge.web.send import owner

_OF_A_RECIPIENT = ("address", "status", "attempts", "code", "enhanced", "text", "provider", "provider_message_id")
_OF_AN_EVENT = ("event", "address", "provider", "code", "enhanced", "text")


def routes(web: Web) -> list[BaseRoute]:
    async def get(request: Request) -> Response:
        caller = guard.caller_of(web, request)
        own = caller.key if caller and caller.may("send") and not caller.may("read") else None
        if own is None:
            guard.allowed(web, request, "read")
        try:
            limit, skip = part_of(request)
            found = await web.spool.show_part(request.path_params["id"], limit=limit, skip=skip)
        except SpoolError:
            raise Problem(503, "The spool cannot be read now", headers={"Retry-After": "30"}) from None
        if found is None or (own and found["user"] != owner(own)):
            raise Problem(404, "There is no such message, or no longer")
        return Json(shown(found))

    return [Route("/messages/{id}", get, methods=["GET"])]


def shown(found: Mapping[str, Any]) -> dict[str, Any]:
    """Times in UTC, as ISO 8601 writes them."""
    return {
        "id": found["queue_id"],
        "status": found["status"],
        "created_at": iso8601(found["created_at"]),
        "finished_at": _time(found["resolved_at"]),
        "from": found["sender"],
        "subject": found["subject"],
        "message_id": found["message_id"],
        "size": found["size"],
        "recipients": [
            {name: one[name] for name in _OF_A_RECIPIENT} | {"next_attempt_at": _next(one)}
            for one in found["recipients"]
        ],
        "recipients_total": found["recipients_total"],
        "events": [{"at": iso8601(one["at"])} | {name: one[name] for name in _OF_AN_EVENT} for one in found["events"]],
    }


def _next(recipient: Mapping[str, Any]) -> str | None:
    """What is on its way, or over, has none."""
    waits = recipient["status"] in ("queued", "deferred") and recipient["leased_until"] is None
    return _time(recipient["next_attempt_at"]) if waits else None


def _time(at: float | None) -> str | None:
    return None if at is None else iso8601(at)
