"""Other settings for a daemon that runs (SIGHUP, `smtp-bridge reload`, a secret's file that changed): they hold from then on.

They hold wholly or not at all; what only a start reads stays as it is until then, all through, and is named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from bridge.config.load import SettingsError
from bridge.config.provider_base import ProviderBase
from bridge.config.settings import Settings
from bridge.config.warnings import warnings
from bridge.control import Answer
from bridge.delivery.dispatcher import Dispatcher
from bridge.files import Stamp
from bridge.providers.base import Provider
from bridge.smtp.tls import CertificateError
from bridge.spool.base import SpoolError, SpoolFull
from bridge.wiring import delivery, logs, smtp
from bridge.wiring.providers import ProviderError, build_provider
from bridge.wiring.restart import until_restart

if TYPE_CHECKING:
    from bridge.daemon import Daemon
    from bridge.web.context import Place

log: Any = structlog.get_logger()

LAST_WORDS_S = 5.0  # beyond a provider's time-out, for attempts to record what came of them


async def read_again(daemon: Daemon, read: Callable[[], Settings] | None) -> Answer:
    """What came of it, for who asked: `outcome` (reloaded, refused or failed), `mistakes`, `needs_restart`, `warnings`, and
    `as_at_start`, what a reload cannot read anew.

    Mistakes are told in the log too, and the settings that hold go on. `read` None: there is nothing to read, or it is too late.
    """
    if read is None:
        log.warning("daemon.no_reload", text="restart to apply settings")
        return _answer("refused", mistakes=["this daemon is stopping, or was started without settings to read again"])
    try:
        settings = await asyncio.to_thread(read)
        needs_restart = await daemon.reload(settings)
    except SettingsError as error:
        mistakes = list(error.problems)
    except CertificateError as error:
        mistakes = [f"certificate: {error}"]
    except ProviderError as error:
        mistakes = [str(error)]
    except Exception as error:
        log.exception("daemon.reload_failed")
        return _answer("failed", mistakes=[f"{type(error).__name__}; the log says where"])
    else:
        told, as_at_start = list(warnings(settings)), list(settings.as_at_start)
        return _answer("reloaded", needs_restart=needs_restart, warnings=told, as_at_start=as_at_start)
    for mistake in mistakes:
        log.error("daemon.reload_refused", text=mistake)
    return _answer("refused", mistakes=mistakes)


def _answer(outcome: str, **facts: list[str]) -> Answer:
    return {"outcome": outcome, "mistakes": [], "needs_restart": [], "warnings": [], "as_at_start": [], **facts}


async def reload(daemon: Daemon, settings: Settings) -> list[str]:
    """As `use`, and told in the log."""
    needs_restart = await use(daemon, settings)
    log.info("daemon.reloaded", needs_restart=needs_restart, as_at_start=list(settings.as_at_start))
    return needs_restart


async def use(daemon: Daemon, wanted: Settings) -> list[str]:
    """The keys that need a restart. Raises ProviderError and CertificateError, and then nothing has changed.

    A provider whose own settings and files are the same goes on as it is, but is tried at once if it was left alone.
    """
    before = daemon.settings
    settings, needs_restart = until_restart(before, wanted)
    # All that can fail comes first.
    contexts = await daemon.contexts.make(lambda: smtp.certificate(settings))
    places = _places(daemon, settings)
    apply = _rules(daemon, settings)
    dispatchers, gone = await _dispatchers(daemon, settings)
    # Nobody begins before what was kept back has its whole lifetime again.
    waiting = [one for one in dispatchers if any(not old.breaker.closed for old in gone)]
    for one in waiting:
        one.resuming = True
    daemon.settings = settings
    if settings.log != before.log:
        logs.set_up(settings)
    daemon.contexts.use(contexts)
    daemon.suppressions.names = delivery.suppressing(settings)
    daemon.listen_to(dispatchers)
    daemon.dispatchers.reload(
        dispatchers,
        routes=delivery.routes(settings),
        degrade=settings.relay.degrade,
        mark=delivery.mark(settings),
    )
    for each in apply:
        each()
    if daemon.web and daemon.web.webhooks:
        daemon.web.webhooks.places, daemon.web.webhooks.max_size = places, settings.events.max_size
        await daemon.events.expect(any(place.hook for place in places.values()))
    try:
        for one in gone:
            await _retire(daemon, one)
    finally:
        for one in waiting:
            one.resuming = False
    daemon.runner.hurry()
    return needs_restart


def _rules(daemon: Daemon, settings: Settings) -> list[Callable[[], None]]:
    """The rules of all parts from the settings, each ready to be put where it belongs."""
    put: list[Callable[[], None]] = []

    def value(part: object, name: str, value: object) -> None:
        put.append(lambda: setattr(part, name, value))

    value(daemon.recorder, "retry", delivery.retry(settings))
    put.append(lambda: setattr(daemon.recorder, "timeout", daemon.dispatchers.timeout))
    value(daemon.submission, "rules", delivery.rules(settings))
    value(daemon.housekeeping, "dedupe_window", settings.relay.dedupe_window)
    value(daemon.bounces, "rules", delivery.bounce_rules(settings))
    value(daemon.alerts, "rules", delivery.alert_rules(settings))
    value(daemon.posts, "targets", delivery.targets(settings))
    value(daemon.events, "rules", delivery.event_rules(settings))
    users = smtp.users(settings)
    put.append(lambda: daemon.auth.replace(users))
    limits = smtp.limits(settings)
    value(daemon.connections, "limits", limits)
    for index, service in enumerate(daemon.services):
        value(service, "hostname", settings.hostname)
        value(service, "limits", limits)
        value(service, "policy", smtp.policy(settings, index))
    if smtp.rates_of(daemon.settings) != smtp.rates_of(settings):  # else what was counted goes on counting
        rates = smtp.rates(settings)
        for service in daemon.services:
            value(service, "rates", rates)
    if daemon.web:
        from bridge.wiring import web

        value(daemon.web, "rules", web.rules(settings, daemon.listeners))
        value(daemon.web, "proxies", settings.http.trusted_proxies)
        keys, ring = web.keys(settings), daemon.web.keys
        put.append(lambda: ring.replace(keys))
    return put


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
    files_before, files = _files_of(before), _files_of(settings)
    changed = [
        chosen
        for chosen in settings.provider
        if chosen.name not in running
        or running[chosen.name][0] != chosen
        or files_before[chosen.name] != files[chosen.name]
        or (before.breaker, before.hostname) != (settings.breaker, settings.hostname)
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


def _files_of(settings: Settings) -> dict[str, tuple[Stamp, ...]]:
    """By provider: how the files look that are no secrets' but are read when it is built."""
    found: dict[str, tuple[Stamp, ...]] = {chosen.name: () for chosen in settings.provider}
    for file in settings.files:
        if file.key[0] == "provider" and not file.secret:
            found[settings.provider[int(file.key[1])].name] += (file.stamp,)
    return found


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
        try:
            await daemon.runner.release(one, daemon.clock.now())
        except (SpoolError, SpoolFull) as error:  # it comes due by itself, later
            log.error("spool.resume_failed", provider=one.provider.name, error=str(error))

    async def close() -> None:
        await one.drain(one.provider.policy.timeout + LAST_WORDS_S)
        daemon.retired.remove(one)
        await one.provider.aclose()

    daemon.retired.append(one)

    task = asyncio.create_task(close(), name=f"retire {one.provider.name}")
    daemon.background.add(task)
    task.add_done_callback(daemon.background.discard)
