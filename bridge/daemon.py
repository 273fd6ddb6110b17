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
import ssl
import time
from pathlib import Path
from typing import Any

import structlog

from bridge import __version__
from bridge.clock import Clock, SystemClock
from bridge.config.settings import Settings
from bridge.delivery.choice import Dispatchers
from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.recorder import Recorder
from bridge.delivery.retry import RetryPolicy
from bridge.delivery.runner import Runner
from bridge.mime.parse import Limits as MimeLimits
from bridge.mime.parse import parse
from bridge.smtp.auth import Authenticator, User
from bridge.smtp.conversation import Service
from bridge.smtp.listener import Connections, Listener
from bridge.smtp.policy import Limits, ListenerPolicy
from bridge.smtp.tls import make_context, self_signed
from bridge.spool.ids import new_queue_id
from bridge.spool.opening import open_spool
from bridge.spool.sqlite import SqliteSpool
from bridge.submission import Rules, Submission
from bridge.wiring import build_providers

log: Any = structlog.get_logger()

NO_LIMIT = 2**63 - 1
PRUNE_EVERY_S = 60.0
PRUNE_BATCH = 500
LAST_CALL = 0.2  # of the shutdown time: what is left of it when open transactions are ended with 421


class Daemon:
    """`start`, then `wait` until `stop_soon` or a part dies, then `stop`. `run` does all of it with signals."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.listeners: list[Listener] = []
        self._services: list[Service] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._close = contextlib.AsyncExitStack()

    # --- life

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises what `start` raises, and RuntimeError when a part died."""
        started = time.monotonic()
        await self.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(
            signal.SIGHUP, lambda: log.warning("daemon.no_reload", text="restart to apply settings")
        )
        log.info("daemon.ready", duration_ms=round((time.monotonic() - started) * 1000, 1))
        try:
            await self.wait()
        finally:
            await self.stop()

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
        async with contextlib.AsyncExitStack() as opened:
            await self._open(opened)
            self._close = opened.pop_all()

    async def _open(self, opened: contextlib.AsyncExitStack) -> None:
        """Every part brings what closes it; they are closed in reverse order."""
        settings = self.settings
        self.providers = build_providers(settings)
        for provider in self.providers:
            opened.push_async_callback(provider.aclose)
        self.auth = Authenticator(_users(settings), cache_s=settings.smtp.auth_cache)
        opened.callback(self.auth.close)
        opened.callback(self._close_listeners)
        self.spool = await self._open_spool()  # first: a second daemon must not get as far as to take connections
        opened.push_async_callback(self.spool.close)
        self._bind()
        self._wire()
        self.spool.on_wake(self.runner.wake)
        opened.push_async_callback(self._end_tasks)
        self._tasks = [
            asyncio.create_task(self.runner.run(), name="runner"),
            asyncio.create_task(self._keep_house(), name="housekeeping"),
        ]
        for listener in self.listeners:
            await listener.start()
            log.info("daemon.listening", address=listener.address, port=listener.port, pid=os.getpid())

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
        self._close_listeners()
        self.runner.stop()
        for service in self._services:
            service.stopping = True
        for session in tuple(self.connections.sessions):
            session.stop()
        self.submission.hurry()
        last_call = deadline - self.settings.smtp.shutdown_timeout * LAST_CALL
        await self._finish_sessions(last_call)
        # Attempts that are still running are cut off while there is time to record it, and to tell the clients that wait.
        await self.dispatchers.drain(_left(last_call))
        for session in tuple(self.connections.sessions):
            session.stop(force=True)
        await self.submission.drain(_left(deadline))
        await self.runner.drain(_left(deadline))
        await self._finish_sessions(deadline)
        for session in tuple(self.connections.sessions):
            session.abort()
        self.submission.abandon()
        await self._close.aclose()
        log.info("daemon.stopped")

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _finish_sessions(self, deadline: float) -> None:
        """Sessions end by themselves after their transaction."""
        while self.connections.sessions and _left(deadline) > 0:  # noqa: ASYNC110 seldom, short, and nobody's hot path
            await asyncio.sleep(0.02)

    # --- building

    def _bind(self) -> None:
        settings = self.settings
        limits = _smtp_limits(settings)
        self.connections = Connections(limits)
        for index, listener in enumerate(settings.smtp.listener):
            service = Service(
                hostname=settings.hostname,
                policy=_policy(settings, index),
                limits=limits,
                auth=self.auth,
                submit=lambda *args, **kwargs: self.submission.submit(*args, **kwargs),
                gate=lambda: self.submission.gate(),
                tls_context=self._tls_context(listener.tls_minimum) if listener.tls != "none" else None,
                admit=self.connections.admit,
                leave=self.connections.leave,
            )
            bound = Listener(str(listener.address), service)
            self.listeners.append(bound)
            self._services.append(service)
            bound.bind()

    def _tls_context(self, minimum: str) -> ssl.SSLContext:
        tls = self.settings.tls
        if tls.cert_file:
            return make_context(Path(tls.cert_file), Path(tls.key_file) if tls.key_file else None, minimum=minimum)
        certificate, key = self_signed(self.settings.state_directory, self.settings.hostname)
        return make_context(certificate, key, minimum=minimum)

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

    def _wire(self) -> None:
        settings, clock = self.settings, self.clock
        retry = RetryPolicy(
            first=settings.retry.first,
            factor=settings.retry.factor,
            maximum=settings.retry.maximum,
            jitter=settings.retry.jitter,
        )
        limits = MimeLimits(depth=settings.smtp.max_mime_depth, parts=settings.smtp.max_mime_parts)
        parse_email = functools.partial(parse, limits=limits)
        self.dispatchers = Dispatchers(
            [Dispatcher(provider) for provider in self.providers], degrade=settings.relay.degrade
        )
        recorder = Recorder(self.spool, retry, clock, timeout=self.dispatchers.timeout)
        self.runner = Runner(
            spool=self.spool,
            dispatchers=self.dispatchers,
            recorder=recorder,
            parse=parse_email,
            clock=clock,
            owner=self.owner,
        )
        self.submission = Submission(
            spool=self.spool,
            dispatchers=self.dispatchers,
            recorder=recorder,
            rules=_rules(settings),
            parse=parse_email,
            new_queue_id=new_queue_id,
            clock=clock,
            wake=self.runner.wake,
        )

    def _close_listeners(self) -> None:
        for listener in self.listeners:
            listener.close()

    async def _keep_house(self) -> None:
        """Finished messages go when their time is over, a few at a time."""
        never = asyncio.Event()
        while True:
            try:
                while await self.spool.prune(now=self.clock.now(), limit=PRUNE_BATCH) == PRUNE_BATCH:
                    pass
            except Exception as error:  # a full or broken disk is told by those who need it; pruning tries again
                log.warning("spool.prune_failed", error=str(error))
            await self.clock.wait(never, PRUNE_EVERY_S)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _users(settings: Settings) -> list[User]:
    return [
        User(
            name=user.name,
            password_hash=user.password_hash.get_secret_value(),
            password=user.password.get_secret_value(),
            senders=user.senders,
        )
        for user in settings.user
    ]


def _policy(settings: Settings, index: int) -> ListenerPolicy:
    listener = settings.smtp.listener[index]
    return ListenerPolicy(
        protocol=listener.protocol,
        tls=listener.tls,
        require_tls=listener.require_tls,
        require_auth=listener.require_auth,
        allowed_networks=listener.allowed_networks,
        auth_mechanisms=listener.auth_mechanisms,
        auth_without_tls=listener.auth_without_tls,
        bare_newlines=listener.bare_newlines,
    )


def _smtp_limits(settings: Settings) -> Limits:
    smtp = settings.smtp
    return Limits(
        max_message_size=smtp.max_message_size,
        max_recipients=smtp.max_recipients,
        max_connections=smtp.max_connections,
        max_connections_per_client=smtp.max_connections_per_client,
        max_errors=smtp.max_errors,
        max_junk_commands=smtp.max_junk_commands,
        timeout=smtp.timeout,
        tls_handshake_timeout=smtp.tls_handshake_timeout,
    )


def _rules(settings: Settings) -> Rules:
    return Rules(
        mode=settings.relay.mode,
        attempt_timeout=settings.relay.attempt_timeout,
        lifetime=settings.retry.expire,
        max_hops=settings.smtp.max_hops,
        max_header_size=settings.smtp.max_header_size,
        hostname=settings.hostname,
    )
