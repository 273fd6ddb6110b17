"""Content as it comes in: in memory, in a file, and in memory again where the disk has no room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge.budget import Exhausted, MemoryBudget
from bridge.content import AT_ONCE, READING, Contents, NoRoom, cost, join

BLOCK = bytes(range(256)) * 256  # 64 KiB
MIB = 1024 * 1024


def contents(directory: Path, *, total: int = 64 * MIB, min_free: int = 0, threshold: int = 100_000) -> Contents:
    return Contents(
        budget=MemoryBudget(total, wait_s=0.01), directory=directory, threshold=threshold, min_free=min_free
    )  # fmt: skip


@pytest.mark.parametrize("blocks", [0, 1, 2, 17])
async def test_what_was_written_is_read_in_order(tmp_path: Path, blocks: int) -> None:
    content = await contents(tmp_path).begin()
    for number in range(blocks):
        await content.write(b"%d" % number + BLOCK)
    await content.keep()

    assert join(*content.read(1000)) == b"".join(b"%d" % number + BLOCK for number in range(blocks))
    assert content.long == (blocks > 1)
    content.abandon()


async def test_a_long_one_holds_little_while_it_comes_and_its_cost_while_it_is_prepared(tmp_path: Path) -> None:
    place = contents(tmp_path)
    content = await place.begin()
    for _ in range(64):
        await content.write(BLOCK)
        assert place.budget.used <= READING + AT_ONCE
    await content.keep()

    assert place.budget.large == cost(64 * len(BLOCK))
    content.abandon()
    assert place.budget.used == 0


async def test_nothing_of_a_file_is_left_in_the_directory(tmp_path: Path) -> None:
    content = await contents(tmp_path).begin()
    for _ in range(8):
        await content.write(BLOCK)

    assert os.listdir(tmp_path) == []
    content.abandon()


async def test_a_short_one_goes_to_the_file_early_when_memory_is_short(tmp_path: Path) -> None:
    place = contents(tmp_path, total=READING + 70_000)
    content = await place.begin()
    await content.write(BLOCK)
    assert not content.long
    await content.write(BLOCK[:30_000])

    assert content.long
    content.abandon()


@pytest.mark.parametrize("full_after", [0, 5, 12])
async def test_without_room_on_the_disk_it_goes_on_in_memory(tmp_path: Path, full_after: int) -> None:
    place = contents(tmp_path)
    content = await place.begin()
    for number in range(24):
        if number == full_after:  # from now on the disk has less than must stay free
            object.__setattr__(place, "min_free", 2**62)
        await content.write(b"%02d" % number + BLOCK)
    await content.keep()

    assert not content.long
    assert join(*content.read(0)) == b"".join(b"%02d" % number + BLOCK for number in range(24))
    assert place.budget.used >= content.size
    content.abandon()
    assert place.budget.used == 0


async def test_without_room_anywhere_it_is_refused(tmp_path: Path) -> None:
    place = contents(tmp_path, total=MIB, min_free=2**62)
    content = await place.begin()

    async def write_much() -> None:
        for _ in range(32):
            await content.write(BLOCK)

    with pytest.raises(NoRoom):
        await write_much()
    content.abandon()
    assert place.budget.used == 0


async def test_a_directory_that_is_gone_costs_no_mail(tmp_path: Path) -> None:
    content = await contents(tmp_path / "gone").begin()
    for _ in range(4):
        await content.write(BLOCK)
    await content.keep()

    assert join(*content.read(0)) == BLOCK * 4
    content.abandon()


async def test_a_long_one_waits_for_memory_and_hears_when_there_is_none(tmp_path: Path) -> None:
    place = contents(tmp_path, total=4 * MIB)
    content = await place.begin()
    for _ in range(24):
        await content.write(BLOCK)
    other = place.budget.charge(3 * MIB, large=True)

    with pytest.raises(Exhausted):
        await content.keep()
    content.abandon()
    other.release()
    assert place.budget.used == 0
