"""`POST /webhooks/{provider}`: what a provider tells of the mail it took (DESIGN 6).

Whoever can reach the address may call; what a call says is believed only when it is verified. It is answered 200 when all
of it is kept, so that the provider tells it again until it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bridge.budget import Exhausted
from bridge.providers.events.base import Call, Forged, Malformed, Received, Unverified
from bridge.spool.base import SpoolError, SpoolFull
from bridge.web.context import Place, Web, Webhooks
from bridge.web.errors import Json, Problem
from bridge.web.guard import read_body

log: Any = structlog.get_logger()

COPIES = 6  # of a body: itself, its texts as characters, and what is kept and told of them
VALUE = 150  # octets of each value in it, as an object
_AGAIN = {"Retry-After": "60"}
# 401, as 403 makes Postmark give up; and a client that waits to be asked for its login is asked.
_LOGIN = {"WWW-Authenticate": 'Basic realm="webhooks"'}


def routes(web: Web) -> list[BaseRoute]:
    async def handle(request: Request) -> Response:
        place = _place(web, request.path_params["provider"])
        if request.method == "HEAD":  # Mandrill looks whether anybody is there
            return Response()
        if request.method == "OPTIONS":
            return _consent(web, place, request)
        if web.stopping:
            raise Problem(503, "Stopping", headers=_AGAIN)
        return await _receive(web, place, request)

    return [Route("/webhooks/{provider}", handle, methods=["POST", "HEAD", "OPTIONS"])]


def _place(web: Web, word: str) -> Place:
    """Raises Problem 404."""
    place = web.webhooks.places.get(word) if web.webhooks else None
    if place is None:
        raise Problem(404, "There is no provider of this name that tells of its mail")
    if place.hook is None:
        raise Problem(404, f"The events of this provider are not taken: set its {place.wanted}", code="not_set_up")
    return place


async def _receive(web: Web, place: Place, request: Request) -> Response:
    assert web.webhooks
    assert place.hook
    call = _call(web, request)
    try:
        if place.hook.early:
            place.hook.verify(call)
        async with _body(web.webhooks, request) as body:
            call = replace(call, body=body, now=web.clock.now())
            return await _keep(web, place, await place.hook.receive(call, web.webhooks.fetch))
    except Forged as error:
        raise _forged(place, request, error) from None
    except Malformed as error:
        _refused(place, request, "malformed", error)
        raise Problem(400, f"Cannot be read: {error}") from None
    except Unverified as error:
        _refused(place, request, "unverified", error)
        raise Problem(503, "Cannot be verified now", headers=_AGAIN) from None


def _call(web: Web, request: Request) -> Call:
    return Call(
        url=str(request.url), headers=dict(request.headers), query=dict(request.query_params), now=web.clock.now()
    )


def _consent(web: Web, place: Place, request: Request) -> Response:
    """Whether the provider may send its events here."""
    assert place.hook
    try:
        headers = place.hook.consent(_call(web, request))
    except Forged as error:
        raise _forged(place, request, error) from None
    if headers is None:
        raise Problem(405, "Events come by POST", headers={"Allow": "POST"})
    return Response(headers={**headers, "Allow": "POST"})


@contextlib.asynccontextmanager
async def _body(webhooks: Webhooks, request: Request) -> AsyncIterator[bytes]:
    """With what it and all that is made of it hold. Raises Problem 413, 408 and 503."""
    declared = request.headers.get("content-length", "")
    octets = min(int(declared) if declared.isdigit() else webhooks.max_size, webhooks.max_size)
    budget = webhooks.budget
    try:
        hold = await budget.hold(COPIES * octets)
    except Exhausted:
        raise _too_much() from None
    try:
        body = await read_body(request, webhooks.max_size)
        needed = min(COPIES * len(body) + VALUE * sum(map(body.count, (b",", b"{", b"["))), budget.total)
        if needed > hold.octets and not hold.grow(needed - hold.octets):
            raise _too_much()
        yield body
    finally:
        hold.release()


def _too_much() -> Problem:
    return Problem(503, "Too much at once", headers=_AGAIN)


async def _keep(web: Web, place: Place, received: Received) -> Response:
    assert web.webhooks
    try:
        counts = await web.webhooks.events.take(place.provider, received.events)
    except (SpoolFull, SpoolError) as error:
        log.error("spool.error", where="webhooks", provider=place.provider, error=str(error))
        raise Problem(503, "Cannot be kept now", headers=_AGAIN) from None
    if received.answer is not None:
        return Json(received.answer)
    return Json(
        {
            "events": counts.events,
            "duplicates": counts.duplicates,
            "unjoined": counts.unjoined,
            "old": counts.old,
            "ignored": received.ignored,
        }
    )


def _forged(place: Place, request: Request, error: Forged) -> Problem:
    _refused(place, request, "forged", error)
    return Problem(401, "The signature or the secret is not the right one, or too old", headers=_LOGIN)


def _refused(place: Place, request: Request, why: str, error: Exception) -> None:
    client = request.client.host if request.client else "unix"
    log.warning("webhook.refused", provider=place.provider, client=client, reason=why, text=str(error))
