"""Other settings for a daemon that runs (SIGHUP): users, providers, routes, rules and certificates hold from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog

from bridge.config.provider_base import ProviderBase
from bridge.config.settings import Settings
from bridge.delivery.dispatcher import Dispatcher
from bridge.providers.base import Provider
from bridge.wiring import delivery, smtp
from bridge.wiring.providers import build_provider

if TYPE_CHECKING:
    from bridge.daemon import Daemon
    from bridge.web.context import Place

log: Any = structlog.get_logger()

AT_A_START = ("spool", "http", "workers", "log")  # tables that are read at no other time
LAST_WORDS_S = 5.0  # beyond a provider's time-out, for attempts to record what came of them


async def reload(daemon: Daemon, settings: Settings) -> None:
    """Raises ProviderError and CertificateError, and then nothing has changed. What needs a restart is named in the log.

    A provider whose own settings are the same goes on as it is, but is tried at once if it was left alone.
    """
    before = daemon.settings
    contexts = await daemon.contexts.make(lambda: smtp.certificate(settings))
    places = _places(daemon, settings)
    dispatchers, gone = await _dispatchers(daemon, settings)
    # Nobody begins before what was kept back has its whole lifetime again.
    waiting = [one for one in dispatchers if any(not old.breaker.closed for old in gone)]
    for one in waiting:
        one.resuming = True
    daemon.settings = settings
    daemon.contexts.use(contexts)
    daemon.suppressions.names = delivery.suppressing(settings)
    daemon.listen_to(dispatchers)
    daemon.dispatchers.reload(
        dispatchers,
        routes=delivery.routes(settings),
        degrade=settings.relay.degrade,
        mark=delivery.mark(settings),
    )
    daemon.recorder.retry, daemon.recorder.timeout = delivery.retry(settings), daemon.dispatchers.timeout
    daemon.submission.rules = delivery.rules(settings)
    daemon.housekeeping.dedupe_window = settings.relay.dedupe_window
    daemon.bounces.rules = delivery.bounce_rules(settings)
    daemon.alerts.rules = delivery.alert_rules(settings)
    daemon.posts.targets = delivery.targets(settings)
    daemon.events.rules = delivery.event_rules(settings)
    daemon.auth.replace(smtp.users(settings))
    if daemon.web:
        from bridge.wiring import web

        daemon.web.rules = web.rules(settings, daemon.listeners)
        daemon.web.keys.replace(web.keys(settings))
    if daemon.web and daemon.web.webhooks:
        await daemon.events.expect(any(place.hook for place in places.values()))
        daemon.web.webhooks.places, daemon.web.webhooks.max_size = places, settings.events.max_size
    if smtp.rates_of(before) != smtp.rates_of(settings):  # else what was counted goes on counting
        rates = smtp.rates(settings)
        for service in daemon.services:
            service.rates = rates
    try:
        for one in gone:
            await _retire(daemon, one)
    finally:
        for one in waiting:
            one.resuming = False
    daemon.runner.hurry()
    log.info("daemon.reloaded", needs_restart=_needs_restart(before, settings))


def _places(daemon: Daemon, settings: Settings) -> dict[str, Place]:
    """Raises ProviderError."""
    if not daemon.web:
        return {}
    from bridge.wiring import web

    return web.places(settings)


async def _dispatchers(daemon: Daemon, settings: Settings) -> tuple[list[Dispatcher], list[Dispatcher]]:
    """Those from now on, and those that are no longer used. Raises ProviderError."""
    before = daemon.settings
    running = {old.name: (old, one) for old, one in zip(before.provider, daemon.dispatchers.all, strict=True)}
    changed = [
        chosen
        for chosen in settings.provider
        if chosen.name not in running or running[chosen.name][0] != chosen or before.breaker != settings.breaker
    ]
    built = await _build(changed, settings)
    found: list[Dispatcher] = []
    for chosen in settings.provider:
        _, one = running.get(chosen.name, (None, None))
        if chosen.name in built:
            made = delivery.dispatcher(chosen, built[chosen.name], settings, daemon.clock)
            if one is not None:
                made.limiter.inherit(one.limiter)
            found.append(made)
        elif one is not None:
            one.breaker.hurry()
            found.append(one)
    return found, [one for _, one in running.values() if one not in found]


async def _build(changed: Sequence[ProviderBase], settings: Settings) -> dict[str, Provider]:
    """All of them, or none is left open. Raises ProviderError."""
    built: dict[str, Provider] = {}
    try:
        for chosen in changed:
            built[chosen.name] = build_provider(chosen, settings)
    except BaseException:
        for provider in built.values():
            await provider.aclose()
        raise
    return built


async def _retire(daemon: Daemon, one: Dispatcher) -> None:
    """What it deferred is due for whoever comes after it; its running attempts come to their end."""
    daemon.standing.retire(one)
    one.on_change = lambda dispatcher, change: None
    if not one.breaker.closed:
        await daemon.runner.release(one, daemon.clock.now())

    async def close() -> None:
        await one.drain(one.provider.policy.timeout + LAST_WORDS_S)
        await one.provider.aclose()

    task = asyncio.create_task(close(), name=f"retire {one.provider.name}")
    daemon.background.add(task)
    task.add_done_callback(daemon.background.discard)


def _needs_restart(before: Settings, after: Settings) -> list[str]:
    tables = [name for name in AT_A_START if getattr(before, name) != getattr(after, name)]
    same_rate = after.smtp.model_copy(update={"rate_per_client": before.smtp.rate_per_client})
    return tables + (["smtp"] if same_rate != before.smtp else [])
