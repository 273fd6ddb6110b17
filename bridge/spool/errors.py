"""What SQLite's errors mean here. Foreign exceptions become ours in this place."""

from __future__ import annotations

import sqlite3

from bridge.spool.base import SpoolError, SpoolFull

# Trouble of the database or the disk, not of one job: running the jobs one by one would not help.
_SHARED = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
    }
)


def _code(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) if isinstance(error, sqlite3.Error) else 0


def no_room(error: BaseException) -> bool:
    """SQLITE_FULL is ENOSPC; a used-up quota and a file size limit come as IOERR_WRITE (os_unix.c, unixWrite)."""
    return _code(error) == sqlite3.SQLITE_IOERR_WRITE or _code(error) & 0xFF == sqlite3.SQLITE_FULL


def read_only(error: BaseException) -> bool:
    """The file system takes no writes any more (remounted after an error, commonly)."""
    return _code(error) & 0xFF == sqlite3.SQLITE_READONLY


def shared(error: BaseException) -> bool:
    return _code(error) & 0xFF in _SHARED


def as_spool_error(error: BaseException) -> Exception:
    """SQLite's texts name tables and columns, never values."""
    if isinstance(error, SpoolError | SpoolFull):
        return error
    if isinstance(error, sqlite3.Error):
        return SpoolError(f"spool: {error}")
    return SpoolError(f"spool: {type(error).__name__}")
