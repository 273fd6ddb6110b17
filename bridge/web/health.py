"""`/healthz`: the process is alive. `/readyz`: it can take mail and send it; with each check and its reason."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bridge.spool.base import SpoolError
from bridge.web.context import Web
from bridge.web.errors import Json

Check = tuple[bool, str]


def routes(web: Web) -> list[BaseRoute]:
    async def healthz(request: Request) -> Response:
        return Json({"status": "ok"})

    async def readyz(request: Request) -> Response:
        checks = {
            "daemon": _daemon(web),
            "listeners": _listeners(web),
            "spool": await _spool(web),
            "providers": _providers(web),
        }
        ready = all(ok for ok, _ in checks.values())
        shown = {name: {"ok": ok, "reason": reason} for name, (ok, reason) in checks.items()}
        return Json({"ready": ready, "checks": shown}, status_code=200 if ready else 503)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def _daemon(web: Web) -> Check:
    return (False, "it is stopping") if web.stopping else (True, "")


def _listeners(web: Web) -> Check:
    down = [listener.where for listener in web.listeners if not listener.up]
    return not down, f"not listening on {', '.join(down)}" if down else ""


async def _spool(web: Web) -> Check:
    try:
        writable = await web.spool.writable()
    except SpoolError as error:
        return False, str(error)
    return writable, "" if writable else "the spool is full, or its disk is below spool.min_free"


def _providers(web: Web) -> Check:
    """One whose breaker is open for a while is no reason: mail waits in the queue for it."""
    blocked = [one.provider.name for one in web.dispatchers.all if one.breaker.blocked]
    ready = len(blocked) < len(web.dispatchers.all)
    return ready, "" if ready else f"every provider refuses the account: {', '.join(blocked)}"
