"""What the bodies of callers hold together, by client. Anybody can call a webhook: one who sends many slowly holds up himself."""

from __future__ import annotations

import contextlib
import ipaddress
from collections import Counter
from collections.abc import Iterator

from bridge.web.clients import read_address


class Caller:
    """One body of a client."""

    def __init__(self, held: Counter[str], client: str, most: float, together: float) -> None:
        self._held, self.client, self._most, self._together = held, client, most, together
        self.octets = 0

    def add(self, octets: int) -> bool:
        """False where his bodies, or those of all, would hold too much."""
        if self._held[self.client] + octets > self._most or self._held.total() + octets > self._together:
            return False
        self._held[self.client] += octets
        self.octets += octets
        return True


class Callers:
    """For the loop's thread."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    @contextlib.contextmanager
    def at(self, host: str, *, most: float, together: float) -> Iterator[Caller]:
        """`most`: octets that all bodies of this client may hold; `together`: that those of all clients may."""
        caller = Caller(self._held, network_of(host), most, together)
        try:
            yield caller
        finally:
            self._held[caller.client] -= caller.octets
            if not self._held[caller.client]:
                del self._held[caller.client]


def network_of(host: str) -> str:
    """The address, of IPv6 its /64, which one customer has at least; "" is a unix socket."""
    address = read_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address) if address else host
