"""From the arguments to the exit status: 0 or 1, as container engines want it, and one line of text."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from bridge.cli.health.asking import Ill, ask
from bridge.cli.health.doors import NoDoor, find_door, here
from bridge.units import parse_duration

TIMEOUT_S = 4.0
DESCRIPTION = (
    "Ask the running daemon whether it is well: by HTTP where http.address is set, else, or with --smtp, by SMTP."
)


def run_from_arguments(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="smtp-bridge health", description=DESCRIPTION)
    parser.add_argument("--ready", action="store_true")
    parser.add_argument("--smtp", action="store_true")
    parser.add_argument("--timeout", metavar="TIME", default=TIMEOUT_S, type=_duration)
    parser.add_argument("--config", metavar="FILE", default="")
    options = parser.parse_args(arguments)
    return run(options.config, ready=options.ready, smtp=options.smtp, timeout_s=options.timeout)


def run(config: str, *, ready: bool, smtp: bool, timeout_s: float) -> int:
    """1: it is not well, or nobody knows where to ask."""
    try:
        door = find_door(config, os.environ, here(), smtp=smtp)
    except NoDoor as problem:
        print(f"smtp-bridge: {problem}", file=sys.stderr)
        return 1
    try:
        said = ask(door, ready=ready, timeout_s=timeout_s)
    except Ill as problem:
        print(f"smtp-bridge: {door.address}: {problem}", file=sys.stderr)
        return 1
    print(f"{'ready' if ready else 'alive'}: {door.address}: {said}")
    return 0


def _duration(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not seconds:
        raise argparse.ArgumentTypeError("must be more than 0")
    return seconds
