"""Where the daemon listens for programs of this machine: from the option, the variable, or the settings as far as this user may
read them. The settings' own classes take longer to load than a mail takes to send, and the rest of the file is not looked at."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge.cli.exits import EX_CONFIG
from bridge.cli.sendmail.failure import Failure

ADDRESS_VARIABLE = "SMTP_BRIDGE_SENDMAIL_ADDRESS"
CONFIG_VARIABLE = "SMTP_BRIDGE_CONFIG"
DEFAULT_LISTENER_VARIABLE = "SMTP_BRIDGE_DEFAULT_LISTENER"
SYSTEM_CONFIG = Path("/etc/smtp-bridge/config.toml")
DEFAULT = "127.0.0.1:2525"
_LOOPBACK = ("127.0.0.0/8", "::1/128")
_VARIABLE = re.compile(r"SMTP_BRIDGE_SMTP__LISTENER__(?:([0-9]+)__)?([A-Z_]+)")


def places(address: str, config: str, environ: Mapping[str, str]) -> list[str]:
    """Addresses to try, the best first. Raises Failure when no listener takes mail from here without a login.

    `./config.toml` is not looked at: this runs in directories that belong to others.
    """
    if given := address or environ.get(ADDRESS_VARIABLE, ""):
        return [given]
    listeners = _listeners(config or environ.get(CONFIG_VARIABLE, ""), environ)
    usable = sorted(filter(None, map(_usable, listeners)))
    if not usable:
        raise Failure(
            EX_CONFIG,
            "no listener of the settings takes mail of this machine without TLS and a login: add one on a unix socket or "
            f"loopback, or name one with {ADDRESS_VARIABLE}",
        )
    return [place for _, place in usable]


def _listeners(config: str, environ: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
    smtp = _smtp_table(Path(config) if config else SYSTEM_CONFIG)
    listed = smtp.get("listener", [{}])
    listeners: list[dict[str, Any]] = [
        dict(each) for each in ([listed] if isinstance(listed, dict) else listed) if isinstance(each, dict)
    ]
    for name, value in environ.items():
        if found := _VARIABLE.fullmatch(name):
            index = int(found[1] or 0)
            if index < 1000:
                listeners += [{} for _ in range(index + 1 - len(listeners))]
                listeners[index][found[2].lower()] = value
    default = environ.get(DEFAULT_LISTENER_VARIABLE) or DEFAULT
    return [{"address": default, **listener} for listener in listeners or [{}]]


def _smtp_table(path: Path) -> Mapping[str, Any]:
    """Nothing where it cannot be read: it may hold secrets that are not for this user."""
    try:
        octets = path.read_bytes()
    except OSError:
        return {}
    import tomllib

    try:
        smtp = tomllib.loads(octets.decode("utf-8-sig")).get("smtp", {})
    except (ValueError, RecursionError):
        return {}
    return smtp if isinstance(smtp, dict) else {}


def _usable(listener: Mapping[str, Any]) -> tuple[int, str] | None:
    """(how good, address): a unix socket, then loopback, then any other address of this machine."""
    barred = ("require_auth", "require_tls", "proxy_protocol")
    if any(str(listener.get(key, "")).lower() in ("true", "1", "yes", "on") for key in barred):
        return None
    if listener.get("protocol", "smtp") != "smtp" or listener.get("tls") == "implicit":
        return None
    address = str(listener["address"])
    if address.startswith("unix:"):
        return 0, address
    host, _, port = address.rpartition(":")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 it is connected to
    if address.startswith("systemd:") or port == "0" or not _lets_in(host, listener.get("allowed_networks", _LOOPBACK)):
        return None
    return (1 if host in ("127.0.0.1", "localhost", "[::1]") else 2), f"{host}:{port}"


def _lets_in(host: str, networks: Any) -> bool:
    """From this machine to one of its own addresses a connection comes from that address."""
    if isinstance(networks, str):
        networks = re.split(r"[\s,\[\]\"]+", networks)
    try:
        client = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        return True  # a name: to be tried
    return any(client in network for network in _networks(networks))


def _networks(texts: Any) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for text in texts if isinstance(texts, list | tuple) else ():
        try:
            yield ipaddress.ip_network(str(text), strict=False)
        except ValueError:
            continue


def hostname(environ: Mapping[str, str] = os.environ) -> str:
    """As the daemon calls itself by default."""
    from bridge.config.machine import default_hostname

    return environ.get("SMTP_BRIDGE_SMTP__HOSTNAME", "") or default_hostname()
