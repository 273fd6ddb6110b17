"""`smtp-bridge health`: the exit status and the line that a container engine gets, of a real daemon and of what is none."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from bridge.cli.health.asking import Ill, ask
from bridge.cli.health.doors import Door, NoDoor, find_door
from bridge.config.load import load_settings
from tests.cli.conftest import CAPTURE, bridge, events, invoke, running, smtp_bridge, variables

PROVIDER = '[[provider]]\nkind = "capture"\n'
# Without one the HTTP side may only be reached from this machine.
HTTP_KEY = {"SMTP_BRIDGE_HTTP__KEY__NAME": "ops", "SMTP_BRIDGE_HTTP__KEY__KEY_HASH": "sha256$" + "0" * 64}


# --- a running daemon


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    """Of one daemon that listens in every way there is."""
    directory = tmp_path_factory.mktemp("health")
    behind = {"address": "127.0.0.1:0", "name": "balanced", "proxy_protocol": True}
    listeners = [
        {"address": "127.0.0.1:0", "name": "plain"},
        {"address": "127.0.0.1:0", "name": "implicit", "tls": "implicit"},
        {**behind, "proxy_networks": ["127.0.0.0/8"]},
        {**behind, "name": "elsewhere", "proxy_networks": ["192.0.2.0/24"]},
        {"address": f"unix:{directory}/smtp.sock", "name": "unix"},
        {"address": f"unix:{directory}/lmtp.sock", "name": "lmtp", "protocol": "lmtp"},
    ]
    more = {
        "SMTP_BRIDGE_SMTP": orjson.dumps({"listener": listeners, "hostname": "box.example.com"}).decode(),
        "SMTP_BRIDGE_HTTP__ADDRESS": f"unix:{directory}/http.sock",
    }
    del (given := {**CAPTURE, **more})["SMTP_BRIDGE_SMTP__LISTENER__ADDRESS"]
    (directory / "config.toml").write_text(PROVIDER)
    with _started(directory, given) as ports:
        tcp = [f"127.0.0.1:{port}" for port in ports]
        yield {
            "plain": Door("smtp", tcp[0]),
            "implicit": Door("smtp", tcp[1], tls=True),
            "balanced": Door("smtp", tcp[2], proxied=True),
            "elsewhere": Door("smtp", tcp[3], proxied=True),
            "unix": Door("smtp", f"unix:{directory}/smtp.sock"),
            "lmtp": Door("smtp", f"unix:{directory}/lmtp.sock"),
            "http": Door("http", f"unix:{directory}/http.sock"),
        }


@contextmanager
def _started(directory: Path, given: dict[str, str]) -> Iterator[list[int]]:
    with running(directory, "run", **given) as process:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            told = events(directory / "stderr")
            if any(event["event"] == "daemon.ready" for event in told):
                yield [event["port"] for event in told if event["event"] == "daemon.listening" and event.get("port")]
                return
            time.sleep(0.02)
        raise AssertionError((directory / "stderr").read_text())


@pytest.mark.parametrize("name", ["plain", "implicit", "balanced", "unix", "lmtp"])
def test_a_listener_is_asked_by_its_greeting(doors: dict[str, Door], name: str) -> None:
    for ready in (False, True):
        assert ask(doors[name], ready=ready, timeout_s=10).startswith("220 box.example.com ")


def test_a_listener_for_load_balancers_alone_shows_that_it_lives_by_turning_us_away(doors: dict[str, Door]) -> None:
    assert "load balancers only" in ask(doors["elsewhere"], ready=False, timeout_s=10)


def test_the_http_side_is_asked_for_its_two_answers(doors: dict[str, Door]) -> None:
    assert ask(doors["http"], ready=False, timeout_s=10) == "/healthz answered 200"
    assert ask(doors["http"], ready=True, timeout_s=10) == "/readyz answered 200"


def test_the_command_says_it_in_a_line_and_loads_next_to_nothing(tmp_path: Path) -> None:
    with bridge(tmp_path) as (_, port):
        address = f"127.0.0.1:{port}"
        given = {**CAPTURE, "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": address}
        done = smtp_bridge(tmp_path, "health", **given)
        same = invoke(tmp_path, "health", "--ready", "--timeout", "10s", **given)
    gone = smtp_bridge(tmp_path, "health", **given)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"alive: {address}: 220 ")
    assert same.stdout.startswith(f"ready: {address}: 220 ")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr == f"smtp-bridge: {address}: Connection refused\n"


def test_nothing_heavy_is_loaded(tmp_path: Path) -> None:
    code = "import sys\nfrom bridge.cli import main\ntry: main()\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "health", "--timeout", "1s"],
        env=variables(tmp_path, SMTP_BRIDGE_SMTP__LISTENER__ADDRESS=f"unix:{tmp_path}/nobody"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stderr.startswith(f"smtp-bridge: unix:{tmp_path}/nobody: ")
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "bridge" in loaded
    assert not loaded & {"pydantic", "typer", "click", "rich", "asyncio", "httpx", "http", "ssl", "email", "orjson"}


def test_what_is_wrong_is_said_with_the_reasons_of_readyz(tmp_path: Path) -> None:
    given = {"SMTP_BRIDGE_HTTP__ADDRESS": f"unix:{tmp_path}/http.sock", "SMTP_BRIDGE_SPOOL__MIN_FREE": "900TiB"}
    with _started(tmp_path, {**CAPTURE, **given}):
        alive = invoke(tmp_path, "health", **given)
        ready = invoke(tmp_path, "health", "--ready", **given)

    assert (alive.returncode, ready.returncode) == (0, 1)
    assert ready.stderr.count("\n") == 1
    assert "/readyz answered 503: spool: " in ready.stderr


def test_what_readyz_finds_is_no_reason_to_take_smtp_away_from_its_clients(tmp_path: Path) -> None:
    given = {"SMTP_BRIDGE_HTTP__ADDRESS": f"unix:{tmp_path}/http.sock", "SMTP_BRIDGE_SPOOL__MIN_FREE": "900TiB"}
    with _started(tmp_path, {**CAPTURE, **given}) as (port,):
        given["SMTP_BRIDGE_SMTP__LISTENER__ADDRESS"] = f"127.0.0.1:{port}"
        ready = invoke(tmp_path, "health", "--ready", **given)
        smtp = smtp_bridge(tmp_path, "health", "--ready", "--smtp", **given)

    assert (ready.returncode, smtp.returncode, smtp.stderr) == (1, 0, "")
    assert smtp.stdout.startswith(f"ready: 127.0.0.1:{port}: 220 ")


# --- what is not a daemon that is well


@contextmanager
def server(*said: bytes, hang: bool = False) -> Iterator[str]:
    """Says this to whoever connects and hangs up, or is silent then; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = threading.Event()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                for octets in said:
                    connection.sendall(octets)
                if hang:
                    done.wait(10)
                connection.shutdown(socket.SHUT_WR)
                while not done.is_set() and connection.recv(4096):  # what is left unread would be a reset
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            done.set()
            thread.join()


def answer(*said: bytes, kind: str = "smtp", ready: bool = False, hang: bool = False, timeout_s: float = 10) -> str:
    with server(*said, hang=hang) as address:
        try:
            return ask(Door(kind, address), ready=ready, timeout_s=timeout_s)  # type: ignore[arg-type]
        except Ill as ill:
            return f"ill: {ill}"


def test_a_daemon_that_says_nothing_is_ill_when_the_time_is_up() -> None:
    begun = time.monotonic()

    assert answer(hang=True, timeout_s=0.2) == "ill: no answer within 0.2 s"
    assert answer(b"220-one\r\n", hang=True, timeout_s=0.2) == "ill: no answer within 0.2 s"
    assert answer(b"HTTP/1.1 200 OK\r\n", kind="http", hang=True, timeout_s=0.2) == "ill: no answer within 0.2 s"
    assert time.monotonic() - begun < 5


def test_one_that_is_busy_lives_but_is_not_ready() -> None:
    busy = b"421 4.3.2 Too many connections\r\n"

    assert answer(busy) == "421 4.3.2 Too many connections"
    assert answer(busy, ready=True) == "ill: 421 4.3.2 Too many connections"


def test_something_else_on_the_port_is_not_taken_for_it() -> None:
    assert answer(b"SSH-2.0-OpenSSH_9.2\r\n") == "ill: that is not an SMTP server"
    assert answer() == "ill: hung up without a greeting"
    assert answer(kind="http") == "ill: hung up"
    assert answer(b"220 box ESMTP\r\n", kind="http") == "ill: that is not HTTP"
    assert answer(b"HTTP/1.1 404 Not Found\r\n\r\nno\n", kind="http") == "ill: /healthz answered 404"


def test_what_a_greeting_says_stays_in_one_line() -> None:
    assert answer(b"220 a\x1b[2J\rb\x00\r\n") == "220 a [2J b"
    assert answer(b"220-one\r\n220 two\r\n") == "220-one"


# --- where to ask


@pytest.mark.parametrize(
    ("file", "given", "door"),
    [
        (PROVIDER, {}, Door("smtp", "127.0.0.1:2525")),
        (None, {"PROVIDER__KIND": "capture"}, Door("smtp", "127.0.0.1:2525")),
        (None, {}, Door("http", "127.0.0.1:8025")),
        (PROVIDER, {"HTTP__ADDRESS": ":8025"}, Door("http", "127.0.0.1:8025")),
        (PROVIDER + '[http]\naddress = "0.0.0.0:8025"\n', {}, Door("http", "127.0.0.1:8025")),
        (PROVIDER + '[http]\naddress = "0.0.0.0:8025"\n', {"HTTP__ADDRESS": ""}, Door("smtp", "127.0.0.1:2525")),
        (PROVIDER, {"HTTP": '{"address": "[::]:8025"}'}, Door("http", "[::1]:8025")),
        (PROVIDER, {"HTTP": '{"address": ":8025"}', "HTTP__ADDRESS": ":8026"}, Door("http", "127.0.0.1:8026")),
        (PROVIDER, {"SMTP__LISTENER__ADDRESS": "0.0.0.0:25"}, Door("smtp", "127.0.0.1:25")),
        (PROVIDER, {"SMTP__LISTENER": '{"address": ":26"}'}, Door("smtp", "127.0.0.1:26")),
        (PROVIDER, {"SMTP": '{"listener": [{"address": ":26", "tls": "implicit"}]}'}, Door("smtp", "127.0.0.1:26", tls=True)),
        (PROVIDER + '[smtp.listener]\naddress = "unix:/run/x"\n', {}, Door("smtp", "unix:/run/x")),
        (
            PROVIDER + '[[smtp.listener]]\naddress = "systemd:a"\n[[smtp.listener]]\naddress = "box.example.com:25"\n',
            {},
            Door("smtp", "box.example.com:25"),
        ),
        (
            PROVIDER + '[[smtp.listener]]\nproxy_protocol = true\nproxy_networks = ["10.0.0.1"]\n'
            '[[smtp.listener]]\naddress = ":26"\n',
            {},
            Door("smtp", "127.0.0.1:26"),
        ),
        (
            PROVIDER,
            {"SMTP__LISTENER__PROXY_PROTOCOL": "yes", "SMTP__LISTENER__PROXY_NETWORKS": "10.0.0.1"},
            Door("smtp", "127.0.0.1:2525", proxied=True),
        ),
        (PROVIDER, {"DEFAULT_LISTENER": "0.0.0.0:26"}, Door("smtp", "127.0.0.1:26")),
        (PROVIDER + '[smtp.listener]\naddress = ":27"\n', {"DEFAULT_LISTENER": ":26"}, Door("smtp", "127.0.0.1:27")),
        (PROVIDER + '[smtp.listener]\ntls = "none"\n', {"DEFAULT_LISTENER": ":26"}, Door("smtp", "127.0.0.1:26")),
    ],
)  # fmt: skip
def test_the_door_is_where_the_settings_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str | None, given: dict[str, str], door: Door
) -> None:
    for module in ("bridge.config.file", "bridge.cli.health.doors"):
        monkeypatch.setattr(f"{module}.SYSTEM_CONFIG", tmp_path / "etc/config.toml")
    if file is not None:
        (tmp_path / "config.toml").write_text(file)
    environ = {f"SMTP_BRIDGE_{name}": value for name, value in given.items()}
    key = HTTP_KEY if door.kind == "http" and (file or given) else {}
    settings = load_settings(environ={**environ, **key, "STATE_DIRECTORY": str(tmp_path)}, cwd=tmp_path)

    found = find_door("", environ, tmp_path)

    assert found == door
    listed = [settings.http.address] if door.kind == "http" else [one.address for one in settings.smtp.listener]
    assert (door.kind == "http") == bool(settings.http.address)
    if door.address.startswith("unix:"):
        assert door.address in map(str, listed)
    else:
        assert door.address.rpartition(":")[2] in [str(address.port) for address in listed if address]


@pytest.mark.parametrize("given", [{}, {"DEFAULT_LISTENER": ":2525"}, {"HTTP__ADDRESS": ":8025"}])
def test_a_listener_is_asked_when_it_is_asked_for(tmp_path: Path, given: dict[str, str]) -> None:
    environ = {f"SMTP_BRIDGE_{name}": value for name, value in given.items()}

    assert find_door("", environ, tmp_path, smtp=True) == Door("smtp", "127.0.0.1:2525")


@pytest.mark.parametrize(
    ("file", "given", "problem"),
    [
        ("[[[", {}, "config.toml: not valid TOML"),
        ("", {"CONFIG": "other.toml"}, "other.toml: cannot be read: No such file or directory"),
        ("", {"SMTP__LISTENER": "{"}, "SMTP_BRIDGE_SMTP__LISTENER: not valid JSON"),
        ("", {"SMTP__LISTENER__ADDRESS": "127.0.0.1:0"}, "no listener has an address of its own that could be asked"),
        ("", {"SMTP__LISTENER__ADDRESS": "systemd:smtp"}, "no listener has an address of its own that could be asked"),
    ],
)
def test_not_to_know_where_is_said(tmp_path: Path, file: str, given: dict[str, str], problem: str) -> None:
    (tmp_path / "config.toml").write_text(file)

    with pytest.raises(NoDoor, match=problem):
        find_door("", {f"SMTP_BRIDGE_{name}": value for name, value in given.items()}, tmp_path)


def test_a_mistake_elsewhere_in_the_settings_is_no_illness(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[http]\naddress = ":8025"\n[[provider]]\nkind = "postmrak"\n')

    assert find_door("", {}, tmp_path) == Door("http", "127.0.0.1:8025")
