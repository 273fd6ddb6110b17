"""Who asks, and whether he may: by a key in `Authorization: Bearer`, by the cookie of who signed in, or as anybody on this
machine where there are no keys, who may look.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from bridge.web.clients import FORWARDED, read_address
from bridge.web.context import Web
from bridge.web.errors import Problem
from bridge.web.keys import Key, Scope
from bridge.web.visits import COOKIE, Visit

CSRF_HEADER = "x-csrf-token"
_SAFE = frozenset({"GET", "HEAD"})
_OURS = frozenset({"localhost", "127.0.0.1", "[::1]"})
BODY_S = 60.0  # seconds that a body may take
RETRY_S = 30  # until the next daemon is there


@dataclass(frozen=True, slots=True)
class Caller:
    """`key` None: anybody on this machine. `visit`: of who signed in on the page."""

    key: Key | None = None
    visit: Visit | None = None

    @property
    def name(self) -> str:
        return self.key.name if self.key else ""

    def may(self, scope: Scope) -> bool:
        return self.key.may(scope) if self.key else scope == "read"


def caller_of(web: Web, request: Request) -> Caller | None:
    """None for who shows nothing and may not come without. Raises Problem for a key that is none."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        key = web.keys.find(secret.strip())
        if key is None:
            raise Problem(401, "This key is not known", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return Caller(key)
    token = request.cookies.get(COOKIE, "")
    visit = web.visits.find(token, web.clock.now()) if token else None
    if visit and (key := web.keys.named(visit.key)) and key.key_hash == visit.key_hash:
        return Caller(key, visit)
    return Caller() if web.open and is_local_name(request) and _is_near(web, request) else None


def allowed(web: Web, request: Request, scope: Scope) -> Caller:
    """Raises Problem 401 and 403. What changes something needs more than the cookie (`csrf_in_header`, or a form's field,
    which its handler looks at)."""
    caller = caller_of(web, request)
    if caller is None:
        raise Problem(401, "A key is needed: Authorization: Bearer KEY", headers={"WWW-Authenticate": "Bearer"})
    if not caller.may(scope):
        text = (
            f"The key {caller.name} has not the scope {scope}"
            if caller.key
            else f"A key with the scope {scope} is needed"
        )
        status = 403 if caller.key else 401
        raise Problem(status, text, headers={} if caller.key else {"WWW-Authenticate": "Bearer"})
    return caller


def csrf_in_header(caller: Caller, request: Request) -> None:
    """For the API, when a page calls it. Raises Problem 403."""
    if caller.visit and request.method not in _SAFE and not caller.visit.is_own(request.headers.get(CSRF_HEADER, "")):
        raise Problem(403, "The form is too old: load the page again", code="csrf")


def is_local_name(request: Request) -> bool:
    """A site whose name leads to 127.0.0.1 (DNS rebinding) is called by its own name."""
    host = request.headers.get("host", "").lower()
    return host.removesuffix(f":{_port(host)}") in _OURS


_PROXIED = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"})


def _is_near(web: Web, request: Request) -> bool:
    """He is on this machine himself. A proxy of ours may ask for anybody, and does not always say for whom."""
    if _PROXIED & set(request.headers) and FORWARDED not in request.scope:
        return False  # through a proxy that nobody declared
    if request.client is None or not request.client.host:  # over a unix socket
        return not web.proxies
    address = read_address(request.client.host)
    return address is not None and address.is_loopback


def _port(host: str) -> str:
    end = host.rpartition(":")[2]
    return end if end.isdigit() else ""


async def read_body(request: Request, limit: int, *, grow: Callable[[int], bool] | None = None) -> bytes:
    """`grow`: whether there is memory for so many octets more. Raises Problem 400, 408, 413 and 503."""
    pieces: list[bytes] = []

    async def take(piece: bytes) -> None:
        if grow and not grow(len(piece)):
            raise Problem(503, "No memory for it now", headers={"Retry-After": str(RETRY_S)})
        pieces.append(piece)

    await each_piece(request, limit, take)
    return b"".join(pieces)


async def each_piece(
    request: Request, limit: int, take: Callable[[bytes], Awaitable[None]], *, within_s: float = 0.0
) -> None:
    """The body as it comes, `within_s` seconds (0: as many as others have). Raises Problem 400, 408, 413 and 503."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise Problem(413, f"The body is larger than {limit} octets")
    web: Web = request.app.state.web
    size = 0
    try:
        async with _in_time(web, within_s or BODY_S):
            async for piece in request.stream():
                size += len(piece)
                if size > limit:
                    raise Problem(413, f"The body is larger than {limit} octets")
                await take(piece)
    except ClientDisconnect:
        raise Problem(400, "The body ended too early") from None
    except TimeoutError:
        if web.stopping:
            raise stopping() from None
        raise Problem(408, "The body came too slowly", code="timeout") from None


@contextlib.asynccontextmanager
async def _in_time(web: Web, seconds: float) -> AsyncIterator[None]:
    async with asyncio.timeout(seconds) as timeout:
        web.bodies.add(timeout)
        try:
            yield
        finally:
            web.bodies.discard(timeout)


def stopping() -> Problem:
    return Problem(503, "It is stopping", headers={"Retry-After": str(RETRY_S)})
