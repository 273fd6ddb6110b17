"""Many rows in one statement.

Every step of a statement gives up Python's lock and has to win it back from a busy event loop, so a batch of n rows
costs a few statements with many VALUES instead of n. The widths are powers of two, so that few statements are prepared.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

Row = tuple[Any, ...]
_WIDEST = 64


def insert(db: sqlite3.Connection, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    for part in parts(rows):
        db.execute(_insert_sql(table, tuple(columns), len(part)), list(chain.from_iterable(part)))


@functools.cache
def _insert_sql(table: str, columns: tuple[str, ...], count: int) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {placeholders(len(columns), count)}"  # noqa: S608 our names


@functools.cache
def placeholders(width: int, count: int) -> str:
    row = f"({', '.join('?' * width)})"
    return ", ".join([row] * count)


def parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """`rows` cut into pieces of 64, 32, 16 ... 1."""
    start, left = 0, len(rows)
    while left:
        size = min(_WIDEST, 1 << left.bit_length() - 1)
        yield rows[start : start + size]
        start, left = start + size, left - size
