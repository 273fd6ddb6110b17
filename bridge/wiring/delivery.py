"""The delivery side's rules and dispatchers from the settings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import orjson

from bridge.clock import Clock
from bridge.config.provider_base import ProviderBase
from bridge.config.settings import Settings
from bridge.config.types import webhook_key
from bridge.delivery.alerts import AlertRules
from bridge.delivery.bounce import BounceRules
from bridge.delivery.breaker import BreakerPolicy
from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.events import EventRules
from bridge.delivery.posts import Target
from bridge.delivery.preparation import Rules
from bridge.delivery.ratelimit import LimitPolicy
from bridge.delivery.retry import RetryPolicy
from bridge.delivery.routing import Route, Routes
from bridge.mime.sender import Senders, parse_setting
from bridge.providers.base import Provider


def dispatcher(chosen: ProviderBase, provider: Provider, settings: Settings, clock: Clock) -> Dispatcher:
    breaker = settings.breaker
    return Dispatcher(
        provider,
        breaker=BreakerPolicy(
            failures=breaker.failures,
            share=breaker.share,
            window=breaker.window,
            wait=breaker.wait,
            maximum=breaker.maximum,
        ),
        limits=LimitPolicy(
            rate=chosen.rate,
            call_rate=chosen.call_rate,
            max_per_day=chosen.max_per_day,
            max_per_month=chosen.max_per_month,
            warmup=chosen.warmup,
        ),
        clock=clock,
    )


def dispatchers(settings: Settings, providers: Sequence[Provider], clock: Clock) -> list[Dispatcher]:
    return [
        dispatcher(chosen, provider, settings, clock)
        for chosen, provider in zip(settings.provider, providers, strict=True)
    ]


def routes(settings: Settings) -> Routes:
    return Routes(
        [
            Route(
                providers=route.providers,
                refuse=route.refuse,
                user=route.user,
                sender=route.sender,
                recipient=route.recipient,
                listener=route.listener,
                failover_unknown=route.failover_unknown,
            )
            for route in settings.route
        ],
        [provider.name for provider in settings.provider],
    )


def mark(settings: Settings) -> str:
    """A fingerprint of what decides which providers may take a mail. Secrets are masked in it, and change nothing in that."""
    parts = [
        [provider.model_dump(mode="json") for provider in settings.provider],
        [route.model_dump(mode="json") for route in settings.route],
        settings.relay.degrade,
    ]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:8]


def retry(settings: Settings) -> RetryPolicy:
    return RetryPolicy(
        first=settings.retry.first,
        factor=settings.retry.factor,
        maximum=settings.retry.maximum,
        jitter=settings.retry.jitter,
    )


def rules(settings: Settings) -> Rules:
    relay = settings.relay
    return Rules(
        mode=relay.mode,
        attempt_timeout=relay.attempt_timeout,
        lifetime=settings.retry.expire,
        max_hops=settings.smtp.max_hops,
        max_header_size=settings.smtp.max_header_size,
        hostname=settings.hostname,
        senders=Senders(
            default=parse_setting(relay.from_) if relay.from_ else None,
            rules=tuple((rule.sender, parse_setting(rule.from_)) for rule in relay.rewrite),
        ),
        dedupe_window=relay.dedupe_window,
        user_senders={user.name: user.senders for user in settings.user if "*" not in user.senders},
    )


def bounce_rules(settings: Settings) -> BounceRules:
    bounce = settings.bounce
    sender = bounce.from_ if bounce.from_ != "off" else ""
    return BounceRules(
        enabled=bounce.from_ != "off",
        sender=parse_setting(sender or settings.relay.from_) if sender or settings.relay.from_ else None,
        postmaster=bounce.postmaster,
        senders=bounce.senders,
        max_size=bounce.max_size,
        webhook=bool(bounce.webhook.get_secret_value()),
        delay_after=settings.retry.delay_notice,
        lifetime=settings.retry.expire,
        hostname=settings.hostname,
    )


def alert_rules(settings: Settings) -> AlertRules:
    alert = settings.alert
    # Always some way above the floor, at which no mail is taken any more.
    disk_free = max(alert.disk_free, settings.spool.min_free * 5 // 4) if alert.disk_free else 0
    return AlertRules(queue_age=alert.queue_age, disk_free=disk_free, webhook=bool(alert.webhook.get_secret_value()))


def event_rules(settings: Settings) -> EventRules:
    events = settings.events
    return EventRules(
        webhook=bool(events.webhook.get_secret_value()), suppress=events.suppress, history=settings.spool.history
    )


def targets(settings: Settings) -> dict[str, Target]:
    """Where posts go; only kinds that have an address."""
    found = {}
    for kind, section in (("bounce", settings.bounce), ("alert", settings.alert), ("events", settings.events)):
        url, secret = section.webhook.get_secret_value(), section.webhook_secret.get_secret_value()
        if url:
            found[kind] = Target(url, webhook_key(secret) if secret else b"")
    return found


def suppressing(settings: Settings) -> frozenset[str]:
    """The providers whose refusals are kept."""
    return frozenset(provider.name for provider in settings.provider if provider.suppress)
