"""The metrics, declared once, each with a sentence of help. Prefix `smtp_bridge_`.

Only values are kept here, so that a daemon that shows them to nobody does not hold a library for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number for each combination of label values."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: dict[tuple[str, ...], float] = field(default_factory=dict)

    def set(self, value: float, *labels: str) -> None:
        """Raises ValueError for other labels than were declared."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}")
        self.values[labels] = value


alert = Gauge(
    "smtp_bridge_alert",
    "1 while an alert holds, by kind (provider_blocked, queue_age, disk) and subject (the provider).",
    ("kind", "subject"),
)
breaker_open = Gauge("smtp_bridge_breaker_open", "1 while a provider is left alone, by provider.", ("provider",))
