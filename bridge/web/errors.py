"""What goes wrong, as the API says it: `{"error": {"code", "message", "field"}}` (DESIGN 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid",
    429: "too_many_requests",
    500: "internal_error",
    503: "unavailable",
}


MAX_SHOWN = 100  # characters of what a client sent, told back to it
MAX_FIELD, MAX_MESSAGE = 200, 1000


def shown(text: str, most: int = MAX_SHOWN) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


class Problem(Exception):
    """An answer that is an error. `field`: which one of the request, as it is written there (`attachments[0].content`).
    What a client sent is told back as `shown`; both are bounded whatever they say."""

    def __init__(
        self, status: int, message: str, *, code: str = "", field: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or CODES.get(status, "error")
        self.message = shown(message, MAX_MESSAGE)
        self.field = shown(field, MAX_FIELD)
        self.headers = dict(headers or {})


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def body_of(problem: Problem) -> dict[str, Any]:
    return {"error": {"code": problem.code, "message": problem.message, "field": problem.field}}


async def problem_response(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return Json(body_of(problem), status_code=problem.status, headers=problem.headers)


async def http_response(request: Request, error: Exception) -> Response:
    """What the framework says (404, 405), in our form."""
    assert isinstance(error, HTTPException)
    return await problem_response(request, Problem(error.status_code, error.detail, headers=error.headers))
