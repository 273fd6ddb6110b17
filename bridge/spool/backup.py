"""A copy of a spool while its daemon runs: the database as it is at one moment, and every body file that it names.

`VACUUM INTO` reads one snapshot, keeps no writer waiting, and leaves out what was deleted. Body files are copied before, and
those that have come since afterwards; where one has gone meanwhile, the snapshot is taken anew. The copy gets its name last:
the directory when there is none yet, else (it may be a mount point, which nothing can be renamed to) the database within it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bridge.spool import schema
from bridge.spool.base import SpoolError
from bridge.spool.leases import void_leases

TRIES = 5


@dataclass(frozen=True, slots=True)
class Copied:
    """`messages`: with a body, so that wait or may be retried. `lost`: whose body file was not in the spool either."""

    messages: int
    octets: int
    lost: tuple[str, ...]


def back_up(path: Path, directory: Path) -> Copied:
    """Blocking. `directory` must not be there, or be empty. The copy has the spool's name, and the schema that it has now.

    Raises SpoolError, OSError, sqlite3.Error; then nothing is left of the copy.
    """
    schema.check_library()
    path, directory = Path(os.path.realpath(path)), Path(os.path.realpath(directory))
    if not path.exists():
        raise SpoolError(f"there is no spool at {path}")
    there = directory.exists()
    if there and any(place.name != "lost+found" for place in directory.iterdir()):  # which a new file system has
        raise SpoolError(f"{directory} is not empty")
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = (directory if there else directory.parent) / f".{directory.name}.{os.getpid()}.tmp"
    staging.mkdir(mode=0o700)
    try:
        copied = _copy(path, staging / path.name)
        _sync_all(staging)
        if there:
            _move_into(directory, staging, path.name)
        else:
            staging.rename(directory)
            _sync(directory.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return copied


def _move_into(directory: Path, staging: Path, name: str) -> None:
    """The database last: where it is, all is. Raises OSError; then what was moved is gone."""
    bodies = _bodies(staging / name)
    try:
        if bodies.exists():
            bodies.rename(directory / bodies.name)
            _sync(directory)
        (staging / name).rename(directory / name)
        staging.rmdir()
        _sync(directory)
    except BaseException:
        (directory / name).unlink(missing_ok=True)
        shutil.rmtree(directory / bodies.name, ignore_errors=True)
        raise


def _copy(path: Path, target: Path) -> Copied:
    source, bodies = _bodies(path), _bodies(target)
    for file in _files(source):
        _copy_body(file, bodies)
    for _ in range(TRIES):
        named = _snapshot(path, target)
        lost = tuple(name for name in named if not _bring(name, source, bodies))
        if not lost:
            break
    for file in list(_files(bodies)):
        if file.name not in named:
            file.unlink()
    with closing(sqlite3.connect(target)) as db:
        (messages,) = db.execute("SELECT count(*) FROM message WHERE body <> ''").fetchone()
    octets = sum(file.stat().st_size for file in [target, *_files(bodies)])
    return Copied(messages, octets, lost)


def _snapshot(path: Path, target: Path) -> frozenset[str]:
    """The queue ids whose bodies are files."""
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(schema.connect(path)) as db:
        schema.check_version(db, path, allow_older=True)
        db.execute("VACUUM INTO ?", (str(target),))
    with closing(sqlite3.connect(target)) as db, db:
        void_leases(db, time.time())  # nobody holds them there, and the operator can hold all that waits
        return frozenset(row[0] for row in db.execute("SELECT queue_id FROM message WHERE body = 'file'"))


def _bring(name: str, source: Path, bodies: Path) -> bool:
    """False when it is nowhere: the message is over by now, or its body was lost."""
    place = Path(name[-2:]) / name
    return (bodies / place).exists() or _copy_body(source / place, bodies)


def _copy_body(file: Path, bodies: Path) -> bool:
    target = bodies / file.parent.name / file.name
    for place in (bodies, target.parent):
        place.mkdir(mode=0o700, exist_ok=True)
    try:
        shutil.copyfile(file, target)  # never a link: a copy shares no block with what it is a copy of
    except FileNotFoundError:
        return False
    target.chmod(0o600)
    return True


def _files(bodies: Path) -> Iterator[Path]:
    return (file for file in bodies.glob("*/*") if file.suffix != ".tmp")


def _bodies(path: Path) -> Path:
    return path.with_name(path.name + ".d")


def _sync_all(directory: Path) -> None:
    for place in directory.rglob("*"):
        _sync(place)
    _sync(directory)


def _sync(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
