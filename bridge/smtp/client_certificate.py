"""What a client's certificate says: its names, and until when."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

MAX_NAME = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def certificate_names(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    """Of what `ssl.SSLSocket.getpeercert` returns: its DNS names, email addresses and common names, in this order, as they
    are written. What could be no user's name is left out."""
    names = dict.fromkeys(
        (*_alternative(certificate, "DNS"), *_alternative(certificate, "email"), *_common(certificate))
    )
    return tuple(name for name in names if 0 < len(name) <= MAX_NAME and not _CONTROL.search(name))


def has_expired(certificate: Mapping[str, Any], now: float) -> bool:
    """TLS has looked at that, but not again where it resumed a session of some time ago."""
    return ssl.cert_time_to_seconds(certificate["notAfter"]) < now


def _alternative(certificate: Mapping[str, Any], kind: str) -> Iterator[str]:
    yield from (value for name, value in certificate.get("subjectAltName", ()) if name == kind)


def _common(certificate: Mapping[str, Any]) -> Iterator[str]:
    for pairs in certificate.get("subject", ()):
        yield from (value for key, value in pairs if key == "commonName")
