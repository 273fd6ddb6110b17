"""A client certificate is a login: whose, what it may do, and what is none."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from bridge.smtp.auth import Authenticator, User
from bridge.smtp.client_certificate import certificate_names
from tests.delivery.conftest import every_line
from tests.smtp.authority import DAY, NOW, Authority, showing
from tests.smtp.raw import ENVELOPE, WHOLE, Raw, clients_end, trusting

__all__ = ["clients_end"]
TAKEN = ("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
PROVIDER = '[[provider]]\nkind = "capture"\n'
USERS = """
[[user]]
name = "printer"
certificate = "printer.example.com"
senders = ["ann@example.com"]
rate = "2/h"
[[user]]
name = "ann"
password = "secret"
"""
AUTH = "AUTH PLAIN AGFubgBzZWNyZXQ="


def listener(authority: Authority, more: str = "") -> str:
    return f"""
        [smtp.listener]
        address = "127.0.0.1:0"
        client_ca_file = "{authority.ca_file}"
        allowed_networks = []
        {more}
        [tls]
        cert_file = "{authority.issue("bridge.example", file="server.pem")}"
    """


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def printer(authority: Authority) -> Path:
    return authority.issue("Printer on the 2nd floor", x509.DNSName("Printer.example.com"))


async def connect(port: int, context: ssl.SSLContext, *, implicit: bool = False) -> Raw:
    if implicit:
        return await Raw.greeted(port, tls=context)
    raw = await Raw.greeted(port)
    raw.send(b"STARTTLS\r\n")
    await raw.expect("220 2.0.0")
    await raw.writer.start_tls(context)
    await raw.say("EHLO client.example")
    return raw


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
async def test_the_user_of_the_certificate_is_logged_in_by_tls_alone(
    mode: str, version: ssl.TLSVersion, authority: Authority, printer: Path, start_daemon: Any
) -> None:
    daemon = await start_daemon(config=listener(authority, f'tls = "{mode}"\nrequire_auth = true') + USERS + PROVIDER)
    context = showing(printer)
    context.minimum_version = context.maximum_version = version

    with every_line() as lines:
        raw = await connect(daemon.listeners[0].port, context, implicit=mode == "implicit")
        raw.send(WHOLE)
        reply = await raw.expect(*TAKEN)

    queue_id = reply.rsplit(" ", 1)[1]
    assert b" with ESMTPSA id " in await daemon.spool.body(queue_id)
    assert (await daemon.spool.list_messages())[0]["user"] == "printer"
    (line,) = [line for line in lines if line["event"] == "connection.auth"]
    assert (line["ok"], line["user"], line["mechanism"]) == (True, "printer", "EXTERNAL")
    assert line["certificate"] == "Printer.example.com"


async def test_the_same_on_uvloop(authority: Authority, printer: Path, bridge_process: Any, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(listener(authority) + USERS + PROVIDER)
    port = (await bridge_process()).port

    raw = await connect(port, showing(printer))
    raw.send(WHOLE)
    await raw.expect(*TAKEN)
    for context in (trusting(), showing(authority.issue("nobody"))):
        raw = await connect(port, context)
        assert (await raw.say("MAIL FROM:<ann@example.com>")).startswith("530 5.7.0")


async def test_the_rules_of_the_user_hold(authority: Authority, printer: Path, start_daemon: Any) -> None:
    daemon = await start_daemon(config=listener(authority) + USERS + PROVIDER)
    raw = await connect(daemon.listeners[0].port, showing(printer))

    assert (await raw.say("MAIL FROM:<eve@example.com>")).startswith("550 5.7.1 Sender address not allowed")
    for _ in range(2):
        raw.send(WHOLE)
        await raw.expect(*TAKEN)
    assert (await raw.say("MAIL FROM:<ann@example.com>")).startswith("451 4.7.1 Rate limit")


async def test_a_client_without_a_certificate_may_use_auth_and_nothing_else(
    authority: Authority, start_daemon: Any
) -> None:
    daemon = await start_daemon(config=listener(authority) + USERS + PROVIDER)
    raw = await connect(daemon.listeners[0].port, trusting())

    assert "AUTH PLAIN LOGIN" in raw.lines
    assert (await raw.say("MAIL FROM:<ann@example.com>")).startswith("530 5.7.0")
    assert (await raw.say(AUTH)).startswith("235")
    raw.send(WHOLE)
    await raw.expect(*TAKEN)


async def test_auth_replaces_the_user_of_the_certificate_and_a_wrong_one_does_not(
    authority: Authority, printer: Path, start_daemon: Any
) -> None:
    daemon = await start_daemon(config=listener(authority) + USERS + PROVIDER)
    raw = await connect(daemon.listeners[0].port, showing(printer))
    (session,) = daemon.connections.sessions

    assert (await raw.say("AUTH PLAIN AGFubgB3cm9uZw==")).startswith("535")
    assert session.user_name == "printer"
    assert (await raw.say(AUTH)).startswith("235")
    assert session.user_name == "ann"
    assert (await raw.say(AUTH)).startswith("503 5.5.1 Already authenticated")
    assert (await raw.say("MAIL FROM:<eve@example.com>")).startswith("250")  # no rule of the printer's any more
    assert (await raw.say("RSET")).startswith("250")


async def test_a_certificate_that_no_user_names_is_nobodys(authority: Authority, start_daemon: Any) -> None:
    daemon = await start_daemon(config=listener(authority) + USERS + PROVIDER)

    with every_line() as lines:
        raw = await connect(daemon.listeners[0].port, showing(authority.issue("ann")))
        assert (await raw.say("MAIL FROM:<ann@example.com>")).startswith("530 5.7.0")

    (line,) = [line for line in lines if line["event"] == "connection.auth"]
    assert (line["ok"], line["certificate"], line["log_level"]) == (False, "ann", "warning")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("wrong", ["another authority", "expired", "signed by itself"])
async def test_a_certificate_that_is_not_verified_ends_the_handshake(
    wrong: str, version: ssl.TLSVersion, authority: Authority, printer: Path, start_daemon: Any, tmp_path: Path
) -> None:
    name = x509.DNSName("printer.example.com")
    made = {
        "another authority": lambda: Authority(tmp_path / "other").issue("x", name),
        "expired": lambda: authority.issue("x", name, until=NOW - DAY),
        "signed by itself": lambda: Authority(tmp_path / "own", "x").issue("x", name),
    }
    context = showing(made[wrong]())
    context.minimum_version = context.maximum_version = version
    daemon = await start_daemon(config=listener(authority) + USERS + PROVIDER)
    port = daemon.listeners[0].port

    with every_line() as lines, contextlib.suppress(ssl.SSLError, ConnectionError):
        raw = await connect(port, context)
        raw.send(WHOLE)
        assert await asyncio.wait_for(raw.reader.read(), 10) == b""

    (line,) = [line for line in lines if line["event"] == "connection.tls_failed"]
    assert "certificate" in line["error"]
    assert not await daemon.spool.list_messages()
    raw = await connect(port, showing(printer))
    raw.send(WHOLE)
    await raw.expect(*TAKEN)


async def test_where_the_listener_says_so_any_certificate_of_the_authority_may_relay_under_its_name(
    authority: Authority, start_daemon: Any
) -> None:
    more = 'require_auth = true\nclient_certificates = "any"'
    daemon = await start_daemon(config=listener(authority, more) + PROVIDER)
    port = daemon.listeners[0].port

    raw = await connect(port, showing(authority.issue("scanner 7")))
    assert not [line for line in raw.lines if line.startswith("AUTH")]
    raw.send(WHOLE)
    await raw.expect(*TAKEN)
    assert (await daemon.spool.list_messages())[0]["user"] == "scanner 7"
    raw = await connect(port, trusting())
    assert (await raw.say("MAIL FROM:<ann@example.com>")).startswith("550 5.7.1")
    raw = await connect(port, showing(authority.issue("")))  # no name at all
    assert (await raw.say("MAIL FROM:<ann@example.com>")).startswith("550 5.7.1")


def ask(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[str, ssl.SSLSession | None]:
    """What MAIL hears, and the TLS session; the one given must be resumed."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname="localhost", session=session) as tls,
        tls.makefile("rwb", 0) as lines,
    ):
        assert tls.session_reused is (session is not None)
        lines.readline()
        lines.write(b"HELO x\r\n")
        lines.readline()
        lines.write(b"MAIL FROM:<ann@example.com>\r\n")
        return lines.readline().decode(), tls.session


async def test_a_certificate_that_has_expired_since_is_no_login_in_a_resumed_tls_session(
    authority: Authority, printer: Path, start_daemon: Any
) -> None:
    """What is resumed is not verified again."""
    daemon = await start_daemon(config=listener(authority, 'tls = "implicit"') + USERS + PROVIDER)
    (service,) = daemon.services
    context = showing(printer)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    port = daemon.listeners[0].port

    said, session = await asyncio.to_thread(ask, port, context, None)
    assert said.startswith("250 2.1.0")
    service.now = lambda: time.time() + 2 * DAY.total_seconds()
    said, session = await asyncio.to_thread(ask, port, context, session)
    assert said.startswith("530 5.7.0")


async def test_a_listener_that_trusts_nobody_asks_for_no_certificate(printer: Path, start_daemon: Any) -> None:
    daemon = await start_daemon(config='[smtp.listener]\naddress = "127.0.0.1:0"\nallowed_networks = []\n' + PROVIDER)
    raw = await connect(daemon.listeners[0].port, showing(printer))

    raw.send(ENVELOPE)
    await raw.expect("550 5.7.1", "503")


async def test_plain_text_is_no_place_for_a_certificate(authority: Authority, start_daemon: Any) -> None:
    daemon = await start_daemon(config=listener(authority) + USERS + PROVIDER)
    raw = await Raw.greeted(daemon.listeners[0].port)

    assert (await raw.say("AUTH EXTERNAL =")).startswith("538")
    assert (await raw.say("MAIL FROM:<ann@example.com>")).startswith("530")


# --- rules


def test_the_names_are_dns_names_addresses_and_common_names_in_this_order() -> None:
    certificate = {
        "subject": (
            (("organizationName", "Org"),),
            (("commonName", "a"), ("commonName", "b")),
            (("commonName", "x\n"),),
        ),
        "subjectAltName": (("email", "c@d"), ("DNS", "e"), ("URI", "f:g"), ("IP Address", "192.0.2.7"), ("DNS", "a")),
    }

    assert certificate_names(certificate) == ("e", "a", "c@d", "b")
    assert certificate_names({}) == ()
    assert certificate_names({"subject": ((("commonName", "n" * 256),),)}) == ()


def owner(users: list[User], *names: str, anybody: bool = False) -> str | None:
    auth = Authenticator(users, cache_s=0)
    auth.close()
    found = auth.user_of_certificate(names, anybody=anybody)
    return found.name if found else None


def test_whose_a_certificate_is() -> None:
    printer, ann = User(name="printer", certificate="p.example"), User(name="ann", password="x")

    assert owner([printer, ann], "P.EXAMPLE", "ann") == "printer"
    assert owner([printer, ann], "other", "p.example") == "printer"
    assert owner([printer, ann], "printer") is None
    assert owner([printer, ann], "ann") is None
    assert owner([printer]) is None
    assert owner([ann], "other", "ann") is None
    assert owner([], "any") is None
    assert owner([ann], "other", "ann", anybody=True) == "other"
    assert owner([printer, ann], "p.example", anybody=True) == "printer"
    assert owner([ann], "Ann", anybody=True) is None
    assert owner([ann], anybody=True) is None
    assert owner([], "any", anybody=True) == "any"


def test_only_users_with_a_password_can_use_auth() -> None:
    for users, there in (
        ([], False),
        ([User(name="p", certificate="p")], False),
        ([User(name="a", password="x")], True),
    ):
        auth = Authenticator(users, cache_s=0)
        auth.close()
        assert bool(auth) is there


async def test_a_user_with_a_certificate_alone_has_no_password(start_daemon: Any, authority: Authority) -> None:
    only = USERS.partition('[[user]]\nname = "ann"')[0]
    daemon = await start_daemon(config=listener(authority) + only + PROVIDER)
    raw = await connect(daemon.listeners[0].port, trusting())

    assert (await raw.say("AUTH PLAIN AHByaW50ZXIA")).startswith("502")  # nobody has one
    assert await daemon.auth.check_password("printer", b"") is None
    assert daemon.auth.check_cram_md5("printer", b"x", "0" * 32) is None
