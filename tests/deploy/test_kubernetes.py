"""docs/deploy/kubernetes: by Kubernetes' own schemas, and by the settings that the daemon would have there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import kubernetes_validate
import pytest

from bridge import __version__
from tests.deploy.manifests import (
    DEPLOY,
    NEWEST,
    Object,
    blocks,
    bridge_of,
    check_network,
    check_pod,
    check_schemas,
    containers,
    of_kind,
    pod_of,
    read,
    settings_of,
    variables,
)

NAMES = ("sidecar", "relay")


def objects(name: str) -> list[Object]:
    return read((DEPLOY / f"kubernetes/{name}.yaml").read_text())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", ["1.29", NEWEST])
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    check_schemas(objects(name), version)


def test_a_field_that_there_is_not_would_be_seen() -> None:
    found = objects("relay")
    pod_of(found)["enableServiceLink"] = False

    with pytest.raises(kubernetes_validate.ValidationError, match="enableServiceLink"):
        check_schemas(found, NEWEST)


@pytest.mark.parametrize("name", NAMES)
def test_the_pod_is_locked_up_probed_and_given_the_time_to_end(name: str, tmp_path: Path) -> None:
    pod = pod_of(objects(name))

    check_pod(pod, settings_of(variables(bridge_of(pod)), tmp_path))

    assert {one["image"] for one in containers(pod)} == {f"smtp-bridge:{__version__}"}


@pytest.mark.parametrize("name", NAMES)
def test_each_secret_file_is_a_key_of_the_secret_that_is_mounted(name: str) -> None:
    (secret,) = of_kind(objects(name), "Secret")
    pod = pod_of(objects(name))
    (volume,) = [one for one in pod["volumes"] if "secret" in one]
    files = {
        value.rpartition("/")[2] for value in variables(bridge_of(pod)).values() if value.startswith("/run/secrets")
    }

    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    assert files == secret["stringData"].keys()


def test_the_placeholder_of_the_key_hash_is_a_hash(tmp_path: Path) -> None:
    (secret,) = of_kind(objects("relay"), "Secret")
    settings = settings_of(variables(bridge_of(pod_of(objects("relay")))), tmp_path)

    assert settings.http.key[0].key_hash.get_secret_value() == secret["stringData"]["http-key-hash"]


def test_the_sidecar_is_a_native_one_that_listens_in_its_pod_alone_and_keeps_nothing_it_could_lose(
    tmp_path: Path,
) -> None:
    pod = pod_of(objects("sidecar"))
    (sidecar,) = pod["initContainers"]
    settings = settings_of(variables(sidecar), tmp_path)

    assert sidecar["restartPolicy"] == "Always"
    assert [str(one.address) for one in settings.smtp.listener] == ["127.0.0.1:2525"]
    assert not settings.http.address
    assert settings.relay.mode == "direct"
    (state,) = [one for one in pod["volumes"] if one["name"] == "mail-state"]
    assert "emptyDir" in state
    (app,) = pod["containers"]
    assert {one["name"]: one["value"] for one in app["env"]} == {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": "2525"}


def test_the_relay_keeps_its_queue_on_a_volume_of_its_own_and_lets_in_whom_it_names(tmp_path: Path) -> None:
    found = objects("relay")
    pod = pod_of(found)
    settings = settings_of(variables(bridge_of(pod)), tmp_path)
    (workload,) = of_kind(found, "StatefulSet")

    check_network(found, settings)

    assert [claim["metadata"]["name"] for claim in workload["spec"]["volumeClaimTemplates"]] == ["queue"]
    assert settings.relay.mode == "auto"
    assert settings.spool.max_bytes < 10 * 1024**3
    assert settings.http.key[0].scopes == ("read",)


def test_the_program_that_stands_for_yours_ends_when_it_is_told_to() -> None:
    (app,) = pod_of(objects("sidecar"))["containers"]
    process = subprocess.Popen(app["command"], start_new_session=True)
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 10
        while not children.read_text() and time.monotonic() < deadline:  # the trap is set before its child is there
            time.sleep(0.005)
        process.terminate()

        assert process.wait(10) == 0  # -15, were it the signal that ended it: process 1 is not ended by it
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_the_readiness_of_the_relay_is_that_of_smtp_while_alerts_have_readyz() -> None:
    bridge = bridge_of(pod_of(objects("relay")))

    assert bridge["readinessProbe"]["exec"]["command"] == ["smtp-bridge", "health", "--ready", "--smtp"]
    assert bridge["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_the_policy_keeps_the_nodes_credentials_from_the_relay() -> None:
    (policy,) = of_kind(objects("relay"), "NetworkPolicy")
    (world,) = [rule for rule in policy["spec"]["egress"] if "0.0.0.0/0" in blocks(rule)]

    assert blocks(world)["0.0.0.0/0"] == ["169.254.0.0/16"]
