"""The units of systemd/: what systemd itself says of them, and what they promise."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridge.cli.exits import EX_CONFIG
from bridge.config.settings import Settings
from bridge.config.smtp import Smtp

UNITS = Path(__file__).parents[2] / "systemd"
UNIT = UNITS / "smtp-bridge.service"
MOST = 1.5  # of exposure

analyzed = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here (it comes with systemd)"
)


@pytest.fixture
def service() -> configparser.SectionProxy:
    return section(UNIT, "Service")


def section(path: Path, name: str) -> configparser.SectionProxy:
    """Of keys that are given more than once the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser[name]


def verify(*units: Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "smtp-bridge" in line]
    return "\n".join(said) or f"status {done.returncode}"


@analyzed
def test_systemd_understands_every_key(tmp_path: Path) -> None:
    service, plain, low = (
        tmp_path / name for name in ("smtp-bridge.service", "smtp-bridge.socket", "smtp-bridge@465.socket")
    )
    service.write_text(re.sub("(?m)^(Exec[A-Za-z]+)=[^ ]+", rf"\1={sys.executable}", UNIT.read_text()))
    plain.write_bytes((UNITS / "smtp-bridge.socket").read_bytes())
    low.write_bytes((UNITS / "smtp-bridge@.socket").read_bytes())

    assert verify(service, plain, low) == "status 0"
    plain.write_text(plain.read_text().replace("FileDescriptorName=", "FileDescriptorNames="))
    assert "Unknown key 'FileDescriptorNames'" in verify(plain)


def exposure() -> tuple[list[dict[str, Any]], str]:
    """What counts against the unit, and the sum as systemd shows it."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    table, shown = (
        subprocess.run([*command, *more, str(UNIT)], capture_output=True, text=True, timeout=60, check=True).stdout
        for more in (["--json=short"], [])
    )
    return [row for row in json.loads(table) if float(row["exposure"] or 0)], shown


@analyzed
def test_its_exposure_is_low_and_each_thing_that_is_left_open_is_explained() -> None:
    left, shown = exposure()

    (score,) = re.findall(r"Overall exposure level for smtp-bridge.service: ([0-9.]+)", shown)
    assert float(score) <= MOST
    explained = re.search(r"counts what is left:\n((?:# .*\n)+)", UNIT.read_text())
    assert explained
    keys = {re.split(r"[=/]", row["name"])[0] for row in left}
    assert {key for key in keys if key not in explained[1]} == set()
    assert "PrivateNetwork" in keys


def test_it_runs_as_a_user_of_its_own_with_a_state_directory(service: configparser.SectionProxy) -> None:
    assert service["DynamicUser"] == "yes"
    assert service["StateDirectory"] == "smtp-bridge"
    assert service["ExecStart"].endswith("/bin/smtp-bridge run")
    assert service["ExecReload"] == service["ExecStart"].replace(" run", " reload")
    assert service["EnvironmentFile"].startswith("-")
    assert service["LoadCredential"] == "secrets:/etc/smtp-bridge/secrets"


def test_it_has_no_capability(service: configparser.SectionProxy) -> None:
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == ""


def test_it_is_given_the_time_to_end_well_and_not_restarted_with_bad_settings(
    service: configparser.SectionProxy,
) -> None:
    shutdown = Smtp().shutdown_timeout
    assert isinstance(Settings.model_fields["smtp"].default, Smtp)
    assert float(service["TimeoutStopSec"]) > shutdown + 5
    assert service["KillSignal"] == "SIGTERM"
    assert service["Restart"] == "on-failure"
    assert str(EX_CONFIG) in service["RestartPreventExitStatus"].split()


def test_it_is_restarted_for_ever_after_crashes_and_given_up_when_each_connection_starts_it_in_vain(
    service: configparser.SectionProxy,
) -> None:
    unit = section(UNIT, "Unit")

    most_restarts = int(unit["StartLimitIntervalSec"]) / int(service["RestartSec"])
    assert most_restarts < int(unit["StartLimitBurst"]) < int(unit["StartLimitIntervalSec"])


@pytest.mark.parametrize("name", ["smtp-bridge.socket", "smtp-bridge@.socket"])
def test_what_a_socket_tells_to_write_into_the_settings_is_its_name(name: str) -> None:
    text = (UNITS / name).read_text()
    given = section(UNITS / name, "Socket")["FileDescriptorName"].replace("%i", "465")

    assert f'#   address = "systemd:{given}"' in text.splitlines()
