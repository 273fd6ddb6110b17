"""`smtp-bridge run`: the daemon in the foreground, with the exit codes of sysexits.h."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from bridge.cli.exits import EX_CONFIG, EX_SOFTWARE, EX_TEMPFAIL, EX_UNAVAILABLE
from bridge.config.load import SettingsError, load_settings
from bridge.config.settings import Settings
from bridge.daemon import Daemon
from bridge.log import adopt_hooks, complain
from bridge.smtp.tls import CertificateError
from bridge.sockets import ListenError
from bridge.spool.base import SpoolBusy, SpoolError
from bridge.wiring import ProviderError, logs

log: Any = structlog.get_logger()

RESERVED_DESCRIPTORS = 256  # for providers, the queue and the rest
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8  # malloc.h


def run_from_arguments(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="smtp-bridge run", description="Run the bridge in the foreground.")
    parser.add_argument("--config", metavar="FILE", default="", help="the settings file")
    return run(parser.parse_args(arguments).config)


def run(config: str) -> int:
    """The exit status: 0 after a stop that was asked for."""
    # Somebody who wants a reload meanwhile is heard when the daemon listens to it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        settings = load_settings(config or None)
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return EX_CONFIG
    logs.set_up(settings)
    adopt_hooks()
    return run_settings(settings, read_again=lambda: load_settings(config or None))


def run_settings(settings: Settings, *, read_again: Callable[[], Settings] | None = None) -> int:
    if settings.implicit_capture:
        log.warning(
            "daemon.capture",
            text=f"no settings found: mail is accepted and kept to be looked at (http://{settings.http.address}/), "
            "and NOTHING IS SENT; give a settings file or SMTP_BRIDGE_ variables to send",
        )
    give_large_blocks_back()
    raise_descriptors(settings)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_main(settings, read_again))
    except (ListenError, CertificateError, ProviderError, SpoolError) as error:
        certificate = "certificate: " if isinstance(error, CertificateError) else ""
        complain(f"{certificate}{error}")
        return _exit_code(error)
    except OSError as error:
        complain(f"cannot start: {error}")
        return EX_UNAVAILABLE
    except RuntimeError as error:  # a part died and has been logged
        complain(str(error))
        return EX_SOFTWARE
    return 0


def raise_descriptors(settings: Settings) -> None:
    """Each connection is a descriptor, and the usual soft limit (1024) is what old programs that use select() can bear."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.smtp.max_connections * 2 + RESERVED_DESCRIPTORS  # a message that is coming in may have a file
    if settings.http.address:
        wanted += settings.http.max_connections
    enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        soft = enough
    if soft != resource.RLIM_INFINITY and soft < wanted:
        log.warning(
            "daemon.warning",
            text=f"{soft} open files are allowed, max_connections may need {wanted}",
        )


def give_large_blocks_back() -> None:
    """A large block that is freed is the system's again, not a hole in a heap: glibc raises its threshold for that to 32 MiB by
    itself, and a hundred messages of 25 MiB then cost twice their budget (tests/bench/memory.py). See mallopt(3)."""
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:  # somebody knows better
        return
    libc = ctypes.CDLL(None)
    # With a threshold that is set the heap's end would go back and forth with each block of 256 KiB that is read.
    for parameter, value in (
        (_M_MMAP_THRESHOLD, 1 << 20),
        (_M_TRIM_THRESHOLD, 16 << 20),
        (_M_TOP_PAD, 1 << 20),
        (_M_ARENA_MAX, 2),
    ):
        with contextlib.suppress(AttributeError):  # another C library
            libc.mallopt(parameter, value)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed (it is, on CPython)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _main(settings: Settings, read_again: Callable[[], Settings] | None) -> None:
    # Objects made at start live until the end; the collector need not look at them again.
    gc.collect()
    gc.freeze()
    await Daemon(settings, read_again=read_again).run()


def _exit_code(error: Exception) -> int:
    if isinstance(error, SpoolBusy):
        return EX_TEMPFAIL
    return EX_UNAVAILABLE if isinstance(error, ListenError | SpoolError) else EX_CONFIG
