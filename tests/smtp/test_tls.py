"""STARTTLS, implicit TLS and the certificate, over real handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from pathlib import Path
from typing import Any

import pytest

from bridge.smtp.tls import CertificateError, make_context, self_signed
from bridge.smtp.wire import UNSENT
from tests.delivery.conftest import every_line
from tests.smtp.authority import Authority
from tests.smtp.raw import CAPTURE, WHOLE, Raw, clients_end, trusting

__all__ = ["clients_end"]
HANDSHAKE = {"SMTP_BRIDGE_SMTP__TLS_HANDSHAKE_TIMEOUT": "0.3s"}
IMPLICIT = {"SMTP_BRIDGE_SMTP__LISTENER__TLS": "implicit"}


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start_port(loop_kind: str, start_daemon: Any, bridge_process: Any) -> Any:
    """`await start_port(**variables)`: a daemon in this process on asyncio, or a process of its own on uvloop."""

    async def start(**variables: str) -> int:
        if loop_kind == "asyncio":
            return (await start_daemon(**CAPTURE, **variables)).listeners[0].port
        return (await bridge_process(**CAPTURE, **variables)).port

    return start


async def test_commands_sent_behind_starttls_in_plain_text_are_never_run(start_port: Any) -> None:
    """CVE-2011-0411, CVE-2024-34083: one segment, STARTTLS and what a man in the middle adds."""
    raw = await Raw.greeted(await start_port())

    raw.send(b"STARTTLS\r\nEHLO injected.example\r\nMAIL FROM:<eve@example.com>\r\n")
    await raw.expect("220 2.0.0")
    await raw.writer.start_tls(trusting())

    assert await raw.say("NOOP") == "250 2.0.0 Ok"
    assert (await raw.say("MAIL FROM:<ann@example.com>")).startswith("503 5.5.1 Send HELO")
    assert (await raw.say("EHLO x")).startswith("250")
    assert "STARTTLS" not in raw.lines
    assert (await raw.say("STARTTLS")).startswith("503 5.5.1")
    raw.send(WHOLE)
    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")


async def test_plain_text_that_comes_after_the_220_breaks_the_handshake(start_port: Any) -> None:
    raw = await Raw.greeted(await start_port())

    raw.send(b"STARTTLS\r\n")
    await raw.expect("220 2.0.0")
    raw.send(b"NOOP\r\nEHLO injected.example\r\n")

    with contextlib.suppress(ConnectionError):
        assert b"250" not in await asyncio.wait_for(raw.reader.read(), 10)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00" + b"garbage" * 100, b"NOOP\r\n"])
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
async def test_a_handshake_of_silence_or_garbage_ends_and_others_are_served(
    mode: str, sent: bytes, start_port: Any
) -> None:
    variables = HANDSHAKE | ({"SMTP_BRIDGE_SMTP__LISTENER__TLS": mode})
    port = await start_port(**variables)
    raw = await (Raw.greeted(port) if mode == "starttls" else Raw.connect(port))
    other = await Raw.greeted(port, **({} if mode == "starttls" else {"tls": trusting()}))
    if mode == "starttls":
        raw.send(b"STARTTLS\r\n")
        await raw.expect("220 2.0.0")

    raw.send(sent)

    other.send(WHOLE)
    await other.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(raw.reader.read(), 5)


async def test_failed_handshakes_leave_no_session_and_no_timer(start_daemon: Any) -> None:
    """asyncio never tells the protocol of a connection whose handshake failed that it is lost."""
    daemon = await start_daemon(**CAPTURE, **HANDSHAKE)
    for _ in range(5):
        raw = await Raw.greeted(daemon.listeners[0].port)
        raw.send(b"STARTTLS\r\n")
        await raw.expect("220 2.0.0")
        (session,) = daemon.connections.sessions
        raw.send(b"no TLS at all\r\n")
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(raw.reader.read(), 5)
        while daemon.connections.sessions:
            await asyncio.sleep(0.01)
        timer = session._timeout_handle
        assert timer.cancelled() or timer.when() - asyncio.get_running_loop().time() < 6


async def test_implicit_tls_speaks_tls_from_the_first_octet(start_port: Any) -> None:
    raw = await Raw.greeted(await start_port(**IMPLICIT), tls=trusting())

    assert "STARTTLS" not in raw.lines
    raw.send(WHOLE)
    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
    assert (await raw.say("STARTTLS")).startswith("503 5.5.1")


async def test_a_client_that_ends_tls_is_gone_and_the_daemon_goes_on(start_port: Any) -> None:
    port = await start_port(**IMPLICIT)
    for _ in range(3):
        raw = await Raw.greeted(port, tls=trusting())
        raw.send(b"MAIL FROM:<ann@example.com>\r\n")
        raw.close()

    raw = await Raw.greeted(port, tls=trusting())
    assert await raw.say("NOOP") == "250 2.0.0 Ok"


VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


def speaking(version: str) -> ssl.SSLContext:
    """A client that knows one version of TLS and is not particular."""
    context = trusting()
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("minimum", VERSIONS)
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
async def test_versions_of_tls_below_the_minimum_are_refused_and_those_from_it_on_really_work(
    mode: str, minimum: str, start_daemon: Any, tmp_path: Path
) -> None:
    daemon = await start_daemon(
        **CAPTURE,
        SMTP_BRIDGE_SMTP__LISTENER__TLS=mode,
        SMTP_BRIDGE_SMTP__LISTENER__TLS_MINIMUM=minimum,
        SMTP_BRIDGE_TLS__CERT_FILE=str(Authority(tmp_path / "ca").issue("bridge.example")),
    )
    port = daemon.listeners[0].port

    async def take(version: str) -> str:
        if mode == "implicit":
            raw = await Raw.greeted(port, tls=speaking(version))
        else:
            raw = await Raw.greeted(port)
            raw.send(b"STARTTLS\r\n")
            await raw.expect("220 2.0.0")
            await raw.writer.start_tls(speaking(version))
            await raw.say("EHLO x")
        raw.send(WHOLE)
        await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
        return str(raw.writer.get_extra_info("ssl_object").version())

    names = {"1.0": "TLSv1", "1.1": "TLSv1.1", "1.2": "TLSv1.2", "1.3": "TLSv1.3"}
    for version in VERSIONS:
        if version < minimum:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await take(version)
        else:
            assert await take(version) == names[version]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("minimum", VERSIONS)
def test_no_cipher_is_offered_that_hides_nothing_or_that_anybody_can_answer_for(minimum: str, tmp_path: Path) -> None:
    context = make_context(Authority(tmp_path / "ca").issue("bridge.example"), None, minimum=minimum)
    found = context.get_ciphers()

    assert found
    for cipher in found:
        assert not any(
            word in cipher["name"] for word in ("NULL", "ADH", "AECDH", "RC4", "DES", "MD5", "EXP", "PSK", "SRP")
        )
        assert "Au=None" not in cipher["description"]
        assert "Enc=None" not in cipher["description"]
    if minimum in ("1.2", "1.3"):
        assert all(cipher["aead"] for cipher in found)
        assert {cipher["kea"] for cipher in found} <= {"kx-ecdhe", "kx-dhe", "kx-any"}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("minimum", ["1.0", "1.2"])
@pytest.mark.parametrize("ciphers", ["eNULL", "aNULL", "AES128-SHA"])
async def test_a_client_that_knows_only_bad_ciphers_is_refused(
    ciphers: str, minimum: str, start_daemon: Any, tmp_path: Path
) -> None:
    """AES128-SHA, without forward secrecy, may be all that an old device knows; with an RSA key it would be taken from one."""
    client = trusting()
    client.set_ciphers(f"{ciphers}@SECLEVEL=0")
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    certificate = Authority(tmp_path / "ca").issue("bridge.example", with_rsa=True)
    daemon = await start_daemon(
        **CAPTURE,
        **IMPLICIT,
        SMTP_BRIDGE_SMTP__LISTENER__TLS_MINIMUM=minimum,
        SMTP_BRIDGE_TLS__CERT_FILE=str(certificate),
    )

    if (ciphers, minimum) == ("AES128-SHA", "1.0"):
        await Raw.greeted(daemon.listeners[0].port, tls=client)
        return
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await Raw.greeted(daemon.listeners[0].port, tls=client)


async def test_the_received_field_tells_of_tls_and_login(start_daemon: Any, secret_hash: str) -> None:
    users = {"SMTP_BRIDGE_USER__NAME": "ann", "SMTP_BRIDGE_USER__PASSWORD_HASH": secret_hash}
    daemon = await start_daemon(**CAPTURE, **users)
    raw = await Raw.greeted(daemon.listeners[0].port)
    await raw.start_tls()
    await raw.say("EHLO client.example")
    assert (await raw.say("AUTH PLAIN AGFubgBzZWNyZXQ=")).startswith("235")

    raw.send(WHOLE)
    reply = await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")

    body = await daemon.spool.body(reply.rsplit(" ", 1)[1])
    assert re.match(
        rb"Received: from client\.example \(\[127\.0\.0\.1\]\)\r\n"
        rb"\t\(using TLSv1\.3 with cipher TLS_AES_256_GCM_SHA384 \(256/256 bits\)\)\r\n"
        rb"\tby bridge\.example with ESMTPSA id [0-9A-Za-z-]+ for <bob@example\.org>;\r\n\t",
        body,
    ), body


async def test_the_received_field_tells_of_tls_without_a_login(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, **IMPLICIT)
    client = trusting()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    raw = await Raw.greeted(daemon.listeners[0].port, tls=client)

    raw.send(WHOLE)
    reply = await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")

    body = await daemon.spool.body(reply.rsplit(" ", 1)[1])
    assert b"\r\n\t(using TLSv1.2 with cipher ECDHE-ECDSA-AES128-GCM-SHA256 (128/128 bits))\r\n" in body
    assert b" with ESMTPS id " in body


async def test_a_client_that_closes_inside_tls_ends_its_session(start_daemon: Any) -> None:
    """TLS knows no half-closed connection: what was sent whole is kept, and the session ends."""
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(daemon.listeners[0].port)
    await raw.start_tls()
    await raw.say("EHLO x")
    raw.send(WHOLE)
    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
    raw.send(b"MAIL FROM:<ann@example.com>\r\n")

    raw.close()

    async with asyncio.timeout(5):
        while daemon.connections.sessions:
            await asyncio.sleep(0.01)
    assert len(await daemon.spool.list_messages()) == 1


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_of_tls_are_warned_of_at_start(start_daemon: Any, tmp_path: Path) -> None:
    with every_line() as lines:
        await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__TLS_MINIMUM="1.1")
        await start_daemon(**CAPTURE, STATE_DIRECTORY=str(tmp_path / "other"))

    (line,) = [line for line in lines if line["event"] == "daemon.warning"]
    assert line["log_level"] == "warning"
    assert 'tls_minimum = "1.1" allows' in line["text"]


# --- the certificate


def test_a_self_signed_certificate_is_made_once_with_a_private_key(tmp_path: Path) -> None:
    first = self_signed(tmp_path / "state", "bridge.example")
    contents = [path.read_bytes() for path in first]

    again = self_signed(tmp_path / "state", "bridge.example")

    assert again == first
    assert [path.read_bytes() for path in again] == contents
    assert first[1].stat().st_mode & 0o777 == 0o600
    context = ssl.create_default_context(cafile=str(first[0]))
    assert context.get_ca_certs() == [] or context.cert_store_stats()["x509"] == 1
    assert make_context(*first, minimum="1.2").minimum_version is ssl.TLSVersion.TLSv1_2


def test_half_a_pair_is_made_again(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "bridge.example")
    old = key.read_bytes()
    certificate.unlink()

    make_context(*self_signed(tmp_path, "bridge.example"), minimum="1.2")

    assert key.read_bytes() != old


def test_a_state_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(CertificateError, match=r"/file"):
        self_signed(tmp_path / "file", "bridge.example")


def encrypted_key(directory: Path) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization

    certificate, key = self_signed(directory / "encrypted", "x")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"pass phrase")
    form = serialization.PrivateFormat.PKCS8
    key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, form, secret))
    return certificate, key


def swapped(directory: Path) -> tuple[Path, Path]:
    return self_signed(directory / "a", "a")[0], self_signed(directory / "b", "b")[1]


def garbage(directory: Path) -> tuple[Path, Path]:
    (directory / "garbage.pem").write_text("no certificate\n")
    return directory / "garbage.pem", directory / "garbage.pem"


def absent(directory: Path) -> tuple[Path, Path]:
    return directory / "absent.pem", directory / "absent.key"


def without_key(directory: Path) -> tuple[Path, None]:
    return self_signed(directory / "c", "c")[0], None


@pytest.mark.parametrize("pair", [encrypted_key, swapped, garbage, absent, without_key], ids=lambda f: f.__name__)
def test_a_certificate_that_cannot_be_used_is_named(pair: Any, tmp_path: Path) -> None:
    certificate, key = pair(tmp_path)

    with pytest.raises(CertificateError) as raised:
        make_context(certificate, key, minimum="1.2")

    assert str(certificate) in str(raised.value)
    assert "pass phrase" not in str(raised.value)


async def test_a_bad_certificate_stops_the_start_and_leaves_nothing_open(start_daemon: Any, tmp_path: Path) -> None:
    path, _ = garbage(tmp_path)

    with pytest.raises(CertificateError, match=r"garbage\.pem"):
        await start_daemon(**CAPTURE, SMTP_BRIDGE_TLS__CERT_FILE=str(path))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "starttls"])
async def test_few_replies_wait_unsent_for_who_reads_nothing(start_daemon: Any, tls: bool) -> None:
    """On their way through TLS too, which has a buffer of its own and a larger limit unless it is told."""
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__MAX_JUNK_COMMANDS="100000000")
    raw = await Raw.connect(daemon.listeners[0].port, rcvbuf=4096)
    await raw.expect("220")
    if tls:
        await raw.say("EHLO x")
        await raw.start_tls()
    (session,) = daemon.connections.sessions
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]

    async with asyncio.timeout(20):
        while not session._paused:
            raw.send(b"HELP\r\n" * 1000)
            await asyncio.sleep(0.001)

    assert session._writer.transport.get_write_buffer_size() < 3 * UNSENT
