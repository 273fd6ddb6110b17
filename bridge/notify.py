"""What systemd is told: ready, reloading, stopping, how things stand, and that the daemon is alive (sd_notify(3)).

Datagrams to $NOTIFY_SOCKET; without it all of this does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import structlog

log: Any = structlog.get_logger()

SEND_S = 1.0  # the socket's queue is never full for long; a READY=1 that is lost would cost the start
MAX_STATUS = 500  # characters


class Notifier:
    """`watchdog_s`: within how many seconds `watchdog` is expected again; None: it is not."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._status = ""
        self._trouble = ""
        self._said = ""
        self._stopping = False
        self.watchdog_s = _watchdog(environ) if self._address else None

    @property
    def used(self) -> bool:
        return bool(self._address)

    def ready(self) -> None:
        """After the start, and after each `reloading`, however that ended."""
        if not self._stopping:
            self._send("READY=1")

    def reloading(self) -> None:
        if not self._stopping:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._send(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self, within: float) -> None:
        """`within`: the seconds it may take, also where that is more than the unit's TimeoutStopSec."""
        self._stopping = True
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within * 1_000_000)}")

    def watchdog(self) -> None:
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent only when it is another than before."""
        self._status = text
        self._say()

    def trouble(self, text: str) -> None:
        """Said before each status until it is ""."""
        self._trouble = text
        self._say()

    def _say(self) -> None:
        text = "; ".join(part for part in (self._trouble, self._status) if part)
        text = "".join(c if c.isprintable() else " " for c in text)[:MAX_STATUS]
        if text != self._said:
            self._said = text
            self._send(f"STATUS={text}")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # "@" stands for the NUL of an abstract name.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_S)
                sock.sendto(text.encode(), address)
        except OSError as error:
            log.error("systemd.not_told", text=text.partition("\n")[0], error=str(error))


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """sd_watchdog_enabled(3)."""
    given = environ.get("WATCHDOG_USEC", "")
    meant = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    return int(given) / 1_000_000 if meant and given.isascii() and given.isdigit() and int(given) else None
