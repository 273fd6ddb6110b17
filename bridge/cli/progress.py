"""Long work in steps: a bar where somebody watches, and Ctrl-C between two steps, never within one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bridge.cli.common import fail
from bridge.cli.exits import INTERRUPTED

T = TypeVar("T")

CHUNK = 500  # messages in a step, and in a transaction of the spool
WORTH_A_BAR = 200


class Work:
    """On the main thread. `bar`: unless it would stand between the lines of what is written to the same terminal."""

    def __init__(self, name: str, *, bar: bool = True) -> None:
        self._name = name
        self._bar = bar and sys.stderr.isatty()
        self._progress: Progress | None = None
        self._handler: Any = signal.default_int_handler
        self._asked_to_stop = False
        self.cut_short = False
        self.total = 0
        self.done = 0

    def __enter__(self) -> Self:
        # Not the loop's handler, which is called when the loop comes to it: perhaps a step later.
        self._handler = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._handler)
        if self._progress is not None:
            self._progress.stop()

    def _stop(self, *_: object) -> None:
        self._asked_to_stop = True

    def goes_on(self) -> bool:
        """False after Ctrl-C; what was to come is not done then."""
        self.cut_short = self._asked_to_stop
        return not self.cut_short

    def looked(self, count: int) -> None:
        """So many were looked at so far, to find out what is to be done."""
        if count > WORTH_A_BAR:
            self._show("looking", count, None)

    def steps(self, items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
        """`items` by the chunk, until the last one or Ctrl-C. Whoever takes the next one has done the one before."""
        self.total = len(items)
        for start in range(0, self.total, size):
            if not self.goes_on():
                return
            if self.total > WORTH_A_BAR:
                self._show(self._name, self.done, self.total)
            chunk = items[start : start + size]
            yield chunk
            self.done += len(chunk)

    def _show(self, text: str, done: int, total: int | None) -> None:
        if not self._bar:
            return
        if self._progress is None:
            self._progress = _new_bar()
            self._progress.add_task(text, total=total)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], description=text, completed=done, total=total)


def _new_bar() -> Progress:
    """Gone when the work is done. What is written to standard output meanwhile is not its concern."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
    )


def end_if_cut_short(work: Work, sentence: str) -> None:
    """Ctrl-C: what was done stays done."""
    if work.cut_short:
        done = f"{sentence}, {work.done} of {work.total} messages were done" if work.done else "nothing was done"
        fail(f"interrupted: {done}", INTERRUPTED)
