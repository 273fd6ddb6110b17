"""Plays a program against a running daemon and holds all that can be seen of it against the model."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import itertools
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, cast

import structlog

from bridge.config.load import load_settings
from bridge.daemon import Daemon
from tests.conftest import environment
from tests.smtp.model import Kept, Model, Rules
from tests.smtp.programs import DOT_FIRST, ECHO, Program
from tests.smtp.raw import HEADER, trusting, without_received

PATIENCE_S = 10.0
UNREAD = 10_000  # octets: a server that closes may not have read them, and TCP then throws away its last replies
USERS: dict[str, tuple[bytes, tuple[str, ...]]] = {"printer": (b"secret", ()), "ann": (b"annspw", ("ann@example.com",))}
EXTRA = ("CHUNKING", "BINARYMIME")  # and LIMITS

# One daemon has them all; the limits are its own.
LISTENERS: dict[str, tuple[str, dict[str, Any]]] = {
    "smtp": ("", {}),
    "lmtp": ('protocol = "lmtp"', {"protocol": "lmtp"}),
    "strict": ('bare_newlines = "reject"\ntls = "none"', {"reject_bare_newlines": True, "starttls": False}),
    "login": (
        'require_auth = true\nauth_without_tls = true\nauth_mechanisms = ["PLAIN", "LOGIN", "CRAM-MD5"]',
        {"open_relay": False, "auth_without_tls": True, "mechanisms": ("PLAIN", "LOGIN", "CRAM-MD5")},
    ),
    "tls": ("require_tls = true", {"require_tls": True}),
    "nobody": ("allowed_networks = []", {"open_relay": False}),
}


def settings_text() -> str:
    rules = Rules()
    smtp = f"""
[smtp]
hostname = "{rules.hostname}"
max_message_size = {rules.max_message_size}
max_recipients = {rules.max_recipients}
max_errors = {rules.max_errors}
max_junk_commands = {rules.max_junk}
max_unknown_commands = {rules.max_unknown}

[provider]
kind = "capture"
"""
    listeners = (
        f'[[smtp.listener]]\naddress = "127.0.0.1:0"\nname = "{name}"\n{text}\n'
        for name, (text, _) in LISTENERS.items()
    )
    users = (
        f'[[user]]\nname = "{name}"\npassword = "{password.decode()}"\nsenders = {list(senders) or ["*"]}\n'
        for name, (password, senders) in USERS.items()
    )
    return "\n".join((smtp, *listeners, *users)).replace("'", '"')


class Running:
    """A daemon in a thread and a loop of its own, whose errors are collected; a context manager."""

    def __init__(
        self, directory: Path, *, new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    ) -> None:
        self._directory = directory
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.errors: list[str] = []
        self.ports: dict[str, int] = {}
        self.rules: dict[str, Rules] = {}
        self.seen: set[str] = set()

    def __enter__(self) -> Running:
        self._logging = structlog.get_config()
        structlog.configure(
            processors=[self._note],
            wrapper_class=structlog.make_filtering_bound_logger(0),  # for tests/leaks.py
            cache_logger_on_first_use=False,
        )
        self._loop.set_exception_handler(lambda loop, context: self.errors.append(repr(context)))
        self._thread.start()
        (self._directory / "config.toml").write_text(settings_text())
        variables = environment(self._directory, SMTP_BRIDGE_SMTP__AUTH_DELAY="0s")
        del variables["SMTP_BRIDGE_SMTP__LISTENER__ADDRESS"], variables["SMTP_BRIDGE_SMTP__HOSTNAME"]
        self.daemon = Daemon(load_settings(environ=variables, cwd=self._directory))
        self._own: set[asyncio.Task[Any]] = self.run(self._start())
        self.ports = {listener.service.policy.name: listener.port for listener in self.daemon.listeners}
        self.rules = {
            name: Rules(users=USERS, extra=self._extra(name), **options) for name, (_, options) in LISTENERS.items()
        }
        return self

    async def _start(self) -> set[asyncio.Task[Any]]:
        """The tasks that last as long as the daemon."""
        await self.daemon.start()
        await asyncio.sleep(0.2)
        return asyncio.all_tasks() - {cast(asyncio.Task[Any], asyncio.current_task())}

    def __exit__(self, *_: object) -> None:
        self.run(self.daemon.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()
        structlog.configure(**self._logging)

    def _note(self, _: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        if method in ("error", "exception", "critical"):
            error = event.get("exc_info")
            self.errors.append(f"{event} {error if isinstance(error, BaseException) else ''}")
        raise structlog.DropEvent

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S * 3)

    def settle(self, rounds: int = 2) -> None:
        """What was sent has been read, and what could be done at once has been done."""
        for _ in range(rounds):
            self.run(asyncio.sleep(0))

    def errors_since(self) -> list[str]:
        """What was logged as an error since the last call."""
        found, self.errors[:] = list(self.errors), []
        return found

    def leftovers(self) -> str:
        """Sessions and tasks that outlive their connection; waits a little for the last one to go."""
        return str(self.run(self._leftovers()))

    async def _leftovers(self) -> str:
        for _ in range(400):
            tasks = asyncio.all_tasks() - self._own - {asyncio.current_task()}
            left: list[object] = [*tasks, *self.daemon.connections.sessions]
            if not left:
                return ""
            await asyncio.sleep(0.005)
        return str(left)

    def stored(self) -> list[tuple[dict[str, Any], bytes]]:
        """What clients brought into the spool since the last call, oldest first."""
        return list(self.run(self._stored()))

    async def _stored(self) -> list[tuple[dict[str, Any], bytes]]:
        rows = [row for row in await self.daemon.spool.list_messages(limit=50) if row["queue_id"] not in self.seen]
        self.seen |= {row["queue_id"] for row in rows}
        taken = [dict(row) for row in reversed(rows) if row["protocol"] != "DSN"]  # the bridge's own, of NOTIFY=SUCCESS
        return [(row, await self.daemon.spool.body(row["queue_id"]) or b"") for row in taken]

    def _extra(self, name: str) -> tuple[str, ...]:
        """What this version offers beyond the fixed keywords."""
        if name == "tls":  # the first EHLO is the same
            name = "smtp"
        with socket.create_connection(("127.0.0.1", self.ports[name]), PATIENCE_S) as sock:
            sock.sendall(b"%s x\r\nQUIT\r\n" % (b"LHLO" if name == "lmtp" else b"EHLO"))
            words = b"".join(iter(lambda: sock.recv(4096), b"")).decode().splitlines()
        return tuple(word[4:] for word in words if word[4:] in EXTRA or word[4:].startswith("LIMITS "))


class Wrong(AssertionError):
    """The daemon did what the model did not expect."""


class Client:
    """Blocking, so that nothing of the client runs on the daemon's loop."""

    def __init__(self, port: int) -> None:
        self._sock: socket.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""
        self.heard: list[str] = []
        self.ended = False
        self.may_lose = False

    def send(self, segment: bytes) -> None:
        with contextlib.suppress(
            ConnectionError, ssl.SSLError
        ):  # the server has closed; what it said before is still read
            self._sock.sendall(segment)

    def hear(self, expected: Sequence[str], *, to_the_end: bool = False) -> None:
        """All replies up to now, and the end. Raises Wrong, as soon as one is another or none comes."""
        while not self.ended and (to_the_end or len(self.heard) < len(expected)):
            self._read()
            if self.heard != [*expected[: len(self.heard)]]:
                break
        if self.ended and self.may_lose and self.heard == [*expected[: len(self.heard)]]:
            return
        if self.heard != [*expected] or (self.ended and self._unread):
            raise Wrong(_difference(expected, self.heard) + f"\n  unread   {self._unread!r}")

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except TimeoutError:
            raise Wrong(f"silence for {PATIENCE_S} s after {self.heard}") from None
        except (ConnectionError, ssl.SSLError):
            data = b""
        self.ended = not data
        self._unread += data
        while match := re.match(rb"(?:[^\n]{3}-[^\n]*\n)*[^\n]{3}(?!-)[^\n]*\n", self._unread):
            self._unread = self._unread[match.end() :]
            self.heard.append(read_reply(match[0]))

    def start_tls(self) -> None:
        self._sock = CONTEXT.wrap_socket(self._sock)

    @property
    def secure(self) -> bool:
        return isinstance(self._sock, ssl.SSLSocket)

    def half_close(self) -> None:
        if not self.secure:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._sock.close()


CONTEXT = trusting()


def read_reply(raw: bytes) -> str:
    """As the model writes it. Raises Wrong for what breaks RFC 5321 4.2, RFC 2034 4, or says a client's words again."""
    lines = raw.split(b"\r\n")
    if lines.pop() or any(len(line) > 510 or not re.fullmatch(rb"[2345]\d\d[ -][ -~]*", line) for line in lines):
        raise Wrong(f"not a reply: {raw!r}")
    if ECHO in raw or len({line[:3] for line in lines}) > 1 or any(line[3:4] != b"-" for line in lines[:-1]):
        raise Wrong(f"not a good reply: {raw!r}")
    texts = [line[4:].decode() for line in lines]
    code = lines[0][:3].decode()
    if len(texts) > 1:
        return f"{code} " + " | ".join(sorted(texts[1:]))
    if code == "334":
        is_cram = texts[0] and b"@bridge.example>" in re.sub(rb"[^ -~]", b"", _from_base64(texts[0]))
        return "334 CRAM-MD5" if is_cram else f"334 {_from_base64(texts[0]).decode()}".strip()
    enhanced = re.match(r"([245]\.\d{1,3}\.\d{1,3}) \S", texts[0])
    if enhanced and enhanced[1][0] != code[0]:
        raise Wrong(f"the classes disagree: {raw!r}")
    return f"{code} {enhanced[1]}" if enhanced else code


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def play(program: Program, running: Running) -> Model:
    """Raises Wrong."""
    model = Model(running.rules[program.listener])
    client = Client(running.ports[program.listener])
    try:
        try:
            _talk(program, model, client, running)
        finally:
            client.close()
            left, stored, errors = running.leftovers(), running.stored(), running.errors_since()
    except Wrong as wrong:
        raise Wrong(f"{wrong}; {left} {errors}") from None
    if left or errors:
        raise Wrong(f"left over: {left}, errors: {errors}")
    _compare_kept(program, model, stored)
    return model


def _talk(program: Program, model: Model, client: Client, running: Running) -> None:
    if program.pause != "none" or program.end == "reset":  # before it is let in a reset would leave nothing to wait for
        client.hear(model.replies)
    for segment in program.segments():
        model.feed(segment)
        client.send(segment)
        if (program.pause == "reply" and not model.closed) or model.awaits_tls:
            client.hear(model.replies)
        if model.awaits_tls:
            try:
                client.start_tls()
            except (ConnectionError, ssl.SSLError) as error:
                if model.dropped > UNREAD:  # so much that some of it was taken for the handshake: then there is none
                    return
                raise Wrong(f"no TLS: {error}") from None
            model.secured()
        elif program.pause == "read":
            running.settle()
        if model.closed:
            break
    if program.end == "reset" and not model.closed:
        client.reset()
    elif client.secure and not model.closed:  # no half-close under TLS: it has heard everything and goes
        client.hear(model.replies)
    else:
        client.half_close()
        client.may_lose = model.closed and model.unread > UNREAD
        client.hear(model.replies, to_the_end=True)


def _difference(expected: Sequence[str], heard: Sequence[str]) -> str:
    pairs = itertools.zip_longest(expected, heard)
    at = next((n for n, (one, other) in enumerate(pairs) if one != other), len(expected))
    return f"reply {at}: expected {[*expected[at : at + 3]]}, heard {[*heard[at : at + 3]]} after {[*heard[:at]]}"


def _compare_kept(program: Program, model: Model, stored: Sequence[tuple[dict[str, Any], bytes]]) -> None:
    # A reset may overtake what the client did not wait for: of that less is kept, but from the first on.
    fewer = program.end == "reset" and program.pause != "reply" and not model.closed
    if len(stored) > len(model.kept) or (len(stored) < len(model.kept) and not fewer):
        raise Wrong(f"kept {len(stored)} instead of {len(model.kept)} messages")
    for kept, (row, body) in zip(model.kept, stored, strict=False):
        _compare_message(kept, row, body)


def _compare_message(kept: Kept, row: dict[str, Any], body: bytes) -> None:
    found = Kept(
        reverse_path=row["sender"],
        recipients=tuple(one["address"] for one in row["recipients"]),
        content=without_received(body),
        user=row["user"],
        helo=row["helo"] if kept.helo.isascii() and kept.helo.isprintable() else kept.helo,
        protocol=row["protocol"],
    )
    # Without a header of its own a message gets Date, Message-ID and an empty line, which is not the session's affair.
    if not kept.content.startswith((HEADER, DOT_FIRST)):
        found = dataclasses.replace(found, content=kept.content)
    if found != kept:
        raise Wrong(f"kept {found} instead of {kept}")


def described(program: Program) -> Iterator[str]:
    yield f"{program.listener}, cut by {program.cut} {program.places}, pause {program.pause}, {program.end}"
    yield from (f"  {segment if len(segment) < 400 else segment[:400] + b'...'!r}" for segment in program.segments())
