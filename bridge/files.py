"""How a file looks from outside: enough to know that it has changed."""

from __future__ import annotations

import os
from pathlib import Path

Stamp = tuple[int, ...]  # () for one that is not there


def stamp(path: Path) -> Stamp:
    """Differs when a file was written, replaced (also by way of a link, as Kubernetes does) or given other rights."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a NUL in the name
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
