"""The spool of the settings, opened beside its daemon for as long as a command needs it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bridge.cli.common import fail, settings_or_exit
from bridge.cli.exits import EX_UNAVAILABLE
from bridge.config.load import load_spool_settings
from bridge.spool.base import SpoolError, SpoolFull
from bridge.spool.opening import open_spool
from bridge.spool.sqlite import SqliteSpool

T = TypeVar("T")


def with_spool(config: str, work: Callable[[SqliteSpool], Awaitable[T]], *, grows: bool = False) -> T:
    """Run `work` on the spool of these settings; an unusable spool is one line and exit 69.

    `grows`: it puts mail into it, and leaves the disk the room that the daemon leaves.
    """
    settings = settings_or_exit(config, load_spool_settings)

    async def main() -> T:
        spool = await open_spool(
            settings.spool_path,
            max_bytes=settings.spool.max_bytes,
            min_free=settings.spool.min_free if grows else 0,  # the operator may always make room
            history_s=settings.spool.history,
            failed_s=settings.spool.failed,
            file_threshold=settings.spool.file_threshold,
            owner=f"cli-{os.getpid()}",
            now=time.time(),
            daemon=False,
            reserve_bytes=0,  # the reserve is the daemon's to make
        )
        try:
            return await work(spool)
        finally:
            await spool.close()

    try:
        return asyncio.run(main())
    except (SpoolError, SpoolFull) as error:
        fail(str(error), EX_UNAVAILABLE)
