"""The composition root: builds the parts from the settings, starts them in order, stops them in reverse order.

Only this module, `wiring.py` and `cli/` read the settings object; every part gets what it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import structlog

from bridge import __version__, metrics
from bridge.budget import MemoryBudget
from bridge.clock import Clock, SystemClock
from bridge.config.settings import Settings
from bridge.config.warnings import warnings
from bridge.content import Contents
from bridge.control import Answer, Control, beside, within
from bridge.delivery.alerts import Alerts
from bridge.delivery.bounce import Bounces
from bridge.delivery.choice import Dispatchers
from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.events import Events
from bridge.delivery.posts import Posts
from bridge.delivery.recorder import Recorder
from bridge.delivery.runner import Runner
from bridge.delivery.standing import Standing
from bridge.delivery.suppression import Suppressions
from bridge.housekeeping import Housekeeping
from bridge.mime.parse import Limits as MimeLimits
from bridge.mime.parse import parse
from bridge.model import Email
from bridge.notify import Notifier
from bridge.providers.poster import Poster
from bridge.pulse import Pulse
from bridge.smtp.auth import Authenticator
from bridge.smtp.conversation import Service
from bridge.smtp.listener import Connections, Listener
from bridge.smtp.logins import Logins
from bridge.smtp.tls_files import Contexts
from bridge.spool.ids import new_queue_id
from bridge.spool.opening import open_spool
from bridge.spool.sqlite import SqliteSpool
from bridge.submission import Submission
from bridge.wiring import build_providers, delivery, telemetry
from bridge.wiring import smtp as smtp_wiring
from bridge.wiring.reload import read_again, reload
from bridge.wiring.secret_files import SecretFiles

if TYPE_CHECKING:
    from bridge.web.context import Place, Web
    from bridge.web.server import WebServer

log: Any = structlog.get_logger()

NO_LIMIT = 2**63 - 1
LAST_WORDS_S = 15.0  # beyond the shutdown time, to close the spool
LAST_CALL = 0.2  # of the shutdown time: what is left of it when open transactions are ended with 421


class Daemon:
    """`start`, then `wait` until `stop_soon` or a part dies, then `stop`. `run` does all of it with signals.

    `read_again` reads the settings anew, for SIGHUP; raises SettingsError.
    """

    def __init__(
        self, settings: Settings, *, clock: Clock | None = None, read_again: Callable[[], Settings] | None = None
    ) -> None:
        self.settings = settings
        self._read_again = read_again
        self._source = os.path.realpath(settings.source) if settings.source else ""
        self.clock = clock or SystemClock()
        self.notifier = Notifier()
        self.owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.listeners: list[Listener] = []
        self.services: list[Service] = []
        self.contexts = Contexts()
        self.http: WebServer | None = None
        self.web: Web | None = None
        self._places: dict[str, Place] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._is_ready = self._reload_when_ready = False
        self.background: set[asyncio.Task[Any]] = set()
        self.retired: list[Dispatcher] = []  # by a reload, with attempts that still run
        self.reloading = asyncio.Lock()
        self._close = contextlib.AsyncExitStack()

    # --- life

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises what `start` raises, and RuntimeError when a part died."""
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        # From the first moment on, for a start may have a spool to migrate: unhandled, it would end the process.
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        await self.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        self.notifier.ready()
        log.info("daemon.ready", duration_ms=round((time.monotonic() - started) * 1000, 1))
        self._is_ready = True
        if self._reload_when_ready:
            self._reload_soon()
        try:
            await self.wait()
        finally:
            await self.stop()

    def _hung_up(self) -> None:
        if self._is_ready:
            self._reload_soon()
        else:
            self._reload_when_ready = True

    def _signalled(self, number: int) -> None:
        if self._stop.is_set():
            # What was acknowledged is on disk already; the rest is for the client to send again.
            os._exit(128 + number)
        log.info("daemon.stopping", signal=signal.Signals(number).name)
        self._stop.set()

    def stop_soon(self) -> None:
        self._stop.set()

    async def start(self) -> None:
        """Raises ListenError, CertificateError, ProviderError, SpoolError, SpoolBusy; nothing is left open then."""
        settings = self.settings
        log.info(
            "daemon.started",
            version=__version__,
            pid=os.getpid(),
            settings=settings.source or ("none" if settings.implicit_capture else "environment"),
        )
        self._warn(settings)
        async with contextlib.AsyncExitStack() as opened:
            await self._open(opened)
            self._close = opened.pop_all()

    async def _open(self, opened: contextlib.AsyncExitStack) -> None:
        """Every part brings what closes it; they are closed in reverse order."""
        settings = self.settings
        if end_traces := telemetry.start(os.environ):
            opened.push_async_callback(end_traces)
        self.providers = build_providers(settings)
        opened.push_async_callback(self._close_providers)
        self.auth = Authenticator(smtp_wiring.users(settings), cache_s=settings.smtp.auth_cache)
        opened.callback(self.auth.close)
        opened.callback(self._abandon_arrivals)
        opened.callback(self._close_listeners)
        self.budget = MemoryBudget(settings.smtp.memory_budget, wait_s=settings.smtp.memory_wait)
        self.notifier.status("opening the spool")
        self.spool = await self._open_spool()  # first: a second daemon must not get as far as to take connections
        opened.push_async_callback(self.spool.close)
        self._bind()
        if settings.http.address:
            # Here, so that a daemon that is not asked over HTTP holds none of it in memory.
            from bridge.web.server import WebServer
            from bridge.wiring import web

            self._places = web.places(settings)
            self.http = WebServer(str(settings.http.address), max_connections=settings.http.max_connections)
            opened.push_async_callback(self.http.close)
            self.http.bind()
        poster = Poster()
        opened.push_async_callback(poster.aclose)
        self._wire(poster)
        await self.suppressions.load()
        await self.events.expect(any(place.hook for place in self._places.values()))
        await self.alerts.load()
        await self.standing.restore()
        self.spool.on_wake(self._operator_was_here)
        opened.push_async_callback(self._end_tasks)
        parts = {
            "runner": self.runner.run(),
            "notices": self.bounces.run(),
            "webhooks": self.posts.run(),
            "housekeeping": self.housekeeping.run(),
        }
        if self.notifier.used:
            parts["pulse"] = Pulse(
                self.notifier,
                spool=self.spool,
                dispatchers=self.dispatchers,
                places=self.listeners,
                clock=self.clock,
            ).run()
        self._tasks = [asyncio.create_task(work, name=name) for name, work in parts.items()]
        for listener in self.listeners:
            await listener.start()
            log.info("daemon.listening", address=listener.address, port=listener.port, pid=os.getpid())
        if self.http:
            await self._start_http(self.http)
        questions = {"reload": self._reload_safely, "settings": self._say_settings}
        for control in (
            Control(beside(settings.spool_path), questions),
            Control(within(settings.state_directory), questions, shared=True),
        ):
            opened.push_async_callback(control.close)
            await control.start()

    async def _start_http(self, http: WebServer) -> None:
        from bridge.providers.fetch import fetch
        from bridge.web.app import make_app
        from bridge.web.context import Web, Webhooks
        from bridge.wiring import web

        self.web = Web(
            clock=self.clock,
            rules=web.rules(self.settings, self.listeners),
            keys=web.key_ring(self.settings),
            spool=self.spool,
            dispatchers=self.dispatchers,
            suppressions=self.suppressions,
            submit=self.submission.submit,
            begin=self.contents.begin,
            hold=self.budget.hold,
            new_queue_id=new_queue_id,
            check_recipient=lambda *args: self.submission.check_recipient(*args),
            operator_was_here=self._operator_was_here,
            listeners=self.listeners,
            budget=self.budget,
            loopback=web.loopback(self.settings),
            proxies=self.settings.http.trusted_proxies,
            webhooks=Webhooks(
                places=self._places,
                events=self.events,
                fetch=fetch,
                max_size=self.settings.events.max_size,
            ),
        )
        await http.start(make_app(self.web))
        self._tasks.append(http.task)
        log.info("daemon.listening", address=http.address, port=http.port, pid=os.getpid(), protocol="http")
        if self.web.open:
            log.warning(
                "daemon.warning", text="without an [[http.key]] everybody on this machine may read the mail over HTTP"
            )

    async def wait(self) -> None:
        """Until a stop is asked for. Raises RuntimeError naming a part that died."""
        stop = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait({stop, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        for task in done - {stop}:
            if error := task.exception():
                log.error("daemon.part_died", part=task.get_name(), exc_info=error)
                raise RuntimeError(f"{task.get_name()} died: {type(error).__name__}") from error

    async def stop(self) -> None:
        """Stop listening, finish transactions, stop claiming, finish attempts, close; in at most `shutdown_timeout` and a bit."""
        deadline = time.monotonic() + self.settings.smtp.shutdown_timeout
        self.notifier.stopping(self.settings.smtp.shutdown_timeout + LAST_WORDS_S)
        self._close_listeners()
        if self.web:
            self.web.stop()
        self.runner.stop()
        for service in self.services:
            service.stopping = True
        for session in tuple(self.connections.sessions):
            session.stop()
        self.submission.hurry()
        self.budget.close()
        last_call = deadline - self.settings.smtp.shutdown_timeout * LAST_CALL
        await self._finish_sessions(last_call)
        self._abandon_arrivals()
        # Attempts that are still running are cut off while there is time to record it, and to tell the clients that wait.
        await asyncio.gather(*(one.drain(_left(last_call)) for one in (*self.dispatchers.all, *self.retired)))
        for session in tuple(self.connections.sessions):
            session.stop(force=True)
        await self.submission.drain(_left(deadline))
        await self.runner.drain(_left(deadline))
        await self._finish_sessions(deadline)
        for session in tuple(self.connections.sessions):
            session.abort()
        self.submission.abandon()
        if self.http:  # while its answers can still be written: `_end_tasks` would cut it off
            await self.http.close()
        await self.standing.keep(self.alerts.active)
        await self._close.aclose()
        log.info("daemon.stopped")

    async def _end_tasks(self) -> None:
        if self.http:
            await (
                self.http.close()
            )  # by itself: cut off, it would drop who is being answered and leave its socket with the loop
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _finish_sessions(self, deadline: float) -> None:
        """Sessions end by themselves after their transaction; who is in his handshake may become one."""
        while self._has_clients() and _left(deadline) > 0:  # noqa: ASYNC110 seldom, short, and nobody's hot path
            await asyncio.sleep(0.02)

    def _has_clients(self) -> bool:
        return bool(self.connections.sessions) or any(listener.on_the_way for listener in self.listeners)

    # --- building

    def _bind(self) -> None:
        settings = self.settings
        limits = smtp_wiring.limits(settings)
        rates = smtp_wiring.rates(settings)
        logins = Logins(self.auth, smtp_wiring.throttle(settings))
        self.connections = Connections(limits)
        self.contents = Contents(
            budget=self.budget,
            directory=settings.spool_path.parent,
            threshold=settings.spool.file_threshold,
            min_free=settings.spool.min_free,
        )
        for index, listener in enumerate(settings.smtp.listener):
            service = Service(
                hostname=settings.hostname,
                policy=smtp_wiring.policy(settings, index),
                limits=limits,
                logins=logins,
                submit=lambda *args, **kwargs: self.submission.submit(*args, **kwargs),
                gate=lambda: self.submission.gate(),
                begin=self.contents.begin,
                take=self.budget.take,
                charge=self.budget.charge,
                check_recipient=lambda *args: self.submission.check_recipient(*args),
                rates=rates,
                admit=self.connections.admit,
                leave=self.connections.leave,
                label=listener.name or str(listener.address),
            )
            if files := smtp_wiring.tls_files(settings, index):
                self.contexts.add(service, files)
            metrics.show_listener(service.label)
            bound = Listener(str(listener.address), service)
            self.listeners.append(bound)
            self.services.append(service)
            bound.bind()

    async def _open_spool(self) -> SqliteSpool:
        spool = self.settings.spool
        return await open_spool(
            self.settings.spool_path,
            max_bytes=spool.max_bytes or NO_LIMIT,
            min_free=spool.min_free,
            history_s=spool.history,
            failed_s=spool.failed,
            file_threshold=spool.file_threshold,
            owner=self.owner,
            now=self.clock.now(),
        )

    def _wire(self, poster: Poster) -> None:
        smtp = self.settings.smtp
        limits = MimeLimits(depth=smtp.max_mime_depth, parts=smtp.max_mime_parts, header_bytes=smtp.max_header_size)
        parse_email = functools.partial(parse, limits=limits)
        self._wire_delivery(parse_email)
        self._wire_telling(parse_email, poster)
        self._wire_upkeep()

    def _wire_delivery(self, parse_email: Callable[..., Email]) -> None:
        """From the submission through the queue to the providers."""
        settings, clock, spool = self.settings, self.clock, self.spool
        self.dispatchers = Dispatchers(
            delivery.dispatchers(settings, self.providers, clock),
            routes=delivery.routes(settings),
            degrade=settings.relay.degrade,
            mark=delivery.mark(settings),
        )
        self.suppressions = Suppressions(spool, clock, delivery.suppressing(settings))
        self.recorder = Recorder(
            spool,
            delivery.retry(settings),
            clock,
            timeout=self.dispatchers.timeout,
            onward=self.dispatchers.onward,
            on_failure=lambda: self.bounces.wake(),
        )
        self.runner = Runner(
            spool=spool,
            dispatchers=self.dispatchers,
            recorder=self.recorder,
            parse=parse_email,
            clock=clock,
            owner=self.owner,
            budget=self.budget,
        )
        self.listen_to(self.dispatchers.all)
        self.submission = Submission(
            spool=spool,
            dispatchers=self.dispatchers,
            recorder=self.recorder,
            rules=delivery.rules(settings),
            parse=parse_email,
            new_queue_id=new_queue_id,
            clock=clock,
            waits_in=self.runner.waits_in,
            suppressions=self.suppressions,
        )

    def _wire_telling(self, parse_email: Callable[..., Email], poster: Poster) -> None:
        """What senders and the operator are told, and what providers tell."""
        settings, clock, spool = self.settings, self.clock, self.spool
        self.posts = Posts(spool, poster, delivery.targets(settings), clock)
        self.bounces = Bounces(
            spool=spool,
            dispatchers=self.dispatchers,
            rules=delivery.bounce_rules(settings),
            parse=parse_email,
            new_queue_id=new_queue_id,
            waits_in=self.runner.waits_in,
            posted=self.posts.wake,
            clock=clock,
        )
        self.events = Events(
            spool=spool,
            suppressions=self.suppressions,
            rules=delivery.event_rules(settings),
            new_id=new_queue_id,
            on_failure=self.bounces.wake,
            posted=self.posts.wake,
            clock=clock,
        )
        self.alerts = Alerts(spool, delivery.alert_rules(settings), clock, self.posts.wake)

    def _wire_upkeep(self) -> None:
        """What is done now and then, and lasts over a restart."""
        self.standing = Standing(self.spool, self.dispatchers, self.clock, lambda: self.submission.accepted)
        self.housekeeping = Housekeeping(
            spool=self.spool,
            runner=self.runner,
            recorder=self.recorder,
            dispatchers=self.dispatchers,
            alerts=self.alerts,
            standing=self.standing,
            events=self.events,
            clock=self.clock,
            dedupe_window=self.settings.relay.dedupe_window,
            renew=self.contexts.renew,
            look_at_secrets=SecretFiles(self).look,
        )

    def listen_to(self, dispatchers: Iterable[Dispatcher]) -> None:
        for one in dispatchers:
            one.on_change = self.runner.changed
            one.on_refused = self.suppressions.note

    def _operator_was_here(self) -> None:
        """The queue or the list of addresses was changed by another process."""
        self.suppressions.reload_soon()
        self.bounces.wake()
        self.runner.hurry()

    # --- other settings while it runs

    def _reload_soon(self) -> None:
        task = asyncio.create_task(self._reload_safely(), name="reload")
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    async def _reload_safely(self) -> Answer:
        """See `wiring.reload.read_again`."""
        async with self.reloading:
            self.notifier.reloading()
            trouble = "the new settings were refused, the old ones hold"
            try:
                answer = await read_again(self, None if self._stop.is_set() else self._read_again)
                trouble = "" if answer["outcome"] == "reloaded" else trouble
            finally:
                self.notifier.trouble(trouble)
                self.notifier.ready()
        return answer

    async def _say_settings(self) -> Answer:
        """The settings file, by which who asks in the state directory knows whether this is the daemon that is meant."""
        return {"outcome": "settings", "source": self._source}

    async def reload(self, settings: Settings) -> list[str]:
        """See `wiring.reload.use`. Raises ProviderError and CertificateError, and then nothing has changed."""
        needs_restart = await reload(self, settings)
        self._warn(settings)
        return needs_restart

    def _warn(self, settings: Settings) -> None:
        for text in warnings(settings):
            log.warning("daemon.warning", text=text)

    async def _close_providers(self) -> None:
        for task in tuple(self.background):
            task.cancel()
        await asyncio.gather(*self.background, return_exceptions=True)
        current = [one.provider for one in self.dispatchers.all] if hasattr(self, "dispatchers") else self.providers
        for provider in (*current, *(one.provider for one in self.retired)):
            await provider.aclose()

    def _close_listeners(self) -> None:
        for listener in self.listeners:
            listener.close()

    def _abandon_arrivals(self) -> None:
        for listener in self.listeners:
            listener.abandon()


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)
