"""Queue ids: short, unique, sorted by time, letters and digits only (as Postfix's long queue ids)."""

from __future__ import annotations

import os
import threading
import time

# Crockford's base 32: ASCII order is numeric order, and no I, L, O or U to be misread.
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high in _DIGITS for low in _DIGITS)
LENGTH = 16
_RANDOM_BITS = 25
# As int(..., 32) has the digits; what is none of ours is none of its either.
_AS_PYTHON = dict.fromkeys(range(128), "!") | dict(
    zip(map(ord, _DIGITS), "0123456789abcdefghijklmnopqrstuv", strict=True)
)
_SHIFTS = range(70, -1, -10)

_lock = threading.Lock()
_last = 0
_pool = b""  # random octets that are still to be used: asking the kernel for a few costs as much as for many


def new_queue_id() -> str:
    """16 characters: 55 bits of microseconds, never twice the same in one process, and 25 random bits against others."""
    global _last, _pool
    with _lock:
        _last = max(time.time_ns() // 1000, _last + 1)
        _pool = _pool[4:] or os.urandom(1024)
        micros, chance = _last, int.from_bytes(_pool[:4], "big")
    number = micros << _RANDOM_BITS | chance >> (32 - _RANDOM_BITS)
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


def id_at(seconds: float) -> str:
    """The least queue id of this moment: those given earlier are less, those given later are more."""
    number = max(0, min(int(seconds * 1e6), (1 << 55) - 1)) << _RANDOM_BITS
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


def time_of(queue_id: str) -> float | None:
    """When it was given, in seconds since the epoch; None for what is no queue id of ours."""
    if len(queue_id) != LENGTH or not queue_id.isascii():
        return None
    try:
        return (int(queue_id.translate(_AS_PYTHON), 32) >> _RANDOM_BITS) / 1e6
    except ValueError:
        return None
