"""Traces by OpenTelemetry, sent over OTLP/HTTP; loaded only when they are asked for.

Where they go and how is said by the usual variables (OTEL_EXPORTER_OTLP_*, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
OTEL_TRACES_SAMPLER, OTEL_BSP_*), which the SDK reads itself. A thread of the SDK sends them; what does not fit in its queue is
lost, and mail never waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from bridge import __version__
from bridge.tracing import Value, ids_of

NAME = "smtp-rest-bridge"
_KINDS = {"smtp.transaction": SpanKind.SERVER, "http.submission": SpanKind.SERVER, "attempt": SpanKind.CLIENT}
LAST_S = 3  # seconds for what is still to be sent when the daemon stops


class _Ids(RandomIdGenerator):
    """Those of a message's first span are given, the others random. For the loop's thread alone."""

    def __init__(self) -> None:
        self.first: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return self.first[0] if self.first else super().generate_trace_id()

    def generate_span_id(self) -> int:
        return self.first[1] if self.first else super().generate_span_id()


class Telemetry:
    """A `tracing.Tracer`."""

    def __init__(self) -> None:
        self._ids = _Ids()
        self._exporter = OTLPSpanExporter()
        self._provider = TracerProvider(
            resource=Resource.create(_service()), id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer(NAME, __version__)

    def now(self) -> int:
        return time.time_ns()

    def ended(
        self,
        name: str,
        queue_id: str,
        began: int,
        *,
        first: bool = False,
        failure: str = "",
        **facts: Value,
    ) -> None:
        if not began:
            return
        ids = ids_of(queue_id)
        # Each span asks as if it were the first: what was said of that one is not known, days later, but samplers go by the id.
        if not self._provider.sampler.should_sample(None, ids[0], name).decision.is_sampled():
            return
        attributes = {f"smtp_bridge.{key}": value for key, value in facts.items()} | {"smtp_bridge.queue_id": queue_id}
        self._ids.first = ids if first else None
        try:
            span = self._tracer.start_span(
                name,
                context=Context() if first else _below(ids),
                kind=_KINDS.get(name, SpanKind.INTERNAL),
                attributes=attributes,
                start_time=began,
            )
        finally:
            self._ids.first = None
        if failure:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end()

    def close(self) -> None:
        """Send what is left. Blocks for LAST_S at most."""
        worker = threading.Thread(target=self._provider.shutdown, name="telemetry-end", daemon=True)
        worker.start()
        worker.join(LAST_S)
        if worker.is_alive():  # nobody answers: no further try
            self._exporter.shutdown()


def _below(ids: tuple[int, int]) -> Context:
    parent = SpanContext(ids[0], ids[1], is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _service() -> Mapping[str, str]:
    """The environment's own name for it goes before ours."""
    named = Resource.create().attributes.get("service.name", "unknown_service")
    ours = {"service.version": __version__}
    return {**ours, "service.name": NAME} if str(named).startswith("unknown_service") else ours
