"""`smtp-bridge queue watch`: looks at the queue again and again, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live

from bridge.cli.board import board
from bridge.cli.common import to_json
from bridge.cli.look import Look, Rates, as_facts, take_look
from bridge.cli.screen import new_console, put
from bridge.spool.sqlite import SqliteSpool

SHARE = 4  # at most one part in so many of the time is spent on looking

Show = Callable[[Look], None]


async def run_watch(spool: SqliteSpool, *, interval: float, once: bool, as_json: bool) -> None:
    stop, rates = _stop_event(), Rates()
    with _shower(as_json=as_json, once=once) as show:
        while not stop.is_set():
            began = time.monotonic()
            show(await take_look(spool, rates))
            took = time.monotonic() - began
            if once or await _stopped(stop, pause(interval, took)):
                break


def pause(interval: float, took: float) -> float:
    """Between two looks, so that they begin `interval` apart or, where a look takes long, further."""
    return max(interval, SHARE * took) - took


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True


@contextmanager
def _shower(*, as_json: bool, once: bool) -> Iterator[Show]:
    console = new_console()
    if as_json:
        yield _show_json
    elif once or not console.is_terminal or console.is_dumb_terminal:
        yield lambda look: _show_plain(look, console, end="" if once else "\n")
    else:
        with _live(console) as show:
            yield show


def _show_json(look: Look) -> None:
    sys.stdout.buffer.write(to_json(as_facts(look), indent=False))
    sys.stdout.buffer.flush()


def _show_plain(look: Look, console: Console, end: str) -> None:
    put(console, board(look, console))
    print(end=end, flush=True)


@contextmanager
def _live(console: Console) -> Iterator[Show]:
    """On a screen of its own; the last look stays when it is left."""
    last: RenderableType = ""

    def show(look: Look) -> None:
        nonlocal last
        last = board(look, console)
        live.update(last, refresh=True)

    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield show
    put(console, last)
