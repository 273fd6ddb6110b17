"""The application: the routes of every part, errors as the API says them, and the headers that keep a browser in bounds."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.web import api, docs, health, messages, metrics, send, webhooks
from bridge.web.clients import Forwarded
from bridge.web.context import Web
from bridge.web.errors import Problem, http_response, problem_response
from bridge.web.pages import app as pages

log: Any = structlog.get_logger()

# Nothing is fetched from elsewhere, and nothing in a page runs but our own files.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
)


def make_app(web: Web) -> Starlette:
    parts = (health, metrics, send, messages, docs, api, webhooks, pages)
    routes = [route for part in parts for route in part.routes(web)]
    app = Starlette(
        routes=routes,
        exception_handlers={Problem: problem_response, HTTPException: http_response, Exception: _defect},
    )
    app.state.web = web
    app.add_middleware(Bounds)
    app.add_middleware(metrics.Counted, routes=routes)
    app.add_middleware(Forwarded, proxies=lambda: web.proxies)
    return app


async def _defect(request: Request, error: Exception) -> Response:
    """Ours; the cause stays in the log. (Starlette raises it once more, and uvicorn's logger is off.)"""
    log.error("http.error", path=request.url.path, exc_info=error)
    return await problem_response(request, Problem(500, "A defect of ours; see the log"))


class Bounds:
    """Sets the headers that the answer does not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                have = {name.lower() for name, _ in message["headers"]}
                added = [(n.encode(), v.encode()) for n, v in _HEADERS if n.encode() not in have]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
