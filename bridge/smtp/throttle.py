"""How fast passwords may be tried: after a failure the client, and whoever tries that name, waits, twice as long each time.

Rules only: who may begin when; `logins` does the waiting. Names are never looked up here, so that an unknown one is slowed
exactly as a known one is.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

MAX_LINES = 10_000  # clients, names, and pairs of both: half a kB each; those silent longest are forgotten first
MAX_WAITING = 5  # behind a failure, of one client or for one name
FOR_NEWCOMERS = (
    4  # times the first delay: so long at most a client without a failure waits for those of others on its name
)
MAX_NAMES = 10  # of one client, whose failures a login takes back
_LONG_AGO = float("-inf")
_K = TypeVar("_K")
_V = TypeVar("_V")


class Crowded(Exception):
    """Too many wait already, or it would take too long: no check is made."""


@dataclass(eq=False, slots=True)
class _Line:
    """The attempts of one client, or for one name, or of one who is known: one at a time."""

    failures: int = 0
    last: float = _LONG_AGO  # when the last failure was told
    busy: bool = False
    waiting: dict[Attempt, None] = field(default_factory=dict)  # in order
    names: dict[int, int] = field(default_factory=dict)  # of a client: which names its failures were for


@dataclass(eq=False, slots=True)
class Attempt:
    """`changed` is called when it may be worth to ask again."""

    name: int
    client: str
    lines: tuple[_Line, ...]
    deadline: float
    changed: Callable[[], None]
    began: bool = False


class Throttle:
    """`enter`, then `ask` until it says 0.0, then the check, then `leave`, whatever came of it. For the loop's thread alone.

    `delay_s` after the first failure, doubled by each further one up to `maximum_s`; `forget_s` after the last failure all
    is forgotten. `clock` is monotonic. Clients are networks, see `rates.network_of`.

    A client that has not failed itself waits but a little for what others do to its name: guessing would lock the rightful
    user out. Who has logged in from a network waits there for his own failures alone, neither for what others do to his name
    elsewhere, nor for a neighbour with an old password (behind one gateway, or on this machine, all are one client).
    """

    def __init__(self, *, delay_s: float, maximum_s: float, forget_s: float, clock: Callable[[], float]) -> None:
        self._delay_s = delay_s
        self._maximum_s = maximum_s
        self._forget_s = forget_s
        self._clock = clock
        self._clients: OrderedDict[str, _Line] = OrderedDict()  # silent longest first
        self._names: OrderedDict[int, _Line] = OrderedDict()
        self._pairs: OrderedDict[tuple[str, int], _Line] = OrderedDict()  # of those who are welcome
        self._welcome: OrderedDict[tuple[str, int], None] = OrderedDict()

    def is_free(self, name: str, client: str) -> bool:
        """Whether nobody has failed lately or is being checked who could hold this one up."""
        if not (self._clients or self._names or self._pairs):
            return True
        key = hash(name)
        if (client, key) in self._welcome:
            return (client, key) not in self._pairs
        return client not in self._clients and key not in self._names

    def enter(self, name: str, client: str, *, patience_s: float, changed: Callable[[], None]) -> Attempt:
        """`patience_s`: how long this client can wait at all."""
        now, key = self._clock(), hash(name)  # a name may be long
        lines: tuple[_Line, ...]
        if (client, key) in self._welcome:
            lines = (_line(self._pairs, (client, key), now - self._forget_s),)
        else:
            lines = self._both(client, key, now)
        attempt = Attempt(key, client, lines, now + min(patience_s, self._maximum_s), changed)
        for line in lines:
            line.waiting[attempt] = None
        return attempt

    def ask(self, attempt: Attempt) -> float:
        """0.0: begin. Else the seconds to ask again after, or when `changed` is called. Raises Crowded; `leave` it then too."""
        now = self._clock()
        wait = max(math.inf if line.busy else self._ready(line, attempt) - now for line in attempt.lines)
        if wait > 0:
            if now >= attempt.deadline or any(self._is_hopeless(attempt, line, now) for line in attempt.lines):
                raise Crowded
            return min(wait, attempt.deadline - now)
        for line in attempt.lines:
            del line.waiting[attempt]
            line.busy = True
        attempt.began = True
        return 0.0

    def leave(self, attempt: Attempt, *, good: bool | None = None) -> None:
        """`good`: whether the check said so; None when there was none."""
        if good:
            self._take_back(attempt)
        elif good is False:
            self._count(attempt)
        for line in attempt.lines:
            line.waiting.pop(attempt, None)
            if attempt.began:
                line.busy = False
                for other in line.waiting:
                    other.changed()
        self._tidy(self._clients, attempt.client)
        self._tidy(self._names, attempt.name)
        self._tidy(self._pairs, (attempt.client, attempt.name))

    def welcome(self, name: str, client: str) -> None:
        """This user has logged in from there."""
        _touch(self._welcome, (client, hash(name)), None)

    def delay(self, failures: int) -> float:
        """Seconds after so many failures."""
        return min(self._delay_s * 2.0 ** min(failures - 1, 64), self._maximum_s) if failures else 0.0

    def _ready(self, line: _Line, attempt: Attempt) -> float:
        delay = self.delay(line.failures)
        return line.last + (min(delay, self._delay_s * FOR_NEWCOMERS) if self._is_clean(attempt) else delay)

    def _is_clean(self, attempt: Attempt) -> bool:
        """A client that has not failed lately: the rightful user, perhaps, whose name others guess at."""
        return bool(attempt.lines[1:]) and not attempt.lines[0].failures

    def _is_hopeless(self, attempt: Attempt, line: _Line, now: float) -> bool:
        """Behind a failure everybody is expected to fail; without one, nobody is sent away."""
        if not line.failures or self._is_clean(attempt):
            return False
        before = list(line.waiting).index(attempt)
        if before >= MAX_WAITING:
            return True
        others = range(1, before + line.busy + 1)
        soonest = max(self._ready(line, attempt), now) + sum(self.delay(line.failures + other) for other in others)
        return soonest > attempt.deadline

    def _count(self, attempt: Attempt) -> None:
        """Against the client and the name, also of one who does not wait for them himself."""
        now = self._clock()
        client, name = attempt.lines if attempt.lines[1:] else self._both(attempt.client, attempt.name, now)
        _touch(self._clients, attempt.client, client)
        _touch(self._names, attempt.name, name)
        for line in {client: None, name: None, **dict.fromkeys(attempt.lines)}:
            line.failures += 1
            line.last = now
        if attempt.name in client.names or len(client.names) < MAX_NAMES:
            client.names[attempt.name] = client.names.get(attempt.name, 0) + 1

    def _take_back(self, attempt: Attempt) -> None:
        """Only what this user failed from this client: a login of one's own gives no more guesses at others."""
        _touch(self._welcome, (attempt.client, attempt.name), None)
        client = self._clients.get(attempt.client)
        own = client.names.pop(attempt.name, 0) if client else 0
        for line in (client, self._names.get(attempt.name)):
            if line:
                line.failures = max(line.failures - own, 0)
        if not attempt.lines[1:]:
            attempt.lines[0].failures = 0

    def _both(self, client: str, key: int, now: float) -> tuple[_Line, _Line]:
        long_ago = now - self._forget_s
        return _line(self._clients, client, long_ago), _line(self._names, key, long_ago)

    def _tidy(self, lines: OrderedDict[_K, _Line], key: _K) -> None:
        """This one goes when it holds nothing, and the oldest when they are forgotten."""
        line = lines.get(key)
        if line and not line.failures and _is_empty(line):
            del lines[key]
        long_ago = self._clock() - self._forget_s
        while lines and (first := next(iter(lines.values()))).last <= long_ago and _is_empty(first):
            lines.popitem(last=False)


def _line(lines: OrderedDict[_K, _Line], key: _K, long_ago: float) -> _Line:
    line = lines.get(key) or _Line()
    if line.last <= long_ago:
        line.failures = 0
        line.names.clear()
    _touch(lines, key, line)
    return line


def _is_empty(line: _Line) -> bool:
    return not line.busy and not line.waiting


def _touch(kept: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    """The newest now; the oldest makes room."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > MAX_LINES:
        kept.popitem(last=False)
