"""The list of messages: a page of it, and the same as a fragment that the script asks for every other second."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from bridge.spool.base import SpoolError
from bridge.web.context import Web
from bridge.web.errors import Problem
from bridge.web.pages.actions import said
from bridge.web.pages.find import Found, Row, find
from bridge.web.pages.layout import render, route, viewer
from bridge.web.pages.query import MAX_QUERY, STATUSES, QueryError, parse_query

_TRAIL = 30  # how many pages back the links lead
_FILTERS = ("active", "failed", "held", "sent")


def routes(web: Web) -> list[BaseRoute]:
    async def page(request: Request) -> Response:
        viewer(web, request)
        return render(web, request, "mails.html", here="mail", **await _values(web, request))

    async def fragment(request: Request) -> Response:
        """Unchanged since `If-None-Match`: 304."""
        viewer(web, request)
        answer = render(web, request, "mails_list.html", **await _values(web, request))
        tag = f'"{hashlib.sha256(bytes(answer.body)).hexdigest()[:24]}"'
        if request.headers.get("if-none-match", "") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        answer.headers["ETag"] = tag
        return answer

    async def help_page(request: Request) -> Response:
        viewer(web, request)
        return render(web, request, "help.html", statuses=STATUSES)

    return [route("/", web, page), route("/list", web, fragment), route("/help", web, help_page)]


async def _values(web: Web, request: Request) -> dict[str, Any]:
    typed = request.query_params.get("q", "")[:MAX_QUERY]
    before = request.query_params.get("before", "")
    trail = [one for one in request.query_params.get("trail", "").split(",") if one.isalnum()][-_TRAIL:]
    wrong, found = "", Found(())
    try:
        found = await find(web, parse_query(typed, now=web.clock.now()), before)
    except QueryError as error:
        wrong = str(error)
    except SpoolError as error:
        raise Problem(503, f"The spool cannot be read: {error}") from None
    return {
        "q": typed,
        "wrong": wrong,
        "said": said(request),
        "partial": found.partial,
        "rows": [_shown(row) for row in found.rows],
        "older": _link(q=typed, before=found.before, trail=",".join([*trail, before])) if found.before else "",
        "newer": _link(q=typed, before=trail[-1] if trail else "", trail=",".join(trail[:-1])) if before else "",
        "first": not before,
        "query": urlencode({name: value for name, value in request.query_params.items() if name in _OWN}),
        "filters": _FILTERS,
        "statuses": STATUSES,
        "providers": [one.provider.name for one in web.dispatchers.all],
        "ways": ways(web),
    }


_OWN = frozenset({"q", "before", "trail"})


def _link(**values: str) -> str:
    return "/?" + urlencode({name: value for name, value in values.items() if value})


def _shown(row: Row) -> dict[str, Any]:
    """What a line of the list says. `why`: the last word of a provider, where it is not good news."""
    recipients, said = row["recipients"], row["trouble"]
    why = " ".join(str(word) for word in (said["code"], said["enhanced"], said["text"]) if word) if said else ""
    return {
        "id": row["queue_id"],
        "at": row["created_at"],
        "status": row["status"],
        "sender": row["sender"] or "<>",
        "to": recipients[0]["address"] if recipients else "",
        "others": row["recipients_total"] - 1,
        "subject": row["subject"],
        "why": why,
        "provider": said["provider"] if said else "",
        "size": row["size"],
    }


def ways(web: Web) -> list[tuple[str, str]]:
    """(host, port) of the listeners that speak SMTP over TCP, as somebody on this machine would call them."""
    found = []
    for address in web.rules.addresses:
        host, _, port = address.rpartition(":")
        if port.isdigit():
            found.append(("localhost" if host in ("", "0.0.0.0", "[::]", "127.0.0.1", "[::1]") else host, port))  # noqa: S104
    return found or [("localhost", "2525")]
