"""Who may relay through a listener: rules only, values in, values out."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from typing import Any, Literal

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerPolicy:
    """One listener's rules.

    `name`: in the settings, for routes and the history. `allowed_networks`: who may relay without AUTH unless
    `require_auth`; the peers of a unix socket are local. `proxy_networks`: whose PROXY header is believed, and no other
    connection is taken; None where none is expected. Again the peers of a unix socket are.
    """

    name: str = ""
    protocol: Literal["smtp", "lmtp"] = "smtp"
    tls: Literal["none", "starttls", "implicit"] = "starttls"
    require_tls: bool = False
    require_auth: bool = False
    allowed_networks: tuple[Network, ...] = ()
    proxy_networks: tuple[Network, ...] | None = None
    auth_mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")
    auth_without_tls: bool = False
    bare_newlines: Literal["normalize", "reject"] = "normalize"
    bare_addresses: bool = False
    any_certificate: bool = False  # of the listener's authority may relay, also one that no user names

    def may_relay(self, client: str, *, authenticated: bool) -> bool:
        if authenticated:
            return True
        return not self.require_auth and is_allowed(client, self.allowed_networks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in octets, times in seconds."""

    max_message_size: int = 25 * 1024 * 1024
    max_recipients: int = 1000
    max_connections: int = 1000
    max_connections_per_client: int = 100
    max_errors: int = 20
    max_junk_commands: int = 100
    max_unknown_commands: int = 10
    max_commands: int = 100_000
    timeout: float = 300.0
    min_data_rate: float = 0.0  # octets per second
    tls_handshake_timeout: float = 30.0
    proxy_header_timeout: float = 10.0


UNIX = "unix"  # the client of a unix socket, which its listener says: no address, or none any more, never means that


def client_of(peername: Any) -> str:
    """The client's address from a TCP socket's peer name; "" where it has none (any more). An IPv4 client of a dual-stack
    socket (systemd's) is ::ffff:192.0.2.1 there, and 192.0.2.1 everywhere here."""
    if not isinstance(peername, tuple):
        return ""
    address = str(peername[0])
    return address.removeprefix("::ffff:") if "." in address else address


@functools.lru_cache(maxsize=4096)
def is_allowed(client: str, networks: tuple[Network, ...]) -> bool:
    """An IPv4 client on a dual-stack socket (::ffff:192.0.2.1) is matched as IPv4. "unix" is always local."""
    if client == UNIX:
        return True
    address = address_of(client)
    return address is not None and any(address in network for network in networks)


@functools.lru_cache(maxsize=4096)  # a client comes again and again, and is asked about three times a connection
def address_of(client: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Without a zone, an IPv4 address in IPv6 as itself; None for what is no address ("unix")."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
