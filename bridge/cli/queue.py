"""`smtp-bridge queue ...`: the operator's side of the queue, while the daemon runs or not."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer

from bridge.cli.common import ConfigOption, JsonOption, fail, settings_or_exit, warn
from bridge.cli.exits import EX_CANTCREAT, EX_UNAVAILABLE, EX_USAGE
from bridge.cli.tables import print_list, print_message
from bridge.config.load import load_spool_settings
from bridge.spool.base import SpoolError, SpoolFull
from bridge.spool.listing import GROUPS
from bridge.spool.opening import open_spool
from bridge.spool.sqlite import SqliteSpool

app = typer.Typer(no_args_is_help=True, help="List, show and change what is in the queue.")
T = TypeVar("T")


def _known(status: str) -> str:
    if status and status not in GROUPS:
        raise typer.BadParameter(f"one of {', '.join(GROUPS)}")
    return status


IdArgument = Annotated[str, typer.Argument(metavar="ID", help="A queue id.", show_default=False)]
IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Queue ids.", show_default=False)]
StatusOption = Annotated[
    str,
    typer.Option(
        "--status",
        metavar="STATUS",
        callback=_known,
        show_default=False,
        help="Every message with this status: queued, deferred, held, sent, bounced, expired or dropped; "
        "active (the first three) or failed (bounced and expired).",
    ),
]
PAGE = 500


def with_spool(config: str, work: Callable[[SqliteSpool], Awaitable[T]]) -> T:
    """Run `work` on the spool of these settings; an unusable spool is one line and exit 69."""
    settings = settings_or_exit(config, load_spool_settings)

    async def main() -> T:
        spool = await open_spool(
            settings.spool_path,
            max_bytes=settings.spool.max_bytes,
            min_free=0,  # the operator may always make room
            history_s=settings.spool.history,
            failed_s=settings.spool.failed,
            file_threshold=settings.spool.file_threshold,
            owner=f"cli-{os.getpid()}",
            now=time.time(),
            daemon=False,
        )
        try:
            return await work(spool)
        finally:
            await spool.close()

    try:
        return asyncio.run(main())
    except (SpoolError, SpoolFull) as error:
        fail(str(error), EX_UNAVAILABLE)


@app.command("list")
def list_(
    config: ConfigOption = "",
    status: StatusOption = "",
    limit: Annotated[int, typer.Option(metavar="NUMBER", help="At most so many messages.", min=1, max=100_000)] = 100,
    before: Annotated[
        str, typer.Option(metavar="ID", help="Only messages older than this id (the next page).", show_default=False)
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List messages, newest first; without --status everything that is known."""
    rows = with_spool(config, lambda spool: spool.list_messages(status=status, limit=limit, before=before))
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        print(f"No message is {status}." if status else "The queue is empty.")
        return
    print_list(rows, now=time.time())
    if len(rows) == limit:
        warn(f"there may be more: --before {rows[-1]['queue_id']}, or a higher --limit")


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
def retry(
    ids: IdsArgument = None, config: ConfigOption = "", status: StatusOption = "", as_json: JsonOption = False
) -> None:
    """Try again now; failed messages too, while their bodies are kept."""
    change(config, ids, status, as_json, "due now", lambda spool, found: spool.retry(found, now=time.time()))


@app.command()
def hold(
    ids: IdsArgument = None, config: ConfigOption = "", status: StatusOption = "", as_json: JsonOption = False
) -> None:
    """Stop trying until released; the time on hold does not count towards expiry."""
    change(config, ids, status, as_json, "held", lambda spool, found: spool.hold(found, now=time.time()))


@app.command()
def release(
    ids: IdsArgument = None, config: ConfigOption = "", status: StatusOption = "", as_json: JsonOption = False
) -> None:
    """Let held messages go."""
    change(config, ids, status, as_json, "released", lambda spool, found: spool.release(found, now=time.time()))


@app.command()
def drop(
    ids: IdsArgument = None, config: ConfigOption = "", status: StatusOption = "", as_json: JsonOption = False
) -> None:
    """Give up messages without telling anybody. This cannot be undone."""
    change(config, ids, status, as_json, "dropped", lambda spool, found: spool.drop(found, now=time.time()))


@app.command()
def export(
    ids: IdsArgument = None,
    config: ConfigOption = "",
    status: StatusOption = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write ID.eml and ID.json into this directory."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each message, the mail in base64.")
    ] = False,
) -> None:
    """Write messages as they are stored: one to standard output, or several into a directory."""
    one_choice(ids, status)
    if output is None and not as_json and len(ids or []) != 1:
        fail("give one ID, or a directory with --output, or --json", EX_USAGE)

    async def work(spool: SqliteSpool) -> tuple[int, int]:
        wanted = await chosen(spool, ids, status)
        return sum([await export_one(spool, queue_id, output, as_json) for queue_id in wanted]), len(wanted)

    try:
        written, wanted = with_spool(config, work)
    except OSError as error:
        fail(f"cannot write to {error.filename or 'standard output'}: {error.strerror}", EX_CANTCREAT)
    if output is not None:
        tell({"messages": written, "directory": str(output)}, f"{counted(written, 'message')} in {output}", as_json)
    if written < wanted or not wanted:
        raise typer.Exit(1)


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


Change = Callable[[SqliteSpool, Sequence[str]], Awaitable[int]]


def change(config: str, ids: Sequence[str] | None, status: str, as_json: bool, word: str, act: Change) -> None:
    """Exit status 1 when an id is unknown or nothing was changed."""
    one_choice(ids, status)

    async def work(spool: SqliteSpool) -> tuple[list[str], list[str], int]:
        wanted = await chosen(spool, ids, status)
        unknown = [queue_id for queue_id in wanted if ids and await spool.show(queue_id) is None]
        found = [queue_id for queue_id in wanted if queue_id not in unknown]
        return found, unknown, await act(spool, found)

    found, unknown, count = with_spool(config, work)
    for queue_id in unknown:
        warn(f"there is no message {queue_id}")
    if found or status or as_json:
        facts = {"messages": len(found), "recipients": count, "unknown": unknown}
        tell(facts, f"{counted(count, 'recipient')} {word}", as_json)
    if found and not count:
        warn("nothing to change there; what is being tried at this moment is left alone until that has ended")
    if unknown or not count:
        raise typer.Exit(1)


def one_choice(ids: Sequence[str] | None, status: str) -> None:
    if bool(ids) == bool(status):
        fail("give either queue ids or --status", EX_USAGE)


async def chosen(spool: SqliteSpool, ids: Sequence[str] | None, status: str) -> list[str]:
    """The ids given, or those of every message with the status."""
    if ids:
        return list(dict.fromkeys(ids))
    found: list[str] = []
    while page := await spool.list_messages(status=status, limit=PAGE, before=found[-1] if found else ""):
        found += [row["queue_id"] for row in page]
    return found


def counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def tell(facts: Mapping[str, Any], sentence: str, as_json: bool) -> None:
    print_json(facts) if as_json else print(sentence)


def print_json(value: Any) -> None:
    sys.stdout.write(to_json(value).decode())


def to_json(value: Any, *, indent: bool = True) -> bytes:
    option = orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if indent else 0)
    return orjson.dumps(value, option=option, default=str)
