"""How many messages may come in: by user for who logged in, by client address for who did not. Rules only.

A turn counts from its MAIL command on; one that brought no message is given back.
"""

from __future__ import annotations

import functools
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Mapping

from bridge.smtp.policy import address_of
from bridge.units import Rate
from bridge.window import Window

MAX_CLIENTS = 10_000  # 3 kB each at most; those that were silent longest are forgotten first
_LONG_AGO = float("-inf")


class Rates:
    """`take` at MAIL, `give_back` when the transaction ends without a message. For the loop's thread alone.

    A user without a rate of his own is not limited, nor is anybody who did not log in when `per_client` is None. `clock` gives
    seconds, since the epoch or since anything else.
    """

    def __init__(self, *, per_user: Mapping[str, Rate], per_client: Rate | None, clock: Callable[[], float]) -> None:
        self._users = {name: Window.of(rate) for name, rate in per_user.items()}
        self._per_client = per_client
        self._clients: OrderedDict[str, Window] = OrderedDict()  # silent longest first
        self._clock = clock
        self._now = _LONG_AGO
        self._ahead = 0.0

    def take(self, user: str, client: str) -> float:
        """0.0 when another message may come now, and then it is counted; else the seconds to wait."""
        now = self._time()
        counter = self._users.get(user) if user else self._client(client, now)
        wait = counter.wait(now) if counter else 0.0
        if counter and not wait:
            counter.add(now)
        return wait

    def give_back(self, user: str, client: str) -> None:
        """No message came of a turn taken. Which of them it was is not kept: the newest is given back."""
        counter = self._users.get(user) if user else self._clients.get(network_of(client))
        if counter:
            counter.give_back()

    def _time(self) -> float:
        """A clock that is set back stands still for us; else everybody would wait until it has caught up."""
        reading = self._clock()
        self._ahead = max(self._ahead, self._now - reading)
        self._now = max(self._now, reading + self._ahead)
        return self._now

    def _client(self, client: str, now: float) -> Window | None:
        if self._per_client is None:
            return None
        key = network_of(client)
        counter = self._clients.pop(key, None) or Window.of(self._per_client)
        while self._clients and (len(self._clients) >= MAX_CLIENTS or next(iter(self._clients.values())).idle(now)):
            self._clients.popitem(last=False)
        self._clients[key] = counter
        return counter


@functools.lru_cache(maxsize=4096)
def network_of(client: str) -> str:
    """`192.0.2.7` and "unix" are themselves, `::ffff:192.0.2.7` is 192.0.2.7; of IPv6 one customer has a /64 at least."""
    address = address_of(client)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address) if address else client
