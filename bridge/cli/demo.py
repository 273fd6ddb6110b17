"""`smtp-bridge demo`: the bridge and the sandbox API side by side, and a tour that shows what happens to a message.

Everything is real: SMTP with STARTTLS and AUTH over a socket, the spool on disk, HTTP to the sandbox. State is kept in a
directory that goes with the demo.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console

from bridge import log as logging_setup
from bridge.cli.common import warn
from bridge.cli.exits import EX_UNAVAILABLE, INTERRUPTED
from bridge.cli.run import loop_factory
from bridge.cli.tour import PASSWORD, USER, Screen, Tour
from bridge.config.load import load_settings
from bridge.config.settings import Settings
from bridge.daemon import Daemon
from bridge.sandbox import Sandbox
from bridge.smtp.auth import hash_password
from bridge.smtp.tls import CertificateError
from bridge.sockets import ListenError
from bridge.spool.base import SpoolError


class ApiPortTaken(Exception):
    """The sandbox API cannot listen; the text is the system's reason."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()
        except SystemExit:  # which would end the loop from within a task
            raise BrokenPipeError from None


def run_demo(*, port: int, api_port: int, once: bool) -> int:
    """The exit status: 0 when every step went as told."""
    console = _Console(highlight=False, soft_wrap=True)
    logging_setup.configure(level="error")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="smtp-bridge-demo-") as state,
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            return runner.run(_main(console, Path(state), port=port, api_port=api_port, once=once))
    except ListenError as error:
        warn(f"{error}; choose another port with --port")
    except ApiPortTaken as error:
        warn(f"cannot listen on 127.0.0.1:{api_port}: {error}; choose another port for the sandbox API with --api-port")
    except BrokenPipeError:  # whoever read has seen enough
        return 1
    except (SpoolError, CertificateError, OSError) as error:
        warn(f"the demo cannot start: {error}")
    return EX_UNAVAILABLE


async def _main(console: Console, state: Path, *, port: int, api_port: int, once: bool) -> int:
    stop = _stop_event()
    key = secrets.token_urlsafe(12)
    show = Screen(console)
    async with contextlib.AsyncExitStack() as stack:
        sandbox = Sandbox(key=key, port=api_port, on_received=show.received)
        try:
            await stack.enter_async_context(sandbox)
        except OSError as error:
            raise ApiPortTaken(os.strerror(error.errno) if error.errno else str(error)) from error
        daemon = Daemon(demo_settings(state, port, sandbox.url, key))
        await daemon.start()
        stack.push_async_callback(daemon.stop)
        status = await _until(stop, Tour(show, daemon, sandbox).run())
        if not once and not stop.is_set():
            show.stay(daemon.listeners[0].port, sandbox.url)
            await stop.wait()
        return status


def demo_settings(state: Path, port: int, url: str, key: str) -> Settings:
    # Settings of this machine have no part in the demo: the file that is found is an empty one.
    config = state / "demo.toml"
    config.touch()
    return load_settings(
        str(config),
        environ={
            "STATE_DIRECTORY": str(state),
            "SMTP_BRIDGE_SMTP__HOSTNAME": "bridge.localhost",
            "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": f"127.0.0.1:{port}",
            "SMTP_BRIDGE_USER__NAME": USER,
            "SMTP_BRIDGE_USER__PASSWORD_HASH": hash_password(PASSWORD),
            "SMTP_BRIDGE_PROVIDER__KIND": "rest",
            "SMTP_BRIDGE_PROVIDER__NAME": "sandbox",
            "SMTP_BRIDGE_PROVIDER__URL": f"{url}/send-email",
            "SMTP_BRIDGE_PROVIDER__AUTH": "bearer",
            "SMTP_BRIDGE_PROVIDER__TOKEN": key,
            "SMTP_BRIDGE_PROVIDER__IDEMPOTENT": "true",
            "SMTP_BRIDGE_SPOOL__MIN_FREE": "0",
        },
        cwd=state,
    )


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _until(stop: asyncio.Event, tour: Coroutine[Any, Any, int]) -> int:
    """The tour's status; Ctrl-C ends it in the middle."""
    touring = asyncio.create_task(tour)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({touring, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if touring.done():
        return int(touring.result())
    touring.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await touring
    return INTERRUPTED
