"""Queue ids: short, unique, sorted by time, letters and digits only (as Postfix's long queue ids)."""

from __future__ import annotations

import os
import threading
import time

# Crockford's base 32: ASCII order is numeric order, and no I, L, O or U to be misread.
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high in _DIGITS for low in _DIGITS)
_RANDOM_BITS = 25
_SHIFTS = range(70, -1, -10)

_lock = threading.Lock()
_last = 0


def new_queue_id() -> str:
    """16 characters: 55 bits of microseconds, never twice the same in one process, and 25 random bits against others."""
    global _last
    with _lock:
        _last = max(time.time_ns() // 1000, _last + 1)
        micros = _last
    number = micros << _RANDOM_BITS | int.from_bytes(os.urandom(4), "big") >> (32 - _RANDOM_BITS)
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])
