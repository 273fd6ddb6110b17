"""What is allowed, but should be seen: told at each start and by `smtp-bridge check`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from bridge.config.named_files import NamedFile
from bridge.config.settings import Settings
from bridge.config.smtp import Listener

# Where `make install` and packages put the unit.
_UNITS = tuple(Path(place, "smtp-bridge.service") for place in (
    "/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
))  # fmt: skip


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


def hidden_from_the_unit(files: Sequence[NamedFile], secrets: Path, units: Sequence[Path] = _UNITS) -> Iterator[str]:
    """Files that root, who checks the settings, can read and the service cannot: its user is made anew at each start, and it
    gets copies of what is in `secrets` alone (systemd.exec(5), LoadCredential=)."""
    if os.geteuid() != 0 or not any(unit.exists() for unit in units):
        return
    for file in files:
        if file.path.is_relative_to(secrets) or file.path.stat().st_mode & stat.S_IROTH:
            continue
        yield f"{file.setting}: {file.path} is not for everybody to read, so the service cannot; put it into {secrets}"
