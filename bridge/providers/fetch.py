"""One GET of something small and public, over the same engine as the providers: Amazon's certificates."""

from __future__ import annotations

import asyncio

TIMEOUT_S = 10.0
MAX_OCTETS = 64 * 1024


async def fetch(url: str) -> bytes:
    """Raises OSError when it cannot be had: nothing is followed, and an answer but 200 is none."""
    import httpx  # loaded when there is something to fetch

    from bridge.providers.transport import CoreTransport
    from bridge.providers.trust import proxy_url

    request = httpx.Request("GET", url, headers={"User-Agent": "smtp-rest-bridge"})
    request.extensions = {"timeout": {"pool": None, "connect": None, "read": None, "write": None}}
    transport = CoreTransport(max_connections=1, proxy=proxy_url("", request.url.scheme, request.url.host))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            response = await transport.handle_async_request(request)
    except (httpx.HTTPError, TimeoutError) as error:
        raise OSError(f"{type(error).__name__} at {request.url.host}") from error
    finally:
        await transport.aclose()
    if response.status_code != 200 or len(response.content) > MAX_OCTETS:
        raise OSError(f"HTTP {response.status_code} at {request.url.host}")
    return response.content
