"""One question to a running daemon, all of it within a time: GET on its HTTP side, or the greeting of a listener."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from typing import Any

from bridge.cli.health.doors import Door

MAX_ANSWER = 64 * 1024
# PROXY protocol 2.1: nobody is named, so the connection's own addresses hold.
_PROXY_HEADER = b"PROXY UNKNOWN\r\n"


class Ill(Exception):
    """The daemon does not answer, or says that it is not well; the text is one line."""


def ask(door: Door, *, ready: bool, timeout_s: float) -> str:
    """What it said, in a line. Raises Ill."""
    try:
        with Line(door, timeout_s) as line:
            return _ask_http(line, ready=ready) if door.kind == "http" else _hear_greeting(line, door, ready=ready)
    except TimeoutError:
        raise Ill(f"no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise Ill(error.strerror or str(error)) from None


class Line:
    """A connection whose every wait ends at the same moment. Raises OSError, TimeoutError."""

    def __init__(self, door: Door, timeout_s: float) -> None:
        self._until = time.monotonic() + timeout_s
        self._sock = _connect(door.address, timeout_s)
        if door.proxied:
            self.send(_PROXY_HEADER)
        if door.tls:
            self._sock = self._encrypted()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def _encrypted(self) -> socket.socket:
        """With any certificate: it is our own daemon that is asked, and nothing is told."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._sock.settimeout(self._left())
        return context.wrap_socket(self._sock)

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def send(self, octets: bytes) -> None:
        self._sock.settimeout(self._left())
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # to be heard by what it said before
            self._sock.sendall(octets)

    def receive(self) -> bytes:
        """b"" at the end, also when it hung up with something of ours unread."""
        self._sock.settimeout(self._left())
        try:
            return self._sock.recv(MAX_ANSWER)
        except ConnectionResetError:
            return b""


def _connect(address: str, timeout_s: float) -> socket.socket:
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout_s)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(address.removeprefix("unix:"))
    except OSError:
        sock.close()
        raise
    return sock


# --- HTTP


def _ask_http(line: Line, *, ready: bool) -> str:
    path = "/readyz" if ready else "/healthz"
    line.send(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())  # 1.0: the answer ends with the connection
    answer = b""
    while len(answer) < MAX_ANSWER and (octets := line.receive()):
        answer += octets
    found = re.match(rb"HTTP/1\.[01] ([0-9]{3})\b", answer)
    if not found:
        raise Ill("hung up" if not answer else "that is not HTTP")
    said = f"{path} answered {found[1].decode()}"
    if found[1] != b"200":
        raise Ill(said + _reasons(answer.partition(b"\r\n\r\n")[2]))
    return said


def _reasons(body: bytes) -> str:
    """Of the checks of `/readyz` that failed; "" when it says none."""
    try:
        checks: dict[str, Any] = json.loads(body)["checks"]
        found = [f"{name}: {check['reason']}" for name, check in checks.items() if not check["ok"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return one_line(": " + "; ".join(found)) if found else ""


# --- SMTP


def _hear_greeting(line: Line, door: Door, *, ready: bool) -> str:
    """Any reply shows that it lives; 220 (RFC 5321 4.2.2) that it takes mail."""
    heard = b""
    while not re.search(rb"^[0-9]{3}(?: .*)?\r?\n", heard, re.MULTILINE) and len(heard) < MAX_ANSWER:
        octets = line.receive()
        if not octets:
            break
        heard += octets
    greeting = one_line(heard.split(b"\n")[0].decode("utf-8", "replace"))
    if not re.match(r"[2-5][0-9]{2}(?:[ -]|\Z)", greeting):
        if door.proxied and not heard:  # proxy_networks does not let us in, which the daemon itself found out
            return "takes connections of its load balancers only"
        raise Ill("hung up without a greeting" if not heard else "that is not an SMTP server")
    if ready and not greeting.startswith("220"):
        raise Ill(greeting)
    _quit(line)
    return greeting


def _quit(line: Line) -> None:
    """RFC 5321 4.1.1.10. What counts has been said: it may hang up as it likes."""
    try:
        line.send(b"QUIT\r\n")
        while line.receive():
            pass
    except OSError:
        pass


def one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text).strip()[:500]
