"""What every page shares: its frame, the templates, forms with their token, errors as a page, and our own static files.

A page module has `routes(web)` of `route(...)`; a handler answers with `render(...)`, and raises Problem where it cannot.
Who must sign in is led there; a form is read by `posted`, which looks at the scope and at the token.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from bridge.web import guard
from bridge.web.context import Web
from bridge.web.errors import Problem
from bridge.web.guard import Caller
from bridge.web.keys import Scope
from bridge.web.memory import while_read

HERE: Final = Path(__file__).parent
MAX_FORM = 256 * 1024  # octets
MAX_FIELDS = 2000
FORM_COST = 8  # times a form's size: it, as text, in pieces, and its values, whose characters may take four octets each
SIGN_IN = "/sign-in"
CSRF_FIELD = "csrf"
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Item:
    name: str
    path: str
    text: str


NAVIGATION: Final = (
    Item("mail", "/", "Mail"),
    Item("status", "/status", "Status"),
    Item("suppressions", "/suppressions", "Suppressions"),
    Item("send", "/send-test", "Send a test"),
    Item("docs", "/docs", "API docs"),
)


@dataclass(frozen=True, slots=True)
class Form:
    """What was posted, by name; `caller` may do it and came from our own page."""

    caller: Caller
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def get(self, name: str, default: str = "") -> str:
        return self.fields.get(name, (default,))[-1]

    def all(self, name: str) -> tuple[str, ...]:
        return self.fields.get(name, ())


# routes


def route(path: str, web: Web, handler: Handler, methods: tuple[str, ...] = ("GET",)) -> Route:
    """A page: what the handler raises is a page too."""

    async def shown(request: Request) -> Response:
        try:
            return await handler(request)
        except Problem as problem:
            return problem_page(web, request, problem)

    return Route(path, shown, methods=list(methods))


def static_routes() -> list[BaseRoute]:
    files = {path.name: path.read_bytes() for path in (HERE / "static").iterdir() if path.is_file()}

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files:
            raise Problem(404, "There is no such file")
        headers = {"Cache-Control": "public, max-age=31536000, immutable" if request.url.query else "no-cache"}
        return Response(files[name], media_type=_TYPES.get(name.rpartition(".")[2]), headers=headers)

    return [Route("/static/{name}", static)]


# who


def viewer(web: Web, request: Request) -> Caller:
    """Who looks. Raises Problem 401 (the sign-in page) and 403."""
    return guard.allowed(web, request, "read")


def may_manage(caller: Caller) -> bool:
    """Whether the page offers what changes something: only to who signed in, since only he has a token."""
    return caller.visit is not None and caller.may("manage")


async def posted(web: Web, request: Request, scope: Scope = "manage", *, limit: int = MAX_FORM) -> Form:
    """The form of a POST (application/x-www-form-urlencoded). Raises Problem 401, 403, 413, 415 and 422."""
    caller = guard.allowed(web, request, scope)
    async with while_read(web, request, limit) as hold:
        fields = await fields_of(request, limit, charge=lambda size: hold.resize(FORM_COST * size))
    token = fields.get(CSRF_FIELD, ("",))[-1]
    if caller.visit is None:
        raise Problem(403, "Sign in on the page first", code="csrf")
    if not caller.visit.is_own(token):
        raise Problem(403, "The form is too old: load the page again", code="csrf")
    return Form(caller, fields)


async def fields_of(
    request: Request, limit: int = MAX_FORM, *, charge: Callable[[int], None] | None = None
) -> dict[str, tuple[str, ...]]:
    """A form's fields. `charge` hears the octets of the body before it is parsed. Raises Problem 413, 415 and 422."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Problem(415, "A form of this page is needed")
    body = await guard.read_body(request, limit)
    if charge:
        charge(len(body))
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Problem(422, "The form cannot be read") from None
    found: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        found[name] = (*found.get(name, ()), value)
    return found


def equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def own_path(text: str, default: str = "/") -> str:
    """Where to go back to: a path of ours, else the default. `//host` and `/\\host` are none."""
    ours = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if ours else default


# pages


def _version() -> str:
    digest = hashlib.sha256()
    for path in sorted((HERE / "static").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals.update(navigation=NAVIGATION, version=_version())
    made.filters.update(
        moment=moment, iso=iso, span=span, octets=octets, segment=lambda text: quote(str(text), safe="")
    )
    return made


def moment(at: float | None) -> str:
    """A time as people read it, in UTC; the script shows it in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)) + " UTC" if at is not None else "–"


def iso(at: float | None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) if at is not None else ""


def span(seconds: float) -> str:
    """A duration in its two largest units: 3 d 4 h."""
    left = max(0, int(seconds))
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if left >= size:
            rest = left % size // smaller
            return f"{left // size} {unit} {rest} {name}" if rest else f"{left // size} {unit}"
    return f"{left} s"


def octets(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


TEMPLATES: Final = _environment()


def render(
    web: Web,
    request: Request,
    template: str,
    *,
    here: str = "",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """A template that extends `base.html`. It has `web`, `caller` (None: not signed in), `manages`, `csrf` and `path` too."""
    try:
        caller = guard.caller_of(web, request)
    except Problem:
        caller = None
    visit = caller.visit if caller else None
    shared = {
        "web": web,
        "here": here,
        "caller": caller,
        "manages": caller is not None and may_manage(caller),
        "csrf": visit.csrf if visit else "",
        "path": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        "now": web.clock.now(),
    }
    text = TEMPLATES.get_template(template).render({**shared, **values})
    # A header or subject may hold half a surrogate pair; a page cannot.
    return HTMLResponse(text.encode("utf-8", "replace"), status_code=status, headers=dict(headers or {}))


def problem_page(web: Web, request: Request, problem: Problem) -> Response:
    if problem.status == 401 and request.method in ("GET", "HEAD"):
        there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{SIGN_IN}?next={quote(there, safe='')}", status_code=303)
    return render(web, request, "problem.html", status=problem.status, headers=problem.headers, problem=problem)
