"""dnspython behind `Lookup`; it comes with the extra `doctor`."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.cli.doctor.records import Kind, Lookup, NoAnswer, NoName

LIFETIME_S = 6.0


def make_lookup(server: str = "") -> Lookup:
    """`server`: "127.0.0.1" or "127.0.0.1:5353", "" for those of this machine. Raises ImportError without dnspython, NoAnswer
    when this machine knows no name server."""
    import dns.exception
    import dns.resolver

    try:
        resolver = dns.resolver.Resolver(configure=not server)
    except dns.exception.DNSException as error:
        raise NoAnswer(str(error)) from None
    if server:
        host, _, port = server.rpartition(":") if server.count(":") == 1 or "]:" in server else (server, "", "")
        resolver.nameservers = [host.strip("[]")]
        resolver.port = int(port or 53)
    resolver.cache = dns.resolver.Cache()
    resolver.lifetime = LIFETIME_S

    def lookup(name: str, kind: Kind) -> Sequence[str]:
        try:
            answer = resolver.resolve(f"{name.rstrip('.')}.", kind, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            raise NoName(name) from None
        except dns.exception.DNSException as error:
            raise NoAnswer(str(error)) from None
        if kind == "TXT":
            return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]
        return [record.to_text() for record in answer]

    return lookup
