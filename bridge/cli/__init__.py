"""The command `smtp-bridge`."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        _main()
    except KeyboardInterrupt:  # before a command has begun to handle it
        raise SystemExit(130) from None


def _main() -> None:
    """`run` goes a way of its own: Typer and Rich would cost the daemon a fifth of its memory and of its start-up."""
    if sys.argv[1:2] == ["run"] and not {"--help", "-h"} & set(sys.argv):
        # httpx and structlog import these wherever they are installed, for things a daemon never does.
        sys.modules.update(dict.fromkeys(("rich", "click", "pygments")))  # type: ignore[arg-type]
        # structlog loads rich for tracebacks, and httpx rich and click for a command line, wherever they are installed.
        for unwanted in ("rich", "click"):
            sys.modules.setdefault(unwanted, None)  # type: ignore[arg-type]
        from bridge.cli.run import run_from_arguments

        raise SystemExit(run_from_arguments(sys.argv[2:]))
    if sys.argv[1:2] == ["health"] and not {"--help", "-h"} & set(sys.argv):
        from bridge.cli.health.command import run_from_arguments as ask_health

        raise SystemExit(ask_health(sys.argv[2:]))
    if sys.argv[1:2] == ["sendmail"] and not {"--help"} & set(sys.argv):
        from bridge.cli.sendmail.command import run_sendmail

        raise SystemExit(run_sendmail(sys.argv[2:]))
    from bridge.cli.app import app

    app(prog_name="smtp-bridge")


def sendmail() -> None:
    """Installed as `smtp-bridge-sendmail`, to be linked to as /usr/sbin/sendmail, `mailq` and `newaliases`."""
    from bridge.cli.sendmail.command import run_sendmail

    try:
        raise SystemExit(run_sendmail(sys.argv[1:], sys.argv[0].rpartition("/")[2]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
