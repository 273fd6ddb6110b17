"""One request and one response of the sandbox as plain values, so that the API can be tested without a socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from bridge.sandbox.failures import Failure

JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`path` is without the query; header names are lower-case and may repeat."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str:
        """The first value of that header, "" when there is none."""
        return next(iter(self.values(name)), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """`spoil` says how the answer fails to arrive as it should; None for an honest one."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    spoil: Failure | None = None


class Refusal(Exception):
    """Why a request is not taken, as the API says it: status, code, a sentence, and the field it is about."""

    def __init__(self, status: int, code: str, message: str, field: str = "") -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.message = message
        self.field = field

    def response(self, *headers: tuple[str, str]) -> Response:
        error = {"code": self.code, "message": self.message, "field": self.field}
        return json_response({"error": error}, status=self.status, headers=headers)


def json_response(content: Any, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status=status, body=orjson.dumps(content), headers=headers)
