"""check, schema, hash-password, sandbox, help and completion."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from tests.cli.conftest import invoke, one_line, smtp_bridge

SETTINGS = """
[[user]]
name = "printer"
password = "PLANTED-password"

[[provider]]
kind = "rest"
url = "https://api.example.com/send"
auth = "bearer"
token = "PLANTED-token"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text(SETTINGS)
    return tmp_path


def test_check_prints_what_the_settings_come_to_with_secrets_masked(settings: Path) -> None:
    done = smtp_bridge(settings, "check", SMTP_BRIDGE_RELAY__MODE="queue")

    assert done.returncode == 0
    assert "PLANTED" not in done.stdout + done.stderr
    assert f"# settings from: {settings}/config.toml" in done.stdout
    shown = tomllib.loads(done.stdout)
    assert shown["relay"]["mode"] == "queue"
    assert shown["provider"][0]["url"] == "https://api.example.com/send"


def test_check_in_json_is_the_same(settings: Path) -> None:
    done = invoke(settings, "check", "--json")

    assert json.loads(done.stdout)["provider"][0]["kind"] == "rest"
    assert "PLANTED" not in done.stdout


def test_check_warns_of_what_is_allowed_but_should_be_seen(settings: Path) -> None:
    old = {"SMTP_BRIDGE_SMTP__LISTENER__TLS_MINIMUM": "1.0"}

    for option in ((), ("--json",)):
        done = invoke(settings, "check", *option, **old)
        (line,) = done.stderr.splitlines()
        assert line.startswith('smtp-bridge: warning: listener 127.0.0.1:2525: tls_minimum = "1.0" allows')
        assert done.returncode == 0
        assert "warning" not in done.stdout
        assert invoke(settings, "check", *option).stderr == ""


def test_check_reads_the_authorities_of_client_certificates(settings: Path) -> None:
    (settings / "ca.pem").write_text("no certificate")

    done = invoke(settings, "check", SMTP_BRIDGE_SMTP__LISTENER__CLIENT_CA_FILE="ca.pem")

    assert done.returncode == 78
    assert done.stderr.startswith(f"smtp-bridge: certificate: {settings}/ca.pem: ")


def test_check_says_every_mistake_on_a_line_of_its_own_and_ends_with_78(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        SETTINGS.replace("auth", "auht") + '[relay]\nmode = "fast"\n[smtp]\ntimeout = "x"\n'
    )

    done = invoke(tmp_path, "check")

    assert (done.returncode, done.stdout) == (78, "")
    lines = done.stderr.splitlines()
    assert len(lines) >= 3
    assert all(line.startswith("smtp-bridge: ") for line in lines)
    assert "PLANTED" not in done.stderr


def test_check_without_a_settings_file_that_was_named_is_one_line(tmp_path: Path) -> None:
    done = invoke(tmp_path, "check", "--config", "missing.toml")

    assert done.returncode == 78
    assert "missing.toml" in one_line(done)


def test_schema_is_json(tmp_path: Path) -> None:
    schema = json.loads(invoke(tmp_path, "schema").stdout)

    assert {"smtp", "provider", "retry"} <= set(schema["properties"])


def test_hash_password_makes_a_hash_the_listener_understands(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("sécret word\n")

    from_file = invoke(tmp_path, "hash-password", "--password-file", "password").stdout.strip()
    from_input = invoke(tmp_path, "hash-password", "--password-file", "-", given="sécret word").stdout.strip()

    assert from_file != from_input
    for made in (from_file, from_input):
        assert made.startswith("$argon2id$")
        assert PasswordHasher().verify(made, "sécret word")


@pytest.mark.parametrize(("source", "given"), [("missing", ""), ("-", ""), ("/", "")])
def test_a_password_that_cannot_be_read_is_one_line(tmp_path: Path, source: str, given: str) -> None:
    done = invoke(tmp_path, "hash-password", "--password-file", source, given=given)

    assert (done.returncode, done.stdout) == (78, "")
    one_line(done)


def test_a_taken_port_of_the_sandbox_is_one_line(tmp_path: Path, taken_port: int) -> None:
    done = invoke(tmp_path, "sandbox", "--port", str(taken_port))

    assert done.returncode == 69
    assert f"127.0.0.1:{taken_port}" in one_line(done)


def test_a_failure_the_sandbox_does_not_know_is_one_line(tmp_path: Path) -> None:
    done = invoke(tmp_path, "sandbox", "--port", "0", "--fail", "burn:1")

    assert done.returncode == 78
    assert "burn" in one_line(done)


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = invoke(tmp_path, "--help").stdout + invoke(tmp_path, "queue", "--help").stdout
    shown += invoke(tmp_path, "suppress", "--help").stdout

    for command in ("run", "health", "demo", "sandbox", "check", "hash-password", "schema", "queue", "suppress"):
        assert f"│ {command} " in shown
    for command in ("list", "show", "watch", "retry", "hold", "release", "drop", "export", "add", "remove"):
        assert f"│ {command} " in shown


def test_the_shell_can_complete_commands(tmp_path: Path) -> None:
    done = smtp_bridge(
        tmp_path, _SMTP_BRIDGE_COMPLETE="complete_bash", COMP_WORDS="smtp-bridge queue re", COMP_CWORD="2"
    )

    assert done.stdout.split() == ["retry", "release"]
