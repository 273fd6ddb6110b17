"""Threads beside the writer: a connection that only reads, and a small pool for body files."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from bridge.spool.base import SpoolError
from bridge.spool.errors import as_spool_error

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """Blocking work on files, away from the loop and from the writer."""

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        future = self._submit(function, *args, **kwargs)
        return await asyncio.wrap_future(future)

    def post(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Not waited for; `function` handles its own errors."""
        self._submit(function, *args, **kwargs)

    def _submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        try:
            return self._executor.submit(function, *args, **kwargs)
        except RuntimeError as error:
            raise SpoolError("the spool is closed") from error

    def close(self) -> None:
        self._executor.shutdown(wait=True)


class Reader:
    """One connection in its own thread: a long list keeps nobody waiting but the next list."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: str) -> None:
        self._connect = connect
        self._pool = Pool(name, 1)
        self._db: sqlite3.Connection | None = None

    async def run(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._pool.run(lambda: self._call(lambda db: function(db, *args, **kwargs)))

    def _call(self, function: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._db is None:
                self._db = self._connect()
            return function(self._db)
        except sqlite3.Error as error:
            self._drop()
            raise as_spool_error(error) from error

    def _drop(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def close(self) -> None:
        self._pool.post(self._drop)
        self._pool.close()
