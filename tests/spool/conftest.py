from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge.spool.opening import open_spool
from bridge.spool.sqlite import SqliteSpool

from .support import NOW, OpenSpool

OPTIONS: dict[str, Any] = {
    "max_bytes": 1 << 30,
    "min_free": 0,
    "history_s": 100.0,
    "failed_s": 300.0,
    "file_threshold": 10_000,
    "owner": "me",
    "now": NOW,
    "reserve_bytes": 1 << 16,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
async def opened(path: Path) -> AsyncIterator[OpenSpool]:
    """`await opened(history_s=0)`: a spool on `path`; what is open at the end is closed."""
    all_opened: list[SqliteSpool] = []

    async def open_it(**options: Any) -> SqliteSpool:
        spool = await open_spool(options.pop("path", path), **{**OPTIONS, **options})
        all_opened.append(spool)
        return spool

    yield open_it
    for spool in reversed(all_opened):
        await spool.close()


@pytest.fixture
async def spool(opened: OpenSpool) -> SqliteSpool:
    return await opened()
