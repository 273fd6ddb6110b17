"""The header a load balancer puts before a connection: whose connection it is (haproxy's proxy-protocol.txt, versions 1 and 2).

A pure parser: octets in, the client's address out. What is no header raises ProxyError and nothing else.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

MAX_V1 = 107  # 2.1: the longest line, CRLF included
MAX_V2 = 16 + 4096  # the format allows 64 KiB of TLVs; those in use (TLS, cloud ids) stay well below 1 KiB
_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
PROXY_MARKS = (_V1, _V2)  # what a header begins with
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_V1_FAMILIES: dict[str, type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]] = {
    "TCP4": ipaddress.IPv4Address,
    "TCP6": ipaddress.IPv6Address,
}
# 2.2: family and transport -> octets of the address block, octets of the source address (0: none that is a client's).
# Datagrams carry no SMTP.
_V2_FAMILIES = {0x00: (0, 0), 0x11: (12, 4), 0x21: (36, 16), 0x31: (216, 0)}
_LOCAL, _PROXY = 0, 1


class ProxyError(ValueError):
    """What came is no header; the text says why, without a word of what came."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """`size`: octets of the header. `source`: the client's address, an IPv4 one in its own form; "" when the balancer names
    none: it speaks for itself (LOCAL), or it does not know (UNKNOWN, UNSPEC, a unix socket)."""

    size: int
    source: str = ""


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header at the beginning of `data`; None when more is needed to tell. Raises ProxyError."""
    if data[: len(_V2)] == _V2[: len(data)]:  # no octet of version 2's signature is one of version 1's
        return _parse_v2(data) if len(data) >= 16 else None
    if data[: len(_V1)] == _V1[: len(data)]:
        return _parse_v1(data)
    raise ProxyError("no PROXY header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise ProxyError("line too long")
        if b"\n" in data:
            raise ProxyError("line without CRLF")
        return None
    try:
        words = data[:end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise ProxyError("not ASCII") from None
    size = end + 2
    if words[1] == "UNKNOWN":  # 2.1: the rest of the line is ignored
        return ProxyHeader(size)
    family = _V1_FAMILIES.get(words[1])
    if family is None or len(words) != 6:
        raise ProxyError("not one of TCP4, TCP6, UNKNOWN with two addresses and two ports")
    if not all(_PORT.fullmatch(port) and int(port) <= 65535 for port in words[4:]):
        raise ProxyError("bad port")
    try:
        source, _ = family(words[2]), family(words[3])
    except ValueError:
        raise ProxyError("bad address") from None
    return ProxyHeader(size, _text(source))


def _parse_v2(data: bytes) -> ProxyHeader | None:
    version, command = data[12] >> 4, data[12] & 15
    size = 16 + int.from_bytes(data[14:16])
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise ProxyError("unknown version or command")
    if size > MAX_V2:
        raise ProxyError("header too long")
    known = _V2_FAMILIES.get(data[13])
    if command == _PROXY and known is None:
        raise ProxyError("unknown address family or transport")
    block, octets = known if known and command == _PROXY else (0, 0)
    if size < 16 + block:
        raise ProxyError("addresses cut short")
    if len(data) < size:
        return None
    # What follows the addresses are TLVs, which say nothing that is needed here.
    source = data[16 : 16 + octets]
    if not source:
        return ProxyHeader(size)
    address = ipaddress.ip_address(source)  # packed: 4 octets or 16
    return ProxyHeader(size, _text(address))


def _text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Without a scope, which would be the balancer's; an IPv4 client of a dual-stack balancer is the IPv4 one."""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.scope_id:
        raise ProxyError("bad address")
    return str(address.ipv4_mapped or address)
