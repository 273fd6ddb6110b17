"""What a twin is: routes, the provider's way to authenticate and to say what is wrong, and handlers for requests.

A handler reads a `Call` and returns a `Response`; it says which messages were accepted with `call.accept`. They are
recorded only after it has returned, because a planned failure may decide otherwise. What it raises is answered for it:
`ApiError` as it stands, `PayloadError` by `invalid`, `BodyError` by `bad_body`. With a large body it runs in a thread.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from abc import ABC, abstractmethod
from binascii import a2b_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote

import orjson

from bridge.clock import Clock
from bridge.sandbox.exchange import Answer, Request, Response
from bridge.sandbox.failures import Failure
from bridge.sandbox.forms import Form, FormError, read_form
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins.schema import PayloadError

KEPT_TEXT = 16 * 1024  # longer texts of a payload are kept as size and sha256; the mail has them in full


class ApiError(Exception):
    """Ends a handler with this answer, and nothing is accepted."""

    def __init__(self, response: Response) -> None:
        super().__init__(str(response.status))
        self.response = response


class BodyError(ValueError):
    """The body is not what its Content-Type says: not JSON, not UTF-8, not a form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A message that a handler takes. `payload` is what is shown of its request, None for the whole body."""

    mail: Mail
    id: str
    payload: Any = None


@dataclass(slots=True, kw_only=True)
class Call:
    """One request to a twin. `path` is below the twin's own, `parameters` fill the placeholders of the route."""

    request: Request
    path: str
    kind: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    accepted: list[Accepted] = field(default_factory=list)

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def body(self) -> bytes:
        return self.request.body

    @property
    def content_type(self) -> str:
        """In lower case, without its parameters."""
        return self.header("content-type").partition(";")[0].strip().lower()

    @property
    def url(self) -> str:
        """Where this twin is, for answers that hold an address."""
        return f"http://{self.header('host') or 'localhost'}/{self.kind}"

    def header(self, name: str) -> str:
        """By its lower-case name; "" when there is none."""
        return self.request.header(name)

    def query_values(self, name: str) -> list[str]:
        pairs = parse_qsl(self.request.query, keep_blank_values=True)
        return [value for key, value in pairs if key == name]

    def query(self, name: str) -> str:
        """The first value of that parameter, "" when there is none."""
        return next(iter(self.query_values(name)), "")

    def json(self) -> Any:
        """Raises BodyError. The Content-Type is not looked at."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:  # its text quotes the body
            raise BodyError("the body is not valid JSON in UTF-8") from None

    def form(self) -> Form:
        """Raises BodyError."""
        try:
            return read_form(self.header("content-type"), self.body)
        except FormError as error:
            raise BodyError(str(error)) from None

    def accept(self, mail: Mail, *, id: str = "", payload: Any = None) -> str:
        """Take a message; the id is the one the answer will name. `payload`: see Accepted."""
        chosen = id or secrets.token_hex(16)
        self.accepted.append(Accepted(mail=mail, id=chosen, payload=payload))
        return chosen


Handler = Callable[[Call], Response]


@dataclass(frozen=True, slots=True)
class Route:
    """`path` is below the twin's own, `{name}` stands for one segment of it.

    `target` names what planned failures apply to: "send" for what sends mail, "" for what never fails on purpose. An
    `open` route is not authorized first: a token endpoint checks its own credentials.
    """

    method: str
    path: str
    handler: Handler
    target: str = ""
    open: bool = False

    def match(self, path: str) -> dict[str, str] | None:
        """The parameters, percent-decoded; None when the path is another one."""
        pieces = re.split(r"\{(\w+)\}", self.path)
        pattern = "".join(f"(?P<{p}>[^/]+)" if at % 2 else re.escape(p) for at, p in enumerate(pieces))
        found = re.fullmatch(pattern, path)
        return {name: unquote(value) for name, value in found.groupdict().items()} if found else None


class Twin(ABC):
    """One provider's API. `key` is the sandbox's: what clients must authenticate with, in the provider's own way."""

    kind: ClassVar[str]
    targets: ClassVar[tuple[str, ...]] = ("send",)
    errors: ClassVar[
        Mapping[str, Answer]
    ]  # documented errors by name, bodies verbatim; the first of a status is its own
    max_body: ClassVar[int] = 64 * 1024 * 1024  # a larger one is answered with 413

    def __init__(self, *, key: str, clock: Clock) -> None:
        self.key = key
        self.clock = clock

    @abstractmethod
    def routes(self) -> Sequence[Route]: ...

    @abstractmethod
    def authorize(self, call: Call) -> None:
        """Raises ApiError when the credentials are missing or wrong."""

    @abstractmethod
    def error_body(self, status: int, message: str = "") -> Response:
        """The shape in which this provider says that something is wrong, for any status from 400 on."""

    @abstractmethod
    def invalid(self, error: PayloadError) -> Response:
        """How this provider says that a field is wrong."""

    def bad_body(self, error: BodyError) -> Response:
        return self.error_body(400, str(error))

    def conflict(self, call: Call) -> Response:
        """The idempotency key was used for another payload."""
        return self.error_body(409, "the idempotency key was used for another payload")

    def fingerprint(self, call: Call) -> str:
        """Equal for requests that one idempotency key may repeat."""
        return hashlib.sha256(f"{call.method} {call.path}\n".encode() + call.body).hexdigest()

    def finish(self, response: Response) -> Response:
        """Every answer passes here: the place for headers that all of them have."""
        return response

    def clear(self) -> None:  # noqa: B027  # most twins keep nothing
        """Forget what was kept between requests: drafts, tokens, jobs."""

    def documented(self, status: int) -> Response:
        """The first documented error of this status, or the generic one."""
        answer = next((answer for answer in self.errors.values() if answer.status == status), None)
        return answer.response() if answer else self.error_body(status)

    def error(self, name: str) -> ApiError:
        """`raise self.error("unauthorized")`: a documented error by its name."""
        return ApiError(self.errors[name].response())

    def fail(self, failure: Failure, call: Call) -> Response:
        """The answer of a planned failure of mode "status". What is left in `call.accepted` is recorded all the same.

        Batches with an answer for each item may remove only those that fail.
        """
        call.accepted.clear()
        response = self.errors[failure.error].response() if failure.error else self.documented(failure.status)
        if failure.retry_after is None:
            return response
        others = tuple(header for header in response.headers if header[0].lower() != "retry-after")
        return replace(response, headers=(*others, ("Retry-After", str(failure.retry_after))))

    def is_key(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(), self.key.encode())

    def has_bearer(self, call: Call) -> bool:
        scheme, _, value = call.header("authorization").partition(" ")
        return scheme.lower() == "bearer" and self.is_key(value.strip())


def basic_credentials(call: Call) -> tuple[str, str] | None:
    """User and password of HTTP Basic, None when there are none that can be read."""
    scheme, _, value = call.header("authorization").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = a2b_base64(value.strip(), strict_mode=True).decode().partition(":")
    except ValueError:
        return None
    return (user, password) if colon else None


def kept_payload(value: Any, key: str) -> Any:
    """A payload as it is shown: without the sandbox's key, long texts as size and sha256."""
    if isinstance(value, dict):
        return {name: kept_payload(content, key) for name, content in value.items()}
    if isinstance(value, list):
        return [kept_payload(item, key) for item in value]
    if isinstance(value, bytes):
        return {"size": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, str) and len(value) > KEPT_TEXT:
        content = value.encode(errors="surrogatepass")
        return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return "***" if value == key else value
