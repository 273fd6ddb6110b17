"""Kubernetes objects as data, and what must be true of every pod that the bridge runs in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from bridge.cli.health.command import TIMEOUT_S
from bridge.cli.health.doors import find_door
from bridge.config.load import load_settings
from bridge.config.settings import Settings
from tests.packaging.test_container import variables as image_variables

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs/deploy"
STATE = "/var/lib/smtp-bridge"
UID = 2525
KEY_HASH = "sha256$" + "0" * 64
# As measured, and as the README says: idle with the HTTP side, a probe that is a command, and what a limit has for both.
_SAID = (DEPLOY / "README.md").read_text()
IDLE_MIB, PROBE_MIB, RESERVE_MIB = (
    int(re.search(pattern, _SAID)[1])  # type: ignore[index]
    for pattern in (r"\((\d+) with the HTTP side\)", r"and (\d+) more while a probe", r"the budget and (\d+) MiB")
)
SLACK_S = 5
PROGRAM_S = 30  # what a program beside a native sidecar may take to end, before the sidecar is told to
NEWEST = "1.37"

Object = dict[str, Any]


def read(text: str) -> list[Object]:
    return [found for found in yaml.safe_load_all(text) if found]


def of_kind(objects: Iterable[Object], *kinds: str) -> list[Object]:
    return [one for one in objects if one["kind"] in kinds]


def pod_of(objects: Iterable[Object]) -> Object:
    (workload,) = of_kind(objects, "StatefulSet", "Deployment")
    spec: Object = workload["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    pod: Object = spec["template"]["spec"]
    return pod


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def bridge_of(pod: Object) -> Object:
    (found,) = [one for one in containers(pod) if one["name"] == "smtp-bridge"]
    return found


def variables(container: Object) -> dict[str, str]:
    """With those of the image under them."""
    given = {one["name"]: one["value"] for one in container.get("env", [])}
    assert all(isinstance(value, str) for value in given.values())
    return {**image_variables(), **given}


def settings_of(environ: Mapping[str, str], directory: Path, config: str = "") -> Settings:
    """As the daemon would read them, the files that are mounted being below `directory`."""
    here = dict(environ)
    for name, value in environ.items():
        if value.startswith("/run/secrets/"):
            here[name] = str(directory / value[1:])
    for path in re.findall(r"/run/secrets/[^\s\"]+", "\n".join([*environ.values(), config])):
        file = directory / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_secret(file.name))
    if config:
        (directory / "config.toml").write_text(config.replace("/run/secrets/", f"{directory}/run/secrets/"))
    return load_settings(environ=here, cwd=directory)


def _secret(name: str) -> str:
    if name == "http-key-hash":
        return KEY_HASH
    return f"sha256${sha256(name.encode()).hexdigest()}" if name.endswith("-hash") else "a-key-of-the-provider"


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return float(found[1])


def mebibytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)([MG])i?", text, re.IGNORECASE)
    assert found, text
    return int(found[1]) * (1024 if found[2].upper() == "G" else 1)


# --- what must hold


def check_schemas(objects: Iterable[Object], *versions: str) -> None:
    """Unknown fields are errors too. Raises kubernetes_validate.ValidationError."""
    for one in objects:
        if one["kind"] != "ServiceMonitor":  # not of Kubernetes
            for version in versions:
                kubernetes_validate.validate(one, version, strict=True)


def check_pod(pod: Object, settings: Settings) -> None:
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["fsGroup"] == UID
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(pod):
        _check_container(container)
    _check_volumes(pod, settings)
    _check_ports(bridge_of(pod), settings)
    _check_probes(bridge_of(pod), settings)
    _check_grace(pod, settings)
    assert IDLE_MIB + PROBE_MIB <= RESERVE_MIB
    memory = settings.smtp.memory_budget // 1024**2 + RESERVE_MIB
    assert mebibytes(bridge_of(pod)["resources"]["limits"]["memory"]) >= memory


def _check_container(container: Object) -> None:
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"].keys() == {"requests", "limits"}
    assert not container["image"].endswith(":latest")
    assert ":" in container["image"]


def _check_volumes(pod: Object, settings: Settings) -> None:
    mounts = {mount["mountPath"]: mount for mount in bridge_of(pod)["volumeMounts"]}
    assert str(settings.state_directory) == STATE
    assert not mounts.pop(STATE).get("readOnly")
    assert all(mount["readOnly"] for mount in mounts.values())
    for volume in pod["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o440
    for variable, value in variables(bridge_of(pod)).items():
        if value.startswith("/run/"):
            assert any(value.startswith(f"{path}/") for path in mounts), variable


def _check_ports(container: Object, settings: Settings) -> None:
    declared = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    addresses = [listener.address for listener in settings.smtp.listener]
    if all(address.host == "127.0.0.1" for address in addresses):
        assert declared == {}
        return
    if settings.http.address:
        assert declared.pop("http") == settings.http.address.port
    assert declared["smtp"] == 2525
    assert sorted(declared.values()) == sorted(address.port for address in addresses)


def _check_probes(container: Object, settings: Settings) -> None:
    probes = {
        name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness") if f"{name}Probe" in container
    }
    assert {"startup", "liveness"} <= probes.keys()
    for name, probe in probes.items():
        if "httpGet" in probe:
            assert settings.http.address
            assert settings.http.address.host == "0.0.0.0"
            assert name != "readiness", "a provider's fault would keep clients out"
            assert probe["httpGet"] == {"path": "/healthz", "port": "http"}
        else:
            ready = ["--ready", "--smtp"] if name == "readiness" else []
            assert probe["exec"]["command"] == ["smtp-bridge", "health", *ready]
            assert probe["timeoutSeconds"] > TIMEOUT_S
            environ = {name: value for name, value in variables(container).items() if name.startswith("SMTP_BRIDGE_")}
            assert find_door("", environ, DEPLOY, smtp="--smtp" in ready).address == "127.0.0.1:2525"
    startup = probes["startup"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 30


def _check_grace(pod: Object, settings: Settings) -> None:
    hook = bridge_of(pod).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert hook[0] == "sleep"
    needed = float(hook[1]) + settings.smtp.shutdown_timeout + SLACK_S
    if bridge_of(pod).get("restartPolicy") == "Always":  # the programs end first, in the same grace
        needed += PROGRAM_S
    assert pod["terminationGracePeriodSeconds"] >= needed


def check_network(objects: list[Object], settings: Settings) -> None:
    """The Service and the policy mean this pod and its ports, and only the pods that are meant come in."""
    (workload,) = of_kind(objects, "StatefulSet", "Deployment")
    labels = workload["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in bridge_of(pod_of(objects))["ports"]}
    services = of_kind(objects, "Service")
    for service in services:
        assert service["spec"]["selector"].items() <= labels.items()
    assert {port["targetPort"] for service in services for port in service["spec"]["ports"]} == ports
    assert workload["spec"]["serviceName"] in {service["metadata"]["name"] for service in services}
    for policy in of_kind(objects, "NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        assert {port for port, _ in _let_in(policy)} == ports
        assert all(peers and all(peers) for _, peers in _let_in(policy))
        _check_egress(policy)
    for listener in settings.smtp.listener:
        assert all(network.is_private for network in listener.allowed_networks)


def _let_in(policy: Object) -> Iterator[tuple[str, list[Object]]]:
    for rule in policy["spec"]["ingress"]:
        for port in rule["ports"]:
            yield port["port"], rule["from"]


def _check_egress(policy: Object) -> None:
    """DNS at any address (a cache on the node is no pod), and the provider's HTTPS: not all ports of anything."""
    rules = policy["spec"]["egress"]
    assert all(rule["ports"] for rule in rules)
    (dns,) = [rule for rule in rules if "to" not in rule]
    assert {("UDP", 53), ("TCP", 53)} <= _ports(dns)
    assert {port for _, port in _ports(dns)} <= {53, 5353}
    (world,) = [rule for rule in rules if {"0.0.0.0/0", "::/0"} <= blocks(rule).keys()]
    assert ("TCP", 443) in _ports(world)
    assert "fe80::/10" in blocks(world)["::/0"]


def _ports(rule: Object) -> set[tuple[str, int]]:
    return {(port["protocol"], port["port"]) for port in rule["ports"]}


def blocks(rule: Object) -> dict[str, list[str]]:
    """The networks of a rule, each with what is excepted."""
    found = [peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer]
    return {block["cidr"]: block.get("except", []) for block in found}
