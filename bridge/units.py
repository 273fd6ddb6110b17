"""Units as people write them in the settings: durations, sizes and rates. Each parser has its inverse.

The texts of the errors never repeat the input: a secret pasted into the wrong key must not end up in a log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

# Largest first: the inverse takes the first unit that divides without a rest.
_SECONDS = {"d": Decimal(86400), "h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_OCTETS = {
    "TiB": 1024**4,
    "TB": 1000**4,
    "GiB": 1024**3,
    "GB": 1000**3,
    "MiB": 1024**2,
    "MB": 1000**2,
    "KiB": 1024,
    "kB": 1000,
    "B": 1,
}
_UNIT_OF_SIZE = {unit.lower(): octets for unit, octets in _OCTETS.items()}
# Ten years: far above any sensible setting, and far below where adding it to a date overflows.
MAX_DURATION_S = 3650 * 86400

DURATION_PATTERN = r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)"
SIZE_PATTERN = r"([0-9]+(?:\.[0-9]+)?) ?([KkMmGgTt]?[Ii]?[Bb])?"
RATE_PATTERN = r"([1-9][0-9]{0,8})/([smhd])"


def parse_duration(text: str) -> float:
    """`"20s" "5m" "2h" "7d" "500ms" "0"` -> seconds. Raises ValueError."""
    if text.strip() == "0":
        return 0.0
    match = re.fullmatch(DURATION_PATTERN, text.strip())
    if not match:
        raise ValueError('not a duration; write a number and its unit: "500ms", "20s", "5m", "2h" or "7d"')
    seconds = Decimal(match[1]) * _SECONDS[match[2]]
    if seconds > MAX_DURATION_S:
        raise ValueError("this duration is longer than ten years")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` turns back into `seconds`."""
    exact = Decimal(repr(seconds))
    for unit, length in _SECONDS.items():
        if exact and exact % length == 0:
            return f"{int(exact / length)}{unit}"
    return f"{exact.normalize():f}s"


def parse_size(text: str) -> int:
    """`"25MiB" "500MB" "10 GiB" "0"` -> octets; a bare number is octets. Raises ValueError."""
    match = re.fullmatch(SIZE_PATTERN, text.strip())
    octets = Decimal(match[1]) * _UNIT_OF_SIZE.get((match[2] or "B").lower(), 0) if match else None
    if match is None or octets is None or (octets == 0 and Decimal(match[1])):
        raise ValueError('not a size; write a number and its unit: "256KiB", "25MiB", "500MB" or "10GiB"')
    if octets != int(octets):
        raise ValueError("this size is not a whole number of octets")
    if octets >= 2**63:
        raise ValueError("this size is larger than any disk")
    return int(octets)


def format_size(octets: int) -> str:
    """The shortest text that `parse_size` turns back into `octets`."""
    if octets == 0:
        return "0"
    candidates = (f"{octets // size}{unit}" for unit, size in _OCTETS.items() if octets % size == 0)
    return min(candidates, key=len)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` things per `unit` (s, m, h, d)."""

    count: int
    unit: str

    def __str__(self) -> str:
        return f"{self.count}/{self.unit}"

    @property
    def period(self) -> float:
        """Seconds."""
        return float(_SECONDS[self.unit])


def parse_rate(text: str) -> Rate:
    """`"10/s" "100/h"` -> Rate. Raises ValueError."""
    match = re.fullmatch(RATE_PATTERN, text.strip())
    if not match:
        raise ValueError('not a rate; write a count and its period: "10/s", "600/m", "100/h" or "5000/d"')
    return Rate(int(match[1]), match[2])
