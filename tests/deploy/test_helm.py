"""docs/deploy/helm, rendered and linted by Helm itself (its library, without the command)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge import __version__
from tests.deploy.manifests import (
    DEPLOY,
    NEWEST,
    Object,
    bridge_of,
    check_network,
    check_pod,
    check_schemas,
    of_kind,
    pod_of,
    read,
    settings_of,
    variables,
)

helm = pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this machine")

CHART = DEPLOY / "helm"
LEAST = {"provider": {"kind": "postmark", "secret": {"name": "mail-provider"}}}
TWO = """
[[provider]]
name = "first"
kind = "postmark"
api_key_file = "/run/secrets/extra/first"
[[provider]]
name = "second"
kind = "capture"
"""
HTTP = {"http": {"enabled": True, "keySecret": {"name": "mail-http"}}}
VALUES: dict[str, dict[str, Any]] = {
    "least": LEAST,
    "http": {**LEAST, **HTTP, "serviceMonitor": {"enabled": True, "keySecret": {"name": "mail-http"}}},
    "most": {
        **LEAST,
        **HTTP,
        "image": {"repository": "registry.example.com/smtp-bridge", "tag": "0.1.1"},
        "imagePullSecrets": [{"name": "registry"}],
        "fullnameOverride": "relay",
        "replicas": 2,
        "settings": {"relay.mode": "queue", "provider.rate": "10/s", "smtp.max_connections": 2000000, "retry.jitter": 0.25,
                     "relay.degrade": True},
        "smtp": {"hostname": "relay.example.com", "allowedNetworks": ["10.1.0.0/16"], "tlsSecret": "relay-tls"},
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"}],
        "persistence": {"size": "20Gi", "storageClass": "fast"},
        "shutdown": {"preStop": 0, "timeout": 50},
        "networkPolicy": {"egressPorts": [443, 587], "egressExcept": []},
        "nodeSelector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists"}], "priorityClassName": "mail",
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "podAnnotations": {"a/b": "c"}, "podLabels": {"team": "ops"},
    },
    "file": {"config": TWO, "extraSecret": "keys", "persistence": {"enabled": False}, "networkPolicy": {"enabled": False},
             "settings": {"relay.mode": "direct"}, "service": {"type": "LoadBalancer", "port": 587}},
}  # fmt: skip


@pytest.fixture(scope="module")
def chart() -> Any:
    with helm.Chart.load(str(CHART)) as loaded:
        yield loaded


def render(chart: Any, values: dict[str, Any]) -> dict[str, str]:
    """By the name of the template."""
    found = chart.render(copy.deepcopy(values), name="mail", namespace="shop")
    return {name.rpartition("/")[2]: text for name, text in found.items()}


def objects(chart: Any, values: dict[str, Any]) -> list[Object]:
    return [one for name, text in render(chart, values).items() if name.endswith(".yaml") for one in read(text)]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_helm_has_nothing_to_say_against_it(values: dict[str, Any]) -> None:
    found = helm.lint(str(CHART), copy.deepcopy(values), strict=True)

    assert found["errors"] == []
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_what_it_renders_is_kubernetes_and_settings_that_hold(
    chart: Any, values: dict[str, Any], tmp_path: Path
) -> None:
    found = objects(chart, values)
    pod = pod_of(found)
    settings = settings_of(variables(bridge_of(pod)), tmp_path, values.get("config", ""))

    check_schemas(found, "1.25", NEWEST)
    check_pod(pod, settings)
    check_network(found, settings)
    assert all(one["metadata"]["name"] == of_kind(found, "Service")[0]["metadata"]["name"] for one in found)


def test_a_provider_and_a_key_are_enough(chart: Any, tmp_path: Path) -> None:
    pod = pod_of(objects(chart, LEAST))
    settings = settings_of(variables(bridge_of(pod)), tmp_path)

    (provider,) = settings.provider
    assert (provider.kind, provider.api_key.get_secret_value()) == ("postmark", "a-key-of-the-provider")
    assert bridge_of(pod)["image"] == f"smtp-bridge:{__version__}"


def test_the_settings_are_those_that_were_given(chart: Any, tmp_path: Path) -> None:
    settings = settings_of(variables(bridge_of(pod_of(objects(chart, VALUES["most"])))), tmp_path)

    assert (settings.relay.mode, settings.relay.degrade, settings.retry.jitter) == ("queue", True, 0.25)
    assert (settings.smtp.max_connections, settings.smtp.hostname) == (2_000_000, "relay.example.com")
    assert (settings.smtp.shutdown_timeout, settings.tls.key_file) == (50, str(tmp_path / "run/secrets/tls/tls.key"))


def test_another_config_is_another_pod(chart: Any) -> None:
    def stamp(config: str) -> str:
        (workload,) = of_kind(objects(chart, {**VALUES["file"], "config": config}), "StatefulSet")
        return str(workload["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    (mounted,) = of_kind(objects(chart, VALUES["file"]), "ConfigMap")
    assert mounted["data"]["config.toml"].strip() == TWO.strip()
    assert stamp(TWO) != stamp(TWO + "# more\n")


def test_metrics_are_scraped_with_a_key(chart: Any) -> None:
    (monitor,) = of_kind(objects(chart, VALUES["http"]), "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    (service,) = of_kind(objects(chart, VALUES["http"]), "Service")

    assert endpoint["authorization"] == {"credentials": {"name": "mail-http", "key": "http-key"}}
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()


def test_a_port_that_is_shown_to_the_outside_keeps_its_clients_addresses(chart: Any) -> None:
    (service,) = of_kind(objects(chart, VALUES["file"]), "Service")

    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert [port["name"] for port in service["spec"]["ports"]] == ["smtp"]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "mail would have nowhere to go"),
        ({**LEAST, "http": {"enabled": True}}, "http.enabled needs http.keySecret.name"),
        ({**LEAST, "serviceMonitor": {"enabled": True}}, "serviceMonitor.enabled needs http.enabled"),
        ({**LEAST, "settings": {"smtp.shutdown_timeout": "60s"}}, "give shutdown.timeout"),
    ],
)
def test_what_would_not_run_is_not_rendered(chart: Any, values: dict[str, Any], problem: str) -> None:
    with pytest.raises(helm.HelmError, match=problem):
        render(chart, values)


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 1},
        {"replicas": "two"},
        {"settings": {"relay": "queue"}},
        {"settings": {"relay.mode": ["queue"]}},
        {"smtp": {"allowedNetworks": "10.0.0.0/8"}},
        {"persistence": {"accessModes": ["ReadWriteMany"]}},
    ],
    ids=str,
)
def test_mistakes_in_the_values_are_found_by_their_schema(chart: Any, values: dict[str, Any]) -> None:
    chart.validate_schema(chart.merge_values(LEAST))
    with pytest.raises(helm.HelmError):
        chart.validate_schema(chart.merge_values({**LEAST, **values}))


def test_the_notes_say_how_to_send_and_what_is_dangerous(chart: Any) -> None:
    assert "mail-smtp-bridge.shop:25" in render(chart, LEAST)["NOTES.txt"]
    assert "WARNING" not in render(chart, LEAST)["NOTES.txt"]
    assert render(chart, VALUES["file"])["NOTES.txt"].count("WARNING") == 2


def test_every_value_has_a_place_in_the_schema_and_the_chart_the_version_of_the_bridge() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert values.keys() | {"global"} == schema["properties"].keys()
    assert chart["appVersion"] == __version__
