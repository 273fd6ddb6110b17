"""The metrics, declared once, each with a sentence of help. Prefix `smtp_bridge_`.

Only values are kept here, and adding to one costs a fraction of a microsecond, so that a daemon that shows them to nobody
holds no library for it. `web/metrics.py` shows them. Labels are small sets: listeners, providers, reply codes, states.

What becomes of a message is counted once for each of its recipients. Each metric is written by one thread only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

Label = str | int
Labels = tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    help: str
    labels: tuple[str, ...] = ()

    def check(self, labels: Labels) -> Labels:
        """Raises ValueError for other labels than were declared."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}")
        return labels


@dataclass(frozen=True, slots=True)
class Gauge(Metric):
    """A number for each combination of label values."""

    values: dict[Labels, float] = field(default_factory=dict)

    def set(self, value: float, *labels: Label) -> None:
        self.values[self.check(labels)] = value

    def add(self, change: float, *labels: Label) -> None:
        self.values[self.check(labels)] = self.values.get(labels, 0) + change

    def clear(self) -> None:
        """Before all of it is set anew: who is gone is not shown any more."""
        self.values.clear()


@dataclass(frozen=True, slots=True)
class Counter(Metric):
    """How often something has happened since the start; its name ends with `_total`."""

    values: dict[Labels, float] = field(default_factory=dict)

    def add(self, *labels: Label) -> None:
        try:
            self.values[labels] += 1
        except KeyError:
            self.values[self.check(labels)] = 1

    def show(self, *labels: Label) -> None:
        """With 0, so that the first time can be told from a series that has just begun."""
        self.values.setdefault(self.check(labels), 0)


@dataclass(slots=True)
class Spread:
    """How many values were within each bound, the last for those beyond all, and their sum."""

    counts: list[int]
    sum: float = 0.0


@dataclass(frozen=True, slots=True)
class Histogram(Metric):
    """How values are spread. `bounds`: ascending, each the largest value of its bucket."""

    bounds: tuple[float, ...] = ()
    values: dict[Labels, Spread] = field(default_factory=dict)

    def observe(self, value: float, *labels: Label) -> None:
        spread = self.values.get(labels) or self.show(*labels)
        spread.counts[bisect_left(self.bounds, value)] += 1
        spread.sum += value

    def show(self, *labels: Label) -> Spread:
        return self.values.setdefault(self.check(labels), Spread([0] * (len(self.bounds) + 1)))


NOBODY = "none"  # the provider of what none was asked about

# --- SMTP and LMTP

connections_open = Gauge("smtp_bridge_connections_open", "SMTP connections that are open, by listener.", ("listener",))
connections = Counter(
    "smtp_bridge_connections_total", "SMTP connections that were greeted, by listener.", ("listener",)
)
connections_refused = Counter(
    "smtp_bridge_connections_refused_total",
    "SMTP connections turned away with 421: too many, by listener.",
    ("listener",),
)
replies = Counter("smtp_bridge_replies_total", "SMTP replies, by code.", ("code",))

# --- messages

PROTOCOLS = ("smtp", "lmtp", "http")
received = Counter(
    "smtp_bridge_messages_received_total",
    "Messages that were answered 250, by protocol (smtp, lmtp, http).",
    ("protocol",),
)
rejected = Counter(
    "smtp_bridge_messages_rejected_total",
    "Messages that came whole and were not accepted, by protocol and reply code.",
    ("protocol", "code"),
)
sent = Counter("smtp_bridge_messages_sent_total", "Recipients for whom a provider took the message.", ("provider",))
deferred = Counter(
    "smtp_bridge_messages_deferred_total", "Attempts for a recipient that have to be made again later.", ("provider",)
)
bounced = Counter(
    "smtp_bridge_messages_bounced_total",
    "Recipients who were accepted and then refused for good, so that the sender is told.",
    ("provider",),
)
expired = Counter(
    "smtp_bridge_messages_expired_total",
    "Recipients whose lifetime ended before a provider took the message.",
    ("provider",),
)
held = Counter("smtp_bridge_messages_held_total", "Recipients set aside for the operator.", ("provider",))

# --- attempts

OUTCOMES = ("sent", "deferred", "bounced", "unknown")
attempts = Counter(
    "smtp_bridge_attempts_total",
    "Attempts for a recipient, by provider and outcome (sent, deferred, bounced, unknown: the answer was lost).",
    ("provider", "outcome"),
)
attempt_seconds = Histogram(
    "smtp_bridge_attempt_duration_seconds",
    "How long a provider took to answer a call, by provider.",
    ("provider",),
    bounds=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
STATES = ("closed", "open", "half-open", "blocked")
breaker_state = Gauge(
    "smtp_bridge_breaker_state",
    "1 for the state a provider's breaker is in: closed (in use), open (left alone), half-open (tried once), blocked (the"
    " account is refused).",
    ("provider", "state"),
)
alert = Gauge(
    "smtp_bridge_alert",
    "1 while an alert holds, by kind (provider_blocked, queue_age, disk) and subject (the provider).",
    ("kind", "subject"),
)

# --- the spool

queue_depth = Gauge(
    "smtp_bridge_queue_recipients",
    "Recipients who wait, by status (queued, deferred, held); counted up to a million.",
    ("status",),
)
queue_age = Gauge(
    "smtp_bridge_queue_oldest_age_seconds",
    "How long the oldest of them has waited since it came, by status; 0: none waits.",
    ("status",),
)
spool_bytes = Gauge("smtp_bridge_spool_bytes", "Octets the spool uses: its database and its body files.")
disk_free = Gauge("smtp_bridge_disk_free_bytes", "Octets that are free on the disk the spool is on.")
spool_writable = Gauge(
    "smtp_bridge_spool_writable", "1 while the spool takes messages, 0 below its floor (spool.min_free, max_bytes)."
)
commit_batch = Histogram(
    "smtp_bridge_commit_batch_size",
    "Writes that shared one transaction of the spool.",
    bounds=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)

# --- the process

memory_used = Gauge("smtp_bridge_memory_budget_used_bytes", "Octets of the memory budget that messages hold.")
memory_total = Gauge("smtp_bridge_memory_budget_bytes", "The memory budget (smtp.memory_budget) in octets.")
info = Gauge("smtp_bridge_info", "Always 1; the version of the bridge.", ("version",))

# --- the HTTP side

http_requests = Counter(
    "smtp_bridge_http_requests_total",
    "HTTP requests, by the first part of their path and status code.",
    ("path", "code"),
)
provider_events = Counter(
    "smtp_bridge_provider_events_total",
    "Events that providers reported, by provider and kind (delivered, bounced ...).",
    ("provider", "kind"),
)
provider_events_unjoined = Counter(
    "smtp_bridge_provider_events_unjoined_total",
    "Events of providers that belong to no message we know of.",
    ("provider",),
)

ALL: tuple[Gauge | Counter | Histogram, ...] = tuple(
    value for value in tuple(globals().values()) if isinstance(value, Gauge | Counter | Histogram)
)


def show_listener(label: str) -> None:
    """All that is counted by listener begins with 0."""
    connections.show(label)
    connections_refused.show(label)
    connections_open.add(0, label)


def show_providers(names: Iterable[str]) -> None:
    """All that is counted by provider begins with 0."""
    for name in names:
        for outcome in OUTCOMES:
            attempts.show(name, outcome)
        for metric in ALL:
            if metric.labels == ("provider",) and isinstance(metric, Counter | Histogram):
                metric.show(name)
