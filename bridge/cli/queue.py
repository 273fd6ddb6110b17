"""`smtp-bridge queue ...`: the operator's side of the queue, while the daemon runs or not."""

from __future__ import annotations

import base64
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bridge.cli.chosen import (
    Chosen,
    IdsArgument,
    ProviderOption,
    ReasonOption,
    SinceOption,
    StatusOption,
    choose,
    find,
    first,
    narrowed,
)
from bridge.cli.common import (
    ConfigOption,
    JsonOption,
    counted,
    duration,
    fail,
    print_json,
    tell,
    to_json,
    warn,
)
from bridge.cli.completion import queue_ids
from bridge.cli.exits import EX_CANTCREAT, EX_USAGE
from bridge.cli.progress import Work, end_if_cut_short
from bridge.cli.spool import with_spool
from bridge.cli.tables import print_list, print_message
from bridge.spool.sqlite import SqliteSpool

app = typer.Typer(no_args_is_help=True, help="List, show, watch and change what is in the queue.")

IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="A queue id.", show_default=False, autocompletion=queue_ids)
]


@app.command("list")
def list_(
    config: ConfigOption = "",
    status: StatusOption = None,
    reason: ReasonOption = None,
    provider: ProviderOption = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(metavar="NUMBER", help="At most so many messages.", min=1, max=100_000)] = 100,
    before: Annotated[
        str, typer.Option(metavar="ID", help="Only messages older than this id (the next page).", show_default=False)
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List messages, newest first; without a filter everything that is known."""
    wanted = narrowed(status, reason, provider, since)
    rows = with_spool(config, lambda spool: first(spool, wanted, limit=limit, before=before))
    if as_json:
        print_json(rows)
    elif rows:
        print_list(rows, now=time.time())
        if len(rows) == limit:
            warn(f"there may be more: --before {rows[-1]['queue_id']}, or a higher --limit")
    elif wanted.plain:
        print(f"No message is {status}." if status else "The queue is empty.")
    else:
        print("No message is like that.")


@app.command()
def show(queue_id: IdArgument, config: ConfigOption = "", as_json: JsonOption = False) -> None:
    """Show one message: envelope, recipients with their last reply, events."""
    row = with_spool(config, lambda spool: spool.show(queue_id))
    if row is None:
        fail(f"there is no message {queue_id}", 1)
    if as_json:
        print_json(dict(row))
        return
    print_message(row, now=time.time())


@app.command()
def watch(
    config: ConfigOption = "",
    interval: Annotated[
        float, typer.Option(metavar="DURATION", parser=duration, help="Look again after this time.")
    ] = "2s",  # type: ignore[assignment]  # Typer parses it
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each look.")] = False,
) -> None:
    """Watch how many wait and how fast they go, the providers and the last failures, until Ctrl-C."""
    from bridge.cli.watch import run_watch

    with_spool(config, lambda spool: run_watch(spool, interval=interval, once=once, as_json=as_json))


@app.command()
def retry(
    ids: IdsArgument = None,
    config: ConfigOption = "",
    status: StatusOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="The same as --status failed.")] = False,
    reason: ReasonOption = None,
    provider: ProviderOption = None,
    since: SinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try again now; failed messages too, while their bodies are kept."""
    if failed and status not in (None, "failed"):
        fail("give either --failed or --status", EX_USAGE)
    chosen = choose(ids, narrowed("failed" if failed else status, reason, provider, since), ("active", "failed"))
    change(config, chosen, as_json, "due now", lambda spool, found: spool.retry(found, now=time.time()))


@app.command()
def hold(
    ids: IdsArgument = None,
    config: ConfigOption = "",
    status: StatusOption = None,
    reason: ReasonOption = None,
    provider: ProviderOption = None,
    since: SinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop trying until released; the time on hold does not count towards expiry."""
    chosen = choose(ids, narrowed(status, reason, provider, since), ("active",))
    change(config, chosen, as_json, "held", lambda spool, found: spool.hold(found, now=time.time()))


@app.command()
def release(
    ids: IdsArgument = None,
    config: ConfigOption = "",
    status: StatusOption = None,
    reason: ReasonOption = None,
    provider: ProviderOption = None,
    since: SinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let held messages go."""
    chosen = choose(ids, narrowed(status, reason, provider, since), ("held",))
    change(config, chosen, as_json, "released", lambda spool, found: spool.release(found, now=time.time()))


@app.command()
def drop(
    ids: IdsArgument = None,
    config: ConfigOption = "",
    status: StatusOption = None,
    reason: ReasonOption = None,
    provider: ProviderOption = None,
    since: SinceOption = None,
    exported: Annotated[
        Path | None,
        typer.Option(
            "--exported",
            metavar="DIR",
            help="What `queue export --all --hold` wrote into DIR, as far as it is still on hold.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give up messages without telling anybody. This cannot be undone."""
    if exported is not None:
        if ids or status or reason or provider or since:
            fail("--exported takes no queue ids and no filter", EX_USAGE)
        from bridge.cli.leaving import run_drop_exported

        run_drop_exported(config, exported, as_json)
        return
    chosen = choose(ids, narrowed(status, reason, provider, since), ("active", "failed"))
    change(config, chosen, as_json, "dropped", lambda spool, found: spool.drop(found, now=time.time()))


@app.command()
def export(
    ids: IdsArgument = None,
    config: ConfigOption = "",
    status: StatusOption = None,
    reason: ReasonOption = None,
    provider: ProviderOption = None,
    since: SinceOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write ID.eml and ID.json into this directory."),
    ] = None,
    everything: Annotated[
        Path | None,
        typer.Option(
            "--all",
            metavar="DIR",
            help="Write all that waits, is held or failed into this new directory, for `queue import`.",
            show_default=False,
        ),
    ] = None,
    hold_: Annotated[
        bool, typer.Option("--hold", help="With --all: hold here what is written, since it is to be sent elsewhere.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each message, the mail in base64.")
    ] = False,
) -> None:
    """Write messages as they are stored: one to standard output, or several into a directory."""
    if everything is not None:
        if ids or status or reason or provider or since or output:
            fail("--all takes no queue ids, no filter and no --output", EX_USAGE)
        from bridge.cli.moving import run_export

        run_export(config, everything, hold_, as_json)
        return
    if hold_:
        fail("--hold goes with --all", EX_USAGE)
    chosen = choose(ids, narrowed(status, reason, provider, since), ("",))
    if output is None and not as_json and len(chosen.ids) != 1:
        fail("give one ID, or a directory with --output, or --json", EX_USAGE)
    work = Work("exporting", bar=output is not None or not sys.stdout.isatty())
    try:
        written = with_spool(config, lambda spool: _export(spool, chosen, work, output, as_json))
    except OSError as error:
        fail(f"cannot write to {error.filename or 'standard output'}: {error.strerror}", EX_CANTCREAT)
    if output is not None and (as_json or not work.cut_short):
        tell({"messages": written, "directory": str(output)}, f"{counted(written, 'message')} in {output}", as_json)
    end_if_cut_short(work, counted(written, "message") + " written")
    if written < work.total or not written:
        raise typer.Exit(1)


async def _export(spool: SqliteSpool, chosen: Chosen, work: Work, output: Path | None, as_json: bool) -> int:
    """How many were written."""
    written = 0
    with work:
        found = list(chosen.ids) or (await find(spool, chosen, work))[0]
        for chunk in work.steps(found, size=1):
            written += await export_one(spool, chunk[0], output, as_json)
    return written


async def export_one(spool: SqliteSpool, queue_id: str, output: Path | None, as_json: bool) -> bool:
    row, body = await spool.show(queue_id), await spool.body(queue_id)
    if row is None or body is None:
        warn(f"there is no message {queue_id}" if row is None else f"the body of {queue_id} is not kept")
        return False
    if output is not None:
        write_files(row, body, output)
    elif as_json:
        sys.stdout.buffer.write(to_json({**row, "raw": base64.b64encode(body).decode()}, indent=False))
    else:
        sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
    return True


def write_files(row: Mapping[str, Any], body: bytes, directory: Path) -> None:
    """For the operator's eyes alone: mail is private."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in ((f"{row['queue_id']}.eml", body), (f"{row['queue_id']}.json", to_json(row))):
        descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)


@app.command("import")
def import_(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What `queue export --all` wrote.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    config: ConfigOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take messages of another queue into this one, with the ids they have; what is here already is left alone."""
    from bridge.cli.moving import run_import

    run_import(config, directory, dry_run, as_json)


@app.command()
def backup(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that is not there yet, or is empty.")],
    config: ConfigOption = "",
    as_json: JsonOption = False,
) -> None:
    """Copy the whole spool, history included, as it is at one moment, while the daemon runs or not (docs/backup.md)."""
    from bridge.cli.moving import run_backup

    run_backup(config, directory, as_json)


Change = Callable[[SqliteSpool, Sequence[str]], Awaitable[int]]


def change(config: str, chosen: Chosen, as_json: bool, word: str, act: Change) -> None:
    """Exit status 1 when an id is unknown or nothing was changed."""
    work = Work(word)
    count, unknown = with_spool(config, lambda spool: _change(spool, chosen, work, act))
    for queue_id in unknown:
        warn(f"there is no message {queue_id}")
    sentence = f"{counted(count, 'recipient')} {word}"
    if as_json:
        print_json({"messages": work.done, "recipients": count, "unknown": unknown})
    elif not work.cut_short and (work.total or chosen.filters):
        print(sentence)
    end_if_cut_short(work, sentence)
    if work.total and not count:
        warn("nothing to change there; what is being tried at this moment is left alone until that has ended")
    if unknown or not count:
        raise typer.Exit(1)


async def _change(spool: SqliteSpool, chosen: Chosen, work: Work, act: Change) -> tuple[int, list[str]]:
    """How many recipients were changed, and the ids that are unknown."""
    count = 0
    with work:
        found, unknown = await find(spool, chosen, work)
        for chunk in work.steps(found):
            count += await act(spool, chunk)
    return count, unknown
