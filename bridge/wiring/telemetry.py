"""Traces, where the environment asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from bridge import tracing

log: Any = structlog.get_logger()

PROTOCOL = "http/protobuf"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def start(environ: Mapping[str, str]) -> Callable[[], Awaitable[None]] | None:
    """What ends it; None when nobody asks for traces, or what makes them is not installed."""
    if not any(environ.get(name) for name in ENDPOINTS) or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    protocol = (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or PROTOCOL
    )
    if protocol != PROTOCOL:
        log.warning("daemon.warning", text=f"no traces are sent: {protocol} is not spoken, only {PROTOCOL}")
        return None
    try:
        from bridge.telemetry import Telemetry

        telemetry = Telemetry()
    except ImportError:
        log.warning("daemon.warning", text="no traces are sent: install smtp-rest-bridge[otel]")
        return None
    except ValueError as error:  # a variable that the SDK cannot read
        log.warning("daemon.warning", text=f"no traces are sent: {error}")
        return None
    tracing.use(telemetry)

    async def end() -> None:
        tracing.use(tracing.Off())
        await asyncio.to_thread(telemetry.close)

    return end
