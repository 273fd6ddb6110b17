"""What the commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn

import orjson
import typer

from bridge.cli.exits import EX_CONFIG
from bridge.config.load import SettingsError, load_settings
from bridge.config.settings import Settings
from bridge.units import parse_duration

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


def duration(text: str) -> float:
    """The value of an option, in seconds; nothing is not a duration."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not seconds:
        raise typer.BadParameter("must be more than 0")
    return seconds


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


def counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    return "es" if noun.endswith("s") else "s"


def tell(facts: Mapping[str, Any], sentence: str, as_json: bool) -> None:
    print_json(facts) if as_json else print(sentence)


def print_json(value: Any) -> None:
    sys.stdout.write(to_json(value).decode())


def to_json(value: Any, *, indent: bool = True) -> bytes:
    option = orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if indent else 0)
    return orjson.dumps(value, option=option, default=str)
