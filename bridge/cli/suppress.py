"""`smtp-bridge suppress ...`: addresses that are not mailed; RCPT is answered 550 5.7.1 with the reason."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from bridge.cli.common import ConfigOption, JsonOption, counted, fail, print_json, warn
from bridge.cli.exits import EX_DATAERR, INTERRUPTED
from bridge.cli.progress import Work
from bridge.cli.screen import cell, new_console, new_table, printable, put, stamp
from bridge.cli.spool import with_spool
from bridge.spool.sqlite import SqliteSpool

app = typer.Typer(no_args_is_help=True, help="List and change the addresses that are not mailed.")

BY_HAND = "by the operator"
MAX_OCTETS = 254  # of a path without its brackets, RFC 5321 4.5.3.1.3
NAMED = 10  # of those for which there was nothing to do
SHOWN = 300  # characters of what is no address

_LOCAL = r'(?:[^\x00-\x20\x7f-\x9f\s()<>\[\]:;@\\,"]+|"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])+")'
_DOMAIN = r"(?:[\w-]+(?:\.[\w-]+)*|\[[A-Za-z0-9:.-]+\])"
_ADDRESS = re.compile(f"{_LOCAL}@{_DOMAIN}")

AddressesArgument = Annotated[
    list[str],
    typer.Argument(metavar="ADDRESS", help="Addresses; - reads one per line from standard input.", show_default=False),
]


@app.command("list")
def list_(
    config: ConfigOption = "",
    limit: Annotated[
        int, typer.Option(metavar="NUMBER", help="At most so many addresses.", min=1, max=10_000_000)
    ] = 1000,
    as_json: JsonOption = False,
) -> None:
    """List the addresses that are not mailed, why, since when, and which provider said so."""
    rows = with_spool(config, lambda spool: spool.list_suppressions(limit=limit + 1))
    if as_json:
        print_json(rows[:limit])
    elif rows:
        print_rows(rows[:limit])
    else:
        print("No address is suppressed.")
    if len(rows) > limit:
        warn("there are more: a higher --limit shows them")


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    table = new_table(("When", "Address", "Provider", "Reason"))
    for row in rows:
        table.add_row(stamp(row["created_at"]), cell(row["address"]), cell(row["provider"]), cell(row["reason"]))
    put(new_console(), table)


@app.command()
def add(
    addresses: AddressesArgument,
    config: ConfigOption = "",
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="What a client is told, in ASCII.", show_default=False)
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Mail these addresses no more."""
    why = " ".join(printable(reason).split()) or BY_HAND
    given = read_addresses(addresses)

    async def suppress(spool: SqliteSpool, address: str) -> bool:
        return await spool.suppress(address, why, now=time.time())

    change(config, given, suppress, Words("suppressed", "is suppressed already"), as_json)


@app.command()
def remove(addresses: AddressesArgument, config: ConfigOption = "", as_json: JsonOption = False) -> None:
    """Let these addresses be mailed again."""
    given = read_addresses(addresses)
    change(config, given, SqliteSpool.unsuppress, Words("removed", "is not suppressed"), as_json)


@dataclass(slots=True)
class Given:
    """Addresses, each once, and what is none, with its place."""

    addresses: dict[str, None] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)


def read_addresses(arguments: Sequence[str]) -> Given:
    given = Given()
    for place, text in _texts(arguments):
        address = as_address(text)
        if address:
            given.addresses[address] = None
        else:
            given.bad.append(f"{place}{printable(text[:SHOWN])!r} is not an address")
    return given


def _texts(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The arguments, or lines in the place of "-"; octets that are no UTF-8 are no part of any address."""
    for argument in arguments:
        if argument != "-":
            yield "", argument
            continue
        for number, line in enumerate(sys.stdin.buffer, 1):
            text = line.decode("utf-8-sig", "replace").strip()
            if text and not text.startswith("#"):
                yield f"line {number}: ", text


def as_address(text: str) -> str:
    """As it is kept, in lower case and without angle brackets; "" when it is no address."""
    bare = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    known = bare.isprintable() and "\N{REPLACEMENT CHARACTER}" not in bare
    return bare.lower() if known and _ADDRESS.fullmatch(bare) and len(bare.encode()) <= MAX_OCTETS else ""


@dataclass(frozen=True, slots=True)
class Words:
    done: str
    nothing_to_do: str


Act = Callable[[SqliteSpool, str], Awaitable[bool]]


def change(config: str, given: Given, act: Act, words: Words, as_json: bool) -> None:
    """Exit status 65 when something was no address, though the others are done; 1 when nothing was changed."""
    work = Work(words.done)
    done, idle = with_spool(config, lambda spool: _change(spool, given, act, work))
    sentence = f"{counted(len(done), 'address')} {words.done}"
    if as_json:
        print_json({words.done: done, "unchanged": idle, "not_addresses": given.bad})
    elif not work.cut_short:
        print(sentence)
    _name([f"{address} {words.nothing_to_do}" for address in idle])
    _name(given.bad, most=len(given.bad))
    if work.cut_short:
        fail(f"interrupted: {sentence}, {work.done} of {work.total} were done", INTERRUPTED)
    if given.bad or not done:
        raise typer.Exit(EX_DATAERR if given.bad else 1)


async def _change(spool: SqliteSpool, given: Given, act: Act, work: Work) -> tuple[list[str], list[str]]:
    """Those that were changed, and those for which there was nothing to do."""
    done: list[str] = []
    idle: list[str] = []
    with work:
        for chunk in work.steps(list(given.addresses)):
            changed = await asyncio.gather(*(act(spool, address) for address in chunk))  # one transaction
            for address, was_changed in zip(chunk, changed, strict=True):
                (done if was_changed else idle).append(address)
    return done, idle


def _name(sentences: Sequence[str], most: int = NAMED) -> None:
    for sentence in sentences[:most]:
        warn(sentence)
    if len(sentences) > most:
        warn(f"and {len(sentences) - most} more")
