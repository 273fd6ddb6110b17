"""Sessions at random until time is up: `python -m tests.smtp.fuzz --minutes 60 [--seed N]`. Returns 1 on a finding.

It goes in rounds of a few hundred programs, each with a daemon of its own; uvloop takes turns with asyncio. What is printed
last is the smallest program that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import HypothesisWarning

from tests.smtp.player import LISTENERS, Running, described, play
from tests.smtp.programs import Program, programs

ROUND = 400
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--listener", choices=LISTENERS, action="append", help="only these; may be given again")
    options = parser.parse_args()
    warnings.simplefilter("ignore", HypothesisWarning)
    until, number, replies = time.monotonic() + options.minutes * 60, options.seed, Counter[str]()
    while time.monotonic() < until:
        if (found := _round(number, options.listener or list(LISTENERS), replies)) is not None:
            print(f"seed {number}:", *described(found[0]), repr(found[0]), found[1], sep="\n")
            return 1
        print(f"seed {number}: {replies['220']} sessions, {replies['kept']} messages kept", flush=True)
        number += 1
    print(*(f"{count:8} {reply}" for reply, count in replies.most_common()), sep="\n")
    return 0


def _round(number: int, listeners: list[str], replies: Counter[str]) -> tuple[Program, str] | None:
    """The smallest program that went wrong, and how."""
    last: list[tuple[Program, str]] = []
    with tempfile.TemporaryDirectory() as directory, Running(Path(directory), new_loop=_new_loop(number)) as running:

        @seed(number)
        @settings(
            max_examples=ROUND, deadline=None, database=None, phases=PHASES, suppress_health_check=list(HealthCheck)
        )
        @given(program=programs(listeners))
        def session(program: Program) -> None:
            try:
                model = play(program, running)
            except Exception as error:
                last.append((program, f"{type(error).__name__}: {error}"))
                raise
            replies.update(model.replies)
            replies["kept"] += len(model.kept)

        try:
            session()
        except Exception as error:
            return last[-1] if last else (Program(listener="", items=()), repr(error))
    return None


def _new_loop(number: int) -> Callable[[], asyncio.AbstractEventLoop]:
    if number % 2:
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
