"""Where the daemon of these settings can be asked how it is: its HTTP side, else one of its listeners.

The settings' own classes take ten times as long to load as the question takes, and a mistake that has come into the settings
since the daemon read them is no reason to call it ill. So only addresses are looked at; a test compares with `load_settings`.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

PREFIX = "SMTP_BRIDGE_"
SYSTEM_CONFIG = Path("/etc/smtp-bridge/config.toml")
DEFAULT_LISTENER = f"{PREFIX}DEFAULT_LISTENER"  # of a listener without an address, as in the image
DEFAULT = "127.0.0.1:2525"
INBOX = "127.0.0.1:8025"  # of a daemon without any settings
_TRUE = ("true", "1", "yes", "on", "y", "t")
_LOOPBACK = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 they are connected to


class Door(NamedTuple):
    """`address`: "host:port" or "unix:/path", to be connected to."""

    kind: Literal["http", "smtp"]
    address: str
    tls: bool = False  # from the first byte
    proxied: bool = False  # a PROXY header comes first


class NoDoor(Exception):
    """There is none, or it cannot be found out; the text is one line."""


def find_door(config: str, environ: Mapping[str, str], cwd: Path, *, smtp: bool = False) -> Door:
    """`smtp`: of a listener, also where there is an HTTP side. Raises NoDoor."""
    tree = _read_file(config or environ.get(f"{PREFIX}CONFIG", ""), cwd)
    given = {name: value for name, value in environ.items() if name.startswith(PREFIX) and "__" in name}
    given |= {
        name: environ[name] for name in (f"{PREFIX}SMTP", f"{PREFIX}HTTP", f"{PREFIX}PROVIDER") if name in environ
    }
    default = environ.get(DEFAULT_LISTENER, "")
    if tree is None and not given and not default and not smtp:
        return Door("http", INBOX)
    if not smtp and (address := _connectable(_http_address(tree or {}, given))):
        return Door("http", address)
    # One that waits for a PROXY header may take no connections from here: the others are better asked.
    doors = sorted(_smtp_doors(tree or {}, given, default or DEFAULT), key=lambda door: door.proxied)
    if not doors:
        raise NoDoor(
            "no listener has an address of its own that could be asked" + ("" if smtp else ": set http.address")
        )
    return doors[0]


def _read_file(named: str, cwd: Path) -> dict[str, Any] | None:
    """None: there is none."""
    for path in [cwd / named] if named else [cwd / "config.toml", SYSTEM_CONFIG]:
        try:
            return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
        except OSError as error:
            if named or not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise NoDoor(f"{path}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError):  # without its text, which may hold secrets
            raise NoDoor(f"{path}: not valid TOML") from None
    return None


def _http_address(tree: Mapping[str, Any], given: Mapping[str, str]) -> str:
    table = _table(given, "HTTP", tree.get("http"))
    found = table.get("address", "") if isinstance(table, dict) else ""
    return str(given.get(f"{PREFIX}HTTP__ADDRESS", found) or "")


def _smtp_doors(tree: Mapping[str, Any], given: Mapping[str, str], default: str) -> Iterator[Door]:
    smtp = _table(given, "SMTP", tree.get("smtp"))
    listed = _table(given, "SMTP__LISTENER", smtp.get("listener") if isinstance(smtp, dict) else None)
    tables = listed if isinstance(listed, list) else [listed]
    own = {key: f"{PREFIX}SMTP__LISTENER__{key.upper()}" for key in ("address", "tls", "proxy_protocol")}
    more = {key: given[name] for key, name in own.items() if name in given}
    for table in tables or [{}]:
        listener = {**(table if isinstance(table, dict) else {}), **more}
        if address := _connectable(str(listener.get("address") or default)):
            proxied = str(listener.get("proxy_protocol", "")).strip().lower() in _TRUE
            yield Door("smtp", address, tls=listener.get("tls") == "implicit", proxied=proxied)


def _table(given: Mapping[str, str], name: str, otherwise: Any) -> Any:
    """A whole table in one variable is JSON, and goes before the file."""
    text = given.get(PREFIX + name)
    if text is None:
        return otherwise or {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise NoDoor(f"{PREFIX}{name}: not valid JSON") from None


def _connectable(address: str) -> str:
    """From a listening address; "" when it does not tell where: a port of the system's choice, a socket of systemd's."""
    address = address.strip()
    if address.startswith("unix:"):
        return address
    host, _, port = address.rpartition(":")
    if address.startswith("systemd:") or not port.isdecimal() or not int(port):
        return ""
    return f"{_LOOPBACK.get(host, host)}:{int(port)}"


def here() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return Path(os.sep)
