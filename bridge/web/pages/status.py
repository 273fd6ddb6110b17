"""The status page: what waits, what was done in the last hour and day, who is there to send it, and on what it all stands."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from bridge.spool.base import SpoolError
from bridge.web.context import Web
from bridge.web.errors import Problem
from bridge.web.pages.charts import HEIGHT, WIDTH, WORDS, make_chart
from bridge.web.pages.layout import render, route, viewer
from bridge.web.pages.numbers import ERRORS, gather


def routes(web: Web) -> list[BaseRoute]:
    async def page(request: Request) -> Response:
        viewer(web, request)
        try:
            numbers = await gather(web)
        except SpoolError as error:
            raise Problem(503, f"The spool cannot be read: {error}") from None
        charts = (
            make_chart("hour", "The last hour, by minute", numbers.told["minutes"], each="minute"),
            make_chart("day", "The last day, by quarter hour", numbers.told["quarters"], each="quarter hour"),
        )
        return render(
            web,
            request,
            "status.html",
            here="status",
            numbers=numbers,
            charts=charts,
            words=WORDS,
            width=WIDTH,
            height=HEIGHT,
            errors=numbers.told["errors"][:ERRORS],
        )

    return [route("/status", web, page)]
