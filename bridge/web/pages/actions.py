"""What is done to one message or to many: first a page that says what would happen, then a POST that does it.

Both are forms with the token of who signed in with a key that may `manage`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args
from urllib.parse import parse_qsl, urlencode, urlsplit

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from bridge.spool.base import Action, Forecast, SpoolError
from bridge.web import operations
from bridge.web.context import Web
from bridge.web.errors import Problem, shown
from bridge.web.pages.layout import Form, own_path, posted, render, route

MAX_IDS: Final = 1000  # messages of one form
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")

Deed = Literal["retry", "reroute", "hold", "release", "drop"]


@dataclass(frozen=True, slots=True)
class Words:
    """`doing`: the heading; `what`: what happens to those it changes; `done`: after it."""

    doing: str
    what: str
    done: str
    danger: bool = False


WORDS: Final[dict[Deed, Words]] = {
    "retry": Words("Retry now", "due at once; what failed begins a new lifetime", "due now"),
    "reroute": Words("Retry through {}", "due at once, through {} alone", "due now, through {}"),
    "hold": Words("Hold", "not tried until it is released; the time on hold does not count", "on hold"),
    "release": Words("Release", "due at once", "released"),
    "drop": Words("Drop", "given up, and nobody is told", "dropped", danger=True),
}

log: Any = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    deed: Deed
    ids: tuple[str, ...]
    provider: str = ""  # of reroute
    there: str = "/"  # where to go afterwards

    @property
    def action(self) -> Action:
        return "retry" if self.deed == "reroute" else self.deed

    @property
    def words(self) -> Words:
        found = WORDS[self.deed]
        doing, what, done = (text.format(self.provider) for text in (found.doing, found.what, found.done))
        return Words(doing, what, done, found.danger)


def routes(web: Web) -> list[BaseRoute]:
    async def act(request: Request) -> Response:
        form = await posted(web, request)
        wanted = read(web, form)
        if not wanted.ids:
            raise Problem(422, "No message is selected", field="id")
        try:
            return await (_do(web, form, wanted) if form.get("sure") == "yes" else _ask(web, request, wanted))
        except SpoolError as error:
            raise Problem(503, f"The spool cannot be changed: {error}") from None

    return [route("/act", web, act, ("POST",))]


def read(web: Web, form: Form) -> Wanted:
    """Raises Problem 422."""
    deed = form.get("action")
    if deed not in get_args(Deed):
        raise Problem(422, "There is no such action", field="action")
    ids = tuple(dict.fromkeys(form.all("id")))
    if len(ids) > MAX_IDS or not all(_ID.fullmatch(one) for one in ids):
        raise Problem(422, f"At most {MAX_IDS} messages by their queue ids", field="id")
    provider = form.get("provider") if deed == "reroute" else ""
    if deed == "reroute" and web.dispatchers.named(provider) is None:
        raise Problem(422, f"There is no provider {shown(provider)}", field="provider")
    return Wanted(deed=cast(Deed, deed), ids=ids, provider=provider, there=own_path(form.get("next", "/")))


async def _ask(web: Web, request: Request, wanted: Wanted) -> Response:
    forecast = await _forecast(web, wanted)
    forced = await _forecast(web, wanted, force=True) if wanted.deed == "reroute" else forecast
    more = sum(forced.changed.values()) - sum(forecast.changed.values())
    return render(web, request, "act.html", here="mail", wanted=wanted, forecast=forecast, more=more)


async def _forecast(web: Web, wanted: Wanted, *, force: bool = False) -> Forecast:
    return await operations.forecast(web, wanted.action, wanted.ids, provider=wanted.provider, force=force)


async def _do(web: Web, form: Form, wanted: Wanted) -> Response:
    forced = form.get("force") == "yes"
    changed = await operations.act(web, wanted.action, wanted.ids, provider=wanted.provider, force=forced)
    log.info(
        "operator.action", action=wanted.deed, key=form.caller.name, messages=len(wanted.ids), recipients=changed,
        provider=wanted.provider,
    )  # fmt: skip
    said = {"did": wanted.deed, "count": str(changed)} | ({"through": wanted.provider} if wanted.provider else {})
    return RedirectResponse(with_query(wanted.there, said), status_code=303)


_SAID = frozenset({"did", "count", "through"})


def with_query(path: str, values: dict[str, str]) -> str:
    parts = urlsplit(path)
    kept: Sequence[tuple[str, str]] = [(name, value) for name, value in parse_qsl(parts.query) if name not in _SAID]
    return f"{parts.path}?{urlencode([*kept, *values.items()])}"


def said(request: Request) -> str:
    """What was just done, for the page that is come back to; "" when nothing was."""
    values = request.query_params
    deed, count = values.get("did", ""), values.get("count", "")
    if deed not in get_args(Deed) or not (count.isascii() and count.isdigit() and len(count) < 9):
        return ""
    through = values.get("through", "")[:100]
    number = "1 recipient is" if count == "1" else f"{int(count)} recipients are"
    return f"{number} {WORDS[cast(Deed, deed)].done.format(through)}."
