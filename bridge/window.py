"""A sliding window: never more than so many in any period of its length. Time is passed in, in seconds."""

from __future__ import annotations

from array import array

from bridge.units import Rate

SLICES = 200  # of a period: what was counted leaves at most 1/200 of it too late, and memory is bounded
_LONG_AGO = float("-inf")


class Window:
    """What came within 1/200 of a period is kept as one number, however large the count."""

    def __init__(self, count: int, period: float) -> None:
        self._count = count
        self._period = period
        self._ends = array("d")  # when each slice is a period old, oldest first
        self._numbers = array("L")  # how many in each
        self._began = _LONG_AGO  # of the newest slice
        self.total = 0

    @classmethod
    def of(cls, rate: Rate) -> Window:
        return cls(rate.count, rate.period)

    def room(self, now: float) -> int:
        self._forget(now)
        return max(self._count - self.total, 0)

    def wait(self, now: float, number: int = 1) -> float:
        """Seconds until there is room for so many; for more than fit at all, until the window is empty."""
        missing = min(number, self._count) - self.room(now)
        for end, count in zip(self._ends, self._numbers, strict=True):
            if missing <= 0:
                break
            missing -= count
            if missing <= 0:
                return end - now
        return 0.0

    def add(self, now: float, number: int = 1) -> None:
        if not self._ends or now - self._began >= self._period / SLICES:
            self._began = now
            self._ends.append(now + self._period)
            self._numbers.append(0)
        self._ends[-1] = now + self._period
        self._numbers[-1] += number
        self.total += number

    def give_back(self) -> None:
        """The newest one did not count; nothing happens when there is none any more."""
        if not self.total:
            return
        self.total -= 1
        self._numbers[-1] -= 1
        if not self._numbers[-1]:
            del self._ends[-1], self._numbers[-1]
            self._began = _LONG_AGO

    def idle(self, now: float) -> bool:
        """Whether a new one would be the same."""
        return not self._ends or self._ends[-1] <= now

    def _forget(self, now: float) -> None:
        old = 0
        while old < len(self._ends) and self._ends[old] <= now:
            self.total -= self._numbers[old]
            old += 1
        if old:
            del self._ends[:old], self._numbers[:old]
