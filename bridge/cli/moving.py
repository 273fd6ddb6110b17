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
TRIES = 3


@dataclass(slots=True)
class Exported:
    """`skipped`: not written, since an attempt was running (with hold), it was finished meanwhile, or its body is lost.
    `held`: messages of which somebody is on hold here. `untold`: whose senders this queue still tells something."""

    messages: int = 0
    recipients: int = 0
    held: int = 0
    untold: int = 0
    in_doubt: int = 0
    skipped: list[str] = field(default_factory=list)


async def export_all(spool: SqliteSpool, directory: Path, work: Work, *, hold: bool) -> Exported:
    """Raises OSError: also when the directory is not empty."""
    empty_directory(directory)
    done = Exported()
    with work:
        for (queue_id,) in work.steps(await spool.portable_ids(), size=1):
            export = _hand_over if hold else _copy
            message = await export(spool, directory, queue_id, done)
            if message is None:
                done.skipped.append(queue_id)
                continue
            done.recipients += sum(one.waits for one in message.recipients)
            done.in_doubt += sum(one.waits and one.in_doubt for one in message.recipients)
    return done


async def _copy(spool: SqliteSpool, directory: Path, queue_id: str, done: Exported) -> Portable | None:
    """What senders are still to be told is not copied: they would be told twice."""
    found = await spool.take_out(queue_id)
    if found is None:
        return None
    message = found[0].untold()
    done.untold += message != found[0]
    if message.open or message.failed:
        _write(directory, message, found[1])
        done.messages += 1
    return message


async def _hand_over(spool: SqliteSpool, directory: Path, queue_id: str, done: Exported) -> Portable | None:
    """On hold from now on here; there as it was before, and due at once. None while somebody of it is being tried.

    Written first: if this dies in between, it is in both, and not in neither.
    """
    for _ in range(TRIES):
        row, found = await spool.show(queue_id), await spool.take_out(queue_id)
        if row is None or found is None or _running(row):
            return None
        _write(directory, found[0].due_at_once(), found[1])
        try:
            held = await spool.hand_over(found[0], now=time.time())
        except (SpoolError, SpoolFull):
            _remove(directory, queue_id)
            raise
        if held is not None:
            done.messages += 1
            done.held += held > 0
            return found[0]
        _remove(directory, queue_id)  # something was done with it since it was read
    return None


def _write(directory: Path, message: Portable, raw: bytes) -> None:
    write_new(directory / f"{message.queue_id}.eml", raw)
    write_new(directory / f"{message.queue_id}.json", message.model_dump_json(indent=1).encode() + b"\n")
    sync(directory)


def _remove(directory: Path, queue_id: str) -> None:
    for kind in ("json", "eml"):
        (directory / f"{queue_id}.{kind}").unlink()
    sync(directory)


def _running(row: Any) -> bool:
    now = time.time()
    return any(one["leased_until"] is not None and one["leased_until"] > now for one in row["recipients"])


@dataclass(slots=True)
class Imported:
    """Queue ids but for `broken`: name -> what is wrong with it. `present`: in the spool already; `over`: nothing is to be done
    for them; `late`: brought in, and beyond their lifetime. `stopped`: why the rest was not tried."""

    messages: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    gone: list[str] = field(
        default_factory=list
    )  # of `present`: somebody waits in the files and nobody was sent it from here
    over: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    stopped: str = ""


async def import_all(spool: SqliteSpool, directory: Path, work: Work, *, dry_run: bool) -> Imported:
    """All of it is read and checked before anything is brought in. Raises OSError when the directory cannot be read."""
    done = Imported()
    now = time.time()
    wanted = list(checked(directory, done.broken))
    known = await _known(spool, [message.queue_id for message in wanted])
    with work, _until_full(done):
        for (message,) in work.steps(wanted, size=1):
            if message.queue_id in known:
                done.present.append(message.queue_id)
                if message.open and await _is_given_up(spool, message.queue_id):
                    done.gone.append(message.queue_id)
            elif not (message.open or message.failed):
                done.over.append(message.queue_id)
            elif dry_run or await _bring_in(spool, directory, message, done, now):
                done.messages.append(message.queue_id)
                if message.late(now):
                    done.late.append(message.queue_id)
    return done


async def _is_given_up(spool: SqliteSpool, queue_id: str) -> bool:
    """Whether it was dropped here, as after it had moved away, or nothing is known of it but that it was imported once."""
    found = await spool.show(queue_id)
    return found is None or any(recipient["status"] == "dropped" for recipient in found["recipients"])


@contextmanager
def _until_full(done: Imported) -> Iterator[None]:
    try:
        yield
    except SpoolFull as error:
        done.stopped = str(error)


def checked(directory: Path, broken: dict[str, str]) -> Iterator[Portable]:
    """Every pair that is whole and what it says; what is wrong with the others goes into `broken`. Raises OSError."""
    names = sorted(
        path.name for path in directory.iterdir() if path.suffix in (".json", ".eml") and path.name[0] != "."
    )
    for stem in dict.fromkeys(name.rpartition(".")[0] for name in names):
        try:
            yield _read(directory, stem)[0]
        except NotPortable as error:
            broken[stem] = str(error)


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
    if done.untold:
        warn(f"{counted(done.untold, 'message')} whose senders are still to be told: this queue does that, or --hold")


def tell_import(done: Imported, *, dry_run: bool) -> str:
    """What went wrong or is odd, line by line; returns the sentence."""
    for name, why in done.broken.items():
        warn(f"{name} is broken: {why}")
    for queue_id in done.present:
        warn(f"{queue_id} was left out: it is in this queue already, or was imported before")
    for queue_id in done.gone:
        warn(f"{queue_id} waits in these files and not here, where it was before: do not drop it where it was exported")
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
    sentence = f"{counted(done.messages, 'message')} in {directory}{_on_hold(done) if hold else ''}"
    facts = {name: getattr(done, name) for name in ("messages", "recipients", "held", "untold")}
    facts["left"] = done.skipped
    if not work.cut_short:
        tell({**facts, "directory": str(directory)}, sentence, as_json)
    end_if_cut_short(work, sentence)
    if done.skipped:
        raise typer.Exit(1)


def _on_hold(done: Exported) -> str:
    if done.held == done.messages:
        return ", held here" if done.held else ""
    return f", {done.held or 'none'} of them held here"


def run_import(config: str, directory: Path, dry_run: bool, as_json: bool) -> None:
    """Exit status 65 when something in the directory is broken, 1 when something waits nowhere but there; the rest is brought in
    all the same."""
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
    if done.gone:
        raise typer.Exit(1)


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
