"""How many messages may come in: the rule on values with a clock of ours, and what a client hears over a socket."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.model import Answer
from bridge.reply import Reply
from bridge.smtp import rates as rates_module
from bridge.smtp.rates import Rates, network_of
from bridge.smtp.replies import rate_limited
from bridge.units import parse_rate
from bridge.window import SLICES
from tests.delivery.conftest import every_line
from tests.smtp.raw import CAPTURE, ENVELOPE, HEADER, WHOLE, Raw, clients_end
from tests.smtp.test_limits import port_of, settled

__all__ = ["clients_end"]
NOBODY = "192.0.2.1"


class Now:
    """A clock that only we move."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def made(now: Now, *, client: str = "", users: Mapping[str, str] | None = None) -> Rates:
    per_user = {name: parse_rate(rate) for name, rate in (users or {}).items()}
    return Rates(per_user=per_user, per_client=parse_rate(client) if client else None, clock=now)


def takes(rates: Rates, client: str = NOBODY, *, most: int = 100_000) -> int:
    """How many more may come now."""
    return next(n for n in range(most) if rates.take("", client))


# --- the rule


@pytest.mark.parametrize(("rate", "period"), [("3/s", 1), ("3/m", 60), ("3/h", 3600), ("3/d", 86400)])
def test_so_many_may_come_in_a_period_and_the_next_hears_how_long_to_wait(rate: str, period: float) -> None:
    now = Now()
    rates = made(now, client=rate)

    assert takes(rates) == 3
    now.at += period / 2
    assert rates.take("", NOBODY) == pytest.approx(period / 2)
    now.at += rates.take("", NOBODY)
    assert takes(rates) == 3


@given(pauses=st.lists(st.floats(0, 20) | st.sampled_from([0.0, 0.299, 0.3, 0.301]), max_size=300))
def test_never_more_than_the_rate_in_any_period_and_never_less_than_a_hundredth_later(pauses: list[float]) -> None:
    now, taken, turns = Now(), [-math.inf] * 5, 5
    rates = made(now, client=f"{turns}/m")
    for pause in pauses:
        now.at += pause
        wait = rates.take("", NOBODY)
        exact = max(0.0, taken[-turns] + 60 - now.at)

        assert exact <= wait + 1e-9
        assert wait <= exact + 60 / 100
        if not wait:
            taken.append(now.at)


def test_a_large_rate_is_as_exact_and_its_memory_as_small() -> None:
    now = Now()
    rates = made(now, client="1000000/d")
    for _ in range(20_000):
        now.at += 86400 / 20_000
        for _ in range(50):
            assert rates.take("", NOBODY) == 0

    (counter,) = rates._clients.values()
    assert len(counter._ends) == len(counter._numbers) <= SLICES + 2
    assert 0 < rates.take("", NOBODY) <= 86400 / 100


def test_a_user_is_counted_alone_wherever_he_logs_in_and_others_by_their_address() -> None:
    rates = made(Now(), client="1/m", users={"shop": "1/m"})

    assert rates.take("shop", NOBODY) == 0
    assert rates.take("shop", "192.0.2.2") > 0
    assert rates.take("", NOBODY) == 0
    assert rates.take("", NOBODY) > 0
    assert rates.take("", "192.0.2.2") == 0
    assert [rates.take("nolimit", NOBODY) for _ in range(9)] == [0] * 9


def test_without_a_rate_for_clients_only_users_are_counted() -> None:
    rates = made(Now(), users={"shop": "1/m"})

    assert [rates.take("", NOBODY) for _ in range(9)] == [0] * 9
    rates.give_back("", NOBODY)
    assert rates.take("shop", NOBODY) == 0
    assert rates.take("shop", NOBODY) > 0


@pytest.mark.parametrize(
    ("client", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_one_customer_is_one_client(client: str, network: str) -> None:
    assert network_of(client) == network


def test_a_turn_given_back_may_be_taken_again_and_no_more_than_was_taken() -> None:
    now = Now()
    rates = made(now, client="2/m")
    assert takes(rates) == 2

    rates.give_back("", NOBODY)
    assert takes(rates) == 1
    for _ in range(5):
        rates.give_back("", NOBODY)
    assert takes(rates) == 2


def test_a_turn_given_back_too_late_is_nobody_s() -> None:
    now = Now()
    rates = made(now, client="2/m")
    takes(rates)
    now.at += 61
    rates.take("", "192.0.2.9")  # NOBODY is forgotten meanwhile

    rates.give_back("", NOBODY)

    assert takes(rates) == 2


def test_a_clock_set_back_neither_opens_the_gate_nor_locks_anybody_out() -> None:
    now = Now()
    rates = made(now, client="2/m")
    assert takes(rates) == 2

    now.at -= 500
    assert 59 < rates.take("", NOBODY) <= 60
    now.at += 60
    assert takes(rates) == 2


def test_idle_clients_are_forgotten() -> None:
    now = Now()
    rates = made(now, client="5/m")
    for number in range(100):
        rates.take("", f"198.51.100.{number}")
    now.at += 60

    rates.take("", NOBODY)

    assert list(rates._clients) == [NOBODY]


def test_a_flood_of_clients_pushes_out_those_that_were_silent_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates_module, "MAX_CLIENTS", 10)
    now = Now()
    rates = made(now, client="1/h")
    rates.take("", NOBODY)
    for number in range(500):
        now.at += 1
        rates.take("", f"2001:db8:{number:x}::1")
        assert rates.take("", NOBODY) > 0

    assert len(rates._clients) == 10
    assert rates.take("", "2001:db8:1f3::2") > 0
    assert rates.take("", "2001:db8:1::1") == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.001, "1 s"),
        (36, "36 s"),
        (35.2, "36 s"),
        (119.5, "2 min"),
        (121, "3 min"),
        (7000, "117 min"),
        (86400, "24 h"),
    ],
)
def test_the_time_to_wait_is_told_as_people_say_it(seconds: float, text: str) -> None:
    assert rate_limited(seconds) == Reply(451, "4.7.1", f"Rate limit exceeded, try again in {text}")


# --- over a socket


@pytest.fixture
def now() -> Now:
    return Now()


async def limited(start_daemon: Any, now: Now, *, client: str = "", **variables: str) -> tuple[Any, Raw]:
    daemon = await start_daemon(**CAPTURE, **variables)
    daemon.listeners[0].service.rates = made(now, client=client or "1/h", users={"shop": "1/h"})
    return daemon, await Raw.greeted(port_of(daemon))


async def send(raw: Raw) -> None:
    raw.send(WHOLE)
    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")


async def may_send(raw: Raw) -> bool:
    reply = await raw.say("MAIL FROM:<a@example.com>")
    assert reply.startswith(("250 2.1.0", "451 4.7.1")), reply
    await raw.say("RSET")
    return reply.startswith("250")


async def test_beyond_the_rate_mail_is_451_until_the_time_has_passed(start_daemon: Any, now: Now) -> None:
    _, raw = await limited(start_daemon, now, client="2/m")
    await send(raw)
    now.at += 24
    await send(raw)

    assert await raw.say("MAIL FROM:<a@example.com>") == "451 4.7.1 Rate limit exceeded, try again in 36 s"
    now.at += 36
    await send(raw)


async def test_beyond_the_rate_is_no_error_of_a_client_that_pipelines(start_daemon: Any, now: Now) -> None:
    _, raw = await limited(start_daemon, now, SMTP_BRIDGE_SMTP__MAX_ERRORS="3")
    await send(raw)

    for _ in range(10):
        raw.send(b"MAIL FROM:<a@example.com>\r\n" + b"RCPT TO:<b@example.org>\r\n" * 3 + b"DATA\r\n")
        await raw.expect("451 4.7.1", *["503 5.5.1"] * 4)
    assert (await raw.say("NOOP")).startswith("250")

    await raw.say("RSET")  # whoever begins anew without MAIL is mistaken again
    for _ in range(3):
        await raw.say("RCPT TO:<b@example.org>")
    await raw.expect("421 4.7.0 Too many errors")


async def test_a_message_beyond_the_rate_is_one_warning(start_daemon: Any, now: Now) -> None:
    _, raw = await limited(start_daemon, now)
    await send(raw)

    with every_line() as lines:
        raw.send(ENVELOPE + b"DATA\r\n")
        await raw.expect("451 4.7.1", "503", "503")

    (line,) = [line for line in lines if line["event"] == "message.rejected"]
    assert line["log_level"] == "warning"
    assert (line["code"], line["enhanced"], line["client"]) == (451, "4.7.1", "127.0.0.1")
    assert line["reverse_path"] == "ann@example.com"


async def test_the_rate_comes_after_all_other_checks(start_daemon: Any, now: Now) -> None:
    _, raw = await limited(start_daemon, now)
    await send(raw)

    assert (await raw.say("MAIL FROM:<a b@example.com>")).startswith("501")
    assert (await raw.say("MAIL FROM:<a@example.com> SIZE=999999999")).startswith("552")


@pytest.mark.parametrize("end", ["RSET", "EHLO again.example", "HELO again.example", "QUIT", "close", "reset"])
async def test_a_transaction_without_a_message_costs_no_turn(end: str, start_daemon: Any, now: Now) -> None:
    daemon, raw = await limited(start_daemon, now)
    await raw.say("MAIL FROM:<a@example.com>")
    assert not await may_send(other := await Raw.greeted(port_of(daemon)))

    if end == "close":
        raw.close()
    elif end == "reset":
        raw.reset()
    else:
        await raw.say(end)
    if end in ("QUIT", "close", "reset"):
        await settled(daemon, 1)

    assert await may_send(other)


async def test_data_that_is_refused_or_cut_off_costs_no_turn(start_daemon: Any, now: Now) -> None:
    daemon, raw = await limited(start_daemon, now, SMTP_BRIDGE_SMTP__MAX_MESSAGE_SIZE="1000")
    await raw.begin_data()
    raw.send(b"x" * 2000 + b"\r\n.\r\n")
    await raw.expect("552 5.3.4")
    assert await may_send(raw)

    daemon.submission.submit = Door(Reply(554, "5.6.0", "No"))
    await raw.begin_data()
    raw.send(HEADER + b".\r\n")
    await raw.expect("554 5.6.0")
    assert await may_send(raw)

    await raw.begin_data()
    raw.send(HEADER + b"half")
    raw.close()
    await settled(daemon)
    assert await may_send(await Raw.greeted(port_of(daemon)))


class Door:
    """A door to the spool that gives everybody this answer, once it is `open`."""

    def __init__(self, reply: Reply, *, open: bool = True, by_recipient: Mapping[str, Reply] | None = None) -> None:
        self._answer = Answer(reply=reply, by_recipient=by_recipient or {})
        self.knocked, self.open = asyncio.Event(), asyncio.Event()
        self.tasks: set[asyncio.Task[Answer]] = set()
        if open:
            self.open.set()

    def __call__(self, *args: Any, **named: Any) -> asyncio.Task[Answer]:
        self.knocked.set()
        task = asyncio.create_task(self._take())
        self.tasks.add(task)
        return task

    async def _take(self) -> Answer:
        await self.open.wait()
        return self._answer


@pytest.mark.parametrize(("reply", "free"), [(Reply(250, "2.0.0", "Ok"), False), (Reply(451, "4.4.2", "Gone"), True)])
async def test_whether_a_message_counts_does_not_depend_on_the_client_waiting_for_its_answer(
    reply: Reply, free: bool, start_daemon: Any, now: Now
) -> None:
    daemon, raw = await limited(start_daemon, now)
    daemon.submission.submit = door = Door(reply, open=False)
    await raw.begin_data()
    raw.send(HEADER + b".\r\n")
    await door.knocked.wait()
    raw.reset()
    await settled(daemon)

    other = await Raw.greeted(port_of(daemon))
    assert not await may_send(other)
    door.open.set()
    await asyncio.wait(door.tasks)
    assert await may_send(other) is free


async def test_a_message_that_lmtp_takes_for_one_recipient_counts(start_daemon: Any, now: Now) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__PROTOCOL="lmtp")
    daemon.listeners[0].service.rates = made(now, client="1/h")
    bad, good = Reply(550, "5.1.1", "No"), Reply(250, "2.0.0", "Ok")
    daemon.submission.submit = Door(bad, by_recipient={"ann@example.org": bad, "bob@example.org": good})
    raw = await Raw.connect(port_of(daemon))

    raw.send(b"LHLO x\r\n" + ENVELOPE + b"RCPT TO:<ann@example.org>\r\nDATA\r\n" + HEADER + b".\r\n")
    await raw.expect("220", "250", "250", "250", "250", "354", "250 2.0.0", "550 5.1.1")

    assert not await may_send(raw)


async def test_a_login_changes_whose_rate_it_is(start_daemon: Any, now: Now, secret_hash: str) -> None:
    daemon, raw = await limited(
        start_daemon,
        now,
        SMTP_BRIDGE_SMTP__LISTENER__AUTH_WITHOUT_TLS="true",
        SMTP_BRIDGE_USER__NAME="shop",
        SMTP_BRIDGE_USER__PASSWORD_HASH=secret_hash,
    )
    login = f"AUTH PLAIN {base64.b64encode(b'%cshop%csecret' % (0, 0)).decode()}"
    await send(raw)
    assert not await may_send(raw)

    assert (await raw.say(login)).startswith("235")
    await send(raw)

    other = await Raw.greeted(port_of(daemon))
    assert (await other.say(login)).startswith("235")
    assert not await may_send(other)


async def test_the_settings_make_the_rates(start_daemon: Any, secret_hash: str) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__RATE_PER_CLIENT="2/h")
    raw = await Raw.greeted(port_of(daemon))
    await send(raw)
    await send(raw)

    assert (await raw.say("MAIL FROM:<a@example.com>")).startswith("451 4.7.1 Rate limit exceeded, try again in 60 min")
