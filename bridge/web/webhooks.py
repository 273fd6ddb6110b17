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

from bridge.providers.events.base import Call, Forged, Malformed, Received, Unverified
from bridge.spool.base import SpoolError, SpoolFull
from bridge.web.context import Place, Web, Webhooks
from bridge.web.errors import Json, Problem
from bridge.web.guard import each_piece

log: Any = structlog.get_logger()

COPIES = 6  # of a body: itself, its texts as characters, and what is kept and told of them
VALUE = 150  # octets of each value in it, as an object
PART = 4  # of the budget: what bodies of one client may hold that are not verified; one body may in any case
UNVERIFIED_S = 10.0  # seconds for a body of whose sender nothing is known before it is there
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
        async with _body(web.webhooks, request, verified=place.hook.early) as body:
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
async def _body(webhooks: Webhooks, request: Request, *, verified: bool) -> AsyncIterator[bytes]:
    """With what it and all that is made of it hold, taken as it comes. `verified`: its sender is known to have the secret.
    Raises Problem 413, 408 and 503."""
    budget = webhooks.budget
    hold, size = budget.charge(0), 0
    pieces: list[bytes] = []

    def grow(octets: int) -> None:
        more = min(octets, budget.total) - hold.octets
        if more > 0 and not hold.grow(more):
            raise _too_much()

    async def take(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        if not (verified or caller.add(COPIES * len(piece))):
            raise _too_much()
        grow(COPIES * size)
        pieces.append(piece)

    one = COPIES * webhooks.max_size
    most, together = (
        max(budget.total // PART, one),
        max(budget.total // 2, one),
    )  # the rest is for those who have the secret
    with webhooks.unverified.at(_client(request), most=most, together=together) as caller:
        try:
            await each_piece(request, webhooks.max_size, take, within_s=0.0 if verified else UNVERIFIED_S)
            body = b"".join(pieces)
            pieces.clear()
            grow(COPIES * size + VALUE * sum(map(body.count, (b",", b"{", b"["))))
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


def _client(request: Request) -> str:
    return request.client.host if request.client else "unix"


def _refused(place: Place, request: Request, why: str, error: Exception) -> None:
    log.warning("webhook.refused", provider=place.provider, client=_client(request), reason=why, text=str(error))
