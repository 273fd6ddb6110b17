"""One request and one response of the sandbox as plain values, so that the API can be tested without a socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from bridge.sandbox.failures import Failure

JSON = "application/json"
LARGE_BODY = 256 * 1024  # from here on parsing, decoding and hashing are worth a thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`path` is without the query, both as they came; header names are lower-case and may repeat."""

    method: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str:
        """The first value of that header, "" when there is none."""
        return next(iter(self.values(name)), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """`spoil` says how the answer fails to arrive as it should; None for an honest one. `content_type` "" leaves it out."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response as the documentation of an API shows it: `body` is JSON-able, or text, or None for an empty one."""

    status: int
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = ""  # "" is the one that fits the body

    def response(self, *headers: tuple[str, str]) -> Response:
        if self.body is None:
            return Response(status=self.status, content_type=self.content_type, headers=(*self.headers, *headers))
        is_text = isinstance(self.body, str)
        return Response(
            status=self.status,
            body=self.body.encode() if is_text else orjson.dumps(self.body),
            content_type=self.content_type or ("text/plain; charset=utf-8" if is_text else JSON),
            headers=(*self.headers, *headers),
        )


def empty_response(status: int, *headers: tuple[str, str]) -> Response:
    return Response(status=status, content_type="", headers=headers)


def json_response(content: Any, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status=status, body=orjson.dumps(content), headers=headers)
