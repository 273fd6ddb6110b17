"""Whether networks are "our machines" or the Internet: rules only.

A client whose address is translated or tunnelled is somewhere in IPv4, so such a network counts as the IPv4 ones in it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from bridge.config.types import Network

WIDEST = {4: 8, 6: 32}  # prefix lengths; anything wider is the Internet
_V4_BUDGET = 1 << 32 - WIDEST[4]
_V6_BUDGET = 1 << 128 - WIDEST[6]

# Nobody is there but those who are near: RFC 1918, 6598 (CGNAT), 3927 and 4291 (link-local), 4193 (ULA), loopback.
_NEAR_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8"),
    )
)
_NEAR_V6 = tuple(map(ipaddress.IPv6Network, ("::1/128", "fe80::/10", "fc00::/7")))

# Where all of IPv4 is found within IPv6, and the bit at which an IPv4 address ends.
_EMBEDDING = tuple(
    (ipaddress.IPv6Network(network), end)
    for network, end in (
        ("::ffff:0:0/96", 128),  # mapped, RFC 4291 2.5.5.2
        ("64:ff9b::/96", 128),  # NAT64, RFC 6052
        ("64:ff9b:1::/48", 128),  # the same for local use, RFC 8215
        ("2002::/16", 48),  # 6to4, RFC 3056
        ("2001::/32", 128),  # Teredo, RFC 4380
    )
)


def is_too_wide(network: Network) -> bool:
    """Wider than /8 (IPv6 /32), by the addresses or by those they stand for."""
    return network.prefixlen < WIDEST[network.version] or _embedded(network) > _V4_BUDGET


def too_wide_together(networks: Iterable[Network]) -> bool:
    """Whether they hold more public addresses than one of the widest networks."""
    given = tuple(networks)
    v4 = list(ipaddress.collapse_addresses(n for n in given if isinstance(n, ipaddress.IPv4Network)))
    v6 = list(ipaddress.collapse_addresses(n for n in given if isinstance(n, ipaddress.IPv6Network)))
    public = sum(_public(network, _NEAR_V4) for network in v4) + sum(map(_embedded, v6))
    return public > _V4_BUDGET or sum(_public(network, _NEAR_V6) for network in v6) > _V6_BUDGET


def _public(network: Network, near: Iterable[Network]) -> int:
    """How many of its addresses are not near. Of two networks one holds the other, or they share nothing."""
    shared = [min(network.num_addresses, other.num_addresses) for other in near if network.overlaps(other)]
    return network.num_addresses - sum(shared)


def _embedded(network: Network) -> int:
    """How many IPv4 addresses it stands for."""
    if isinstance(network, ipaddress.IPv4Network):
        return 0
    held = 0
    for place, end in _EMBEDDING:
        if network.overlaps(place):
            held += 1 << min(max(end - max(network.prefixlen, place.prefixlen), 0), 32)
    return held
