"""Signing in with an API key, and out. Who guesses waits longer each time."""

from __future__ import annotations

import ipaddress
import math
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from bridge.web import guard
from bridge.web.context import Web
from bridge.web.errors import Problem
from bridge.web.pages.layout import CSRF_FIELD, SIGN_IN, equal, fields_of, own_path, render, route
from bridge.web.visits import COOKIE, LIFETIME_S

FORM_COOKIE = "smtp_bridge_form"  # of who has not signed in: what his form must repeat
_MAX_FORM = 4096
FREE_TRIES = 3
MAX_WAIT_S = 300.0
_FORGET_S = 3600.0
_MAX_CLIENTS = 10_000

log: Any = structlog.get_logger()


@dataclass(slots=True)
class _Tries:
    wrong: int
    last: float


class Throttle:
    """Wrong keys by client: the first few are free, then the wait doubles up to a ceiling. For the loop's thread."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, _Tries] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Seconds until the next try is looked at; 0.0 for now."""
        tries = self._clients.get(client)
        if tries is None or tries.wrong < FREE_TRIES:
            return 0.0
        delay = min(2.0 ** min(tries.wrong - FREE_TRIES, 20), MAX_WAIT_S)
        return max(0.0, tries.last + delay - now)

    def wrong(self, client: str, now: float) -> None:
        tries = self._clients.pop(client, None)
        if tries is None or now - tries.last > _FORGET_S:
            tries = _Tries(0, now)
        tries.wrong, tries.last = tries.wrong + 1, now
        self._clients[client] = tries
        while len(self._clients) > _MAX_CLIENTS:
            self._clients.popitem(last=False)

    def right(self, client: str) -> None:
        self._clients.pop(client, None)


def client_of(request: Request) -> str:
    """The address, of IPv6 its /64; "" for a unix socket, "unknown" where a proxy of ours does not say."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def routes(web: Web) -> list[BaseRoute]:
    throttle = Throttle()

    async def show(request: Request) -> Response:
        return _form(web, request, own_path(request.query_params.get("next", "/")))

    async def sign_in(request: Request) -> Response:
        fields = await fields_of(request, _MAX_FORM)
        there = own_path(fields.get("next", ("/",))[-1])
        expected = request.cookies.get(FORM_COOKIE, "")
        if not expected or not equal(expected, fields.get(CSRF_FIELD, ("",))[-1]):
            return _form(web, request, there, "The form is too old, or cookies are off: try again", 403)
        client, now = client_of(request), web.clock.now()
        if wait := throttle.wait(client, now):
            seconds = math.ceil(wait)
            return _form(web, request, there, f"Too many wrong keys: try again in {seconds} s", 429, seconds)
        key = web.keys.find(fields.get("key", ("",))[-1].strip())
        if key is None:
            throttle.wrong(client, now)
            log.warning("http.sign_in_failed", client=client)
            return _form(web, request, there, "This key is not known", 401)
        throttle.right(client)
        if not key.may("read"):
            text = f"The key {key.name} may send only: one with the scope read or manage is needed"
            return _form(web, request, there, text, 403)
        log.info("http.signed_in", key=key.name, client=client)
        answer = RedirectResponse(there, status_code=303)
        web.visits.end(request.cookies.get(COOKIE, ""))
        _set(answer, request, COOKIE, web.visits.begin(key.name, key.key_hash, now), int(LIFETIME_S))
        answer.delete_cookie(FORM_COOKIE, path=SIGN_IN)
        return answer

    async def sign_out(request: Request) -> Response:
        caller = guard.caller_of(web, request)
        fields = await fields_of(request, _MAX_FORM)
        if caller and caller.visit:
            if not caller.visit.is_own(fields.get(CSRF_FIELD, ("",))[-1]):
                raise Problem(403, "The form is too old: load the page again", code="csrf")
            web.visits.end(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse(SIGN_IN if web.keys else "/", status_code=303)
        answer.delete_cookie(COOKIE, path="/")
        return answer

    return [
        route(SIGN_IN, web, show),
        route(SIGN_IN, web, sign_in, ("POST",)),
        route("/sign-out", web, sign_out, ("POST",)),
    ]


def _form(web: Web, request: Request, there: str, wrong: str = "", status: int = 200, retry_after: int = 0) -> Response:
    token = request.cookies.get(FORM_COOKIE, "") or secrets.token_urlsafe(24)
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    answer = render(
        web, request, "sign_in.html", status=status, headers=headers, next=there, wrong=wrong, form_token=token
    )
    _set(answer, request, FORM_COOKIE, token, 3600, path=SIGN_IN)
    return answer


def _set(answer: Response, request: Request, name: str, value: str, seconds: int, *, path: str = "/") -> None:
    secure = request.url.scheme == "https"  # as a proxy of ours says (web/clients.py)
    answer.set_cookie(name, value, max_age=seconds, path=path, httponly=True, samesite="strict", secure=secure)
