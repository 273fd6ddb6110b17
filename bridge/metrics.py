"""The metrics, declared once, each with a sentence of help. Prefix `smtp_bridge_`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

registry = CollectorRegistry()

alert = Gauge(
    "smtp_bridge_alert",
    "1 while an alert holds, by kind (provider_blocked, queue_age, disk) and subject (the provider).",
    ("kind", "subject"),
    registry=registry,
)
breaker_state = Gauge(
    "smtp_bridge_breaker_open",
    "1 while a provider is left alone, by provider.",
    ("provider",),
    registry=registry,
)
