"""`smtp-bridge run`: what it loads, how it starts, and with which status it ends."""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge import __version__
from tests.cli.conftest import (
    CAPTURE,
    bridge,
    events,
    one_line,
    port_of,
    sandbox,
    send,
    smtp_bridge,
    to_sandbox,
    variables,
)

LOADED = """
import atexit, sys
packages = lambda: {name.partition(".")[0] for name, module in sys.modules.items() if module}
atexit.register(lambda: print(*sorted(packages() & {"typer", "rich", "click", "httpx", "bridge"})))
sys.argv = ["smtp-bridge", "run"]
from bridge.cli import main
main()
"""


def test_the_daemon_never_loads_the_libraries_of_the_commands(tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    with sandbox(tmp_path / "api") as url:
        environ = variables(tmp_path, **{**CAPTURE, **to_sandbox(url)})
        with (tmp_path / "stderr").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", LOADED], env=environ, stdout=subprocess.PIPE, stderr=log, text=True
            )
        with process:
            send(port_of(process, tmp_path / "stderr"), "ann@example.com", ["bob@example.org"])
            process.terminate()
            assert process.stdout
            assert process.stdout.read().split() == ["bridge", "httpx"]
    assert process.returncode == 0
    assert [e["event"] for e in events(tmp_path / "stderr") if str(e["event"]).startswith("message")] == [
        "message.sent"
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_was_asked_for_is_exit_status_0(tmp_path: Path, number: signal.Signals) -> None:
    with bridge(tmp_path) as (process, _):
        process.send_signal(number)

        assert process.wait(20) == 0
    assert events(tmp_path / "stderr")[-1]["event"] == "daemon.stopped"


@pytest.mark.serial
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with bridge(tmp_path) as (process, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"EHLO c.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        while b"354 " not in client.recv(4096):
            pass
        process.terminate()
        _wait_for_event(tmp_path, "daemon.stopping")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)  # the transaction may still end
        begun = time.monotonic()
        process.terminate()

        assert process.wait(5) == 128 + signal.SIGTERM
        assert time.monotonic() - begun < 1.0


def _wait_for_event(directory: Path, name: str) -> None:
    deadline = time.monotonic() + 10
    while not any(event["event"] == name for event in events(directory / "stderr")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_any_settings_it_says_loudly_that_nothing_is_sent(tmp_path: Path) -> None:
    environ = {k: v for k, v in variables(tmp_path).items() if not k.startswith("SMTP_BRIDGE_")}
    with (tmp_path / "stderr").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "bridge", "run"], env=environ, cwd=tmp_path, stderr=log)
    with process:
        _wait_for_event(tmp_path, "daemon.capture")
        process.kill()
    said = next(event for event in events(tmp_path / "stderr") if event["event"] == "daemon.capture")
    assert said["level"] == "warning"
    assert "NOTHING IS SENT" in str(said["text"])


def test_each_mistake_in_the_settings_is_a_line_and_the_status_is_78(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[smtp]\nport = 25\n[[provider]]\nkind = "rset"\n')

    done = smtp_bridge(tmp_path, "run")

    assert done.returncode == 78
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert "line 2: unknown key 'smtp.port'" in lines[0]
    assert "did you mean 'rest'?" in lines[1]


def _no_certificate(directory: Path) -> dict[str, str]:
    return {"SMTP_BRIDGE_TLS__CERT_FILE": str(directory / "missing.pem"), "SMTP_BRIDGE_TLS__KEY_FILE": ""}


def _bad_certificate(directory: Path) -> dict[str, str]:
    (directory / "bad.pem").write_text("this is no certificate")
    return {"SMTP_BRIDGE_TLS__CERT_FILE": str(directory / "bad.pem")}


def _newer_spool(directory: Path) -> dict[str, str]:
    (directory / "state").mkdir()
    with sqlite3.connect(directory / "state/spool.db") as db:
        db.execute("PRAGMA user_version = 999")
    db.close()
    return {}


def _no_spool_directory(directory: Path) -> dict[str, str]:
    (directory / "file").touch()
    return {"SMTP_BRIDGE_SPOOL__URL": f"sqlite://{directory}/file/spool.db"}


@pytest.mark.parametrize(
    ("prepare", "status", "words"),
    [
        (_no_certificate, 78, "missing.pem"),
        (_bad_certificate, 78, "bad.pem"),
        (_newer_spool, 69, "newer version"),
        (_no_spool_directory, 69, "file/spool.db"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line_and_a_status(
    tmp_path: Path, prepare: Callable[[Path], dict[str, str]], status: int, words: str
) -> None:
    done = smtp_bridge(tmp_path, "run", **CAPTURE, **prepare(tmp_path))

    assert done.returncode == status
    assert words in one_line(done)


def test_a_taken_port_is_one_line_that_names_it_and_status_69(tmp_path: Path, taken_port: int) -> None:
    done = smtp_bridge(tmp_path, "run", **{**CAPTURE, "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": f"127.0.0.1:{taken_port}"})

    assert done.returncode == 69
    assert one_line(done).startswith(f"smtp-bridge: cannot listen on 127.0.0.1:{taken_port}: ")


def test_a_second_daemon_on_the_same_spool_ends_with_75_and_the_first_goes_on(tmp_path: Path) -> None:
    with bridge(tmp_path) as (_, port):
        done = smtp_bridge(tmp_path, "run", **CAPTURE)

        assert done.returncode == 75
        assert "spool.db" in one_line(done)
        send(port, "ann@example.com", ["bob@example.org"])


def test_unknown_arguments_are_a_usage_error(tmp_path: Path) -> None:
    assert smtp_bridge(tmp_path, "run", "--port", "25").returncode == 2


def test_help_and_version_need_no_settings(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("not TOML")

    assert "--config" in smtp_bridge(tmp_path, "run", "--help").stdout
    assert smtp_bridge(tmp_path, "--version").stdout == f"smtp-bridge {__version__}\n"
