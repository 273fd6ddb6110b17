"""systemd/smtp-bridge.service."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.cli.exits import EX_CONFIG
from bridge.config.settings import Settings
from bridge.config.smtp import Smtp

UNIT = Path(__file__).parents[2] / "systemd/smtp-bridge.service"


@pytest.fixture
def service() -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_understands_every_key(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub("(?m)^ExecStart=.*$", f"ExecStart={sys.executable} run", UNIT.read_text()))

    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)

    assert unit.name not in done.stdout + done.stderr
    assert done.returncode == 0


def test_it_runs_as_a_user_of_its_own_with_a_state_directory(service: configparser.SectionProxy) -> None:
    assert service["DynamicUser"] == "yes"
    assert service["StateDirectory"] == "smtp-bridge"
    assert service["ExecStart"].endswith("/bin/smtp-bridge run")
    assert service["EnvironmentFile"].startswith("-")


def test_it_may_bind_low_ports_and_nothing_more(service: configparser.SectionProxy) -> None:
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices"):
        assert service[key] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert set(service["RestrictAddressFamilies"].split()) == {"AF_UNIX", "AF_INET", "AF_INET6"}


def test_it_is_given_the_time_to_end_well_and_not_restarted_with_bad_settings(
    service: configparser.SectionProxy,
) -> None:
    shutdown = Smtp().shutdown_timeout
    assert isinstance(Settings.model_fields["smtp"].default, Smtp)
    assert float(service["TimeoutStopSec"]) > shutdown + 5
    assert service["KillSignal"] == "SIGTERM"
    assert service["Restart"] == "on-failure"
    assert str(EX_CONFIG) in service["RestartPreventExitStatus"].split()
