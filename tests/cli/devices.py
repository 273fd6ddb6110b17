"""Scripted devices: each talks to a port as some printer or program does, and raises when it is not let through."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

USER, PASSWORD = "printer", "geheim-4711"
MESSAGE = (
    b"From: scanner@example.com\r\nTo: bob@example.org\r\nSubject: scan\r\nDate: Mon, 23 Nov 2026 03:27:18 +0000\r\n"
    b"Message-ID: <1@example.com>\r\n\r\ntext\r\n"
)
Device = Callable[[int], None]


class Refused(Exception):
    pass


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


OPEN: list[smtplib.SMTP] = []


@contextmanager
def closed_after() -> Iterator[None]:
    """The connections of clients that were refused in the middle of something."""
    try:
        yield
    finally:
        for client in OPEN:
            client.close()
        OPEN.clear()


def connect(port: int) -> smtplib.SMTP:
    client = smtplib.SMTP("127.0.0.1", port, local_hostname="device", timeout=5)
    OPEN.append(client)
    return client


def send(client: smtplib.SMTP, message: bytes = MESSAGE, recipients: Sequence[str] = ("bob@example.org",)) -> None:
    refused = client.sendmail("scanner@example.com", list(recipients), message)
    client.quit()
    if refused:
        raise Refused(refused)


def plain(port: int) -> None:
    send(connect(port))


def to_three(port: int) -> None:
    send(connect(port), recipients=[f"bob{n}@example.org" for n in range(3)])


def large(port: int) -> None:
    send(connect(port), MESSAGE + b"0123456789\r\n" * 2000)


def bare_newlines(port: int) -> None:
    raw(b"EHLO device\r\n", b"MAIL FROM:<scanner@example.com>\r\n", b"RCPT TO:<bob@example.org>\r\n", b"DATA\r\n",
        MESSAGE.replace(b"text\r\n", b"one\ntwo\rthree\r\n") + b".\r\n", b"QUIT\r\n")(port)  # fmt: skip


def login(mechanism: str, *, password: str = PASSWORD, tls: bool = False, user: str = USER) -> Device:
    """Also where it is not offered: many devices do not look."""

    def device(port: int) -> None:
        client = connect(port)
        client.ehlo()
        if tls:
            client.starttls(context=trusting())
            client.ehlo()
        client.user, client.password = user, password
        client.auth(mechanism, getattr(client, f"auth_{mechanism.lower().replace('-', '_')}"))
        send(client)

    return device


def tls_at_once(port: int) -> None:
    client = smtplib.SMTP_SSL("127.0.0.1", port, local_hostname="device", timeout=5, context=trusting())
    OPEN.append(client)
    send(client)


def starttls_unasked(port: int) -> None:
    client = connect(port)
    client.ehlo()
    code, _ = client.docmd("STARTTLS")
    if code != 220:
        raise Refused(code)
    assert client.sock
    client.sock = trusting().wrap_socket(client.sock)
    client.file = None
    client.ehlo()
    send(client)


def old_tls(port: int) -> None:
    """TLS 1.0, AES with CBC and SHA-1, no elliptic curves: a scanner of 2010."""
    context = trusting()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("AES128-SHA:@SECLEVEL=0")
    client = connect(port)
    client.starttls(context=context)
    client.ehlo()
    send(client)


def untrusting(port: int) -> None:
    connect(port).starttls(context=ssl.create_default_context())


def lmtp(port: int) -> None:
    raw(b"LHLO device\r\n", b"MAIL FROM:<scanner@example.com>\r\n", b"RCPT TO:<bob@example.org>\r\n", b"DATA\r\n",
        MESSAGE + b".\r\n", b"QUIT\r\n")(port)  # fmt: skip


def without_brackets(port: int) -> None:
    raw(b"EHLO device\r\n", b"MAIL FROM:scanner@example.com\r\n", b"RCPT TO:bob@example.org\r\n", b"DATA\r\n",
        MESSAGE + b".\r\n", b"QUIT\r\n")(port)  # fmt: skip


def behind_a_balancer(port: int) -> None:
    raw(b"PROXY TCP4 127.0.0.2 127.0.0.1 9 25\r\n", b"EHLO device\r\n", b"MAIL FROM:<scanner@example.com>\r\n",
        b"RCPT TO:<bob@example.org>\r\n", b"DATA\r\n", MESSAGE + b".\r\n", b"QUIT\r\n", greeted=False)(port)  # fmt: skip


def raw(*parts: bytes, greeted: bool = True) -> Device:
    """Each part is sent when the answer to the one before has come; raises Refused for a 4xx or 5xx."""

    def device(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock, sock.makefile("rb") as lines:
            refused = [] if not greeted or answer(lines) < 400 else [b"the greeting"]
            for part in parts:
                sock.sendall(part)
                if answer(lines) >= 400:
                    refused.append(part[:40])
        if refused:
            raise Refused(refused)

    return device


def answer(lines: socket.SocketIO | object) -> int:
    """The code of the next reply; 999 for the end of the connection."""
    while line := lines.readline():  # type: ignore[union-attr]
        if line[3:4] != b"-":
            return int(line[:3])
    return 999
