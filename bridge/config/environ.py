"""Settings from the environment: `SMTP_BRIDGE_SMTP__LISTENER__ADDRESS` is `address` in `[smtp.listener]`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bridge.config.file import CONFIG_VARIABLE, KeyPath
from bridge.config.places import Places
from bridge.config.schema import nearest, tables
from bridge.config.types import decode_json

PREFIX = "SMTP_BRIDGE_"
# The address of each listener that has none: no setting but a default, so that the file goes before it. For images, whose
# loopback nobody reaches.
DEFAULT_LISTENER_VARIABLE = "SMTP_BRIDGE_DEFAULT_LISTENER"
SENDMAIL_VARIABLE = "SMTP_BRIDGE_SENDMAIL_ADDRESS"  # of `smtp-bridge sendmail`, which is called with this environment
_NO_SETTINGS = (CONFIG_VARIABLE, DEFAULT_LISTENER_VARIABLE, SENDMAIL_VARIABLE)
# What Kubernetes injects for a Service called smtp-bridge, or smtp-bridge-ANYTHING: SMTP_BRIDGE_SERVICE_HOST=10.0.0.9,
# SMTP_BRIDGE_WEB_PORT_8025_TCP=tcp://10.0.0.9:8025. A name with another value is somebody's mistake (SMTP_BRIDGE_SMTP_PORT=25).
_SERVICE_LINK = re.compile(
    r"SMTP_BRIDGE_(?:[A-Z0-9_]+_)?(?:"
    r"SERVICE_HOST=[0-9A-Fa-f.:]+|SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+|PORT=(?:tcp|udp|sctp)://\S+|"
    r"PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:=(?:tcp|udp|sctp)://\S+|_PROTO=(?:tcp|udp|sctp)|_PORT=[0-9]+|_ADDR=[0-9A-Fa-f.:]+))"
)


class VariableProblem(Exception):
    """A variable that cannot be used; the text is the line for the operator."""


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Those that are settings, shorter names first: a whole table comes before a key in it."""
    ours = (name for name in environ if name.startswith(PREFIX) and name not in _NO_SETTINGS)
    return {name: environ[name] for name in sorted(ours) if not _is_service_link(name, environ[name])}


def _is_service_link(name: str, value: str) -> bool:
    return "__" not in name and _SERVICE_LINK.fullmatch(f"{name}={value}") is not None


def variable_for(key: str) -> str:
    """`smtp.hostname` -> SMTP_BRIDGE_SMTP__HOSTNAME."""
    return PREFIX + key.replace(".", "__").upper()


def unknown_variable(name: str, siblings: frozenset[str] = frozenset()) -> str:
    """`siblings`: the keys of its table, in full, which are rather meant than any other."""
    meant = nearest(".".join(_names(name)), siblings)
    return f"unknown variable '{name}'" + (f"; did you mean '{variable_for(meant)}'?" if meant else "")


def overlay(tree: dict[str, Any], settings: Mapping[str, str], places: Places) -> Iterator[str]:
    """Write the variables into the tree read from the file, and yield what is wrong with them."""
    for name, value in settings.items():
        try:
            _place(tree, name, value, places)
        except VariableProblem as problem:
            yield str(problem)


def fill_listeners(tree: dict[str, Any], address: str, places: Places) -> None:
    """Give the one listener there is without settings, and each that has no address, this one."""
    smtp = tree.setdefault("smtp", {})
    listed = smtp.setdefault("listener", [{}]) if isinstance(smtp, dict) else None
    if isinstance(listed, dict):
        listed = smtp["listener"] = [listed]
    for index, table in enumerate(listed if isinstance(listed, list) else ()):  # validation says what else is wrong
        if isinstance(table, dict) and "address" not in table:
            table["address"] = address
            places.note_variable(("smtp", "listener", index, "address"), DEFAULT_LISTENER_VARIABLE)


def _names(variable: str) -> tuple[str, ...]:
    return tuple(variable[len(PREFIX) :].lower().split("__"))


def _place(tree: dict[str, Any], variable: str, value: str, places: Places) -> None:
    *outer, last = _names(variable)
    table: dict[str, Any] = tree
    path: KeyPath = ()
    for depth, name in enumerate(outer, 1):
        names = tuple(outer[:depth])
        if names not in tables() or variable != variable.upper():
            raise VariableProblem(unknown_variable(variable))
        table, path = _enter(table, (*path, name), variable, places, many=tables()[names])
    if (*outer, last) in tables():
        _refuse_array(table.get(last), (*path, last), variable, places)
        table[last] = _decode(variable, value)
    else:
        table[last] = value
    places.note_variable((*path, last), variable)


def _enter(
    table: dict[str, Any], path: KeyPath, variable: str, places: Places, *, many: bool
) -> tuple[dict[str, Any], KeyPath]:
    """The table called path[-1], made if it is missing; the only one of an array of tables."""
    name = str(path[-1])
    inner = table.setdefault(name, [{}] if many else {})
    if many and isinstance(inner, dict):
        inner = table[name] = [inner]
    if isinstance(inner, list):
        _refuse_array(inner, path, variable, places)
        inner = inner or [{}]
        table[name], path, inner = inner, (*path, 0), inner[0]
    if not isinstance(inner, dict):
        raise VariableProblem(f"{variable}: '{_dotted(path)}' is no table in {places.of(path).text}")
    return inner, path


def _refuse_array(existing: Any, path: KeyPath, variable: str, places: Places) -> None:
    if isinstance(existing, list) and len(existing) > 1:
        where = places.of((*path, 1)).text
        raise VariableProblem(
            f"{variable}: '{_dotted(path)}' has {len(existing)} tables (the second at {where}), so it is not clear which is meant"
        )


def _dotted(path: KeyPath) -> str:
    return ".".join(name for name in path if isinstance(name, str))


def _decode(variable: str, value: str) -> Any:
    """A whole table in one variable is JSON."""
    try:
        return decode_json(value)
    except ValueError as error:
        raise VariableProblem(f"{variable}: {error}; a whole table is given as JSON") from None
