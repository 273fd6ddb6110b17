"""`queue export --all DIR` and `queue import DIR`: the queue as files, ID.eml and ID.json, to be kept or to be moved.

A message is there when its .json is: it is written after the .eml, and both only when they are whole.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import typer

from bridge.cli.common import counted, fail, settings_or_exit, tell, warn
from bridge.cli.exits import EX_CANTCREAT, EX_DATAERR, EX_NOINPUT, EX_UNAVAILABLE
from bridge.cli.files import empty_directory, sync, write_new
from bridge.cli.progress import Work, end_if_cut_short
from bridge.cli.screen import size
from bridge.cli.spool import with_spool
from bridge.config.load import load_spool_settings
from bridge.spool.backup import back_up
from bridge.spool.base import SpoolError, SpoolFull
from bridge.spool.portable import NotPortable, Portable, parse
from bridge.spool.sqlite import SqliteSpool

KNOWN_AT_ONCE = 500


@dataclass(slots=True)
class Exported:
    """`skipped`: not written, since an attempt was running (with hold), it was finished meanwhile, or its body is lost."""

    messages: int = 0
    recipients: int = 0
    in_doubt: int = 0
    skipped: list[str] = field(default_factory=list)


async def export_all(spool: SqliteSpool, directory: Path, work: Work, *, hold: bool) -> Exported:
    """Raises OSError: also when the directory is not empty."""
    empty_directory(directory)
    done = Exported()
    with work:
        for (queue_id,) in work.steps(await spool.portable_ids(), size=1):
            found = await (_held(spool, queue_id) if hold else spool.take_out(queue_id))
            if found is None:
                done.skipped.append(queue_id)
                continue
            message, raw = found
            write_new(directory / f"{queue_id}.eml", raw)
            write_new(directory / f"{queue_id}.json", message.model_dump_json(indent=1).encode() + b"\n")
            sync(directory)
            done.messages += 1
            done.recipients += sum(one.waits for one in message.recipients)
            done.in_doubt += sum(one.waits and one.in_doubt for one in message.recipients)
    return done


async def _held(spool: SqliteSpool, queue_id: str) -> tuple[Portable, bytes] | None:
    """On hold from now on here; as it was before there. None while somebody of it is being tried."""
    row = await spool.show(queue_id)
    if row is None or _running(row):
        return None
    blocked = {
        one["address"]: one["blocked_at"] for one in row["recipients"] if one["status"] in ("queued", "deferred")
    }
    await spool.hold([queue_id], now=time.time())
    row = await spool.show(queue_id)
    found = await spool.take_out(queue_id)
    if row is None or found is None or _running(row):
        return None
    message, raw = found
    recipients = tuple(
        one.model_copy(update={"status": "deferred" if one.attempts else "queued", "blocked_at": blocked[one.address]})
        if one.status == "held" and one.address in blocked
        else one
        for one in message.recipients
    )
    return message.model_copy(update={"recipients": recipients}), raw


def _running(row: Any) -> bool:
    now = time.time()
    return any(one["leased_until"] is not None and one["leased_until"] > now for one in row["recipients"])


@dataclass(slots=True)
class Imported:
    """Queue ids but for `broken`: name -> what is wrong with it. `present`: in the spool already; `over`: nothing is to be done
    for them; `late`: brought in, and beyond their lifetime. `stopped`: why the rest was not tried."""

    messages: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    stopped: str = ""


async def import_all(spool: SqliteSpool, directory: Path, work: Work, *, dry_run: bool) -> Imported:
    """All of it is read and checked before anything is brought in. Raises OSError when the directory cannot be read."""
    done = Imported()
    now = time.time()
    wanted = list(_checked(directory, done))
    known = await _known(spool, [message.queue_id for message in wanted])
    with work, _until_full(done):
        for (message,) in work.steps(wanted, size=1):
            if message.queue_id in known:
                done.present.append(message.queue_id)
            elif not (message.open or message.failed):
                done.over.append(message.queue_id)
            elif dry_run or await _bring_in(spool, directory, message, done, now):
                done.messages.append(message.queue_id)
                if message.late(now):
                    done.late.append(message.queue_id)
    return done


@contextmanager
def _until_full(done: Imported) -> Iterator[None]:
    try:
        yield
    except SpoolFull as error:
        done.stopped = str(error)


def _checked(directory: Path, done: Imported) -> Iterator[Portable]:
    names = sorted(
        path.name for path in directory.iterdir() if path.suffix in (".json", ".eml") and path.name[0] != "."
    )
    for stem in dict.fromkeys(name.rpartition(".")[0] for name in names):
        try:
            yield _read(directory, stem)[0]
        except NotPortable as error:
            done.broken[stem] = str(error)


def _read(directory: Path, stem: str) -> tuple[Portable, bytes]:
    """Raises NotPortable."""
    try:
        message, raw = parse((directory / f"{stem}.json").read_bytes()), (directory / f"{stem}.eml").read_bytes()
    except OSError as error:
        raise NotPortable(f"{Path(str(error.filename)).name}: {error.strerror}") from error
    if message.queue_id != stem:
        raise NotPortable(f"it is the message {message.queue_id}")
    message.check_raw(raw)
    return message, raw


async def _known(spool: SqliteSpool, queue_ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(queue_ids), KNOWN_AT_ONCE):
        found |= await spool.known(queue_ids[start : start + KNOWN_AT_ONCE])
    return found


async def _bring_in(spool: SqliteSpool, directory: Path, message: Portable, done: Imported, now: float) -> bool:
    """The mail is read once more: not all of them are kept in memory."""
    try:
        _, raw = _read(directory, message.queue_id)
        brought = await spool.bring_in(message, raw, now=now)
    except (NotPortable, SpoolError) as error:
        done.broken[message.queue_id] = str(error)
        return False
    if not brought:
        done.present.append(message.queue_id)
    return brought


def tell_export(done: Exported) -> None:
    for queue_id in done.skipped:
        warn(f"{queue_id} was left: it is being tried at this moment, is over by now, or has lost its body")
    if done.in_doubt:
        warn(
            f"{counted(done.in_doubt, 'recipient')} being tried at that moment: they may get it twice where it is imported"
        )


def tell_import(done: Imported, *, dry_run: bool) -> str:
    """What went wrong or is odd, line by line; returns the sentence."""
    for name, why in done.broken.items():
        warn(f"{name} is broken: {why}")
    for queue_id in done.present:
        warn(f"{queue_id} was left out: it is in this queue already")
    for queue_id in done.over:
        warn(f"{queue_id} was left out: nobody of it waits")
    for queue_id in done.late:
        warn(f"{queue_id} is beyond its lifetime: after one more attempt it is returned to its sender")
    if done.stopped:
        warn(f"stopped: {done.stopped}")
    verb = "would be imported" if dry_run else "imported"
    return f"{counted(len(done.messages), 'message')} {verb}"


# --- the commands


def run_export(config: str, directory: Path, hold: bool, as_json: bool) -> None:
    work = Work("exporting")
    try:
        done = with_spool(config, lambda spool: export_all(spool, directory, work, hold=hold))
    except OSError as error:
        fail(f"cannot write to {error.filename or directory}: {error.strerror}", EX_CANTCREAT)
    tell_export(done)
    held = ", held here" if hold else ""
    sentence = f"{counted(done.messages, 'message')} in {directory}{held}"
    facts = {"messages": done.messages, "recipients": done.recipients, "left": done.skipped, "held": hold}
    if not work.cut_short:
        tell({**facts, "directory": str(directory)}, sentence, as_json)
    end_if_cut_short(work, sentence)
    if done.skipped:
        raise typer.Exit(1)


def run_import(config: str, directory: Path, dry_run: bool, as_json: bool) -> None:
    """Exit status 65 when something in the directory is broken; the rest is brought in all the same."""
    work = Work("importing")
    try:
        done = with_spool(config, lambda spool: import_all(spool, directory, work, dry_run=dry_run), grows=True)
    except OSError as error:
        fail(f"cannot read {error.filename or directory}: {error.strerror}", EX_NOINPUT)
    sentence = tell_import(done, dry_run=dry_run)
    if not work.cut_short:
        tell({**asdict(done), "dry_run": dry_run}, sentence, as_json)
    end_if_cut_short(work, sentence)
    if done.stopped:
        raise typer.Exit(EX_UNAVAILABLE)
    if done.broken:
        raise typer.Exit(EX_DATAERR)


def run_backup(config: str, directory: Path, as_json: bool) -> None:
    """Exit status 1 when a body that should be there is not."""
    path = settings_or_exit(config, load_spool_settings).spool_path
    try:
        copied = back_up(path, directory)
    except SpoolError as error:
        fail(str(error), EX_UNAVAILABLE)
    except OSError as error:
        fail(f"cannot write to {error.filename or directory}: {error.strerror}", EX_CANTCREAT)
    except sqlite3.Error as error:
        fail(f"cannot copy {path}: {error}", EX_CANTCREAT)
    for queue_id in copied.lost:
        warn(f"the body of {queue_id} is not in the spool")
    facts = {"messages": copied.messages, "octets": copied.octets, "lost": copied.lost, "directory": str(directory)}
    tell(
        facts, f"{path} is copied to {directory}: {counted(copied.messages, 'message')}, {size(copied.octets)}", as_json
    )
    if copied.lost:
        raise typer.Exit(1)
