"""Certificates that are renewed while the daemon runs: new connections get them, open ones go on, bad ones are not taken."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
from pathlib import Path
from typing import Any

import pytest

from bridge.config.load import load_settings
from bridge.housekeeping import RENEW_EVERY_S
from bridge.smtp.tls import CertificateError
from tests.conftest import environment
from tests.delivery.conftest import START, FakeClock, every_line
from tests.smtp.authority import Authority, showing
from tests.smtp.raw import WHOLE, Raw, clients_end, trusting

__all__ = ["clients_end"]
TAKEN = ("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
PROVIDER = '[[provider]]\nkind = "capture"\n'


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def config(cert: Path, tls: str, more: str = "") -> str:
    return f'[tls]\ncert_file = "{cert}"\n[smtp.listener]\naddress = "127.0.0.1:0"\ntls = "{tls}"\n{more}\n' + PROVIDER


async def shown(port: int, tls: str) -> tuple[bytes, Raw]:
    """The certificate that a new connection is shown, and the connection."""
    raw = await (Raw.greeted(port, tls=trusting()) if tls == "implicit" else Raw.greeted(port))
    if tls == "starttls":
        await raw.start_tls()
        await raw.say("EHLO x")
    return raw.writer.get_extra_info("ssl_object").getpeercert(binary_form=True), raw


def der(path: Path) -> bytes:
    text = path.read_text()
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERT") :])


def put(path: Path, source: Path) -> None:
    """As an ACME client does: a new file takes the name."""
    new = path.with_suffix(".new")
    shutil.copy(source, new)
    os.replace(new, path)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_changed_file_is_taken_by_itself_and_open_sessions_go_on(
    tls: str, authority: Authority, start_daemon: Any
) -> None:
    live, new = authority.issue("a", file="live.pem"), authority.issue("b")
    old = der(live)
    daemon = await start_daemon(config=config(live, tls))
    port = daemon.listeners[0].port
    first, open_session = await shown(port, tls)
    assert first == old

    with every_line() as lines:
        await daemon.housekeeping.renew()
        assert not lines
        put(live, new)
        await daemon.housekeeping.renew()

    assert [line["event"] for line in lines] == ["tls.renewed"]
    assert (await shown(port, tls))[0] == der(new)
    open_session.send(WHOLE)
    await open_session.expect(*TAKEN)


async def test_it_looks_every_minute(authority: Authority, start_daemon: Any) -> None:
    clock = FakeClock()
    daemon = await start_daemon(clock, config=config(authority.issue("a"), "implicit"))
    looked: list[float] = []

    async def renew() -> None:
        looked.append(clock.now() - START)

    daemon.housekeeping._renew = renew

    async def after(seconds: float) -> list[float]:
        clock.advance(seconds)
        await asyncio.sleep(0.05)
        return sorted(set(looked) - {0.0})

    await after(0)
    assert await after(RENEW_EVERY_S - 1) == []
    assert await after(1) == [RENEW_EVERY_S]
    assert await after(RENEW_EVERY_S - 1) == [RENEW_EVERY_S]
    assert await after(1) == [RENEW_EVERY_S, 2 * RENEW_EVERY_S]


@pytest.mark.parametrize("bad", ["garbage", "absent", "another key"])
async def test_a_bad_file_is_told_once_and_the_old_certificate_holds(
    bad: str, authority: Authority, start_daemon: Any, tmp_path: Path
) -> None:
    live, new = authority.issue("a", file="live.pem"), authority.issue("b")
    old = der(live)
    daemon = await start_daemon(config=config(live, "implicit"))
    port = daemon.listeners[0].port

    if bad == "garbage":
        live.write_text("no certificate\n")
    elif bad == "absent":
        live.unlink()
    else:
        key, certificate = new.read_text().split("-----BEGIN CERT")[0], authority.issue("c").read_text()
        live.write_text(key + certificate[certificate.index("-----BEGIN CERT") :])
    with every_line() as lines:
        for _ in range(3):
            await daemon.housekeeping.renew()

    (line,) = lines
    assert (line["event"], line["log_level"]) == ("tls.not_renewed", "error")
    assert str(live) in line["text"]
    assert (await shown(port, "implicit"))[0] == old
    put(live, new)
    await daemon.housekeeping.renew()
    assert (await shown(port, "implicit"))[0] == der(new)


async def test_a_link_that_points_elsewhere_is_a_change(
    authority: Authority, start_daemon: Any, tmp_path: Path
) -> None:
    """Kubernetes mounts a secret as links through a directory, which is swapped."""
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        shutil.copy(authority.issue(name), tmp_path / name / "tls.pem")
    data = tmp_path / "data"
    data.symlink_to("1")
    daemon = await start_daemon(config=config(data / "tls.pem", "implicit"))

    (tmp_path / "swap").symlink_to("2")
    os.replace(tmp_path / "swap", data)
    await daemon.housekeeping.renew()

    assert (await shown(daemon.listeners[0].port, "implicit"))[0] == der(tmp_path / "2" / "tls.pem")


async def test_a_changed_authority_is_taken_too(authority: Authority, start_daemon: Any, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "Other CA")
    more = f'client_ca_file = "{authority.ca_file}"\nallowed_networks = []\nclient_certificates = "any"\n'
    daemon = await start_daemon(config=config(authority.issue("a"), "implicit", more))
    port = daemon.listeners[0].port
    old, new = showing(authority.issue("old")), showing(other.issue("new"))

    put(authority.ca_file, other.ca_file)
    await daemon.housekeeping.renew()

    raw = await Raw.greeted(port, tls=new)
    raw.send(WHOLE)
    await raw.expect(*TAKEN)
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        await Raw.greeted(port, tls=old)


async def test_a_failure_that_was_the_machines_is_tried_again(
    authority: Authority, start_daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor left, for instance: nothing about the files changes when there is one again."""
    live = authority.issue("bridge.example", file="live.pem")
    daemon = await start_daemon(config=config(live, "implicit"))
    before = daemon.services[0].tls_context
    put(live, authority.issue("bridge.example", file="new.pem"))

    def fails(self: Any) -> Any:
        raise CertificateError("no descriptor left")

    with monkeypatch.context() as patch:
        patch.setattr("bridge.smtp.tls_files.TlsFiles.make", fails)
        await daemon.housekeeping.renew()
    assert daemon.services[0].tls_context is before
    await daemon.housekeeping.renew()

    assert daemon.services[0].tls_context is not before


# --- SIGHUP


def settings(tmp_path: Path, text: str) -> Any:
    (tmp_path / "config.toml").write_text(text)
    return load_settings(environ=environment(tmp_path), cwd=tmp_path)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_reload_takes_other_files_and_needs_no_restart_for_them(
    tls: str, authority: Authority, start_daemon: Any, tmp_path: Path
) -> None:
    one, two = authority.issue("one"), authority.issue("two")
    daemon = await start_daemon(config=config(one, tls))
    port = daemon.listeners[0].port
    _, open_session = await shown(port, tls)

    with every_line() as lines:
        await daemon.reload(settings(tmp_path, config(two, tls)))

    assert [line["needs_restart"] for line in lines if line["event"] == "daemon.reloaded"] == [[]]
    assert (await shown(port, tls))[0] == der(two)
    open_session.send(WHOLE)
    await open_session.expect(*TAKEN)
    three = authority.issue("three")
    put(two, three)
    await daemon.housekeeping.renew()
    assert (await shown(port, tls))[0] == der(three)


async def test_a_reload_with_a_bad_file_changes_nothing(
    authority: Authority, start_daemon: Any, tmp_path: Path
) -> None:
    one, bad = authority.issue("one"), tmp_path / "bad.pem"
    bad.write_text("no certificate\n")
    daemon = await start_daemon(config=config(one, "implicit"))
    before = daemon.settings

    with pytest.raises(CertificateError, match=r"bad\.pem"):
        await daemon.reload(settings(tmp_path, config(bad, "implicit") + '[[user]]\nname = "a"\npassword = "b"\n'))

    assert daemon.settings is before
    assert not daemon.auth
    assert (await shown(daemon.listeners[0].port, "implicit"))[0] == der(one)


async def test_sighup_takes_a_renewed_certificate_on_uvloop(
    authority: Authority, bridge_process: Any, tmp_path: Path
) -> None:
    live, new = authority.issue("a", file="live.pem"), authority.issue("b")
    (tmp_path / "config.toml").write_text(config(live, "implicit"))
    process = await bridge_process()
    _, open_session = await shown(process.port, "implicit")

    async def signalled(event: str) -> list[dict[str, Any]]:
        process.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while not process.events(event):
                await asyncio.sleep(0.01)
        return list(process.events(event))

    live.write_text("no certificate\n")
    (line,) = await signalled("daemon.reload_refused")
    assert str(live) in line["text"]
    put(live, new)
    (line,) = await signalled("daemon.reloaded")
    assert line["needs_restart"] == []

    assert (await shown(process.port, "implicit"))[0] == der(new)
    open_session.send(WHOLE)
    await open_session.expect(*TAKEN)
