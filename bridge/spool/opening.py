"""Opening a SQLite spool: as its daemon, which owns it, or beside the daemon, as the CLI does."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bridge.spool import schema
from bridge.spool.base import SpoolError
from bridge.spool.bodies import Bodies
from bridge.spool.engine import Parts
from bridge.spool.entrance import past_operation
from bridge.spool.errors import no_room
from bridge.spool.history import History
from bridge.spool.intake import Retention
from bridge.spool.leases import void_leases
from bridge.spool.ownership import Bell, Lock
from bridge.spool.reader import Pool, Reader
from bridge.spool.space import RESERVE_BYTES, Space
from bridge.spool.sqlite import SqliteSpool
from bridge.spool.writer import Writer

FILE_THRESHOLD = 128 << 10


async def open_spool(
    path: Path | str,
    *,
    max_bytes: int,
    min_free: int,
    history_s: float,
    failed_s: float,
    file_threshold: int = FILE_THRESHOLD,
    owner: str,
    now: float,
    daemon: bool = True,
    reserve_bytes: int = RESERVE_BYTES,
) -> SqliteSpool:
    """Open PATH. Raises SpoolBusy when another daemon owns it, SpoolError when it cannot be used; the text says why.

    The daemon creates what is missing, voids all earlier leases (due at `now`), and removes what a crash left over.
    With `daemon=False` nothing is created, locked or voided, and no messages are to be claimed.
    """
    # Links are followed: what lies beside the file (lock, bodies, reserve) is the same by whatever name it is opened.
    path = Path(await asyncio.to_thread(os.path.realpath, path))
    space = Space(path, max_bytes=max_bytes, min_free=min_free, reserve_bytes=reserve_bytes)
    prepared = await asyncio.to_thread(_prepare, path, space, now, daemon)
    loop = asyncio.get_running_loop()
    writer = Writer(partial(schema.connect, path), space, loop)
    bell = Bell(path)
    connect = partial(_connect_reader, path)
    keep = Retention(history_s, failed_s)
    parts = Parts(
        writer=writer,
        reader=Reader(connect, "spool-reader"),
        loader=Reader(connect, "spool-loader"),
        searcher=Reader(connect, "spool-search"),
        history=History(writer, past_operation(keep), loop),
        bodies=prepared.bodies,
        pool=Pool("spool-body", 2),
        space=space,
        bell=bell,
        keep=keep,
        file_threshold=file_threshold,
    )
    spool = SqliteSpool(parts, lock=prepared.lock, owner=owner, generation=prepared.generation)
    writer.start()
    if daemon:
        try:
            bell.bind()
        except OSError as error:
            await spool.close()
            raise SpoolError(f"cannot bind the wake socket beside {path}: {error.strerror}") from error
        await spool.restore_numbers()
    return spool


@dataclass(frozen=True, slots=True)
class _Prepared:
    bodies: Bodies
    lock: Lock | None
    generation: int


def _prepare(path: Path, space: Space, now: float, daemon: bool) -> _Prepared:
    """Blocking. Every foreign exception becomes a SpoolError that names the path."""
    schema.check_library()
    try:
        return _as_owner(path, space, now) if daemon else _beside_owner(path)
    except sqlite3.Error as error:
        raise SpoolError(f"cannot open {path}: {error}") from error
    except OSError as error:
        raise SpoolError(f"cannot open {path}: {error.strerror}") from error


def _as_owner(path: Path, space: Space, now: float) -> _Prepared:
    started = time.time()  # against file times, whatever clock the queue runs by
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(path)
    try:
        schema.create_file(path)
        bodies = Bodies(path.with_name(path.name + ".d"))
        take_over = partial(_take_over, path, space, bodies, now, started)
        return _Prepared(bodies, lock, _despite_full_disk(take_over, space))
    except BaseException:
        lock.release()
        raise


def _despite_full_disk(take_over: Callable[[], int], space: Space) -> int:
    """Taking over writes a little; on a full disk the reserve of the last run makes that possible."""
    try:
        return take_over()
    except (sqlite3.Error, OSError) as error:
        if not (no_room(error) or isinstance(error, sqlite3.OperationalError)):
            raise
        space.give_back()
        return take_over()


def _take_over(path: Path, space: Space, bodies: Bodies, now: float, started: float) -> int:
    db = schema.connect(path)
    try:
        schema.migrate(db, path)
        db.execute("BEGIN IMMEDIATE")
        void_leases(db, now)
        (generation,) = db.execute(
            "UPDATE meta SET value = value + 1 WHERE name = 'generation' RETURNING value"
        ).fetchall()[0]
        db.execute("COMMIT")
        known = frozenset(row[0] for row in db.execute("SELECT queue_id FROM message WHERE body = 'file'"))
        bodies.sweep(known, started)
        space.look(db)
    finally:
        db.close()
    return int(generation)


def _beside_owner(path: Path) -> _Prepared:
    if not path.exists():
        raise SpoolError(f"there is no spool at {path}")
    db = schema.connect(path)
    try:
        schema.check_version(db, path)
    finally:
        db.close()
    return _Prepared(Bodies(path.with_name(path.name + ".d")), None, 0)


def _connect_reader(path: Path) -> sqlite3.Connection:
    db = schema.connect(path, read_only=True)
    db.row_factory = sqlite3.Row
    return db
