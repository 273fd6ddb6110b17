"""A plain POST to a web address of the operator's, over the same engine as the providers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

    from bridge.providers.transport import CoreTransport

TIMEOUT_S = 20.0


class Poster:
    """`await poster(url, headers, body)` -> the status, or None and what went wrong. Never raises but CancelledError."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._transports: dict[str, CoreTransport] = {}

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int | None, str]:
        import httpx  # loaded when there is something to post: a daemon that only captures needs none of it

        request = httpx.Request("POST", url, headers={**headers, "User-Agent": "smtp-rest-bridge"}, content=body)
        request.extensions = {"timeout": {"pool": None, "connect": None, "read": None, "write": None}}
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._transport(request.url).handle_async_request(request)
        except Exception as error:
            return None, type(error).__name__  # its text may hold the address, and that a secret
        return response.status_code, ""

    def _transport(self, url: httpx.URL) -> CoreTransport:
        from bridge.providers.transport import CoreTransport
        from bridge.providers.trust import proxy_url

        origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        if origin not in self._transports:
            self._transports[origin] = CoreTransport(max_connections=2, proxy=proxy_url("", url.scheme, url.host))
        return self._transports[origin]

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()
