"""kill -9 in the middle of the load: what was promised is there, and what was begun is known."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from bridge.spool.base import SpoolBusy

from .support import NOW, OpenSpool, claim

LOADER = Path(__file__).with_name("loader.py")


def load_and_kill(path: Path, after: int) -> dict[str, set[str]]:
    """Run the loader until it has promised `after` messages, kill it; returns what it said: word -> queue ids."""
    said: dict[str, set[str]] = defaultdict(set)
    with subprocess.Popen([sys.executable, str(LOADER), str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        for line in child.stdout:
            word, _, queue_id = line.strip().partition(" ")
            said[word].add(queue_id)
            if len(said["put"]) == after:
                child.send_signal(signal.SIGKILL)
        # What stood in the pipe when it died was read to its end; a line cut short is no promise.
    return said


@pytest.mark.parametrize("after", [1, 150, 600])
async def test_every_promised_message_is_there_after_kill_9(opened: OpenSpool, path: Path, after: int) -> None:
    said = load_and_kill(path, after)
    spool = await opened()
    known = {row["queue_id"]: row["status"] for row in await spool.list_messages(limit=100_000)}
    left = {item.message.queue_id: item for _ in range(500) for item in await claim(spool)}

    promised = {queue_id for queue_id in said["put"] if len(queue_id) == 16}
    assert promised <= set(known)
    assert {queue_id for queue_id in said["sent"] if len(queue_id) == 16}.isdisjoint(left)
    assert all(item.message.raw == queue_id.encode() * (len(item.message.raw) // 16) for queue_id, item in left.items())
    # At most the one claim under way was begun and not recorded; each of it says so.
    interrupted = {queue_id for queue_id, item in left.items() if item.recipients[0].interrupted}
    assert len(interrupted) <= 5
    assert said["claimed"] - said["sent"] <= interrupted | {q for q, status in known.items() if status == "sent"} | {""}
    assert set(left) == {queue_id for queue_id, status in known.items() if status == "queued"}


async def test_the_lock_dies_with_its_process(opened: OpenSpool, path: Path) -> None:
    with subprocess.Popen([sys.executable, str(LOADER), str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(SpoolBusy):
            await opened()
        child.kill()

    spool = await opened()
    assert await spool.next_due() is None or await claim(spool, NOW)


async def test_the_cli_works_on_the_queue_of_a_running_daemon(opened: OpenSpool, path: Path) -> None:
    with subprocess.Popen([sys.executable, str(LOADER), str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        lines = [child.stdout.readline() for _ in range(100)]
        cli = await opened(daemon=False)
        rows = await cli.list_messages(status="queued", limit=50)
        held = await cli.hold([row["queue_id"] for row in rows], now=NOW)
        child.kill()

    assert len(lines) == 100
    assert held == (await cli.stats()).by_status.get("held", 0)
