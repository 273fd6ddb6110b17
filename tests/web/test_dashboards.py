"""docs/grafana-dashboard.json and docs/alerts.yaml name what a real daemon shows, and nothing else.

Their expressions are read by a parser of the language (promql-parser), so one that is no PromQL fails here too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bridge import metrics
from tests.web.conftest import CAPTURE

DOCS = Path(__file__).parents[2] / "docs"
OF_PROMETHEUS = {"instance", "job"}  # it adds them itself
VALUES = {"state": set(metrics.STATES), "outcome": set(metrics.OUTCOMES), "status": {"queued", "deferred", "held"}}


def dashboard() -> Any:
    return json.loads((DOCS / "grafana-dashboard.json").read_text())


def panels() -> list[Any]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[Any]:
    return [rule for group in yaml.safe_load((DOCS / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    """With what Grafana puts in place of its variables."""
    asked = [target["expr"].replace("$__rate_interval", "5m") for panel in panels() for target in panel["targets"]]
    return [*asked, *(rule["expr"] for rule in rules())]


def selectors(node: Any) -> Iterator[Any]:
    """The vector selectors anywhere in a parsed expression."""
    if isinstance(node, promql.VectorSelector):
        yield node
    for name in ("vector_selector", "expr", "param", "lhs", "rhs"):
        if (below := getattr(node, name, None)) is not None:
            yield from selectors(below)
    for argument in getattr(node, "args", None) or ():
        yield from selectors(argument)


def groupings(node: Any) -> Iterator[tuple[set[str], Any]]:
    """The labels that `by`, `on` and the like name, each with the expression that has to have them."""
    if isinstance(node, promql.AggregateExpr) and node.modifier:
        yield set(node.modifier.labels), node.expr
    if isinstance(node, promql.BinaryExpr) and node.modifier and node.modifier.matching:
        yield set(node.modifier.matching.labels), node
    for name in ("expr", "lhs", "rhs"):
        if (below := getattr(node, name, None)) is not None:
            yield from groupings(below)
    for argument in getattr(node, "args", None) or ():
        yield from groupings(argument)


def labels_of(name: str) -> set[str]:
    """Those a sample of this name may have, as they were declared."""
    for metric in metrics.ALL:
        if isinstance(metric, metrics.Histogram) and name in {
            f"{metric.name}_{part}" for part in ("bucket", "sum", "count")
        }:
            return {*metric.labels, *(["le"] if name.endswith("_bucket") else [])}
        if metric.name == name:
            return set(metric.labels)
    return set()  # of the process


@pytest.fixture
async def exposed(start_web: Any) -> dict[str, set[str]]:
    """The name of each series of a daemon -> the labels it has there; a metric without one yet has its name only."""
    _, client = await start_web(**CAPTURE)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families((await client.get("/metrics")).text):
        names = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        found.update({family.name + end: set() for end in names if family.name + end not in found})
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("up", {"up"}),
        ('sum by (le, provider) (rate(a_bucket{by="sum"}[5m]))', {"a_bucket"}),
        ('histogram_quantile(0.9, sum(rate(a:b{x=~"c|d_total"}[1h] offset 5m))) > bool 3', {"a:b"}),
        ("a / on (z) group_left (q) b and c unless absent(d) or vector(0)", {"a", "b", "c", "d"}),
        ("-max_over_time((e + 1)[1h:5m])", {"e"}),
        ("topk(scalar(f), g)", {"f", "g"}),
    ],
)
def test_the_names_in_an_expression_are_found(expression: str, names: set[str]) -> None:
    assert {selector.name for selector in selectors(promql.parse(expression))} == names


def test_there_is_something_to_look_at() -> None:
    assert len(panels()) > 15
    assert len(rules()) > 10


async def test_every_name_and_label_is_one_that_a_daemon_shows(exposed: dict[str, set[str]]) -> None:
    for expression in expressions():
        parsed = promql.parse(expression)
        found = list(selectors(parsed))
        assert found, expression
        for selector in found:
            assert selector.name in exposed, expression
            asked = {matcher.name for matcher in selector.matchers.matchers}
            assert asked <= labels_of(selector.name) | OF_PROMETHEUS, expression
        for labels, below in groupings(parsed):
            shown = [labels_of(selector.name) | OF_PROMETHEUS for selector in selectors(below)]
            assert all(labels <= each for each in shown), expression


async def test_the_labels_of_a_daemon_are_those_that_were_declared(exposed: dict[str, set[str]]) -> None:
    ours = {name: labels for name, labels in exposed.items() if name.startswith("smtp_bridge_")}

    assert {name: labels for name, labels in ours.items() if labels and labels != labels_of(name)} == {}
    assert sum(bool(labels) for labels in ours.values()) > 15


@pytest.mark.parametrize("expression", expressions())
def test_the_values_that_are_asked_for_exist(expression: str) -> None:
    for selector in selectors(promql.parse(expression)):
        for matcher in selector.matchers.matchers:
            if matcher.name in VALUES:
                assert set(matcher.value.split("|")) <= VALUES[matcher.name]


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    used = {selector.name for expression in expressions() for selector in selectors(promql.parse(expression))}

    unused = [m.name for m in metrics.ALL if not any(name.startswith(m.name) for name in used)]
    assert unused == []


def test_legends_and_texts_name_labels_that_are_there() -> None:
    for panel in panels():
        for target in panel["targets"]:
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            parsed = promql.parse(target["expr"].replace("$__rate_interval", "5m"))
            assert named <= set().union(OF_PROMETHEUS, *(labels_of(s.name) for s in selectors(parsed))), target
    for rule in rules():
        named = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule)))
        parsed = promql.parse(rule["expr"])
        assert named <= set().union(OF_PROMETHEUS, *(labels_of(s.name) for s in selectors(parsed))), rule["alert"]


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    found = dashboard()
    ids = [panel["id"] for panel in found["panels"]]

    assert len(set(ids)) == len(ids)
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}
    assert {variable["name"] for variable in found["templating"]["list"]} == {"datasource", "instance"}
    assert all(place["x"] + place["w"] <= 24 for place in (panel["gridPos"] for panel in found["panels"]))
    assert found["schemaVersion"] >= 36


def test_an_alert_has_a_name_of_its_own_a_severity_and_a_summary() -> None:
    names = [rule["alert"] for rule in rules()]

    assert len(set(names)) == len(names)
    assert {rule["labels"]["severity"] for rule in rules()} <= {"critical", "warning", "info"}
    assert all(rule["annotations"]["summary"] for rule in rules())
