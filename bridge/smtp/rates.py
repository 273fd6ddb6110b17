"""How many messages may come in: by user for who logged in, by client address for who did not. Rules only.

Exact: never more than `count` turns in any period of that length, while the memory of one counter does not grow with its rate.
A turn counts from its MAIL command on.
"""

from __future__ import annotations

import ipaddress
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping

from bridge.units import Rate

PERIOD_S: Mapping[str, float] = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SLICES = 200  # of a period: a turn comes back at most 1/200 of it too late
MAX_CLIENTS = 10_000  # 3 kB each at most; those that were silent longest are forgotten first
_LONG_AGO = float("-inf")


class Counter:
    """At most `rate.count` turns in any period. Turns within 1/200 of it are kept as one number."""

    def __init__(self, rate: Rate) -> None:
        self._limit = rate.count
        self._period = PERIOD_S[rate.unit]
        self._ends = array("d")  # when each slice is a period old, oldest first
        self._turns = array("L")  # how many in each
        self._total = 0
        self._began = _LONG_AGO  # of the newest slice

    def take(self, now: float) -> float:
        """0.0, and the turn is counted; or the seconds until there is another."""
        self._forget(now)
        if self._total >= self._limit:
            return self._ends[0] - now
        if now - self._began >= self._period / SLICES:
            self._began = now
            self._ends.append(now + self._period)
            self._turns.append(0)
        self._ends[-1] = now + self._period
        self._turns[-1] += 1
        self._total += 1
        return 0.0

    def give_back(self) -> None:
        """The newest turn did not count; nothing happens when there is none any more.

        Which of them it was is not kept: who holds transactions open could as well end them all with a message at once.
        """
        if not self._total:
            return
        self._total -= 1
        self._turns[-1] -= 1
        if not self._turns[-1]:
            del self._ends[-1], self._turns[-1]
            self._began = _LONG_AGO

    def idle(self, now: float) -> bool:
        """Whether a new counter would be the same."""
        return not self._ends or self._ends[-1] <= now

    def _forget(self, now: float) -> None:
        old = 0
        while old < len(self._ends) and self._ends[old] <= now:
            self._total -= self._turns[old]
            old += 1
        if old:
            del self._ends[:old], self._turns[:old]


class Rates:
    """`take` at MAIL, `give_back` when the transaction ends without a message. For the loop's thread alone.

    A user without a rate of his own is not limited, nor is anybody who did not log in when `per_client` is None. `clock` gives
    seconds, since the epoch or since anything else.
    """

    def __init__(self, *, per_user: Mapping[str, Rate], per_client: Rate | None, clock: Callable[[], float]) -> None:
        self._users = {name: Counter(rate) for name, rate in per_user.items()}
        self._per_client = per_client
        self._clients: OrderedDict[str, Counter] = OrderedDict()  # silent longest first
        self._clock = clock
        self._now = _LONG_AGO
        self._ahead = 0.0

    def take(self, user: str, client: str) -> float:
        """0.0 when another message may come now, and then it is counted; else the seconds to wait."""
        now = self._time()
        counter = self._users.get(user) if user else self._client(client, now)
        return counter.take(now) if counter else 0.0

    def give_back(self, user: str, client: str) -> None:
        """No message came of a turn taken."""
        counter = self._users.get(user) if user else self._clients.get(network_of(client))
        if counter:
            counter.give_back()

    def _time(self) -> float:
        """A clock that is set back stands still for us; else everybody would wait until it has caught up."""
        reading = self._clock()
        self._ahead = max(self._ahead, self._now - reading)
        self._now = max(self._now, reading + self._ahead)
        return self._now

    def _client(self, client: str, now: float) -> Counter | None:
        if self._per_client is None:
            return None
        key = network_of(client)
        counter = self._clients.pop(key, None) or Counter(self._per_client)
        while self._clients and (len(self._clients) >= MAX_CLIENTS or next(iter(self._clients.values())).idle(now)):
            self._clients.popitem(last=False)
        self._clients[key] = counter
        return counter


def network_of(client: str) -> str:
    """`192.0.2.7` and "unix" are themselves, `::ffff:192.0.2.7` is 192.0.2.7; of IPv6 one customer has a /64 at least."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
