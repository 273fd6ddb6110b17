"""What the machine decides when the settings say nothing: where state is kept, and what this host is called."""

from __future__ import annotations

import functools
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

SYSTEM_STATE = Path("/var/lib/smtp-bridge")


def state_directory(environ: Mapping[str, str]) -> Path:
    """`$STATE_DIRECTORY` (systemd), else /var/lib/smtp-bridge when writable, else ~/.local/state/smtp-bridge. Makes nothing."""
    # systemd.exec(5): several StateDirectory= are separated by colons; the first is ours.
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given).absolute()
    if _writable(SYSTEM_STATE):
        return SYSTEM_STATE
    try:
        home = Path(environ.get("HOME") or Path.home())
    except RuntimeError:  # a user without a home, as in a container that runs as any number
        return SYSTEM_STATE
    return home / ".local/state/smtp-bridge"


def _writable(directory: Path) -> bool:
    """It is there and may be written, or may be made."""
    existing = directory if os.path.lexists(directory) else directory.parent
    # Path.is_dir() raises where /var/lib/private, to which systemd links a dynamic user's directory, is closed to this user.
    return os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK)


@functools.cache
def default_hostname() -> str:
    """This machine's full name if it has one, else its short one, with nothing in it that SMTP would not accept."""
    full = socket.getfqdn()
    return clean_hostname(full if "." in full else socket.gethostname())


def clean_hostname(name: str) -> str:
    """RFC 5321 2.3.5: letters, digits and hyphens between dots; "localhost" when nothing is left."""
    labels = (re.sub(r"[^A-Za-z0-9-]+", "-", label).strip("-")[:63] for label in name.split("."))
    return ".".join(label for label in labels if label)[:253].rstrip(".-") or "localhost"
