"""Addresses that must not be mailed: listed, searched, entered and taken off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from bridge.mime.headers import clean
from bridge.mime.path import is_address
from bridge.spool.base import SpoolError, SpoolFull
from bridge.web.context import Web
from bridge.web.errors import Problem
from bridge.web.pages.layout import Form, posted, render, route, viewer

PAGE = 100
MAX_REASON = 200  # characters
HERE = "/suppressions"
SAID: Mapping[str, str] = {
    "added": "It is suppressed from now on: mail to it is refused.",
    "known": "It was suppressed already; the reason stays as it was.",
    "removed": "It is mailed again from now on.",
    "unknown": "It was not suppressed.",
}


def routes(web: Web) -> list[BaseRoute]:
    async def page(request: Request) -> Response:
        viewer(web, request)
        return await _page(web, request)

    async def add(request: Request) -> Response:
        form = await posted(web, request)
        address, reason = form.get("address").strip(), clean(form.get("reason")).strip()
        if not is_address(address):
            return await _page(web, request, form=form, wrong="This is no address: it has the form ann@example.com")
        if len(reason) > MAX_REASON:
            return await _page(web, request, form=form, wrong=f"The reason may have {MAX_REASON} characters")
        try:
            added = await web.spool.suppress(address, reason or "by hand", now=web.clock.now())
            await web.suppressions.load()
        except (SpoolError, SpoolFull) as error:
            raise Problem(503, f"The spool cannot be written: {error}") from None
        return _back("added" if added else "known")

    async def remove(request: Request) -> Response:
        form = await posted(web, request)
        try:
            removed = await web.spool.unsuppress(form.get("address"))
            await web.suppressions.load()
        except (SpoolError, SpoolFull) as error:
            raise Problem(503, f"The spool cannot be written: {error}") from None
        return _back("removed" if removed else "unknown")

    return [
        route(HERE, web, page),
        route(f"{HERE}/add", web, add, ("POST",)),
        route(f"{HERE}/remove", web, remove, ("POST",)),
    ]


def _back(said: str) -> Response:
    return RedirectResponse(f"{HERE}?{urlencode({'said': said})}", status_code=303)


async def _page(web: Web, request: Request, *, form: Form | None = None, wrong: str = "") -> Response:
    """`form`: what was entered, and is wrong."""
    wanted = request.query_params.get("q", "").strip()[:MAX_REASON]
    try:
        rows, after = await find(web, wanted, request.query_params.get("after", ""))
    except SpoolError as error:
        raise Problem(503, f"The spool cannot be read: {error}") from None
    more = {"q": wanted, "after": after} if after else {}
    return render(
        web,
        request,
        "suppressions.html",
        here="suppressions",
        status=422 if wrong else 200,
        q=wanted,
        rows=rows,
        partial=bool(after) and len(rows) < PAGE,
        more=f"{HERE}?{urlencode(more)}" if more else "",
        first=not request.query_params.get("after"),
        said=SAID.get(request.query_params.get("said", ""), ""),
        wrong=wrong,
        address=form.get("address") if form else "",
        reason=form.get("reason") if form else "",
    )


async def find(web: Web, wanted: str, after: str) -> tuple[Sequence[Mapping[str, Any]], str]:
    """A page of them, by address, of those after `after`; and where the next one begins, "" at the end. Without `wanted` all,
    else those in whose address or reason it stands."""
    if wanted:
        return await web.spool.find_suppressions(wanted, limit=PAGE, after=after)
    rows = await web.spool.list_suppressions(limit=PAGE + 1, after=after)
    return rows[:PAGE], rows[PAGE - 1]["address"] if len(rows) > PAGE else ""
