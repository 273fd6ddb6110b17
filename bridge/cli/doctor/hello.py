"""The first octets of a connection: TLS, a PROXY header, HTTP or text; and what a ClientHello says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bridge.smtp.proxy import PROXY_MARKS

First = Literal["tls", "proxy", "text"]

VERSIONS = {0x0200: "SSL 2", 0x0300: "SSL 3", 0x0301: "1.0", 0x0302: "1.1", 0x0303: "1.2", 0x0304: "1.3"}
_SERVER_NAME, _SUPPORTED_VERSIONS = 0, 43


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """`version`: the newest offered, as in `VERSIONS`. `ciphers`: the numbers of the suites (RFC 5246 7.4.1.2)."""

    version: str
    ciphers: frozenset[int] = frozenset()
    server_name: str = ""


def kind_of(octets: bytes) -> First | None:
    """None: too few to tell."""
    for mark in PROXY_MARKS:
        if octets.startswith(mark):
            return "proxy"
        if mark.startswith(octets):
            return None
    if is_hello(octets):
        return "tls"
    return None if octets in (b"\x16", b"\x80") else "text"


def is_hello(octets: bytes) -> bool:
    """A TLS record of a handshake, or the hello of SSL 2 that old clients still begin with (RFC 5246 E.2)."""
    return octets[:2] == b"\x16\x03" or (len(octets) > 2 and octets[0] & 0x80 > 0 and octets[2] == 1)


def parse_record(octets: bytes) -> Hello | None:
    """Of a record as it came over the wire, perhaps cut off."""
    if octets[:2] == b"\x16\x03":
        return parse_client_hello(octets[5:])
    if is_hello(octets) and len(octets) > 5:
        return Hello(version=VERSIONS.get(int.from_bytes(octets[3:5], "big"), "SSL 2"))
    return None


def parse_client_hello(message: bytes) -> Hello | None:
    """RFC 5246 7.4.1.2, RFC 8446 4.1.2; None when it is none. What is cut off counts as not there."""
    if message[:1] != b"\x01":
        return None
    legacy, at = int.from_bytes(message[4:6], "big"), 38
    at += 1 + (message[at] if len(message) > at else 0)
    length = int.from_bytes(message[at : at + 2], "big")
    suites = message[at + 2 : at + 2 + length]
    at += 2 + length
    at += 1 + (message[at] if len(message) > at else 0)
    extensions = _extensions(message[at + 2 :])
    return Hello(
        version=_newest(legacy, extensions.get(_SUPPORTED_VERSIONS, b"")),
        ciphers=frozenset(_numbers(suites)),
        server_name=extensions.get(_SERVER_NAME, b"")[5:].decode("ascii", "replace"),
    )


def _newest(legacy: int, supported: bytes) -> str:
    known = [number for number in _numbers(supported[1:]) if number in VERSIONS]
    return VERSIONS.get(max(known, default=legacy), VERSIONS[0x0303] if legacy > 0x0303 else "SSL 3")


def _numbers(octets: bytes) -> list[int]:
    return [int.from_bytes(octets[n : n + 2], "big") for n in range(0, len(octets) - 1, 2)]


def _extensions(octets: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(octets):
        length = int.from_bytes(octets[at + 2 : at + 4], "big")
        found[int.from_bytes(octets[at : at + 2], "big")] = octets[at + 4 : at + 4 + length]
        at += 4 + length
    return found
