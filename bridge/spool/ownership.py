"""A spool belongs to one daemon: the lock that says so, and the socket by which other processes wake it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.spool.base import SpoolBusy

_LONGEST_ADDRESS = 100  # sun_path has 108 bytes


class Lock:
    """An exclusive flock on PATH.lock; the kernel frees it when the process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(_beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise SpoolBusy(f"{path} belongs to another running daemon") from error

    def release(self) -> None:
        os.close(self._descriptor)


class Bell:
    """PATH.wake, a datagram socket: one byte means "look at the queue". Nothing depends on it arriving."""

    def __init__(self, path: Path) -> None:
        self._path = _beside(path, ".wake")
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self) -> None:
        self._path.unlink(missing_ok=True)
        self._socket = _datagram_socket()
        with _address(self._path) as address:
            self._socket.bind(address)
        self._path.chmod(0o600)

    @property
    def socket(self) -> socket.socket:
        if self._socket is None:
            raise RuntimeError("only the daemon's spool has a wake socket")
        return self._socket

    @property
    def ours(self) -> bool:
        """Whether this process is the daemon that hears it."""
        return self._socket is not None

    def on_ring(self, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.socket.fileno(), self._heard, callback)

    def _heard(self, callback: Callable[[], None]) -> None:
        try:
            while self.socket.recv(64):
                pass
        except BlockingIOError:
            pass
        callback()

    def ring(self) -> None:
        """Never waits and never fails: a full socket has been rung already, and without a daemon there is nobody."""
        with _datagram_socket() as sender:
            try:
                with _address(self._path) as address:
                    sender.sendto(b"w", address)
            except OSError:
                pass

    def close(self) -> None:
        if self._socket is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._path.unlink(missing_ok=True)
        self._socket.close()
        self._socket = None


def _datagram_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    made.setblocking(False)
    return made


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """The path itself, or through a descriptor of its directory when it is longer than a socket address may be."""
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
