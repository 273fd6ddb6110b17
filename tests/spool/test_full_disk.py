"""A full disk, for real: a small file system is mounted and filled. Accepting stops before recording does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.spool import space as space_module
from bridge.spool.base import SpoolError, SpoolFull
from bridge.spool.sqlite import SqliteSpool

from .support import ANN, BOUNCED, NOW, SENT, OpenSpool, claim, fill, message, record

SIZE = 24 << 20
RESERVE = 4 << 20
BODY = b"x" * 8000

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")


def mount(kind: str, image: Path, place: Path) -> None:
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    else:
        with image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(
            ["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", str(image)], check=True, capture_output=True
        )
        command = ["mount", "-o", "loop", str(image), str(place)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"needs root to mount a small file system: {made.stderr.strip()}")


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "ext4" and not shutil.which("mkfs.ext4"):
        pytest.skip("needs mkfs.ext4 to make a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    mount(request.param, tmp_path / "image", place)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(autouse=True)
def _always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The space is looked at once a second; here at every chance, so that no test waits."""
    monkeypatch.setattr(space_module, "CHECK_S", 0.0)


def ballast(disk: Path) -> Path:
    """What another program does: every free byte is taken."""
    path = disk / "ballast"
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"z" * 65536)
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"z" * 512)
    return path


async def drain(spool: SqliteSpool) -> set[str]:
    """Claim and record everything, as sent; returns the queue ids."""
    sent: set[str] = set()
    while items := await claim(spool, limit=20):
        for item in items:
            assert await record(spool, item, SENT) == {ANN}
            sent.add(item.message.queue_id)
    return sent


async def test_a_full_disk_refuses_new_mail_and_still_delivers_the_old(disk: Path, opened: OpenSpool) -> None:
    spool = await opened(path=disk / "spool.db", reserve_bytes=RESERVE)
    accepted = await fill(spool, BODY)
    assert len(accepted) > 300
    assert not await spool.writable()

    assert await drain(spool) == set(accepted)
    await spool.prune(now=NOW + 1000, limit=5000)
    assert await spool.writable()
    await spool.put(message(raw=BODY))


async def test_a_disk_filled_by_another_program_is_survived(disk: Path, opened: OpenSpool) -> None:
    spool = await opened(path=disk / "spool.db", reserve_bytes=RESERVE)
    mails = [message(raw=BODY) for _ in range(100)]
    for mail in mails:
        await spool.put(mail)
    filler = ballast(disk)
    accepted = await fill(spool, BODY)

    assert await drain(spool) == {*(mail.queue_id for mail in mails), *accepted}
    filler.unlink()
    await spool.put(message(raw=BODY))
    assert (disk / "spool.db.reserve").stat().st_size == RESERVE


async def test_when_sqlite_finds_no_room_the_reserve_lets_outcomes_through(
    disk: Path, opened: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await opened(path=disk / "spool.db", reserve_bytes=RESERVE)
    mails = [message(raw=BODY) for _ in range(100)]
    await asyncio.gather(*(spool.put(mail) for mail in mails))
    monkeypatch.setattr(space_module, "CHECK_S", 1e9)  # the disk fills between two looks
    filler = ballast(disk)
    await fill(spool, BODY)
    reserve = disk / "spool.db.reserve"
    assert not reserve.exists()

    assert await drain(spool) >= {mail.queue_id for mail in mails}
    with pytest.raises(SpoolFull):
        await spool.put(message())
    filler.unlink()
    monkeypatch.setattr(space_module, "CHECK_S", 0.0)
    await spool.put(message())
    assert reserve.stat().st_size == RESERVE


@pytest.mark.parametrize("together", [1, 40])
async def test_jobs_that_do_not_grow_pass_in_the_batch_that_met_the_end_of_the_disk(
    disk: Path, opened: OpenSpool, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    spool = await opened(path=disk / "spool.db", reserve_bytes=RESERVE)
    await asyncio.gather(*(spool.put(message(raw=BODY)) for _ in range(together)))
    items = await claim(spool)
    monkeypatch.setattr(space_module, "CHECK_S", 1e9)
    ballast(disk)
    big = [spool.put(message(raw=b"x" * 9_000, at=NOW + 1)) for _ in range(100)]
    puts = asyncio.gather(*big, return_exceptions=True)
    recorded = await asyncio.gather(*(record(spool, item, SENT) for item in items))

    assert recorded == [{ANN}] * together
    assert SpoolFull in {type(outcome) for outcome in await puts}


async def test_large_bodies_that_do_not_fit_leave_nothing_behind(disk: Path, opened: OpenSpool) -> None:
    spool = await opened(path=disk / "spool.db", reserve_bytes=RESERVE)
    accepted = await fill(spool, raw=b"x" * (1 << 20))

    files = [path for path in (disk / "spool.db.d").rglob("*") if path.is_file()]
    assert {path.name for path in files} == set(accepted)
    with pytest.raises(SpoolFull):
        await spool.put(message(raw=b"x" * (64 << 20)))
    assert await drain(spool) == set(accepted)


async def test_history_is_given_up_before_the_reserve_is(disk: Path, opened: OpenSpool) -> None:
    spool = await opened(path=disk / "spool.db", reserve_bytes=RESERVE)
    accepted = await fill(spool, BODY)
    for _ in range(200):
        await spool.put_history(message(), {ANN: BOUNCED})
    await spool.stats()

    assert await drain(spool) == set(accepted)


async def test_a_spool_on_a_full_disk_can_be_opened_and_drained(disk: Path, opened: OpenSpool) -> None:
    path = disk / "spool.db"
    spool = await opened(path=path, reserve_bytes=RESERVE)
    mails = [message(raw=BODY) for _ in range(50)]
    for mail in mails:
        await spool.put(mail)
    await spool.close()
    ballast(disk)
    spool = await opened(path=path, reserve_bytes=RESERVE)

    with pytest.raises(SpoolFull):
        await spool.put(message())
    assert await drain(spool) == {mail.queue_id for mail in mails}


async def test_the_floor_is_kept_free(disk: Path, opened: OpenSpool) -> None:
    spool = await opened(path=disk / "spool.db", reserve_bytes=RESERVE, min_free=5 << 20)
    assert await fill(spool, BODY)

    status = os.statvfs(disk)
    assert status.f_bavail * status.f_frsize > 4 << 20


async def test_a_read_only_file_system_is_named_at_open(disk: Path, opened: OpenSpool) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, capture_output=True)
    with pytest.raises(SpoolError, match=r"spool\.db: Read-only file system"):
        await opened(path=disk / "spool.db")


async def test_a_file_system_gone_read_only_refuses_and_recovers(disk: Path, opened: OpenSpool) -> None:
    spool = await opened(path=disk / "spool.db", reserve_bytes=RESERVE)
    await spool.put(message())
    await spool.close()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, capture_output=True)
    with pytest.raises(SpoolError, match=r"cannot open .*spool\.db"):
        await opened(path=disk / "spool.db")
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True, capture_output=True)

    assert len(await claim(await opened(path=disk / "spool.db"))) == 1
