"""How fast a provider may be used: what the settings allow, and what it taught us. Rules only; the time is passed in.

`rate`, `call_rate` and the caps are exact: never more than so many in any period of that length. What a provider says (a 429,
its headers) stops it for so long; a 429 also spaces the calls, until enough of them went well.
"""

from __future__ import annotations

import calendar
import time
from dataclasses import dataclass

from bridge.units import Rate
from bridge.window import Window

_OBSERVED_S = 10.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_FIRST_SPACING_S = 1.0  # at most: few calls may meet a limit of another kind
_LONGEST_SPACING_S = 10.0
_RECOVERY = 0.97  # of the spacing is left after each call that went well
_NO_SPACING_S = 0.001
MAX_TOLD_S = 3600.0  # a header that asks for more is not about a rate


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitPolicy:
    """0 and None: no limit. `warmup`: messages on the first day, doubling daily."""

    rate: Rate | None = None
    call_rate: Rate | None = None
    max_per_day: int = 0
    max_per_month: int = 0
    warmup: Rate | None = None


@dataclass(slots=True)
class Counted:
    """What was sent on a day and in a month (UTC), and the first day of a warm-up ("" before it). Kept over a restart."""

    day: str = ""
    today: int = 0
    month: str = ""
    this_month: int = 0
    warmup_since: str = ""

    def text(self) -> str:
        return f"{self.day} {self.today} {self.month} {self.this_month} {self.warmup_since or '-'}"

    @classmethod
    def parse(cls, text: str) -> Counted:
        """Nothing counted for what cannot be read."""
        try:
            day, today, month, this_month, since = text.split()
            return cls(day, int(today), month, int(this_month), "" if since == "-" else since)
        except ValueError:
            return cls()


class Limiter:
    """Ask `wait`; when it is 0, `take` before the call. Both are for the loop's thread alone."""

    def __init__(self, policy: LimitPolicy, counted: Counted | None = None) -> None:
        self.policy = policy
        self._limited = policy != LimitPolicy()
        self.counted = counted or Counted()
        self._messages = _window(policy.rate)
        self._calls = _window(policy.call_rate)
        self._observed = Window(10**9, _OBSERVED_S)
        self._paused_until = 0.0
        self._spacing = 0.0
        self._next_call = 0.0
        self._strikes = 0
        self._day_ends = 0.0  # until then the day that is counted has not changed

    @property
    def limits(self) -> bool:
        """Whether anything but the number of calls at once, or a pause, holds it back."""
        return self._limited or self._spacing > 0

    # --- before a call

    def room(self, now: float) -> int:
        """How many messages might go now; 0 while nothing may."""
        if self.wait(now) > 0:
            return 0
        rooms = [window.room(now) for window in (self._messages,) if window]
        rooms += [limit - used for limit, used in self._caps(now) if limit]
        if self._spacing:
            rooms.append(max(1, int(1 / self._spacing)))
        return min(rooms, default=10**9)

    def wait(self, now: float, messages: int = 1) -> float:
        """Seconds until another call with so many messages may be made; 0.0: now. More than a limit allows at all waits for
        an empty window."""
        if not self.limits:  # the most common case, several times for each message
            return max(0.0, self._paused_until - now)
        waits = [self._paused_until - now, self._next_call - now]
        if self._messages:
            waits.append(self._messages.wait(now, messages))
        if self._calls:
            waits.append(self._calls.wait(now))
        caps = self._caps(now)
        for (limit, used), end in zip(caps, (_day_end, _month_end), strict=True):
            if limit and used >= limit:
                waits.append(end(now) - now)
        return max(0.0, *waits)

    def take(self, now: float, messages: int = 1) -> None:
        """A call is made with so many messages."""
        self._turn_over(now)
        if self.policy.warmup and not self.counted.warmup_since:
            self.counted.warmup_since = self.counted.day
        self.counted.today += messages
        self.counted.this_month += messages
        if self._messages:
            self._messages.add(now, messages)
        if self._calls:
            self._calls.add(now)
        self._observed.add(now)
        if self._spacing:
            self._next_call = max(now, self._next_call) + self._spacing

    # --- what the provider taught us

    def congested(self, now: float, retry_after: float | None) -> None:
        """A 429. It stops for as long as was asked for, else for a while that grows; and calls are spaced."""
        if now < self._paused_until:
            return  # one of those that were under way: the same lesson
        self._strikes = min(self._strikes + 1, 16)
        pause = min(_FIRST_PAUSE_S * 2 ** (self._strikes - 1), _LONGEST_PAUSE_S)
        if retry_after is not None:
            pause = min(max(retry_after, _FIRST_PAUSE_S), MAX_TOLD_S)
        self._paused_until = now + pause
        self._observed.room(now)
        usual = min(_OBSERVED_S / max(self._observed.total, 1), _FIRST_SPACING_S)
        self._spacing = min(max(self._spacing * 2, usual), _LONGEST_SPACING_S)

    def went_well(self) -> None:
        self._strikes = 0
        self._spacing *= _RECOVERY
        if self._spacing < _NO_SPACING_S:
            self._spacing = 0.0

    def told(self, left: int, reset_s: float, now: float) -> None:
        """By the provider's headers: so many calls are left for so many seconds."""
        if left <= 0 < reset_s <= MAX_TOLD_S:
            self._paused_until = max(self._paused_until, now + reset_s)

    def hurry(self) -> None:
        """The operator wants it tried: a pause it asked for is over."""
        self._paused_until = 0.0

    def restore(self, counted: Counted) -> None:
        """What was counted before a restart."""
        self.counted, self._day_ends = counted, 0.0

    def inherit(self, other: Limiter) -> None:
        """What another counted and learned with the same provider before a reload."""
        self.counted, self._day_ends = other.counted, 0.0
        self._paused_until, self._spacing = other._paused_until, other._spacing
        if self.policy.rate == other.policy.rate:
            self._messages = other._messages
        if self.policy.call_rate == other.policy.call_rate:
            self._calls = other._calls

    @property
    def paused_until(self) -> float:
        return self._paused_until

    # --- caps

    def _caps(self, now: float) -> tuple[tuple[int, int], tuple[int, int]]:
        """(limit, used) of the day and of the month."""
        self._turn_over(now)
        counted = self.counted
        return (self.day_limit(now), counted.today), (self.policy.max_per_month, counted.this_month)

    def day_limit(self, now: float) -> int:
        """0: none."""
        limits = [self.policy.max_per_day] if self.policy.max_per_day else []
        if self.policy.warmup:
            since = self.counted.warmup_since or _day(now)
            days = max(0, round((_noon(_day(now)) - _noon(since)) / 86400))
            full = self.policy.rate.count * 86400 / self.policy.rate.period if self.policy.rate else 10**12
            warm = self.policy.warmup.count << min(days, 40)
            if warm < full:
                limits.append(warm)
        return min(limits, default=0)

    def _turn_over(self, now: float) -> None:
        if self._day_ends - 86400 <= now < self._day_ends:
            return
        self._day_ends = _day_end(now)
        counted, day = self.counted, _day(now)
        if counted.day != day:
            counted.day, counted.today = day, 0
        if counted.month != day[:7]:
            counted.month, counted.this_month = day[:7], 0


def _window(rate: Rate | None) -> Window | None:
    return Window.of(rate) if rate else None


def _day(now: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(now))


def _noon(day: str) -> float:
    year, month, date = map(int, day.split("-"))
    return _seconds(year, month, date) + 43200


def _day_end(now: float) -> float:
    return (now // 86400 + 1) * 86400


def _month_end(now: float) -> float:
    t = time.gmtime(now)
    return _seconds(t.tm_year + t.tm_mon // 12, t.tm_mon % 12 + 1, 1)


def _seconds(year: int, month: int, date: int) -> float:
    return float(calendar.timegm((year, month, date, 0, 0, 0)))
