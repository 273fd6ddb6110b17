"""Outages with the clock under control: what is attempted meanwhile, and how the queue drains afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import structlog

from bridge.delivery.breaker import BreakerPolicy
from bridge.delivery.ratelimit import LimitPolicy
from bridge.delivery.retry import RetryPolicy
from bridge.mime.parse import parse
from bridge.model import Outcome
from bridge.providers.base import Policy
from bridge.providers.http import transport_for
from bridge.providers.rest import RestProvider, RestSettings
from bridge.sandbox import Sandbox
from bridge.units import parse_rate
from tests.delivery.conftest import BAD_KEY, BUSY, SENT, Bench, ScriptedProvider, every_line

Make = Any
HOUR = 3600.0
KEY = "sandbox-secret-key"


class Timed(ScriptedProvider):
    """Answers by the clock: `answer(now)`. `at`: recipient -> when it was called."""

    def __init__(self, clock: Any, answer: Any, **policy: Any) -> None:
        super().__init__(**policy)
        self.clock = clock
        self.answer_at = answer
        self.at: list[tuple[float, str]] = []

    async def _answer(self, recipients: tuple[str, ...]) -> dict[str, Outcome]:
        now = self.clock.now()
        self.at += [(now, recipient) for recipient in recipients]
        return dict.fromkeys(recipients, self.answer_at(now))


class Http(RestProvider):
    """The sandbox over real HTTP, failing as `answer(now)` has it: BUSY is a 503, BAD_KEY a 401. `at`: as in `Timed`."""

    FAILURES: ClassVar = {id(BUSY): "503", id(BAD_KEY): "401"}

    def __init__(self, sandbox: Sandbox, clock: Any, answer: Any, *, concurrency: int) -> None:
        settings = RestSettings(url=f"{sandbox.url}/send-email", auth="bearer", token=KEY)
        policy = Policy(concurrency=concurrency)
        super().__init__("http", policy, settings, transport=transport_for(settings.url, policy))
        self.sandbox, self.clock, self.answer_at = sandbox, clock, answer
        self.at: list[tuple[float, str]] = []
        self.failing = ""

    async def send(self, email: Any, addressing: Any, **named: Any) -> Any:
        now = self.clock.now()
        self.at += [(now, recipient) for recipient in addressing.recipients]
        failure = self.FAILURES.get(id(self.answer_at(now)), "")
        if failure != self.failing:
            self.failing = failure
            self.sandbox.recover()
            if failure:
                self.sandbox.fail(failure)
        return await super().send(email, addressing, **named)


@pytest.fixture
async def api(clock: Any) -> AsyncIterator[Any]:
    """`api(answer, concurrency=...)` -> an Http."""
    made: list[Http] = []
    async with Sandbox(key=KEY) as sandbox:

        def make(answer: Any, *, concurrency: int) -> Http:
            made.append(Http(sandbox, clock, answer, concurrency=concurrency))
            return made[-1]

        yield make
        for one in made:
            await one.aclose()


async def fill(one: Bench, count: int, *, source: str = "app", prefix: str = "r") -> list[str]:
    """That many messages, put together as fast as the spool takes them."""
    mails = [replace(one.message(f"{prefix}{n}@example.org", lifetime=2 * 86400), source=source) for n in range(count)]
    lane = one.dispatchers.again(mails[0], parse(mails[0].raw)).lanes[mails[0].envelope.recipients[0]]
    for start in range(0, count, 500):
        await asyncio.gather(
            *(one.spool.put(m, lanes={m.envelope.recipients[0]: str(lane)}) for m in mails[start : start + 500])
        )
    one.runner.waits_in([lane])
    return [m.envelope.recipients[0] for m in mails]


async def step(one: Bench, seconds: float, times: int) -> None:
    for _ in range(times):
        one.clock.advance(seconds)
        await one.until(one._is_quiet_or_waits, 30)


async def test_six_hours_of_outage_cost_a_few_attempts_and_the_queue_drains_in_order_at_the_rate(
    bench: Make, clock: Any, api: Any
) -> None:
    end = clock.now() + 6 * HOUR
    provider = api(lambda now: BUSY if now < end else SENT, concurrency=10)
    with every_line() as lines:
        one = bench(
            providers=[provider],
            breaker=BreakerPolicy(),
            limits=LimitPolicy(rate=parse_rate("100/s")),
            retry=RetryPolicy(),
        )
        sent_to = await fill(one, 20_000)
        await one.until(lambda: not one.dispatcher.breaker.closed, 30)
        await one.until(one._is_quiet_or_waits, 30)
        while clock.now() < end - 1:
            await step(one, 15, 1)
        attempts = len(provider.at)
        provider.at.clear()
        began = clock.now()
        while sum(status != "sent" for status in (await one.spool.stats()).by_status) and clock.now() < began + HOUR:
            await step(one, 0.25, 40)

    print(f"attempts while it was down: {attempts}; drained in {clock.now() - began:.0f} s; first {provider.at[0]}")
    assert attempts < 10 + 6 * HOUR / 300 * 1.3 + 10  # the first ones, then a probe every five minutes
    times = [at for at, _ in provider.at]
    assert max(Counter(int((at - began) // 1) for at in times).values()) <= 100 * 1.05
    assert len({recipient for _, recipient in provider.at}) == len(provider.at) == 20_000
    order = [recipient for _, recipient in provider.at]
    places = {recipient: place for place, recipient in enumerate(sent_to)}
    late = [abs(places[recipient] - place) for place, recipient in enumerate(order[200:], 200)]
    assert (
        max(late) <= 100
    )  # the oldest first, but for what was tried while it was down and the slots beside each other
    assert times[-1] - times[0] <= 20_000 / 100 * 1.3 + 10  # the clock goes on by a quarter of a second at a time
    assert Counter(line["event"] for line in lines if line["event"].startswith("provider.")) == {
        "provider.breaker_opened": 1,
        "provider.breaker_closed": 1,
        "provider.resumed": 1,
    }


async def test_a_wrong_key_for_three_days_bounces_nothing_and_all_is_sent_when_it_is_right_again(
    bench: Make, clock: Any, api: Any
) -> None:
    end = clock.now() + 3 * 86400
    provider = api(lambda now: BAD_KEY if now < end else SENT, concurrency=2)
    with structlog.testing.capture_logs() as lines:
        one = bench(providers=[provider], breaker=BreakerPolicy(), retry=RetryPolicy())
        sent_to = await fill(one, 50)
        await one.until(one._is_quiet_or_waits)
        while clock.now() < end - 900:
            await step(one, 900, 1)
            await one.spool.expire(one.runner.idle_lanes(clock.now()), now=clock.now())
        assert set((await one.statuses()).values()) <= {"queued", "deferred"}
        for _ in range(15):
            await step(one, 100, 1)

    assert await one.statuses() == dict.fromkeys(sent_to, "sent")
    assert [line["event"] for line in lines if line["event"] == "provider.blocked"] == ["provider.blocked"]


async def test_after_a_block_what_is_left_of_the_lifetimes_is_what_was_left_before(bench: Make, clock: Any) -> None:
    start = clock.now()
    end = start + 3 * 86400
    provider = Timed(clock, lambda now: BAD_KEY if now < end else BUSY, concurrency=1)
    with structlog.testing.capture_logs():
        one = bench(providers=[provider], retry=RetryPolicy(), breaker=BreakerPolicy(failures=10**6))
        await fill(one, 3)
        await one.until(one._is_quiet_or_waits)
        while clock.now() < end + 86400:
            await step(one, 900, 1)
        assert set((await one.statuses()).values()) == {"deferred"}
        while clock.now() < end + 2.1 * 86400:
            await step(one, 900, 1)

    assert set((await one.statuses()).values()) == {"expired"}


async def test_mail_whose_time_is_over_during_an_outage_ends_with_its_last_reply(bench: Make, clock: Any) -> None:
    provider = Timed(clock, lambda now: BUSY, concurrency=2)
    with structlog.testing.capture_logs():
        one = bench(providers=[provider], breaker=BreakerPolicy(failures=2), retry=RetryPolicy())
        await fill(one, 6)
        await one.until(one._is_quiet_or_waits)
        while clock.now() < one.started + 2.2 * 86400:
            await step(one, 300, 1)
            ended = await one.spool.expire(one.runner.idle_lanes(clock.now()), now=clock.now())
            for queue_id, results in ended.items():
                one.recorder.tell(queue_id, results)

    assert set((await one.statuses()).values()) == {"expired"}
    replies = {(r["code"], r["enhanced"]) for r in await one.recipients()}
    assert replies <= {(451, "4.3.2"), (None, "")}


async def test_a_storm_of_429s_slows_it_down_and_loses_nothing(bench: Make, clock: Any) -> None:
    """The API takes five calls in a second and refuses the rest."""
    taken: Counter[int] = Counter()

    def answer(now: float) -> Outcome:
        taken[int(now)] += 1
        limited = Outcome(status="deferred", reply=BUSY.reply.safe(451, "4.4.5", "slow"), fault=BUSY.fault)
        return SENT if taken[int(now)] <= 5 else limited

    provider = Timed(clock, answer, concurrency=10)
    with structlog.testing.capture_logs():
        one = bench(providers=[provider], breaker=BreakerPolicy(), retry=RetryPolicy(jitter=0))
        await fill(one, 300)
        for _ in range(4000):
            await step(one, 0.25, 1)
            if not (await one.spool.stats()).by_status:
                break

    assert (await one.spool.stats()).by_status == {}
    refused = len(provider.at) - 300
    print(f"{refused} calls were refused for 300 messages")
    assert refused < 300 * 0.5
    assert one.dispatcher.breaker.closed


async def test_one_users_run_does_not_delay_anothers_password_reset(bench: Make, clock: Any, api: Any) -> None:
    provider = api(lambda now: SENT, concurrency=4)
    with structlog.testing.capture_logs():
        one = bench(providers=[provider], limits=LimitPolicy(rate=parse_rate("10/s")))
        await fill(one, 5000, source="newsletter", prefix="n")
        await step(one, 0.25, 8)
        before = len(provider.at)
        (reset,) = await fill(one, 1, source="shop", prefix="reset")
        put_at = clock.now()
        await step(one, 0.25, 20)

    ((sent_at, _),) = [(at, r) for at, r in provider.at if r == reset]
    place = [r for _, r in provider.at].index(reset)
    print(f"sent after {sent_at - put_at:.2f} s, {place - before} messages of the run went before it")
    assert sent_at - put_at <= 2
    assert place - before <= 12


async def test_two_users_under_load_share_alike(bench: Make, clock: Any, api: Any) -> None:
    provider = api(lambda now: SENT, concurrency=4)
    with structlog.testing.capture_logs():
        one = bench(providers=[provider], limits=LimitPolicy(rate=parse_rate("20/s")))
        await fill(one, 2000, source="big", prefix="big")
        await fill(one, 200, source="small", prefix="small")
        await step(one, 0.25, 60)

    shares = Counter("small" if r.startswith("small") else "big" for _, r in provider.at)
    assert abs(shares["small"] - shares["big"]) <= 0.1 * len(provider.at) + 4


async def test_when_it_is_back_it_is_not_met_by_everybody_at_once(bench: Make, clock: Any) -> None:
    end = clock.now() + 100
    gate: list[Any] = []

    class Counting(Timed):
        """Says how many calls ran beside each, from when it was back."""

        async def _answer(self, recipients: tuple[str, ...]) -> dict[str, Outcome]:
            self.running += 1
            try:
                await asyncio.sleep(0.002)
                if clock.now() >= end:
                    gate.append(self.running)
                return await super()._answer(recipients)
            finally:
                self.running -= 1

    provider = Counting(clock, lambda now: BUSY if now < end else SENT, concurrency=50)
    with structlog.testing.capture_logs():
        one = bench(providers=[provider], breaker=BreakerPolicy(), retry=RetryPolicy())
        await fill(one, 500)
        await one.until(one._is_quiet_or_waits)
        while (await one.spool.stats()).by_status and clock.now() < end + 400:
            await step(one, 1, 1)

    assert set((await one.statuses()).values()) == {"sent"}
    assert gate[0] == 1  # the probe
    assert max(gate[1:5]) <= 4
    assert max(gate) > 10
