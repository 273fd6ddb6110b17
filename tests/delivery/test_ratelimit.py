"""The limiter's rules, on values; time is a number."""

from __future__ import annotations

import calendar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.delivery.ratelimit import Counted, Limiter, LimitPolicy
from bridge.units import parse_rate
from bridge.window import Window

NOON = float(calendar.timegm((2026, 3, 30, 12, 0, 0)))
DAY = 86400.0


def limiter(**policy: object) -> Limiter:
    rates = {name: parse_rate(value) if isinstance(value, str) else value for name, value in policy.items()}
    return Limiter(LimitPolicy(**rates))  # type: ignore[arg-type]


def send_for(one: Limiter, seconds: float, start: float = NOON, step: float = 0.01) -> list[float]:
    """The moments at which a queue that never ends would send."""
    now, sent = start, []
    while now < start + seconds:
        wait = one.wait(now)
        if wait > 0:
            now += max(wait, 1e-6)
            continue
        one.take(now)
        sent.append(now)
        now += step
    return sent


def most_in_any(moments: list[float], period: float) -> int:
    return max(sum(begin <= at < begin + period for at in moments) for begin in moments)


@pytest.mark.parametrize(
    ("rate", "period", "count"), [("10/s", 1, 10), ("7/m", 60, 7), ("3/h", 3600, 3), ("5/d", DAY, 5)]
)
def test_never_more_than_the_rate_in_any_period_and_no_less_than_nine_tenths_of_it(
    rate: str, period: float, count: int
) -> None:
    moments = send_for(limiter(rate=rate), 6 * period, step=period / 1000)

    assert most_in_any(moments, period) == count
    assert len(moments) >= 0.9 * 6 * count


@settings(max_examples=60)
@given(
    count=st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 5)), min_size=1, max_size=150),
)
def test_a_window_is_never_overfilled(count: int, steps: list[tuple[float, int]]) -> None:
    window, now, taken = Window(count, 1.0), NOON, []
    for pause, number in steps:
        now += pause
        if window.wait(now, number) <= 0 and number <= count:
            window.add(now, number)
            taken += [now] * number

    assert all(sum(begin <= at < begin + 1.0 for at in taken) <= count for begin in taken)


@given(number=st.integers(1, 40))
def test_after_the_wait_there_is_room(number: int) -> None:
    window = Window(40, 60.0)
    for n in range(40):
        window.add(NOON + n)

    wait = window.wait(NOON + 40, number)
    assert window.room(NOON + 40 + wait - 1) < number
    assert window.room(NOON + 40 + wait + 1e-6) >= number


def test_its_memory_is_bounded() -> None:
    window = Window(10**6, DAY)
    for n in range(50_000):
        window.add(NOON + n)

    assert len(window._ends) <= 202


def test_messages_and_calls_are_counted_apart() -> None:
    one = limiter(rate="10/s", call_rate="2/s")
    one.take(NOON, 4)
    assert one.wait(NOON) == 0
    one.take(NOON, 4)
    assert one.wait(NOON) > 0.9  # two calls, although two messages were left
    one = limiter(rate="10/s", call_rate="5/s")
    one.take(NOON, 10)

    assert one.wait(NOON) > 0.9


def test_a_daily_cap_waits_for_midnight_utc_and_a_monthly_one_for_the_first() -> None:
    one = limiter(max_per_day=2)
    one.take(NOON, 2)
    assert one.wait(NOON) == DAY / 2
    assert one.wait(NOON + DAY / 2) == 0
    one = limiter(max_per_month=2)
    one.take(NOON, 2)

    assert one.wait(NOON) == 1.5 * DAY  # March has 31 days
    assert one.wait(NOON + 1.5 * DAY) == 0


def test_the_end_of_the_year_is_the_end_of_a_month() -> None:
    one, silvester = limiter(max_per_month=1), float(calendar.timegm((2026, 12, 31, 23, 0, 0)))
    one.take(silvester)

    assert one.wait(silvester) == 3600
    assert one.wait(silvester + 3600) == 0


def test_a_warm_up_doubles_every_day_until_the_rate_is_reached() -> None:
    one, a_day = limiter(warmup="50/d", rate="100/h"), []
    for n in range(8):
        now = NOON + n * DAY
        a_day.append(one.day_limit(now))
        one.take(now)

    assert a_day == [50, 100, 200, 400, 800, 1600, 0, 0]  # 2400 a day is the rate


def test_a_warm_up_ends_at_the_cap_and_begins_with_the_first_mail() -> None:
    one = limiter(warmup="50/d", max_per_day=120)
    assert one.day_limit(NOON - 100 * DAY) == 50
    one.take(NOON)

    assert [one.day_limit(NOON + n * DAY) for n in range(4)] == [50, 100, 120, 120]


def test_what_was_counted_survives_as_a_text() -> None:
    one = limiter(max_per_day=10, warmup="5/d")
    one.take(NOON, 3)
    text = one.counted.text()

    again = Limiter(one.policy, Counted.parse(text))
    assert again.counted == one.counted
    assert again.room(NOON) == 2


@pytest.mark.parametrize("text", ["", "x", "2026-03-30 x 2026-03 1 -", "1 2 3"])
def test_a_text_that_cannot_be_read_counts_nothing(text: str) -> None:
    assert Counted.parse(text) == Counted()


def test_a_429_stops_it_for_as_long_as_was_asked_for() -> None:
    one = limiter()
    one.congested(NOON, 30)

    assert one.wait(NOON) == 30
    assert one.wait(NOON + 30) <= 0


def test_without_a_time_the_pauses_grow_to_a_minute() -> None:
    one, now, pauses = limiter(), NOON, []
    for _ in range(8):
        one.congested(now, None)
        pauses.append(one.wait(now))
        now += one.wait(now)

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_several_429s_of_one_moment_are_one_lesson() -> None:
    one = limiter()
    for _ in range(10):
        one.congested(NOON, None)

    assert one.wait(NOON) == 1


def test_after_a_429_calls_are_spaced_until_enough_of_them_went_well() -> None:
    one = limiter()
    before = send_for(one, 2, step=0.01)
    one.congested(NOON + 2, 1)
    after = send_for(one, 10, start=NOON + 3, step=0.001)
    assert len(before) / 2 > 1.5 * len(after) / 10
    for _ in range(500):
        one.went_well()

    assert len(send_for(one, 2, start=NOON + 30, step=0.01)) == len(before)


def test_a_header_that_says_no_calls_are_left_is_believed() -> None:
    one = limiter()
    one.told(3, 20, NOON)
    assert one.wait(NOON) == 0
    one.told(0, 20, NOON)
    assert one.wait(NOON) == 20
    one.told(0, 1e9, NOON + 100)

    assert one.wait(NOON + 100) == 0  # nobody's rate limit lasts for years


def test_a_provider_that_asks_for_years_is_tried_after_an_hour_and_when_the_operator_says_so() -> None:
    one = limiter()
    one.congested(NOON, 3e8)
    assert one.wait(NOON) == 3600
    one.hurry()

    assert one.wait(NOON) <= 1.0


def test_a_429_without_a_pause_is_one_lesson_for_all_that_are_under_way() -> None:
    one = limiter()
    for _ in range(10):
        one.congested(NOON, 0)

    assert one.wait(NOON) == 1
    assert one._spacing <= 1


def test_after_a_reload_the_limits_go_on_counting() -> None:
    one, other = limiter(rate="2/h"), limiter(rate="2/h", max_per_day=10)
    one.take(NOON, 2)
    other.inherit(one)

    assert other.wait(NOON) > 3500
    changed = limiter(rate="5/h")
    changed.inherit(one)
    assert changed.wait(NOON) == 0
