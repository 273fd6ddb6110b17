"""The memory budget: what fits is taken, who waits is served in order, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.budget import Exhausted, Hold, MemoryBudget


async def test_what_fits_is_taken_at_once_and_comes_back() -> None:
    budget = MemoryBudget(100, wait_s=0)
    hold = budget.take(60)
    assert hold is not None
    assert budget.take(41) is None

    hold.release()

    assert budget.used == 0
    assert budget.take(100) is not None


async def test_large_holds_leave_a_quarter_to_short_messages() -> None:
    budget = MemoryBudget(100, wait_s=0)
    assert budget.take(75, large=True) is not None

    assert budget.take(1, large=True) is None
    assert budget.take(25) is not None


async def test_what_is_reserved_for_the_queue_is_nobody_elses() -> None:
    budget = MemoryBudget(100, wait_s=0)
    budget.reserved = 25

    assert budget.take(51, large=True) is None
    assert budget.take(50, large=True) is not None
    assert budget.take(25) is not None


async def test_who_waits_is_served_in_order_and_before_who_comes_later() -> None:
    budget = MemoryBudget(100, wait_s=5)
    hold = await budget.hold(70, large=True)
    order: list[str] = []

    async def wait(name: str, octets: int) -> Hold:
        got = await budget.hold(octets, large=True)
        order.append(name)
        return got

    first = asyncio.create_task(wait("first", 60))
    await asyncio.sleep(0)
    second = asyncio.create_task(wait("second", 1))
    await asyncio.sleep(0)
    assert budget.take(1, large=True) is None  # the second would fit, but the first came before

    hold.release()
    await asyncio.gather(first, second)

    assert order == ["first", "second"]


@pytest.mark.parametrize(("octets", "held"), [(51, 51), (70, 70), (10_000, 70)])
async def test_what_is_more_than_there_can_be_gets_all_that_is_left_alone(octets: int, held: int) -> None:
    budget = MemoryBudget(100, wait_s=5)
    queue = budget.charge(5, large=True)
    budget.reserved = 20  # as the runner does: the rest of its quarter
    other = await budget.hold(1, large=True)
    waiting = asyncio.create_task(budget.hold(octets, large=True))
    await asyncio.sleep(0)
    assert not waiting.done()

    other.release()
    hold = await waiting

    assert (hold.octets, budget.large) == (held, 5 + held)
    assert budget.take(1, large=True) is None
    short = budget.take(25)  # nobody's long messages keep a short one waiting
    assert short
    for one in (hold, short, queue):
        one.release()
    assert budget.used == 0


async def test_it_gets_no_more_than_the_short_ones_leave() -> None:
    budget = MemoryBudget(100, wait_s=5)
    short = budget.charge(40)

    hold = await budget.hold(10_000, large=True)
    assert hold.octets == 60
    hold.release()
    short.release()
    assert (await budget.hold(10_000)).octets == 100


async def test_who_waits_too_long_hears_it_and_those_behind_go_on() -> None:
    budget = MemoryBudget(100, wait_s=0.05)
    hold = await budget.hold(70, large=True)
    late = asyncio.create_task(budget.hold(60, large=True))
    await asyncio.sleep(0.03)
    next_one = asyncio.create_task(budget.hold(5, large=True))

    with pytest.raises(Exhausted):
        await late
    assert (await next_one).octets == 5
    hold.release()


async def test_who_is_cancelled_leaves_no_trace() -> None:
    budget = MemoryBudget(100, wait_s=5)
    hold = await budget.hold(100)
    waiting = asyncio.create_task(budget.hold(100))
    await asyncio.sleep(0)
    hold.release()  # it is let in, and cancelled before it can take its share
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert budget.used == 0
    assert budget.take(100) is not None


async def test_at_shutdown_nobody_waits() -> None:
    budget = MemoryBudget(10, wait_s=60)
    await budget.hold(10)
    waiting = asyncio.create_task(budget.hold(1))
    await asyncio.sleep(0)

    budget.close()

    with pytest.raises(Exhausted):
        await waiting
    with pytest.raises(Exhausted):
        await budget.hold(1)


async def test_a_shared_hold_is_given_back_by_the_last() -> None:
    budget = MemoryBudget(100, wait_s=0)
    hold = budget.charge(50)
    again = hold.share()

    hold.release()
    assert budget.used == 50
    again.release()
    assert budget.used == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 90), st.booleans(), st.floats(0, 0.002)), max_size=30))
def test_however_they_come_and_go_the_budget_is_kept(asked: list[tuple[int, bool, float]]) -> None:
    async def one(budget: MemoryBudget, octets: int, large: bool, pause: float) -> None:
        hold = await budget.hold(octets, large=large)
        assert budget.used <= 100
        assert budget.large <= 75
        await asyncio.sleep(pause)
        hold.release()

    async def all_of_them() -> None:
        budget = MemoryBudget(100, wait_s=10)
        await asyncio.gather(*(one(budget, *each) for each in asked))
        assert budget.used == budget.large == 0

    asyncio.run(all_of_them())
