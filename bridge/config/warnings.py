"""What is allowed, but should be seen: told at each start and by `smtp-bridge check`."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.config.settings import Settings
from bridge.config.smtp import Listener


def warnings(settings: Settings) -> Iterator[str]:
    certified = any(user.certificate for user in settings.user)
    for listener in settings.smtp.listener:
        for text in _of_listener(listener, certified=certified):
            yield f"listener {listener.name or listener.address}: {text}"


def _of_listener(listener: Listener, *, certified: bool) -> Iterator[str]:
    if listener.tls != "none" and listener.tls_minimum in ("1.0", "1.1"):
        yield (
            f'tls_minimum = "{listener.tls_minimum}" allows versions of TLS that are no longer safe (RFC 8996); '
            "keep it to the devices that know no better"
        )
    if listener.client_ca_file and listener.client_certificates == "any":
        yield f"any certificate of {listener.client_ca_file} may relay"
    elif listener.client_ca_file and not certified:
        yield "client_ca_file is given, but no [[user]] has 'certificate': nobody can log in with one"
