"""Room on the disk: the floor, the size limit and the reserve. Used by the writer thread; `full` is read anywhere.

On a full file system a WAL database fails not only INSERT but UPDATE, DELETE and checkpoint. So accepting must stop
before recording does. First, what is accepted must fit twice, in the WAL and in the database, with what the WAL already
holds. Second, when somebody else fills the disk and SQLite finds no room, a preallocated file is given back, which lets
outcomes and deletions succeed; nothing is accepted until there is room to make it again. The reserve is larger than the
WAL may be (schema.CHECKPOINT_PAGES and one batch, writer.BATCH_BYTES), or the WAL could never be emptied.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

import structlog

CHECK_S = 1.0
RESERVE_BYTES = 4 << 20
_ROOM_WITHOUT_RESERVE = 1 << 20

log = structlog.get_logger()


class Space:
    def __init__(self, path: Path, *, max_bytes: int, min_free: int, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._directory = path.parent
        self._reserve = path.with_name(path.name + ".reserve")
        self._wal = path.with_name(path.name + "-wal")
        self._max_bytes = max_bytes
        self._min_free = min_free
        self._reserve_bytes = reserve_bytes
        self._checked_at = float("-inf")
        self._exhausted = False
        self._free = 0
        self._reusable = 0
        self._in_wal = 0
        self._added = 0  # bytes accepted since the last look
        self.used = 0
        self.full = False
        self._files = 0  # octets of body files since the last look
        self._writing = 0  # of these, without a committed row
        self._counting = threading.Lock()  # files are reserved on the loop's thread, rows admitted on the writer's

    @property
    def fresh(self) -> bool:
        return time.monotonic() - self._checked_at < CHECK_S

    def refresh(self, db: sqlite3.Connection) -> None:
        """Look again, unless that was a moment ago. Raises sqlite3.Error, OSError."""
        if not self.fresh:
            self.look(db)

    def look(self, db: sqlite3.Connection) -> None:
        self._free = self.disk_free()
        self._in_wal = _size(self._wal)
        self._reusable = reusable_bytes(db)
        self.used = used_bytes(db)
        with self._counting:
            self._added = 0
            self._files = self._writing  # those whose rows the database does not know yet
        if not self._reserve_there():
            self._make_reserve()
        self._note(self._exhausted or not self._fits(0))
        self._checked_at = time.monotonic()

    def admit(self, size: int) -> bool:
        """Whether another `size` bytes may be accepted; they are counted until the next look."""
        with self._counting:
            if not self.has_room(size):
                return False
            self._added += size
            return True

    def reserve_file(self, size: int) -> bool:
        """Whether a body file of `size` bytes may be written; it is counted from now on, until `settle_file` and a look."""
        with self._counting:
            if not (self.has_room(size) and self._free - self._files - size >= self._min_free):
                return False
            self._files += size
            self._writing += size
            return True

    def settle_file(self, size: int, *, kept: bool) -> None:
        """The file's row is committed, or there will be none; the next look finds what there is."""
        with self._counting:
            self._writing -= size
            if not kept:
                self._files -= size

    def has_room(self, size: int) -> bool:
        return not self.full and self._fits(size)

    def give_back(self) -> None:
        """SQLite found no room: free the reserve, and accept nothing until it can be made again."""
        self._exhausted = True
        self._note(True)
        self._checked_at = time.monotonic()
        try:
            self._reserve.unlink(missing_ok=True)
        except OSError:  # a read-only file system, for instance: there is nothing to be gained there
            pass

    def _fits(self, size: int) -> bool:
        """Free pages of the database are room: it never shrinks, and would stay full when it has been drained."""
        added = self._added + size
        left = self._free + self._reusable - self._in_wal - 2 * added - self._files
        return left >= self._min_free and self.used + added + self._files <= self._max_bytes

    def _note(self, full: bool) -> None:
        if full != self.full:
            self.full = full
            write = log.error if full else log.info
            write("spool.full" if full else "spool.room", free=self._free, used=self.used)

    def disk_free(self) -> int:
        """Octets. Raises OSError."""
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize

    def _reserve_there(self) -> bool:
        if not self._reserve_bytes:
            return not self._exhausted
        return _size(self._reserve) >= self._reserve_bytes

    def _make_reserve(self) -> None:
        """Only where as much again is left: a reserve that takes the last byte would be given back at once."""
        need = self._reserve_bytes or _ROOM_WITHOUT_RESERVE
        self._exhausted = self._free < need or self._free + self._reusable < 2 * need
        if self._exhausted or not self._reserve_bytes:
            return
        try:
            _allocate(self._reserve, self._reserve_bytes)
            self._free = self.disk_free()
        except OSError:
            self._exhausted = True


def _allocate(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def used_bytes(db: sqlite3.Connection) -> int:
    """Pages in use and body files."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (page_size,) = db.execute("PRAGMA page_size").fetchone()
    (files,) = db.execute("SELECT value FROM meta WHERE name = 'file_bytes'").fetchone()
    return int(pages * page_size + files) - reusable_bytes(db)


def reusable_bytes(db: sqlite3.Connection) -> int:
    (unused,) = db.execute("PRAGMA freelist_count").fetchone()
    (page_size,) = db.execute("PRAGMA page_size").fetchone()
    return int(unused * page_size)
