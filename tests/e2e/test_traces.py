"""Traces over OTLP/HTTP to a real receiver: one for each message, across the transaction, the spool and the attempts."""

from __future__ import annotations

import http.server
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge import tracing
from bridge.sandbox import Sandbox
from bridge.wiring import telemetry as wiring
from tests.conftest import reserved_port
from tests.delivery.conftest import every_line
from tests.e2e.conftest import eventually, rest

SERVER, CLIENT, INTERNAL = 2, 3, 1  # opentelemetry/proto/trace/v1/trace.proto
ERROR = 2


class Collector:
    """What OpenTelemetry's collector is for us: takes ExportTraceServiceRequest at /v1/traces."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    collector.bodies.append(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    found = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    yield found
    found.close()


def facts(span: Any) -> dict[str, Any]:
    return {
        entry.key.removeprefix("smtp_bridge."): getattr(entry.value, entry.value.WhichOneof("value"))
        for entry in span.attributes
    }


def ids(queue_id: str) -> tuple[bytes, bytes]:
    trace, span = tracing.ids_of(queue_id)
    return trace.to_bytes(16, "big"), span.to_bytes(8, "big")


async def test_a_mail_that_is_sent_at_once_is_a_transaction_and_an_attempt(
    collector: Collector, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url), SMTP_BRIDGE_SMTP__LISTENER__NAME="office")
    client = await connect(daemon.listeners[0].port)
    before = time.time_ns()
    assert (await client.send("bob@example.org", "eve@example.org", subject="secret")).startswith("250")
    await daemon.stop()

    (whole,), (attempt,) = collector.named("smtp.transaction"), collector.named("attempt")
    assert (whole.trace_id, whole.span_id) == ids(facts(whole)["queue_id"])
    assert (whole.kind, whole.parent_span_id, whole.status.code) == (SERVER, b"", 0)
    assert (attempt.kind, attempt.trace_id, attempt.parent_span_id) == (CLIENT, whole.trace_id, whole.span_id)
    times = [
        before,
        whole.start_time_unix_nano,
        attempt.start_time_unix_nano,
        attempt.end_time_unix_nano,
        whole.end_time_unix_nano,
    ]
    assert times == sorted(times)
    told = facts(whole)
    assert (told["outcome"], told["recipients"], told["protocol"], told["listener"]) == ("sent", 2, "ESMTP", "office")
    told = facts(attempt)
    assert (told["provider"], told["kind"], told["attempt"], told["recipients"]) == ("rest", "rest", 1, 2)
    assert (told["outcome"], told["sent"], told["code"]) == ("sent", 2, 250)


async def test_nobodys_address_or_words_are_in_it(
    collector: Collector, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url))
    client = await connect(daemon.listeners[0].port)
    await client.send("bob@example.org", subject="secret")
    sandbox.fail("422:1,recipient=eve@example.org")
    assert (await client.send("eve@example.org", subject="secret")).startswith("5")
    await daemon.stop()

    said = " ".join(f"{span.name} {span.status.message} {facts(span)}" for span in collector.spans)
    assert len(collector.named("attempt")) == 2
    assert [
        word
        for word in ("@", "bob", "eve", "ann@", "secret", "example.org", "127.0.0.1", "client.example")
        if word in said
    ] == []


async def test_the_trace_goes_on_through_the_queue_and_a_restart(
    collector: Collector, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    settings = rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE="queue")
    sandbox.fail("503")
    first = await start_daemon(**settings)
    client = await connect(first.listeners[0].port)
    assert (await client.send()).startswith("250")
    await eventually(lambda: any(facts(span)["outcome"] == "deferred" for span in collector.named("attempt")))
    await first.stop()
    sandbox.recover()
    second = await start_daemon(**settings)
    await sandbox.wait_for(1)
    await eventually(lambda: any(facts(span)["outcome"] == "sent" for span in collector.named("attempt")))
    await second.stop()

    (whole,) = collector.named("smtp.transaction")
    rest_of_it = [span for span in collector.spans if span is not whole and span.name != "smtp.transaction"]
    assert facts(whole)["outcome"] == "queued"
    assert {span.trace_id for span in rest_of_it} == {whole.trace_id}
    assert {span.parent_span_id for span in rest_of_it} == {whole.span_id}
    assert {span.name for span in rest_of_it} == {"spool.put", "spool.claim", "spool.record", "attempt"}
    assert len({span.span_id for span in rest_of_it}) == len(rest_of_it)
    failed, *_, done = sorted(collector.named("attempt"), key=lambda span: facts(span)["attempt"])
    assert (failed.status.code, failed.status.message, done.status.code) == (ERROR, "451 4.3.2", 0)
    assert facts(failed)["deferred"] == facts(done)["sent"] == 1


async def test_what_is_refused_is_a_span_that_failed(
    collector: Collector, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail("422:1")
    assert (await client.send()).startswith("554")
    await daemon.stop()

    (whole,) = collector.named("smtp.transaction")
    assert (facts(whole)["outcome"], whole.status.code, whole.status.message) == ("rejected", ERROR, "554 5.6.0")


async def test_a_bounce_is_a_trace_of_its_own_that_names_its_message(
    collector: Collector, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE="queue"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail("422:1")
    assert (await client.send()).startswith("250")
    await sandbox.wait_for(1)  # the bounce
    await daemon.stop()

    (whole,), (bounce,) = collector.named("smtp.transaction"), collector.named("dsn")
    assert facts(bounce)["of"] == facts(whole)["queue_id"]
    assert (bounce.trace_id, bounce.span_id, bounce.kind) == (*ids(facts(bounce)["queue_id"]), INTERNAL)
    assert [s.parent_span_id for s in collector.named("attempt") if s.trace_id == bounce.trace_id] == [bounce.span_id]


async def test_the_resource_says_who_it_is(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, expected in (("", "smtp-rest-bridge"), ("mail-out", "mail-out")):
        monkeypatch.setenv("OTEL_SERVICE_NAME", name)
        end = wiring.start({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
        assert end
        tracing.tracer.ended("spool.put", "Q", tracing.tracer.now())
        await end()
        request = ExportTraceServiceRequest.FromString(collector.bodies[-1])
        told = {entry.key: entry.value.string_value for entry in request.resource_spans[0].resource.attributes}
        assert told["service.name"] == expected


async def test_of_a_trace_all_is_sampled_or_nothing(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    end = wiring.start({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.url})
    assert end
    for number in range(40):
        for name in ("spool.put", "attempt"):
            tracing.tracer.ended(name, f"Q{number}", tracing.tracer.now())
        tracing.tracer.ended("smtp.transaction", f"Q{number}", tracing.tracer.now(), first=True)
    await end()

    found: dict[bytes, set[str]] = {}
    for span in collector.spans:
        found.setdefault(span.trace_id, set()).add(span.name)
    assert 10 < len(found) < 30
    assert all(names == {"spool.put", "attempt", "smtp.transaction"} for names in found.values())


async def test_a_collector_that_is_not_there_holds_nobody_up(
    sandbox: Sandbox, start_daemon: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bridge import telemetry

    monkeypatch.setattr(telemetry, "LAST_S", 0.2)
    with reserved_port() as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        daemon = await start_daemon(**rest(sandbox.url))
        client = await connect(daemon.listeners[0].port)
        assert (await client.send()).startswith("250")
        began = time.monotonic()
        await daemon.stop()

    assert time.monotonic() - began < 3
    assert isinstance(tracing.tracer, tracing.Off)


NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE, "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nobody_is_traced_who_does_not_ask(environ: dict[str, str]) -> None:
    assert wiring.start(environ) is None
    assert isinstance(tracing.tracer, tracing.Off)


def test_without_the_extra_it_is_said_once_and_mail_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bridge.telemetry", None)
    with every_line() as lines:
        assert wiring.start({"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE}) is None

    assert [line["text"] for line in lines] == ["no traces are sent: install smtp-rest-bridge[otel]"]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "grpc is not spoken, only http/protobuf"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "max_queue_size must be a positive integer."),
    ],
)
def test_a_variable_that_cannot_be_followed_is_said_and_mail_goes_on(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    monkeypatch.setenv(name, value)
    with every_line() as lines:
        assert wiring.start({"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE, name: value}) is None

    assert [line["text"] for line in lines] == [f"no traces are sent: {why}"]


def test_ids_are_the_same_everywhere_and_never_none() -> None:
    assert tracing.ids_of("0Q4X") == tracing.ids_of("0Q4X") != tracing.ids_of("0Q4Y")
    trace, span = tracing.ids_of("")
    assert 0 < trace < 2**128
    assert 0 < span < 2**64
