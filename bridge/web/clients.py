"""Who the client is behind a reverse proxy of the operator's own (`http.trusted_proxies`).

Only what those say is believed. `X-Forwarded-For` is read from its right end, where the nearest proxy wrote: the first
address that is no proxy of ours is the client, and what stands to the left of it the client may have made up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_HOPS = 20  # proxies one behind another


class Forwarded:
    """Puts the client, and https where it came so, in the place of the proxy. Whoever connects over a unix socket is one."""

    def __init__(self, app: ASGIApp, *, proxies: Sequence[Network]) -> None:
        self._app = app
        self._proxies = tuple(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = (scope.get("client") or ("", 0))[0]
            if not peer or _trusted(read_address(peer), self._proxies):
                scope = {**scope, **dict(_told(scope, self._proxies))}
        await self._app(scope, receive, send)


def _told(scope: Scope, proxies: Sequence[Network]) -> Iterator[tuple[str, object]]:
    headers = scope["headers"]
    if client := client_told(_values(headers, b"x-forwarded-for"), proxies):
        yield "client", (client, 0)
    scheme = (_values(headers, b"x-forwarded-proto") or [""])[-1].lower()
    if scheme in ("http", "https"):
        yield "scheme", scheme


def client_told(told: Sequence[str], proxies: Sequence[Network]) -> str:
    """`told`: the members of X-Forwarded-For, in order. "" when nothing of it can be believed."""
    found = ""
    for text in reversed(told[-MAX_HOPS:]):
        address = read_address(text)
        if address is None:
            break
        found = str(address)
        if not _trusted(address, proxies):
            break
    return found


def read_address(text: str) -> Address | None:
    """`192.0.2.7`, `192.0.2.7:4711`, `2001:db8::7`, `[2001:db8::7]:4711`; an IPv4 address within IPv6 is that."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return None if address.scope_id else address.ipv4_mapped or address
    return address


def _trusted(address: Address | None, proxies: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in proxies)


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Of all fields of this name together (RFC 9110 5.3)."""
    whole = b",".join(value for key, value in headers if key == name).decode("latin-1")
    return [part.strip() for part in whole.split(",")] if whole else []
