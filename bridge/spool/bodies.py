"""Bodies too large for a row: files PATH.d/xx/QUEUE-ID, complete and fsynced before their row is written.

A file is written under a `.tmp` name, fsynced and renamed, and its directory is fsynced; so a row never names a file that
a crash could have left half written. What a crash leaves over is a file without a row; `sweep` removes it.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from bridge.block import filled
from bridge.spool.base import SpoolError, SpoolFull

PIECE = 96 * 1024  # octets that are read at a time; whole groups of three, as base64 has them
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
BESIDE_S = 3600.0  # so long at most lies between a file that another process writes and its row
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


class BodyLost(Exception):
    """The file is missing, or is not what was written."""


class Stored:
    """A body to be read, until `close`, whatever becomes of the message meanwhile."""

    def __init__(self, body: IO[bytes] | bytes, size: int) -> None:
        self.size = size
        self._body = body

    @property
    def held(self) -> int:
        """Octets of it that are in memory."""
        return len(self._body) if isinstance(self._body, bytes) else 0

    def pieces(self, most: int = sys.maxsize) -> Iterator[bytes]:
        """Its first octets, at most so many. Blocks; raises OSError."""
        position, end = 0, min(self.size, most)
        while position < end:
            wanted = min(PIECE, end - position)
            if isinstance(self._body, bytes):
                piece = self._body[position : position + wanted]
            else:
                piece = os.pread(self._body.fileno(), wanted, position)
            if not piece:
                raise OSError(errno.EIO, "the file is shorter than what was written")
            position += len(piece)
            yield piece

    def close(self) -> None:
        if isinstance(self._body, bytes):
            self._body = b""
        else:
            self._body.close()


class Bodies:
    """All methods block: they run in a thread pool."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, queue_id: str, raw: bytes, *, beside: bool = False) -> int:
        """Write durably; returns the CRC. Raises SpoolFull, SpoolError.

        `beside`: by another process than the daemon, perhaps another user's: see `_write_beside`.
        """
        path = self._path(queue_id)
        if path.exists():  # never touched: it may be the body of a message we have answered for
            raise SpoolError(f"{queue_id} is in the spool already")
        try:
            self._make_directory(path.parent)
            if beside:
                self._write_beside(path, raw)
            else:
                _write_file(path, raw)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise SpoolFull("no room for another message") from error
            raise SpoolError(f"cannot write a body file: {error.strerror}") from error
        return zlib.crc32(raw)

    def _write_beside(self, path: Path, raw: bytes) -> None:
        """The sweep of a daemon that starts before the row is there passes over it, and root's files are the daemon's."""
        _write_file(path, raw, at=time.time() + BESIDE_S)
        owner = os.stat(self.root.parent / self.root.name.removesuffix(".d"))
        if os.geteuid() == 0:
            for place in (self.root, path.parent, path):
                os.chown(place, owner.st_uid, owner.st_gid)

    def read(self, queue_id: str, size: int, crc: int | None) -> bytes:
        """Raises BodyLost."""
        try:
            raw = _read_file(self._path(queue_id))
        except OSError as error:
            raise BodyLost(f"body file: {error.strerror}") from error
        if len(raw) != size or zlib.crc32(raw) != crc:
            raise BodyLost("body file is damaged")
        return raw

    def open(self, queue_id: str, size: int, crc: int | None) -> Stored:
        """To be read piece by piece, once it is known to be what was written. Raises BodyLost."""
        try:
            stored = Stored(self._path(queue_id).open("rb", buffering=0), size)
        except OSError as error:
            raise BodyLost(f"body file: {error.strerror}") from error
        try:
            found = read = 0
            for piece in stored.pieces():
                found, read = zlib.crc32(piece, found), read + len(piece)
        except OSError as error:
            stored.close()
            raise BodyLost(f"body file: {error.strerror}") from error
        if found != crc or read != size:
            stored.close()
            raise BodyLost("body file is damaged")
        return stored

    def remove(self, queue_ids: Iterable[str]) -> None:
        """What cannot be removed now is a file without a row, which the next start removes."""
        for queue_id in queue_ids:
            try:
                self._path(queue_id).unlink(missing_ok=True)
            except OSError:
                continue

    def sweep(self, known: frozenset[str], before: float) -> int:
        """Remove files that no row names and half-written ones, if older than `before`; returns how many."""
        removed = 0
        for path in self._files():
            if path.name not in known and path.stat().st_mtime <= before:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _files(self) -> Iterator[Path]:
        if self.root.is_dir():
            for directory in self.root.iterdir():
                if directory.is_dir():
                    yield from list(directory.iterdir())

    def _path(self, queue_id: str) -> Path:
        if not _NAME.fullmatch(queue_id):
            raise SpoolError("a queue id with a body file must be letters and digits")
        return self.root / queue_id[-2:] / queue_id

    def _make_directory(self, directory: Path) -> None:
        if not directory.is_dir():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
            _sync_directory(self.root.parent)
            _sync_directory(self.root)


def _write_file(path: Path, raw: bytes, at: float | None = None) -> None:
    """`at`: the time it is to have; else now."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb", opener=_private) as file:
            file.write(raw)
            file.flush()
            if at is not None:
                os.utime(file.fileno(), (at, at))
            os.fsync(file.fileno())
        temporary.rename(path)
        _sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise


def _read_file(path: Path) -> bytes:
    with open(path, "rb", buffering=0) as file:

        def fill(view: memoryview) -> None:
            while view and (there := file.readinto(view)):
                view = view[there:]

        return filled(os.fstat(file.fileno()).st_size, fill)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
