"""docs/deploy/compose.yaml."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge import __version__
from bridge.cli.exits import EX_TEMPFAIL
from bridge.cli.health.command import TIMEOUT_S
from tests.cli.conftest import invoke
from tests.deploy.manifests import DEPLOY, RESERVE_MIB, ROOT, SLACK_S, STATE, UID, mebibytes, seconds, settings_of
from tests.packaging.test_container import variables as image_variables


@pytest.fixture
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def test_the_relay_starts_with_these_variables_and_lets_in_its_network_alone(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    relay = compose["services"]["relay"]
    settings = settings_of({**image_variables(), **relay["environment"]}, tmp_path)
    (subnet,) = [one["subnet"] for one in compose["networks"]["mail"]["ipam"]["config"]]

    (listener,) = settings.smtp.listener
    assert listener.allowed_networks == (ipaddress.ip_network(subnet),)
    assert compose["networks"]["mail"]["internal"] is True
    assert mebibytes(relay["mem_limit"]) > settings.smtp.memory_budget / 1024**2 + RESERVE_MIB
    assert seconds(relay["stop_grace_period"]) >= settings.smtp.shutdown_timeout + SLACK_S
    assert relay["volumes"] == [f"queue:{STATE}"]
    (secret,) = relay["secrets"]
    assert relay["environment"]["SMTP_BRIDGE_PROVIDER__API_KEY_FILE"] == f"/run/secrets/{secret}"
    assert compose["secrets"].keys() == {secret}


def test_nothing_runs_with_rights_it_does_not_need(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["image"] == f"smtp-bridge:{__version__}"
    assert compose["services"]["relay"]["user"] == f"{UID}:{UID}"
    assert (DEPLOY / compose["services"]["relay"]["build"] / "Dockerfile").resolve() == ROOT / "Dockerfile"


def test_it_is_asked_whether_it_is_well_before_the_program_starts(compose: dict[str, Any]) -> None:
    health = compose["services"]["relay"]["healthcheck"]

    assert health["test"] == ["CMD", "smtp-bridge", "health"]
    assert seconds(health["timeout"]) > TIMEOUT_S
    assert compose["services"]["app"]["depends_on"] == {"relay": {"condition": "service_healthy"}}


def test_the_program_that_stands_for_yours_is_a_command_that_there_is(compose: dict[str, Any], tmp_path: Path) -> None:
    command = [word.replace("relay:2525", "127.0.0.1:1") for word in compose["services"]["app"]["command"]]
    done = invoke(tmp_path, *command)

    assert done.stderr == "smtp-bridge: the server cannot be reached: Connection refused\n"
    assert done.returncode == EX_TEMPFAIL


def test_the_key_that_lies_beside_the_file_is_not_committed(compose: dict[str, Any]) -> None:
    ignored = (ROOT / ".gitignore").read_text().split()

    (secret,) = compose["secrets"].values()
    assert any(Path(secret["file"]).match(pattern) for pattern in ignored if "*" in pattern)
