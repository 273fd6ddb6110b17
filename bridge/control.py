"""The socket at which other processes ask the running daemon for something, and hear what came of it.

PATH.control beside the spool, and `daemon.control` in the state directory, which stays where it is when the settings name another
spool; both for the daemon's user alone: whoever may connect may ask. A question is one word on a line, the answer one JSON
object, then the connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import structlog

log: Any = structlog.get_logger()

Answer = Mapping[str, Any]
PATIENCE_S = 10.0  # for the question to come
_LONGEST_ADDRESS = 100  # octets; sun_path has 108
_LONGEST_QUESTION = 64
# What a client that hangs up, says nothing or too much comes to.
_THEIRS = (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError)


class NobodyThere(Exception):
    """No daemon listens there, or it ended before it answered."""


class Refused(Exception):
    """The daemon's socket is not for this user."""


def beside(spool: Path) -> Path:
    """Links are followed, as the spool itself does."""
    path = Path(os.path.realpath(spool))
    return path.with_name(path.name + ".control")


def within(state: Path) -> Path:
    return Path(os.path.realpath(state)) / "daemon.control"


class Control:
    """Answers at `path` with what `questions` says; they are asked one at a time, each by its word.

    `shared`: another daemon may listen there too. Who comes first has it, until it ends.
    """

    def __init__(
        self, path: Path, questions: Mapping[str, Callable[[], Awaitable[Answer]]], *, shared: bool = False
    ) -> None:
        self._path = path
        self._questions = questions
        self._shared = shared
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Without it the daemon does its work all the same: an error is told, and that is all. Where others listen too, not even
        that."""
        if self._shared and (not self._path.parent.is_dir() or _is_listened_on(self._path)):
            return
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listening.setblocking(False)
        try:
            if self._path.is_socket():  # of a daemon that was killed: there is no other
                self._path.unlink()
            with _address(self._path) as address:
                listening.bind(address)
            self._path.chmod(0o600)  # nobody can connect before it listens
            self._server = await asyncio.start_unix_server(self._answer, sock=listening)
        except OSError as error:
            listening.close()
            log.warning("daemon.warning", text=f"{self._path}: {error.strerror}: `smtp-bridge reload` cannot ask")

    async def close(self) -> None:
        """Who still waits for an answer gets none."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(*_THEIRS):
            async with asyncio.timeout(PATIENCE_S):
                word = (await reader.readuntil(b"\n"))[:_LONGEST_QUESTION].decode("ascii", "replace").strip()
            if question := self._questions.get(word):
                answer = await question()
            else:
                answer = {"outcome": "unknown"}
            writer.write(orjson.dumps(answer) + b"\n")
            await writer.drain()


def ask(path: Path, word: str, *, timeout_s: float) -> dict[str, Any]:
    """Raises NobodyThere, Refused, and TimeoutError when no answer has come in `timeout_s`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(timeout_s)
        try:
            with _address(path) as address:
                asking.connect(address)
            asking.sendall(word.encode("ascii") + b"\n")
            answer = b"".join(iter(lambda: asking.recv(65536), b""))
        except PermissionError as error:
            raise Refused(f"{path}: {error.strerror}") from error
        except (FileNotFoundError, ConnectionError) as error:
            raise NobodyThere from error
    if not answer:
        raise NobodyThere
    found: dict[str, Any] = orjson.loads(answer)
    return found


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.setblocking(False)
        try:
            with _address(path) as address:
                asking.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:  # another user's, or its queue is full
            return True
    return True


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
