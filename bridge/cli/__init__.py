"""The command `smtp-bridge`."""

from __future__ import annotations

import sys


def main() -> None:
    """`run` goes a way of its own: Typer and Rich would cost the daemon a fifth of its memory and of its start-up."""
    if sys.argv[1:2] == ["run"] and not {"--help", "-h"} & set(sys.argv):
        from bridge.cli.run import run_from_arguments

        raise SystemExit(run_from_arguments(sys.argv[2:]))
    from bridge.cli.app import app

    app()
