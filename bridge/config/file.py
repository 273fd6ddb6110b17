"""The settings file: where it is looked for, reading it, and on which line each key stands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.config.schema import tables

CONFIG_VARIABLE = "SMTP_BRIDGE_CONFIG"
LOCAL_CONFIG = "config.toml"
SYSTEM_CONFIG = Path("/etc/smtp-bridge/config.toml")

KeyPath = tuple[str | int, ...]
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"\s*([A-Za-z0-9_\-.\"' ]+?)\s*=")


class FileProblem(Exception):
    """The settings file cannot be used; the text is the line for the operator."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    path: Path
    text: str
    tree: dict[str, Any]


def find_config(config_path: str | None, environ: Mapping[str, str], cwd: Path) -> ConfigFile | None:
    """The first of --config, $SMTP_BRIDGE_CONFIG, ./config.toml, the system's. One that was named must be there."""
    named = config_path or environ.get(CONFIG_VARIABLE)
    if named:
        return _read(cwd / named, f"--config {named}" if config_path else f"{CONFIG_VARIABLE} {named}")
    for path in (cwd / LOCAL_CONFIG, SYSTEM_CONFIG):
        try:
            return _read(path, str(path))
        except FileNotFoundError:
            continue
    return None


def _read(path: Path, name: str) -> ConfigFile:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and name == str(path):
            raise FileNotFoundError from None
        problem = f"{name}: cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        problem = f"{path} line {error.object.count(10, 0, error.start) + 1}: not UTF-8 text"
    else:
        return ConfigFile(path, text, parse_toml(path, text))
    raise FileProblem(problem)  # out of the except clause: a decoding error carries the whole file


def parse_toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem = str(error)
    except ValueError:
        problem = "a number is too long"
    except RecursionError:
        problem = "nested too deeply"
    line = re.search(r" \(at line (\d+), column (\d+)\)", problem)
    place = f" line {line[1]}" if line else ""
    raise FileProblem(f"{path}{place}: not valid TOML: {problem.replace(line[0], '') if line else problem}")


def find_lines(text: str) -> dict[KeyPath, int]:
    """Line numbers of tables and keys. For messages only: a text over several lines may look like keys."""
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.fullmatch(line):
            table = _table_path(_names(header[2]), counts, another=header[1] == "[[")
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault(_inside(table, _names(key[1]), counts), number)
    return lines


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(name.strip().strip("\"'") for name in dotted.split("."))


def _table_path(names: tuple[str, ...], counts: dict[KeyPath, int], *, another: bool) -> KeyPath:
    path = _inside((), names, counts)
    if not another and not _is_array(path):
        return path
    counts[path] = counts.get(path, -1) + 1
    return (*path, counts[path])


def _inside(table: KeyPath, names: tuple[str, ...], counts: dict[KeyPath, int]) -> KeyPath:
    """The path of a key; where its name crosses an array of tables, the last table so far is meant."""
    path = table
    for name in names[:-1]:
        path = (*path, name)
        if _is_array(path):
            path = (*path, counts.get(path, 0))
    return (*path, *names[-1:])


def _is_array(path: KeyPath) -> bool:
    return tables().get(tuple(name for name in path if isinstance(name, str)), False)
