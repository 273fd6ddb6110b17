"""`smtp-bridge doctor --listen`: real devices over real sockets, what is found out about them, and whether the advice holds."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from bridge.cli.doctor.certificates import Certificates, prepare
from bridge.cli.doctor.dialogue import Dialogue, Handshake, Login
from bridge.cli.doctor.findings import Finding, gets_through, merged
from bridge.cli.doctor.listening import Examination, Place
from bridge.cli.doctor.recording import Silence
from bridge.cli.doctor.rules import examine
from bridge.cli.doctor.setup import judges, service_of, setup_of
from bridge.config.load import load_settings
from bridge.smtp.auth import Authenticator
from bridge.wiring import smtp as smtp_wiring
from tests.cli import devices
from tests.cli.conftest import invoke, on_terminal, one_line, read_all, read_until, running, without_codes
from tests.cli.devices import PASSWORD, USER, Device, raw

pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1 is deprecated")
QUICK = Silence(greeting=0.03, greeting_implicit=0.05, stalled=0.1, ended=3)
PATIENT = Silence(greeting=2, greeting_implicit=2, stalled=0.1, ended=3)  # for a hello, which ends the wait
SHORT = Silence(greeting=0.03, greeting_implicit=0.05, stalled=0.1, ended=0.4)  # for who says nothing
PRINTER = {"name": USER, "password": PASSWORD}


@dataclass(frozen=True)
class Seen:
    dialogue: Dialogue
    findings: tuple[Finding, ...]
    lines: tuple[str, ...]

    def weights(self) -> dict[str, str]:
        return {finding.rule: finding.weight for finding in self.findings}

    def changes(self) -> set[str]:
        return {finding.rule for finding in self.findings if finding.weight != "note"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once: the keys take their time."""
    directory = tmp_path_factory.mktemp("doctor")
    config = directory / "config.toml"
    config.write_text('[[provider]]\nkind = "capture"\n')
    settings = load_settings(str(config), environ={"HOME": str(directory), "STATE_DIRECTORY": str(directory / "state")})
    return prepare(settings, "1.2", directory)


def settings_text(listener: dict[str, Any], **tables: Any) -> str:
    tree = {"smtp": {"listener": [{"address": "127.0.0.1:0", **listener}], **tables.pop("smtp", {})}}
    return tomli_w.dumps({"provider": [{"kind": "capture"}], **tree, **tables})


@pytest.fixture
def see(tmp_path: Path, certificates: Certificates) -> Any:
    """`await see(device, listener={...}, user=[...])` -> Seen."""

    async def look(
        device: Device,
        listener: dict[str, Any] | None = None,
        offer_all: bool = False,
        silence: Silence | None = None,
        **tables: Any,
    ) -> Seen:
        silence = silence or (PATIENT if device is devices.tls_at_once else QUICK)
        (tmp_path / "doctor.toml").write_text(settings_text(listener or {}, **tables))
        settings = load_settings(str(tmp_path / "doctor.toml"), environ={"HOME": str(tmp_path)})
        users, lines = smtp_wiring.users(settings), []
        verdict, check_recipient = judges(settings)
        with (
            contextlib.closing(Place("127.0.0.1:0")) as place,
            contextlib.closing(Authenticator(users, cache_s=0)) as auth,
        ):
            talking = asyncio.create_task(asyncio.to_thread(talk, device, place.port))
            sock, client = await place.accept()
            examination = Examination(
                daemons=service_of(settings, 0, auth, check_recipient), users=users, certificates=certificates,
                silence=silence, verdict=verdict, show=lambda who, text: lines.append(f"{who} {text}"), client=client,
                offer_all=offer_all,
            )  # fmt: skip
            dialogue = await asyncio.wait_for(examination.run(sock), 10)
            await talking
        return Seen(dialogue, examine(dialogue, setup_of(settings, 0, certificates, here=True)), tuple(lines))

    return look


def talk(device: Device, port: int) -> None:
    with contextlib.suppress(devices.Refused, OSError, smtplib.SMTPException), devices.closed_after():
        device(port)


# --- the advice holds: the daemon refuses the device, and with the settings that are named it takes its mail

CASES: dict[str, tuple[Device, dict[str, Any], dict[str, Any], set[str]]] = {
    "no login": (devices.plain, {"require_auth": True}, {"user": [PRINTER]}, {"no-login"}),
    "outside": (devices.plain, {"allowed_networks": ["192.0.2.0/24"]}, {}, {"no-login"}),
    "login in the clear": (devices.login("PLAIN"), {}, {"user": [PRINTER]}, {"auth-without-tls"}),
    "cram-md5": (devices.login("CRAM-MD5", tls=True), {}, {"user": [PRINTER]}, {"mechanism"}),
    "unknown user": (devices.login("LOGIN", tls=True, user="scan"), {}, {"user": [PRINTER]}, {"unknown-user"}),
    "no users": (devices.login("PLAIN", tls=True), {}, {}, {"no-users"}),
    "sender": (
        devices.login("PLAIN", tls=True), {}, {"user": [{**PRINTER, "senders": ["ann@example.com"]}]}, {"sender"}
    ),
    "tls at once": (devices.tls_at_once, {}, {}, {"tls-at-once"}),
    "plain on implicit": (devices.plain, {"tls": "implicit"}, {}, {"plain-on-implicit"}),
    "starttls where there is none": (devices.starttls_unasked, {"tls": "none"}, {}, {"starttls"}),
    "old TLS": (devices.old_tls, {}, {}, {"tls-version", "tls-ciphers"}),
    "TLS required": (devices.plain, {"require_tls": True}, {}, {"tls-required"}),
    "lmtp": (devices.lmtp, {}, {}, {"protocol"}),
    "bare newlines": (devices.bare_newlines, {"bare_newlines": "reject"}, {}, {"bare-newlines"}),
    "too large": (devices.large, {}, {"smtp": {"max_message_size": "10KiB"}}, {"too-large"}),
    "balancer": (devices.behind_a_balancer, {}, {}, {"proxy-header"}),
    "no brackets": (devices.without_brackets, {}, {}, {"bare-address"}),
    "recipients": (devices.to_three, {}, {"smtp": {"max_recipients": 2}}, {"recipients"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_the_settings_it_names_let_the_device_through(
    case: str, see: Any, start_daemon: Any, certificates: Certificates, tmp_path: Path, secret_hash: str
) -> None:
    device, listener, tables, rules = CASES[case]

    seen = await see(device, listener, **tables)

    assert seen.changes() == rules
    assert seen.dialogue.brought_mail
    assert certificates.rsa
    (tmp_path / "rsa.pem").write_bytes(b"".join(path.read_bytes() for path in certificates.rsa))
    config = settings_text(listener, **tables)
    advised = with_advice(config, seen.findings, rsa=tmp_path / "rsa.pem")
    for name, text in (("before", config), ("after", advised)):
        daemon = await start_daemon(config=text, **quick_daemon(tmp_path / name, certificates))
        refused = (devices.Refused, OSError, smtplib.SMTPException)
        with pytest.raises(refused) if name == "before" else contextlib.nullcontext():
            await asyncio.to_thread(deliver, device, daemon.listeners[0].port)


def deliver(device: Device, port: int) -> None:
    with devices.closed_after():
        device(port)


def quick_daemon(state: Path, certificates: Certificates) -> dict[str, str]:
    """Making a certificate would take most of the time."""
    state.mkdir()
    for path in certificates.daemons:
        assert path
        shutil.copy(path, state)
    return {
        "STATE_DIRECTORY": str(state),
        "SMTP_BRIDGE_SMTP__TIMEOUT": "1s",
        "SMTP_BRIDGE_SMTP__TLS_HANDSHAKE_TIMEOUT": "0.3s",
    }


def with_advice(config: str, findings: Iterable[Finding], *, rsa: Path) -> str:
    """What a person would make of the lines: into the tables that are there, the dots filled in."""
    tree = tomllib.loads(config)
    for setting in merged(findings):
        value: Any = list(setting.value) if isinstance(setting.value, tuple) else setting.value
        if setting.key == "password_hash":
            put(tree, "user", "password", PASSWORD)
            continue
        put(tree, setting.table, setting.key, {"cert_file": str(rsa), "password": PASSWORD}.get(setting.key, value))
    return tomli_w.dumps(tree)


def put(tree: dict[str, Any], table: str, key: str, value: Any) -> None:
    if table == "smtp.listener":
        tree["smtp"]["listener"][0][key] = value
    elif table == "user":
        tree.setdefault("user", [{}])[0][key] = value
    else:
        tree.setdefault(table, {})[key] = value


@pytest.mark.parametrize(
    ("device", "listener"),
    [
        (devices.plain, {}),
        (devices.login("PLAIN", tls=True), {"require_auth": True}),
        (devices.login("LOGIN"), {"auth_without_tls": True}),
        (devices.tls_at_once, {"tls": "implicit"}),
        (devices.lmtp, {"protocol": "lmtp"}),
        (devices.bare_newlines, {}),
    ],
)
async def test_a_device_that_gets_through_hears_of_nothing_to_change(device: Device, listener: Any, see: Any) -> None:
    seen = await see(device, listener, user=[PRINTER])

    assert gets_through(seen.findings), seen.findings
    assert seen.dialogue.brought_mail
    assert not any("would answer" in line for line in seen.lines)


# --- devices that no setting helps

START = (b"EHLO device\r\n", b"MAIL FROM:<scanner@example.com>\r\n", b"RCPT TO:<bob@example.org>\r\n", b"DATA\r\n")
LF = tuple(part.replace(b"\r", b"") for part in (*START, devices.MESSAGE + b".\r\n", b"QUIT\r\n"))
HELPLESS: dict[str, tuple[Device, set[str]]] = {
    "LF.LF": (raw(*LF), {"data-end"}),
    "CR.CR": (raw(*START, devices.MESSAGE.replace(b"\n", b"") + b".\r", b"QUIT\r\n"), {"data-end"}),
    "CR ends commands": (raw(b"EHLO device\r", b"QUIT\r"), {"open-line"}),
    "http": (raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", greeted=False), {"http"}),
    "silent": (raw(b""), {"silent"}),
    "does not trust": (devices.untrusting, {"certificate"}),
    "no EHLO": (raw(*START[1:], devices.MESSAGE + b".\r\n", b"QUIT\r\n"), {"no-helo"}),
    "two @": (raw(START[0], START[1], b"RCPT TO:<bob@@example.org>\r\n", b"QUIT\r\n"), {"bad-address"}),
    "no domain": (raw(START[0], START[1], b"RCPT TO:<bob>\r\n", b"QUIT\r\n"), {"bad-address"}),
    "no address": (raw(START[0], START[1], b"RCPT TO:<>\r\n", b"QUIT\r\n"), {"bad-address"}),
    "letters": (raw(START[0], "MAIL FROM:<jörg@example.com>\r\n".encode(), b"QUIT\r\n"), {"smtputf8"}),
    "parameter": (raw(START[0], b"MAIL FROM:<a@example.com> XOORG=x\r\n", b"QUIT\r\n"), {"parameter"}),
    "long": (raw(START[0], START[1], b"RCPT TO:<" + b"x" * 3000 + b">\r\n", b"QUIT\r\n"), {"long-line"}),
    "NUL": (raw(START[0], b"MAIL FROM:<a@\0example.com>\r\n", b"QUIT\r\n"), {"garbled-line"}),
    "HELO without a name": (raw(b"HELO\r\n", b"QUIT\r\n"), {"no-hostname"}),
    "stops within DATA": (raw(*START, devices.MESSAGE), {"cut-off"}),
    "NTLM": (raw(START[0], b"AUTH NTLM TlRMTVNTUAAB\r\n", b"QUIT\r\n"), {"mechanism", "auth-without-tls"}),
}  # fmt: skip


@pytest.mark.parametrize("case", HELPLESS)
async def test_it_says_what_no_setting_helps(case: str, see: Any) -> None:
    device, rules = HELPLESS[case]

    silence = SHORT if case in ("silent", "stops within DATA") else None
    seen = await see(device, silence=silence, user=[PRINTER])

    assert seen.changes() == rules, seen.findings
    assert all(finding.do for finding in seen.findings if finding.weight == "change")


async def test_a_message_that_never_ends_is_ended_for_the_device_and_the_rest_is_seen(see: Any) -> None:
    seen = await see(raw(*LF))

    assert seen.dialogue.all(Handshake) == ()
    assert [line for line in seen.lines if line.startswith("C QUIT")]
    assert any("LF.LF" in line for line in seen.lines)
    assert seen.weights()["lf-commands"] == "note"


async def test_what_misses_auth_in_the_list_is_guessed_and_the_next_try_is_offered_everything(see: Any) -> None:
    def device(port: int) -> None:
        client = devices.connect(port)
        client.ehlo()
        if client.has_extn("auth"):
            client.login(USER, PASSWORD)
            devices.send(client)
        client.close()

    first = await see(device, user=[PRINTER])
    second = await see(device, user=[PRINTER], offer_all=True)

    assert first.weights() == {"left-after-ehlo": "guess"}
    assert "AUTH" in first.findings[0].says
    assert second.changes() == {"auth-without-tls"}
    assert second.dialogue.brought_mail


async def test_no_secret_is_shown_or_kept_whatever_way_it_is_sent(see: Any) -> None:
    encoded = base64.b64encode(PASSWORD.encode())
    plain = base64.b64encode(b"\0printer\0" + PASSWORD.encode())
    sent = [
        *(b"AUTH PLAIN " + plain, b"RSET", b"AUTH LOGIN cHJpbnRlcg==", encoded, b"AUTH LOGIN", b"*", encoded),
        *(b"AUTH " + plain, b"AUTHPLAIN " + plain, b"AUTH NTLM " + plain, plain, PASSWORD.encode(), b"PASS " + encoded),
    ]
    before_auth = await see(raw(encoded + b"\r\n", b"PASS " + PASSWORD.encode() + b"\r\n"), user=[PRINTER])
    seen = [await see(raw(START[0], *(line + b"\r\n" for line in sent[n:])), user=[PRINTER]) for n in range(len(sent))]

    text = repr([before_auth, *seen])
    assert not [secret for secret in (PASSWORD, encoded.decode(), plain.decode()) if secret in text]
    assert "AUTH PLAIN ********" in text


async def test_the_user_name_that_was_tried_is_told_and_a_wrong_password_is_named(see: Any, secret_hash: str) -> None:
    hashed = {"name": USER, "password_hash": secret_hash}
    wrong = await see(devices.login("PLAIN", tls=True, password="false"), user=[hashed])
    unknown = await see(devices.login("LOGIN", tls=True, user="Printer"), user=[hashed])
    cram = await see(
        devices.login("CRAM-MD5", tls=True), {"auth_mechanisms": ["CRAM-MD5"]}, user=[hashed, {**PRINTER, "name": "x"}]
    )

    assert wrong.changes() == {"wrong-password"}
    assert unknown.changes() == {"unknown-user"}
    assert "'Printer'" in unknown.findings[0].says
    assert cram.changes() == {"cram-md5-hash"}
    assert wrong.dialogue.all(Login)[0].name == USER


async def test_the_version_of_tls_is_that_of_the_hello_and_of_the_handshake(see: Any) -> None:
    (old,) = (await see(devices.old_tls)).dialogue.all(Handshake)
    (new,) = (await see(devices.tls_at_once)).dialogue.all(Handshake)

    assert (old.version, old.implicit) == ("1.0", False)
    assert old.hello
    assert (old.hello.version, sorted(old.hello.ciphers)[0]) == ("1.0", 0x2F)
    assert (new.version, new.implicit) == ("1.3", True)
    assert new.hello
    assert new.hello.version == "1.3"


async def test_a_hello_that_comes_after_the_greeting_is_read_all_the_same(see: Any) -> None:
    def slow(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
            sock.recv(100)
            with contextlib.suppress(ssl.SSLError):
                trusting = devices.trusting()
                trusting.wrap_socket(sock)

    seen = await see(slow)

    assert seen.changes() == {"tls-at-once"}
    shake = seen.dialogue.first(Handshake)
    assert shake
    assert shake.late
    assert shake.hello
    assert shake.hello.version == "1.3"


async def test_what_the_daemon_says_of_the_content_and_of_a_recipient_without_a_route_is_told(see: Any) -> None:
    hops = b"Received: from a by b\r\n" * 60
    loop = await see(raw(*START, hops + devices.MESSAGE + b".\r\n", b"QUIT\r\n"))
    route = [{"user": USER, "providers": ["p"]}]
    lost = await see(devices.plain, user=[PRINTER], route=route, provider=[{"kind": "capture", "name": "p"}])

    forbidden = [{"recipient": "*", "refuse": True}]
    barred = await see(devices.plain, route=forbidden, provider=[{"kind": "capture", "name": "p"}])

    assert loop.changes() == {"content"}
    assert any("554 5.4.6" in line for line in loop.lines)
    assert [str(f.reply) for f in barred.findings if f.weight == "change"] == ["550 5.7.1 Recipient refused by a route"]
    assert [str(f.reply) for f in lost.findings if f.weight == "change"] == ["550 5.7.1 No route for this mail"]


# --- the command


@contextlib.contextmanager
def doctor(directory: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The running command and its port."""
    with running(directory, "doctor", "--listen", "127.0.0.1:0", "--silence", "1s", *arguments) as process:
        assert process.stdout
        line = process.stdout.readline() if "--json" not in arguments else first_line(directory / "stderr", process)
        yield process, int(re.search(r"127\.0\.0\.1:(\d+)", line)[1])  # type: ignore[index]


def first_line(path: Path, process: subprocess.Popen[str]) -> str:
    import time

    for _ in range(1000):
        if (text := path.read_text()).endswith("\n") or process.poll() is not None:
            return text
        time.sleep(0.01)
    raise AssertionError(text)


def test_a_probe_and_a_mail_are_told_in_plain_text_with_the_lines_for_the_settings(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(settings_text({"require_auth": True}, user=[PRINTER]))
    with doctor(tmp_path, "--count", "2") as (process, port):
        talk(raw(b"NOOP\r\n", b"QUIT\r\n"), port)
        talk(devices.plain, port)
        text, _ = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "\x1b" not in text
    assert "With the present settings this device does not get through" in text
    assert "C: MAIL FROM:<scanner@example.com>" in text
    assert "the listener of your settings would answer: 530 5.7.0 Authentication required" in text
    assert "header: From, To, Subject, Date, Message-ID" in text
    assert "require_auth = false" in text
    assert (tmp_path / "state").exists() is False


def test_swaks_gets_through_and_the_exit_status_is_0(tmp_path: Path) -> None:
    swaks = shutil.which("swaks")
    if not swaks:
        pytest.skip("swaks is not installed")
    with doctor(tmp_path, "--json") as (process, port):
        sent = subprocess.run(
            [swaks, "--server", f"127.0.0.1:{port}", "--from", "ann@example.com", "--to", "bob@example.org", "-tls"],
            capture_output=True, timeout=20,
        )  # fmt: skip
        found = json.loads(process.communicate(timeout=20)[0])

    assert (process.returncode, sent.returncode) == (0, 0), found
    assert found["gets_through"]
    assert found["connections"][0]["config"] == ""
    assert {"who": "C", "text": "STARTTLS"} in found["connections"][0]["dialogue"]


def test_ctrl_c_on_a_terminal_tells_what_was_learnt_so_far_in_colours(tmp_path: Path) -> None:
    with on_terminal(tmp_path, "doctor", "--listen", "127.0.0.1:0", COLUMNS="160") as (process, terminal):
        port = int(re.search(r"127\.0\.0\.1:(\d+)", without_codes(read_until(terminal, "not shown")))[1])  # type: ignore[index]
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            sock.recv(100)
            sock.sendall(b"HELO device\r\n")
            sock.recv(100)
            text = read_until(terminal, "HELO device")
            os.write(terminal, b"\x03")
            text += read_all(terminal)
        assert process.wait(10) == 128 + signal.SIGINT

    assert "\x1b[36m" in text
    assert "The device says HELO, not EHLO" in without_codes(text)


def test_a_taken_port_is_one_line_that_names_the_daemon(tmp_path: Path, taken_port: int) -> None:
    done = invoke(tmp_path, "doctor", "--listen", f"127.0.0.1:{taken_port}")

    assert done.returncode == 69
    assert "if the daemon itself runs there, stop it" in one_line(done)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("doctor", "127.0.0.1:2525"), 2, "--listen"),
        (("doctor", "--listen", "nowhere"), 2, "not an address"),
        (("doctor", "--listen", "--config", "none.toml"), 78, "none.toml"),
    ],
)
def test_wrong_use_is_told(arguments: tuple[str, ...], status: int, words: str, tmp_path: Path) -> None:
    done = invoke(tmp_path, *arguments)

    assert (done.returncode, words in done.stderr) == (status, True), done.stderr


def test_nobody_comes_is_told_with_what_may_be_wrong(tmp_path: Path) -> None:
    done = invoke(tmp_path, "doctor", "--listen", "127.0.0.1:0", "--timeout", "10ms")

    assert done.returncode == 1
    assert "Nobody connected" in done.stdout
