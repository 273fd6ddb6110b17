"""Traces, where the environment asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from bridge import tracing

log: Any = structlog.get_logger()

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def start(environ: Mapping[str, str]) -> Callable[[], Awaitable[None]] | None:
    """What ends it; None when nobody asks for traces, or what makes them is not installed."""
    if not any(environ.get(name) for name in ENDPOINTS) or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from bridge.telemetry import Telemetry
    except ImportError:
        log.warning("daemon.warning", text="no traces are sent: install smtp-rest-bridge[otel]")
        return None
    telemetry = Telemetry()
    tracing.use(telemetry)

    async def end() -> None:
        tracing.use(tracing.Off())
        await asyncio.to_thread(telemetry.close)

    return end
