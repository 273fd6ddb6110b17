"""Listening sockets: TCP, unix and those systemd hands over, and how listening ends.

An address is bound first and served later, so that a taken port is one clear line before anything else has happened.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BACKLOG = 1024
_FIRST_SYSTEMD_FD = 3  # sd_listen_fds(3)
_NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class ListenError(Exception):
    """An address that cannot be listened on; the text is one line that names it."""


class Bound:
    """One address and its sockets, until `close`."""

    def __init__(self, address: str, environ: Mapping[str, str] = os.environ) -> None:
        """Raises ListenError."""
        self.address = address
        try:
            self.sockets = bind_address(address, environ)
        except OSError as error:
            raise ListenError(f"cannot listen on {address}: {_why(error)}") from error
        path = unix_path(address)
        self._made = _identity(path) if path else None

    @property
    def port(self) -> int:
        """The port in fact bound (useful for ":0"); 0 for a unix socket."""
        name = self.sockets[0].getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        path = unix_path(self.address)
        # Not one that another daemon listens on, or has put there since.
        if path and self._made and _identity(path) == self._made:
            path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def unix_path(address: str) -> Path | None:
    return Path(address.removeprefix("unix:")) if address.startswith("unix:") else None


def bind_address(address: str, environ: Mapping[str, str]) -> list[socket.socket]:
    """Sockets for `host:port`, `[v6]:port`, `:port` (all interfaces), `unix:/path` or `systemd:NAME`. Raises OSError."""
    if address.startswith("systemd:"):
        return _systemd_sockets(address.removeprefix("systemd:"), environ)
    if path := unix_path(address):
        return [_bind_unix(path)]
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    places = dict.fromkeys((info[0], info[4]) for info in found)
    return _bind_all(sorted(places, key=lambda place: place[0] != socket.AF_INET))


def _bind_all(places: Sequence[tuple[int, Any]]) -> list[socket.socket]:
    """All of a name's addresses, with one port where that is ours to choose; those of a family this machine lacks are left
    out (a container without IPv6 still has the `::1` of "localhost" in its hosts file)."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, (host, port, *rest) in places:
            port = port or (sockets[0].getsockname()[1] if sockets else 0)
            try:
                sockets.append(_bind_tcp(family, (host, port, *rest)))
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                missing = error
        if missing and not sockets:
            raise missing
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_tcp(family: int, place: tuple[Any, ...]) -> socket.socket:
    # Named, so that asyncio sees it in those that are accepted, and does not let a second write wait for an acknowledgement.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: Path) -> socket.socket:
    """A socket left behind by a daemon that was killed is replaced; one that answers is not."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            _remove_unanswered(path)
        sock.bind(str(path))
        path.chmod(0o660)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_unanswered(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # one whose backlog is full answers later (EAGAIN), but it lives
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    path.unlink()


def _systemd_sockets(name: str, environ: Mapping[str, str]) -> list[socket.socket]:
    """The sockets that systemd passed under this FileDescriptorName (sd_listen_fds_with_names(3))."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        raise OSError(errno.ENOENT, "systemd passed no sockets to this process")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    given = environ.get("LISTEN_FDS", "")
    count = int(given) if given.isascii() and given.isdigit() else 0
    names += ["unknown"] * (count - len(names))
    sockets = [socket.socket(fileno=_FIRST_SYSTEMD_FD + i) for i in range(count) if names[i] == name]
    if not sockets:
        raise OSError(errno.ENOENT, f"systemd passed no socket named {name}")
    for sock in sockets:
        sock.setblocking(False)
    return sockets


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use already"
    if error.errno == errno.EACCES:
        return "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE, or a socket of systemd's)"
    return error.strerror or str(error)
