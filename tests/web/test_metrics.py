"""/metrics of a real daemon: what happens is counted once, where it belongs; and what it costs."""

from __future__ import annotations

import asyncio
import timeit
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge import metrics, tracing
from bridge.reply import Reply
from bridge.sandbox import Sandbox
from bridge.spool.base import Depth, Result, SpoolError
from bridge.web import metrics as shown
from tests.e2e.conftest import KEY, Smtp, eventually, rest
from tests.web.conftest import CAPTURE, KEYS, bearer, keys

Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(client: httpx.AsyncClient) -> Numbers:
    """(name, labels) -> value."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def of(numbers: Numbers, name: str, **labels: str) -> float:
    return numbers.get((f"smtp_bridge_{name}", frozenset(labels.items())), 0)


@pytest.fixture
def never_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "FRESH_S", 0.0)
    monkeypatch.setattr(shown, "SHARE", 0)


class Change:
    """By how much a number has changed: the counters belong to the process, and so to all tests in it."""

    def __init__(self, before: Numbers, after: Numbers) -> None:
        self.before, self.after = before, after

    def __call__(self, name: str, **labels: str) -> float:
        return of(self.after, name, **labels) - of(self.before, name, **labels)


async def test_a_mail_is_counted_from_its_connection_to_the_providers_answer(start_web: Any) -> None:
    async with Sandbox(key=KEY) as sandbox:
        daemon, client = await start_web(**rest(sandbox.url), SMTP_BRIDGE_SMTP__LISTENER__NAME="office")
        before = await scrape(client)
        smtp = await Smtp(daemon.listeners[0].port).open()
        assert (await smtp.send("bob@example.org", "eve@example.org")).startswith("250")
        during = Change(before, await scrape(client))
        smtp.close()
        await eventually(lambda: not daemon.connections.sessions)
        after = Change(before, await scrape(client))

    assert during("connections_open", listener="office") == 1
    assert (during("connections_total", listener="office"), after("connections_open", listener="office")) == (1, 0)
    assert (during("replies_total", code="220"), during("replies_total", code="354")) == (1, 1)
    assert during("replies_total", code="250") == 5  # EHLO, MAIL, two RCPT, the content
    assert (during("messages_received_total", protocol="smtp"), during("messages_received_total", protocol="lmtp")) == (
        1,
        0,
    )
    assert during("messages_sent_total", provider="rest") == 2
    assert during("attempts_total", provider="rest", outcome="sent") == 2
    assert during("attempt_duration_seconds_count", provider="rest") == len(sandbox.messages)
    assert during("attempt_duration_seconds_bucket", provider="rest", le="60.0") == len(sandbox.messages)
    assert during("attempt_duration_seconds_sum", provider="rest") > 0


LEFT_ALONE = {
    f"SMTP_BRIDGE_{name}": "1h" for name in ("RETRY__FIRST", "RETRY__MAXIMUM", "BREAKER__WAIT", "BREAKER__MAXIMUM")
}
LEFT_ALONE["SMTP_BRIDGE_BREAKER__FAILURES"] = "1"


@pytest.mark.usefixtures("never_cached")
async def test_what_is_not_sent_is_counted_by_what_became_of_it(start_web: Any) -> None:
    async with Sandbox(key=KEY) as sandbox:
        daemon, client = await start_web(**{**rest(sandbox.url), **LEFT_ALONE})
        smtp = await Smtp(daemon.listeners[0].port).open()
        before = await scrape(client)
        sandbox.fail("422:1")
        assert (await smtp.send()).startswith("554")
        sandbox.fail("503:1")
        assert (await smtp.send("bob@example.org", "eve@example.org")).startswith("250")
        numbers = await scrape(client)
        change = Change(before, numbers)
        smtp.close()

    assert change("messages_rejected_total", protocol="smtp", code="554") == 1
    assert change("attempts_total", provider="rest", outcome="bounced") == 1
    assert change("messages_bounced_total", provider="rest") == 0  # rejected: nobody had been promised anything
    assert (
        change("messages_deferred_total", provider="rest")
        == change("attempts_total", provider="rest", outcome="deferred")
        > 0
    )
    assert of(numbers, "queue_recipients", status="queued") + of(numbers, "queue_recipients", status="deferred") == 2
    assert 0 < max(of(numbers, "queue_oldest_age_seconds", status=s) for s in ("queued", "deferred")) < 60
    states = {state: of(numbers, "breaker_state", provider="rest", state=state) for state in metrics.STATES}
    assert states == {"closed": 0, "open": 1, "half-open": 0, "blocked": 0}
    assert change("commit_batch_size_count") >= 1
    assert (of(numbers, "spool_writable"), of(numbers, "spool_bytes") > 0, of(numbers, "disk_free_bytes") > 0) == (
        1,
        True,
        True,
    )
    assert of(numbers, "memory_budget_bytes") == daemon.budget.total


async def test_what_was_accepted_and_fails_is_counted_as_bounced_expired_or_held(start_web: Any) -> None:
    async with Sandbox(key=KEY) as sandbox:
        daemon, client = await start_web(**rest(sandbox.url), SMTP_BRIDGE_RELAY__MODE="queue")
        before = await scrape(client)
        sandbox.fail("422:1")
        smtp = await Smtp(daemon.listeners[0].port).open()
        assert (await smtp.send()).startswith("250")
        await eventually(
            lambda: metrics.bounced.values[("rest",)] > of(before, "messages_bounced_total", provider="rest")
        )
        smtp.close()
        daemon.recorder.tell(
            "Q", {"a@x.org": Result(status="expired", provider="rest"), "b@x.org": Result(status="held")}
        )
        daemon.recorder.tell("Q", {"c@x.org": Result(status="sent", provider="rest", reply=Reply(250, "2.0.0", "Ok"))})
        change = Change(before, await scrape(client))

    names = ("bounced", "expired", "held")
    assert [change(f"messages_{name}_total", provider="rest") for name in names] == [1, 1, 0]
    assert change("messages_held_total", provider=metrics.NOBODY) == 1


async def test_who_is_turned_away_is_no_connection(start_web: Any) -> None:
    listener = {"SMTP_BRIDGE_SMTP__LISTENER__NAME": "narrow", "SMTP_BRIDGE_SMTP__MAX_CONNECTIONS": "1"}
    daemon, client = await start_web(**CAPTURE, **listener)
    before = await scrape(client)
    first = await Smtp(daemon.listeners[0].port).open()
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.listeners[0].port)
    assert (await reader.readline()).startswith(b"421")
    change = Change(before, await scrape(client))
    first.close()
    writer.close()

    assert change("connections_refused_total", listener="narrow") == 1
    assert change("connections_total", listener="narrow") == change("connections_open", listener="narrow") == 1
    assert change("replies_total", code="421") == 1


async def test_lmtp_is_told_from_smtp_and_a_listener_without_a_name_by_its_address(start_web: Any) -> None:
    daemon, client = await start_web(**CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__PROTOCOL="lmtp")
    before = await scrape(client)
    smtp = await Smtp(daemon.listeners[0].port).open("LHLO client.example")
    assert (await smtp.send()).startswith("250")
    change = Change(before, await scrape(client))
    smtp.close()

    assert (change("messages_received_total", protocol="lmtp"), change("messages_received_total", protocol="smtp")) == (
        1,
        0,
    )
    assert change("connections_total", listener="127.0.0.1:0") == 1


# --- who may look, and how


async def test_who_may_read_may_look(start_web: Any) -> None:
    _, client = await start_web(config='[[provider]]\nkind = "capture"\n' + keys(*KEYS))

    assert (await client.get("/metrics")).status_code == 401
    found = [(await client.get("/metrics", headers=bearer(scope))).status_code for scope in KEYS]
    assert dict(zip(KEYS, found, strict=True)) == {"send": 403, "read": 200, "manage": 200}


async def test_who_asks_for_openmetrics_gets_it(start_web: Any) -> None:
    """Its parser is strict: names, order and suffixes."""
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly

    _, client = await start_web(**CAPTURE)

    plain = await client.get("/metrics")
    other = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert other.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert {family.name for family in strictly(other.text)} >= {"smtp_bridge_messages_sent", "process_cpu_seconds"}


async def test_no_address_is_a_label(start_web: Any) -> None:
    daemon, client = await start_web(**CAPTURE)
    smtp = await Smtp(daemon.listeners[0].port).open()
    assert (await smtp.send("bob@example.org")).startswith("250")
    smtp.close()

    assert "@" not in (await client.get("/metrics")).text


def test_every_metric_has_its_prefix_its_sentence_and_a_small_set_of_labels() -> None:
    small = {
        "listener",
        "code",
        "protocol",
        "provider",
        "outcome",
        "state",
        "kind",
        "subject",
        "status",
        "version",
        "path",
    }

    assert len({metric.name for metric in metrics.ALL}) == len(metrics.ALL)
    for metric in metrics.ALL:
        assert metric.name.startswith("smtp_bridge_")
        assert metric.help.endswith(".")
        assert set(metric.labels) <= small
        assert metric.name.endswith("_total") == isinstance(metric, metrics.Counter)


@pytest.mark.parametrize("metric", [m for m in metrics.ALL if m.labels], ids=lambda metric: metric.name)
def test_other_labels_than_were_declared_are_a_mistake(metric: Any) -> None:
    add = {
        metrics.Gauge: lambda: metric.set(1),
        metrics.Counter: metric.add if isinstance(metric, metrics.Counter) else None,
    }
    wrong = add.get(type(metric)) or (lambda: metric.observe(1))

    with pytest.raises(ValueError, match=metric.name):
        wrong()


# --- the HTTP side


async def test_http_answers_are_counted_by_the_paths_that_we_have(
    start_web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bridge.web import health

    _, client = await start_web(**CAPTURE)
    before = await scrape(client)
    await client.get("/healthz")
    await client.get("/made/up/1")
    await client.get("/made-up-2")
    monkeypatch.setattr(health, "_providers", lambda web: 1 / 0)
    assert (await client.get("/readyz")).status_code == 500
    after = await scrape(client)
    change = Change(before, after)

    assert change("http_requests_total", path="/healthz", code="200") == 1
    assert change("http_requests_total", path="other", code="404") == 2
    assert change("http_requests_total", path="/readyz", code="500") == 1
    paths = {dict(labels)["path"] for name, labels in after if name == "smtp_bridge_http_requests_total"}
    assert not any("made" in path for path in paths)


# --- what it costs


async def test_the_spool_is_looked_at_once_a_second_however_many_ask(
    start_web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, client = await start_web(**CAPTURE)
    looks = 0
    look = daemon.spool.queue_depth

    async def counted() -> Depth:
        nonlocal looks
        looks += 1
        return await look()

    daemon.spool.queue_depth = counted
    monkeypatch.setattr(shown, "FRESH_S", 3600.0)
    await asyncio.gather(*(scrape(client) for _ in range(5)))

    assert looks == 1


async def test_a_spool_that_takes_long_is_looked_at_less_often(start_web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(shown.time, "monotonic", lambda: now)
    daemon, _ = await start_web(**CAPTURE)
    look, looks = shown.SpoolLook(daemon.web), 0
    real = daemon.spool.queue_depth

    async def slow() -> Depth:
        nonlocal now, looks
        now, looks = now + 0.1, looks + 1
        return await real()

    daemon.spool.queue_depth = slow
    for seconds in (0, 0.9, 4.9, 5.1):  # 0.1 s, fifty times
        now = seconds
        await look.refresh()

    assert looks == 2


async def test_what_the_spool_does_not_say_is_left_out(start_web: Any) -> None:
    daemon, client = await start_web(**CAPTURE)
    assert ("smtp_bridge_spool_bytes", frozenset()) in await scrape(client)

    async def broken() -> Depth:
        raise SpoolError("the disk is gone")

    daemon.spool.queue_depth = broken
    look = shown.SpoolLook(daemon.web)
    await look.refresh()
    numbers = {metric.name: metric.values for metric in metrics.ALL}

    assert numbers["smtp_bridge_spool_bytes"] == numbers["smtp_bridge_queue_recipients"] == {}
    assert numbers["smtp_bridge_spool_writable"] == {(): 0}


@pytest.mark.serial
def test_a_value_costs_less_than_a_microsecond() -> None:
    steps = {
        "counter": lambda: metrics.attempts.add("cost", "sent"),
        "gauge": lambda: metrics.connections_open.add(1, "cost"),
        "histogram": lambda: metrics.attempt_seconds.observe(0.2, "cost"),
        "no trace": lambda: tracing.Off().ended("spool.put", "x", 0, provider="a"),
    }

    cost = {name: min(timeit.repeat(step, number=5000, repeat=5)) / 5000 for name, step in steps.items()}

    assert {name: seconds for name, seconds in cost.items() if seconds >= 1e-6} == {}
