"""What the commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from bridge.cli.exits import EX_CONFIG
from bridge.config.load import SettingsError, load_settings
from bridge.config.settings import Settings

ConfigOption = Annotated[
    str,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The settings file; else $SMTP_BRIDGE_CONFIG, ./config.toml, /etc/smtp-bridge/config.toml.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for programs.")]


def warn(text: str) -> None:
    print(f"smtp-bridge: {text}", file=sys.stderr)


def fail(text: str, status: int) -> NoReturn:
    warn(text)
    raise typer.Exit(status)


def settings_or_exit(config: str, load: Callable[[str | None], Settings] = load_settings) -> Settings:
    """One clear line per mistake and exit 78."""
    try:
        return load(config or None)
    except SettingsError as error:
        for problem in error.problems:
            warn(problem)
        raise typer.Exit(EX_CONFIG) from None
