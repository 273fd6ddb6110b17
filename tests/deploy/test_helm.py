"""docs/deploy/helm, rendered and linted by Helm itself (its library, without the command)."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

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
TWO_LISTENERS = """
[[smtp.listener]]
name = "programs"
allowed_networks = ["10.1.0.0/16"]
[[smtp.listener]]
name = "people"
address = "0.0.0.0:4650"
tls = "implicit"
"""
TWO_KEYS = """
[[http.key]]
name = "ops"
key_hash_file = "/run/secrets/extra/ops-hash"
[[http.key]]
name = "shop"
key_hash_file = "/run/secrets/extra/shop-hash"
scopes = ["send"]
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
    "outside": {**LEAST, **HTTP, "service": {"type": "LoadBalancer"},
                "serviceMonitor": {"enabled": True, "keySecret": {"name": "mail-http"}}},
    "listeners": {**LEAST, "config": TWO_LISTENERS,
                  "service": {"extraPorts": [{"name": "submissions", "port": 465, "containerPort": 4650}]}},
    "keys": {**LEAST, "config": TWO_KEYS, "extraSecret": "http-keys", "http": {"enabled": True}},
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
    name = of_kind(found, "StatefulSet")[0]["metadata"]["name"]
    assert {one["metadata"]["name"] for one in found} <= {name, f"{name}-http"}


def test_a_provider_and_a_key_are_enough(chart: Any, tmp_path: Path) -> None:
    pod = pod_of(objects(chart, LEAST))
    settings = settings_of(variables(bridge_of(pod)), tmp_path)

    (provider,) = settings.provider
    assert (provider.kind, provider.api_key.get_secret_value()) == ("postmark", "a-key-of-the-provider")
    assert bridge_of(pod)["image"] == f"smtp-bridge:{__version__}"


@pytest.mark.parametrize(
    ("kind", "keys", "settings"),
    [
        ("ses", {"secret_access_key": "secret"}, {"region": "eu-west-1", "access_key_id": "AKIA"}),
        ("graph", {"client_secret": "client-secret"}, {"tenant": "t", "client_id": "c"}),
        ("mailjet", {"api_key": "public", "api_secret": "private"}, {}),
        ("rest", {"token": "token"}, {"url": "https://api.example.com/send", "auth": "bearer"}),
    ],
)
def test_the_secrets_of_a_provider_are_those_that_it_has(
    chart: Any, tmp_path: Path, kind: str, keys: dict[str, str], settings: dict[str, str]
) -> None:
    more = {f"provider.{key}": value for key, value in settings.items()}
    values = {"provider": {"kind": kind, "secret": {"name": "mail-provider", "keys": keys}}, "settings": more}
    given = variables(bridge_of(pod_of(objects(chart, values))))

    (provider,) = settings_of(given, tmp_path).provider

    assert provider.kind == kind
    for setting, key in keys.items():
        assert getattr(provider, setting).get_secret_value() == "a-key-of-the-provider"
        assert given[f"SMTP_BRIDGE_PROVIDER__{setting.upper()}_FILE"] == f"/run/secrets/provider/{key}"


def test_the_commands_at_its_head_make_the_secret_that_it_mounts(chart: Any) -> None:
    text = (CHART / "values.yaml").read_text()
    (made,) = re.findall(r"kubectl create secret generic (\S+) --from-file=(\S+)=(\S+\.key)\n", text)
    name, key, _ = made
    (kind, secret) = re.findall(r"helm install .* --set provider\.kind=(\S+) --set provider\.secret\.name=(\S+)", text)[
        0
    ]
    pod = pod_of(objects(chart, {"provider": {"kind": kind, "secret": {"name": secret}}}))

    assert secret == name
    assert [one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one] == [name]
    assert variables(bridge_of(pod))["SMTP_BRIDGE_PROVIDER__API_KEY_FILE"] == f"/run/secrets/provider/{key}"
    assert f"--set provider.kind={kind} --set provider.secret.name={name}" in (DEPLOY / "README.md").read_text()


def test_two_listeners_are_those_of_the_file(chart: Any, tmp_path: Path) -> None:
    given = variables(bridge_of(pod_of(objects(chart, VALUES["listeners"]))))
    first, second = settings_of(given, tmp_path, TWO_LISTENERS).smtp.listener

    assert (str(first.address), str(second.address)) == ("0.0.0.0:2525", "0.0.0.0:4650")
    assert [str(network) for network in first.allowed_networks] == ["10.1.0.0/16"]
    assert all(network.is_loopback for network in second.allowed_networks)


def test_two_keys_are_those_of_the_file(chart: Any, tmp_path: Path) -> None:
    given = variables(bridge_of(pod_of(objects(chart, VALUES["keys"]))))

    assert [key.name for key in settings_of(given, tmp_path, TWO_KEYS).http.key] == ["ops", "shop"]


@pytest.mark.parametrize(
    "config",
    [
        "[smtp.listener]\ntls = 'none'\n",
        "  [[ smtp . listener ]]\n",
        '["smtp"."listener"]\n',
        "smtp.listener = [{}]\n",
        "smtp.listener.tls = 'none'\n",
        "smtp = {hostname = 'x', listener = {tls = 'none'}}\n",
        "[smtp] # of the relay\n\nhostname = 'x'\r\n\r\n  listener = [{}]\n",
        "[smtp]\nhostname = 'x'\nlistener.tls = 'none'\n",
        "[smtp]\nhostname = 'x'\n[[route]]\nlistener = 'x'\nproviders = 'x'\n",
        "# [[smtp.listener]]\n#smtp.listener = 1\n",
        "[smtp.listeners]\n",
        "smtp = {hostname = 'x'} # listener\n[[route]]\nlistener = 'x'\n",
    ],
)
def test_whether_the_file_has_listeners_is_read_from_it(chart: Any, config: str) -> None:
    given = variables(bridge_of(pod_of(objects(chart, {**LEAST, "config": config}))))

    has = "listener" in tomllib.loads(config).get("smtp", {})
    assert ("SMTP_BRIDGE_SMTP__LISTENER__ALLOWED_NETWORKS" in given) is not has


def test_whose_pods_may_send_and_who_may_use_the_http_side_is_what_was_given_and_no_more(chart: Any) -> None:
    def sources(**given: Any) -> dict[str, list[Object]]:
        (policy,) = of_kind(objects(chart, {**LEAST, **HTTP, "networkPolicy": given}), "NetworkPolicy")
        return {port["port"]: rule["from"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}

    def labels(**given: Any) -> dict[str, str]:
        (peer,) = sources(**given)["smtp"]
        found: dict[str, str] = peer["podSelector"]["matchLabels"]
        return found

    ingress = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert labels() == {"smtp-bridge/client": "true"}
    assert labels(clients={"team": "shop"}) == {"team": "shop"}
    assert sources()["http"] == [monitoring]
    assert sources(httpPeers=[ingress])["http"] == [monitoring, ingress]
    assert "http" not in sources(monitoringNamespace="")


def test_a_role_of_the_node_is_reached_where_it_is_handed_out_and_only_then(chart: Any) -> None:
    def ports_of_metadata(**given: Any) -> set[int]:
        (policy,) = of_kind(objects(chart, {**LEAST, "networkPolicy": given}), "NetworkPolicy")
        rules = [rule for rule in policy["spec"]["egress"] if "169.254.169.254/32" in blocks(rule)]
        return {port["port"] for rule in rules for port in rule["ports"]}

    assert ports_of_metadata() == set()
    assert ports_of_metadata(nodeCredentials=True) == {80}


def test_dns_may_listen_elsewhere(chart: Any) -> None:
    (policy,) = of_kind(objects(chart, {**LEAST, "networkPolicy": {"dnsPorts": [53, 5353]}}), "NetworkPolicy")
    (dns,) = [rule for rule in policy["spec"]["egress"] if "to" not in rule]

    assert {(port["protocol"], port["port"]) for port in dns["ports"]} == {
        (protocol, port) for protocol in ("UDP", "TCP") for port in (53, 5353)
    }


def test_the_pod_has_the_account_that_is_made_or_named(chart: Any) -> None:
    def account(**given: Any) -> tuple[str, list[Object]]:
        found = objects(chart, {**LEAST, "serviceAccount": given})
        check_schemas(found, NEWEST)
        return pod_of(found)["serviceAccountName"], of_kind(found, "ServiceAccount")

    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/mail"}
    name, (made,) = account(create=True, annotations=role)
    assert name == made["metadata"]["name"] == "mail-smtp-bridge"
    assert made["metadata"]["annotations"] == role
    assert made["automountServiceAccountToken"] is False
    assert account(name="theirs") == ("theirs", [])
    assert account() == ("default", [])


@pytest.mark.parametrize("value", ["512Mi", "1Gi", "1.5G", "536870912", 536870912, "512000k", "400000000000m", None])
def test_what_holds_the_budget_is_rendered(chart: Any, value: Any) -> None:
    assert render(chart, {**LEAST, "resources": {"limits": {"memory": value}}})


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


@pytest.mark.parametrize("name", ["http", "outside"])
def test_metrics_are_scraped_with_a_key(chart: Any, name: str) -> None:
    found = objects(chart, VALUES[name])
    (monitor,) = of_kind(found, "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    (service,) = [one for one in of_kind(found, "Service") if "http" in {port["name"] for port in one["spec"]["ports"]}]

    assert endpoint["authorization"] == {"credentials": {"name": "mail-http", "key": "http-key"}}
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert service["spec"]["type"] == "ClusterIP"
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
        ({**LEAST, "queueMaxBytes": "10GiB"}, r"queueMaxBytes \(10GiB\) must be below persistence.size \(10Gi\)"),
        ({**LEAST, "persistence": {"size": "8.5G"}}, r"queueMaxBytes \(8GiB\) must be below persistence.size \(8.5G\)"),
        ({**LEAST, "settings": {"spool.max_bytes": 10737418240}}, r"queueMaxBytes \(10737418240\) must be below"),
        ({**LEAST, "persistence": {"enabled": False}, "queueMaxBytes": "0B"}, "must be below"),
        (
            {**LEAST, "memoryBudget": "417MiB"},
            r"limits.memory \(512Mi\) must be at least memoryBudget \(417MiB\) and 96Mi",
        ),
        ({**LEAST, "settings": {"smtp.memory_budget": "1 gib"}}, "must be at least memoryBudget"),
        ({**LEAST, "resources": {"limits": {"memory": 268435456}}}, "must be at least memoryBudget"),
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
