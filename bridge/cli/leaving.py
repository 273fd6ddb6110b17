"""`queue drop --exported DIR`, the last step of a move: gives up here what the other queue goes on with, and nothing else."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import typer

from bridge.cli.common import counted, fail, tell, warn
from bridge.cli.exits import EX_DATAERR, EX_NOINPUT
from bridge.cli.moving import checked
from bridge.cli.progress import Work, end_if_cut_short
from bridge.cli.spool import with_spool
from bridge.spool.sqlite import SqliteSpool


@dataclass(slots=True)
class Dropped:
    """`over`: nobody of it was there to be dropped. `left`: queue id -> why. `broken`: name -> what is wrong with it."""

    messages: int = 0
    recipients: int = 0
    over: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


async def drop_exported(spool: SqliteSpool, directory: Path, work: Work) -> Dropped:
    """Raises OSError when the directory cannot be read."""
    done = Dropped()
    exported = list(checked(directory, done.broken))
    with work:
        for (message,) in work.steps(exported, size=1):
            given = await spool.give_up(message, now=time.time())
            if given.left:
                done.left[message.queue_id] = given.left
            elif not given.recipients:
                done.over.append(message.queue_id)
            done.messages += given.recipients > 0
            done.recipients += given.recipients
    return done


def run_drop_exported(config: str, directory: Path, as_json: bool) -> None:
    """Exit status 65 when something in the directory is broken, 1 when something was left or nothing dropped."""
    work = Work("dropping")
    try:
        done = with_spool(config, lambda spool: drop_exported(spool, directory, work))
    except OSError as error:
        fail(f"cannot read {error.filename or directory}: {error.strerror}", EX_NOINPUT)
    for name, why in done.broken.items():
        warn(f"{name} is broken: {why}")
    for queue_id, why in done.left.items():
        warn(f"{queue_id} was left: {why}")
    for queue_id in done.over:
        warn(f"{queue_id} was left: it is over here or never was here, or its body is lost")
    sentence = f"{counted(done.recipients, 'recipient')} of {counted(done.messages, 'message')} dropped"
    if not work.cut_short:
        facts = {name: getattr(done, name) for name in ("messages", "recipients", "over", "left", "broken")}
        tell(facts, sentence, as_json)
    end_if_cut_short(work, sentence)
    if done.broken:
        raise typer.Exit(EX_DATAERR)
    if done.left or not done.messages:
        raise typer.Exit(1)
