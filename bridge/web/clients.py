"""Who the client is behind a reverse proxy of the operator's own (`http.trusted_proxies`).

Only what those say is believed. `X-Forwarded-For` is read from its right end, where the nearest proxy wrote: the first
address that is no proxy of ours is the client, and what stands to the left of it the client may have made up. A proxy that
says nothing, or what cannot be read, asks for somebody of whom nothing is known: he is not on this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_HOPS = 20  # proxies one behind another
UNKNOWN = "unknown"  # as `X-Forwarded-For` writes it too


FORWARDED = "bridge.forwarded"  # in the scope of a request that came through a proxy of ours


class Forwarded:
    """Puts the client, and https where it came so, in the place of the proxy. Whoever connects over a unix socket is one,
    where there are any. `proxies`: those of this moment."""

    def __init__(self, app: ASGIApp, *, proxies: Callable[[], Sequence[Network]]) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        proxies = self._proxies()
        if proxies and scope["type"] == "http":
            peer = (scope.get("client") or ("", 0))[0]
            if not peer or _trusted(read_address(peer), proxies):
                scope = {**scope, **dict(_told(scope, proxies)), FORWARDED: True}
        await self._app(scope, receive, send)


def _told(scope: Scope, proxies: Sequence[Network]) -> Iterator[tuple[str, object]]:
    headers = scope["headers"]
    yield "client", (client_told(_values(headers, b"x-forwarded-for"), proxies), 0)
    scheme = (_values(headers, b"x-forwarded-proto") or [""])[-1].lower()
    if scheme in ("http", "https"):
        yield "scheme", scheme


def client_told(told: Sequence[str], proxies: Sequence[Network]) -> str:
    """`told`: the members of X-Forwarded-For, in order. UNKNOWN where one of ours says what is no address, or nothing."""
    found = UNKNOWN
    for text in reversed(told[-MAX_HOPS:]):
        address = read_address(text)
        if address is None:
            return UNKNOWN
        found = str(address)
        if not _trusted(address, proxies):
            break
    return found


def read_address(text: str) -> Address | None:
    """`192.0.2.7`, `192.0.2.7:4711`, `2001:db8::7`, `[2001:db8::7]:4711`; an IPv4 address within IPv6 is that. Without
    its zone (RFC 4007 11), which says something on one machine alone."""
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
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return address


def _trusted(address: Address | None, proxies: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in proxies)


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Of all fields of this name together (RFC 9110 5.3)."""
    whole = b",".join(value for key, value in headers if key == name).decode("latin-1")
    return [part.strip() for part in whole.split(",")] if whole else []
