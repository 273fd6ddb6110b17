"""How fast passwords may be tried: the rule on values with a clock of ours, and what guessing and others get over a socket."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import math
import signal
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.smtp import throttle as throttle_module
from bridge.smtp.auth import Authenticator, User
from bridge.smtp.throttle import MAX_NAMES, MAX_WAITING, Attempt, Crowded, Throttle
from tests.delivery.conftest import every_line
from tests.smtp.raw import CAPTURE, Raw, clients_end
from tests.smtp.test_limits import port_of, settled
from tests.smtp.test_rates import Now

__all__ = ["clients_end"]
HERE, THERE = "192.0.2.1", "192.0.2.2"


def made(now: Now, *, delay: float = 1.0, maximum: float = 30.0, forget: float = 900.0) -> Throttle:
    return Throttle(delay_s=delay, maximum_s=maximum, forget_s=forget, clock=now)


def enter(throttle: Throttle, name: str = "ann", client: str = HERE, *, patience: float = 300.0) -> Attempt:
    return throttle.enter(name, client, patience_s=patience, changed=lambda: None)


def attempt(throttle: Throttle, now: Now, name: str = "ann", client: str = HERE, *, good: bool = False) -> float:
    """Waited for and checked; the seconds it had to wait, or inf when it was not let in."""
    mine, began = enter(throttle, name, client), now.at
    try:
        while seconds := throttle.ask(mine):
            now.at += seconds
    except Crowded:
        throttle.leave(mine)
        return math.inf
    throttle.leave(mine, good=good)
    return now.at - began


def wait_of(throttle: Throttle, name: str = "ann", client: str = HERE) -> float:
    """What somebody who came now would have to wait; he goes away again."""
    mine = enter(throttle, name, client)
    try:
        return throttle.ask(mine)
    except Crowded:
        return math.inf
    finally:
        throttle.leave(mine)


# --- the rule


def test_each_failure_doubles_the_wait_up_to_the_ceiling_and_time_forgets_them() -> None:
    now = Now()
    throttle = made(now)

    assert [attempt(throttle, now) for _ in range(9)] == [0, 1, 2, 4, 8, 16, 30, 30, 30]
    now.at += 899
    assert attempt(throttle, now) == 0
    assert wait_of(throttle) == 30
    now.at += 900
    assert wait_of(throttle) == 0
    assert [attempt(throttle, now) for _ in range(3)] == [0, 1, 2]


@settings(max_examples=50)
@given(
    st.floats(0.001, 100),
    st.floats(1, 1000),
    st.lists(st.tuples(st.sampled_from(["ann", "bob", "eve"]), st.floats(0, 50), st.floats(0, 5)), max_size=30),
)
def test_no_guess_begins_before_its_wait_is_over_and_the_wait_never_shrinks(
    delay: float, times: float, guesses: list[tuple[str, float, float]]
) -> None:
    now = Now()
    throttle = made(now, delay=delay, maximum=delay * times, forget=1e9)
    told, failures = -math.inf, 0
    for name, pause, lasts in guesses:
        now.at += pause
        mine = enter(throttle, name, patience=math.inf)
        while seconds := throttle.ask(mine):
            assert seconds <= delay * times + 1e-6
            now.at += seconds
        assert now.at - told >= throttle.delay(failures) - 1e-6
        now.at += lasts
        throttle.leave(mine, good=False)
        told, failures = now.at, failures + 1

        assert throttle.delay(failures - 1) <= throttle.delay(failures) <= delay * times


@settings(max_examples=30)
@given(st.lists(st.booleans(), max_size=40), st.integers(2, 12))
def test_parallel_guesses_gain_nothing(early: list[bool], parallel: int) -> None:
    """However many ask at once, checks begin as far apart as if one client guessed alone."""
    now = Now()
    throttle = made(now)
    alone, begun = [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 61.0, 91.0], []
    waiting = [enter(throttle) for _ in range(parallel)]
    for is_early in [*early, *([False] * 40)]:
        for mine in list(waiting):
            if wait := wait_or_not(throttle, mine):
                if wait == math.inf:
                    throttle.leave(mine)
                    waiting.remove(mine)
                continue
            begun.append(now.at - 1000.0)
            assert all(wait_or_not(throttle, other) > 0 for other in waiting if other is not mine)
            throttle.leave(mine, good=False)
            waiting.remove(mine)
        waiting += [enter(throttle) for _ in range(parallel - len(waiting))]
        now.at += 0.25 if is_early else 1.0
    assert all(at >= best for at, best in zip(begun, alone, strict=False))
    assert len(begun) <= len(alone)


def test_behind_a_failure_only_a_few_wait_and_none_longer_than_the_ceiling() -> None:
    now = Now()
    throttle = made(now, maximum=1000)
    attempt(throttle, now)
    crowd = [enter(throttle) for _ in range(20)]

    assert [wait_or_not(throttle, one) for one in crowd] == [1] * MAX_WAITING + [math.inf] * (20 - MAX_WAITING)

    short = made(now, maximum=10)
    attempt(short, now)
    # Each is expected to fail: 1, 1 + 2, 1 + 2 + 4, and 1 + 2 + 4 + 8 is too long.
    assert [wait_or_not(short, one) for one in [enter(short) for _ in range(4)]] == [1, 1, 1, math.inf]


def wait_or_not(throttle: Throttle, mine: Attempt) -> float:
    try:
        return throttle.ask(mine)
    except Crowded:
        return math.inf


def test_nobody_is_sent_away_where_nobody_failed() -> None:
    """A program that opens its forty connections at once, all with the right password."""
    now = Now()
    throttle = made(now)
    crowd = [enter(throttle) for _ in range(40)]
    for one in crowd:
        assert throttle.ask(one) == 0
        assert all(throttle.ask(other) > 0 for other in crowd if not other.began)
        throttle.leave(one, good=True)

    assert throttle.is_free("ann", HERE)


def test_who_cannot_wait_as_long_is_told_at_once_and_who_waited_too_long_too() -> None:
    now = Now()
    throttle = made(now)
    for _ in range(3):
        attempt(throttle, now)
    with pytest.raises(Crowded):
        throttle.ask(enter(throttle, patience=3.9))

    busy = made(now)
    assert busy.ask(enter(busy)) == 0
    mine = enter(busy)
    assert busy.ask(mine) == 30
    now.at += 30
    with pytest.raises(Crowded):
        busy.ask(mine)


def test_a_failure_holds_up_the_client_for_all_names_and_the_name_for_all_clients_and_nobody_else() -> None:
    now = Now()
    throttle = made(now)
    attempt(throttle, now, "ann", HERE)

    assert wait_of(throttle, "bob", HERE) == 1
    assert wait_of(throttle, "ann", THERE) == 1
    assert throttle.is_free("bob", THERE)
    assert not throttle.is_free("bob", HERE)
    assert not throttle.is_free("ann", THERE)


def test_who_logged_in_from_there_is_not_held_up_by_failures_on_his_name_elsewhere() -> None:
    now = Now()
    throttle = made(now)
    attempt(throttle, now, "ann", HERE, good=True)
    for _ in range(8):
        attempt(throttle, now, "ann", THERE)
    running = enter(throttle, "ann", THERE)
    now.at += 30
    assert throttle.ask(running) == 0

    assert throttle.is_free("ann", HERE)
    assert wait_of(throttle, "ann", HERE) == 0
    attempt(throttle, now, "bob", HERE)
    assert throttle.is_free("ann", HERE)
    assert wait_of(throttle, "ann", HERE) == 0
    assert wait_of(throttle, "new", HERE) == 1


def test_who_is_known_there_waits_for_his_own_failures_longer_each_time() -> None:
    now = Now()
    throttle = made(now)
    attempt(throttle, now, "ann", HERE, good=True)
    waits = []
    for _ in range(7):
        attempt(throttle, now, "ann", HERE)
        waits.append(wait_of(throttle, "ann", HERE))
    assert not throttle.is_free("ann", HERE)
    attempt(throttle, now, "ann", HERE, good=True)

    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert throttle.is_free("ann", HERE)


def test_a_failure_of_one_who_is_known_there_counts_for_his_name_too() -> None:
    now = Now()
    throttle = made(now)
    attempt(throttle, now, "ann", HERE, good=True)
    attempt(throttle, now, "ann", HERE)

    assert wait_of(throttle, "ann", THERE) == 1


def test_a_login_takes_back_its_own_failures_and_no_others() -> None:
    now = Now()
    throttle = made(now)
    for _ in range(3):
        attempt(throttle, now, "ann")
    attempt(throttle, now, "bob")
    assert wait_of(throttle, "eve") == 8
    attempt(throttle, now, "ann", good=True)

    assert wait_of(throttle, "eve") == 0  # 8 s of waiting have covered the one failure that is left
    assert attempt(throttle, now, "eve") == 0
    assert wait_of(throttle, "eve") == 2
    assert throttle.is_free("ann", THERE)
    attempt(throttle, now, "bob", good=True)
    attempt(throttle, now, "eve", good=True)
    assert throttle.is_free("anybody", HERE)


@given(st.integers(1, 30))
def test_an_account_of_ones_own_gives_no_more_guesses_at_others(rounds: int) -> None:
    now, alone = Now(), Now()
    throttle, other = made(now), made(alone)
    for _ in range(rounds):
        attempt(throttle, now, "ann")
        attempt(throttle, now, "mallory")
        attempt(throttle, now, "mallory", good=True)
        attempt(other, alone, "ann")

    assert wait_of(throttle) <= throttle.delay(rounds)
    assert now.at >= alone.at


def test_no_check_counts_as_nothing() -> None:
    now = Now()
    throttle = made(now)
    mine = enter(throttle)
    assert throttle.ask(mine) == 0
    throttle.leave(mine)
    throttle.leave(enter(throttle))

    assert throttle.is_free("ann", HERE)
    assert not throttle._clients
    assert not throttle._names


def test_who_waits_is_told_when_the_one_before_is_through() -> None:
    now, told = Now(), []
    throttle = made(now)
    first = enter(throttle)
    second = throttle.enter("ann", HERE, patience_s=9, changed=lambda: told.append(1))
    assert throttle.ask(first) == 0
    throttle.leave(enter(throttle))
    assert not told
    throttle.leave(first, good=True)

    assert told
    assert throttle.ask(second) == 0


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle_module, "MAX_LINES", 20)
    now = Now()
    throttle = made(now)
    for number in range(200):
        attempt(throttle, now, f"name{number}", f"client{number}")
        attempt(throttle, now, f"other{number}", HERE, good=number % 2 == 0)

    assert len(throttle._clients) <= 20
    assert len(throttle._names) <= 20
    assert len(throttle._welcome) <= 20
    assert all(len(line.names) <= MAX_NAMES for line in throttle._clients.values())
    assert wait_of(throttle, "new", HERE) == 30
    now.at += 1000
    attempt(throttle, now, "one", "more")
    assert len(throttle._clients) == 1


# --- over a socket


OPEN = {
    **CAPTURE,
    "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": "0.0.0.0:0",
    "SMTP_BRIDGE_SMTP__LISTENER__AUTH_WITHOUT_TLS": "true",
    "SMTP_BRIDGE_SMTP__LISTENER__AUTH_MECHANISMS": "PLAIN,LOGIN,CRAM-MD5",
    "SMTP_BRIDGE_SMTP__LISTENER__REQUIRE_AUTH": "true",
    "SMTP_BRIDGE_USER__NAME": "ann",
    "SMTP_BRIDGE_USER__PASSWORD": "secret",
}


def slowed(delay: str, maximum: str = "30s", **more: str) -> dict[str, str]:
    return {**OPEN, "SMTP_BRIDGE_SMTP__AUTH_DELAY": delay, "SMTP_BRIDGE_SMTP__AUTH_DELAY_MAXIMUM": maximum, **more}


def plain(name: str, password: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{name}\0{password}".encode()).decode()


async def greeted(daemon: Any, host: str = "127.0.0.1") -> Raw:
    streams = await asyncio.open_connection("127.0.0.1", port_of(daemon), local_addr=(host, 0))
    raw = Raw(*streams)
    await raw.expect("220")
    assert (await raw.say("EHLO x")).startswith("250")
    return raw


class Guesses:
    """Connections of one client that guess as fast as they are answered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.checked = self.refused = 0

    async def run(self, daemon: Any, host: str, until: float) -> None:
        while time.monotonic() < until:
            raw = await greeted(daemon, host)
            while time.monotonic() < until and (reply := await raw.say(plain(self.name, "wrong"))):
                self.checked += reply.startswith("535 5.7.8")
                self.refused += reply.startswith("454 4.7.0")
                assert reply[:3] in ("535", "454", "421")
                await asyncio.sleep(0.005)
            raw.close()


@pytest.mark.parametrize("name", ["ann", "nobody"])
async def test_guessing_over_twenty_connections_gets_no_more_checks_than_over_one(
    name: str, start_daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start_daemon(**slowed("0.05s", "0.2s"))
    other, known = await greeted(daemon, "127.0.0.2"), await greeted(daemon, "127.0.0.3")
    assert (await known.say(plain("ann", "secret"))).startswith("235")
    checks = 0
    check = Authenticator.check_password

    async def counted(self: Authenticator, *args: Any) -> User | None:
        nonlocal checks
        checks += 1
        return await check(self, *args)

    monkeypatch.setattr(Authenticator, "check_password", counted)
    started = time.monotonic()
    guesses = Guesses(name)
    crowd = [asyncio.create_task(guesses.run(daemon, "127.0.0.1", started + 0.6)) for _ in range(20)]
    await asyncio.sleep(0.3)
    again = await greeted(daemon, "127.0.0.3")
    assert (await again.say(plain("ann", "secret"))).startswith("235")  # known from there
    assert (await other.say(plain("bob", "x"))).startswith("535")  # a name nobody else tries, from somewhere else
    await asyncio.gather(*crowd)
    took = time.monotonic() - started

    # 0, 0.05, 0.15, and then every 0.2 s, and the other's.
    assert 3 <= guesses.checked <= checks <= 3 + took / 0.2 + 1 + 1
    assert guesses.refused > 20


async def test_one_name_from_twenty_clients_is_one_line(start_daemon: Any) -> None:
    daemon = await start_daemon(**slowed("0.05s", "0.2s"))
    started = time.monotonic()
    guesses = Guesses("ann")
    await asyncio.gather(*(guesses.run(daemon, f"127.0.1.{n}", started + 0.4) for n in range(1, 21)))

    assert 2 <= guesses.checked <= 3 + (time.monotonic() - started) / 0.2 + 1


async def test_unknown_names_hear_and_wait_what_known_ones_do(start_daemon: Any) -> None:
    daemon, found = await start_daemon(**slowed("0.04s")), []
    for name, host in (("ann", "127.0.0.1"), ("nobody", "127.0.0.2")):
        raw, replies, times = await greeted(daemon, host), [], []
        for _ in range(4):
            before = time.monotonic()
            replies.append(await raw.say(plain(name, "wrong")))
            times.append(time.monotonic() - before)
        found.append(replies)
        assert all(took >= least for took, least in zip(times, (0, 0.04, 0.08, 0.16), strict=True))

    assert found[0] == found[1] == ["535 5.7.8 Authentication credentials invalid"] * 4


async def cram(raw: Raw, name: str, secret: str) -> str:
    challenge = base64.b64decode((await raw.say("AUTH CRAM-MD5"))[4:])
    digest = hmac.new(secret.encode(), challenge, hashlib.md5).hexdigest()
    return await raw.say(base64.b64encode(f"{name} {digest}".encode()).decode())


async def test_cram_md5_waits_in_the_same_line(start_daemon: Any) -> None:
    daemon = await start_daemon(**slowed("0.1s"))
    raw = await greeted(daemon)
    assert (await raw.say(plain("ann", "wrong"))).startswith("535")
    before = time.monotonic()
    assert (await cram(raw, "bob", "wrong")).startswith("535")
    assert time.monotonic() - before >= 0.1
    before = time.monotonic()
    assert (await cram(raw, "ann", "secret")).startswith("235")
    assert time.monotonic() - before >= 0.2


async def test_a_right_password_waits_too_and_without_failures_never(start_daemon: Any) -> None:
    daemon = await start_daemon(**slowed("0.3s"))
    for _ in range(5):
        assert (await (await greeted(daemon)).say(plain("ann", "secret"))).startswith("235")
    raw = await greeted(daemon)
    before = time.monotonic()
    assert (await raw.say(plain("ann", "wrong"))).startswith("535")
    raw.send(plain("ann", "secret").encode() + b"\r\nNOOP\r\n")  # what is pipelined waits as well
    await raw.expect("235")
    assert time.monotonic() - before >= 0.3
    await raw.expect("250 2.0.0")


async def test_a_wait_beyond_the_ceiling_or_the_time_out_is_454_and_logged_once_a_session(start_daemon: Any) -> None:
    daemon = await start_daemon(**slowed("2s", SMTP_BRIDGE_SMTP__TIMEOUT="1s", SMTP_BRIDGE_SMTP__MAX_JUNK_COMMANDS="4"))
    raw = await greeted(daemon)
    with every_line() as lines:
        assert (await raw.say(plain("ann", "wrong"))).startswith("535")
        for _ in range(3):
            assert (await raw.say(plain("ann", "secret"))) == "454 4.7.0 Too many failed logins, try again later"
        raw.send(plain("ann", "secret").encode() + b"\r\n")
        await raw.expect("454", "421 4.7.0")
    events = [line for line in lines if line["event"] == "connection.auth"]

    assert [(line["log_level"], line.get("reason")) for line in events] == [
        ("warning", None),
        ("warning", "throttled"),
        *[("debug", "throttled")] * 3,
    ]


async def test_too_many_failures_end_the_session_all_the_same(start_daemon: Any) -> None:
    daemon = await start_daemon(**slowed("1ms", SMTP_BRIDGE_SMTP__MAX_ERRORS="3"))
    raw = await greeted(daemon)
    raw.send((plain("ann", "wrong") + "\r\n").encode() * 4)

    await raw.expect("535", "535", "535", "421 4.7.0")
    await raw.expect_end()


@pytest.mark.parametrize("how", ["reset", "half-close"])
async def test_a_client_that_hangs_up_while_it_waits_leaves_the_line(how: str, start_daemon: Any) -> None:
    daemon = await start_daemon(**slowed("20s"))
    raw = await greeted(daemon)
    assert (await raw.say(plain("ann", "wrong"))).startswith("535")
    (line,) = daemon.services[0].logins.throttle._clients.values()
    raw.send(plain("ann", "secret").encode() + b"\r\nQUIT\r\n")
    async with asyncio.timeout(5):
        while not line.waiting:
            await asyncio.sleep(0.002)

    if how == "reset":
        raw.reset()
    else:
        raw.writer.write_eof()
        await raw.expect("454 4.7.0", "221")
    await settled(daemon)
    assert not line.waiting
    assert not line.busy
    assert line.failures == 1


async def test_a_login_that_is_being_checked_when_its_client_hangs_up_counts(
    start_daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start_daemon(**slowed("20s"))
    may_go_on = asyncio.Event()

    async def slow(self: Authenticator, name: str, password: bytes) -> None:
        await may_go_on.wait()

    monkeypatch.setattr(Authenticator, "check_password", slow)
    raw = await greeted(daemon)
    raw.send(plain("ann", "wrong").encode() + b"\r\n")
    logins = daemon.services[0].logins
    async with asyncio.timeout(5):
        while not logins.checks:
            await asyncio.sleep(0.002)
    raw.reset()
    await settled(daemon)
    (line,) = logins.throttle._clients.values()
    assert line.busy
    may_go_on.set()
    async with asyncio.timeout(5):
        while logins.checks:
            await asyncio.sleep(0.002)

    assert (line.busy, line.failures) == (False, 1)


async def test_a_check_that_fails_itself_slows_nobody(start_daemon: Any) -> None:
    absurd = "$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43
    variables = {key: value for key, value in slowed("20s").items() if not key.endswith(("PASSWORD", "MECHANISMS"))}
    daemon = await start_daemon(**variables, SMTP_BRIDGE_USER__PASSWORD_HASH=absurd)
    raw = await greeted(daemon)

    for _ in range(3):
        assert await raw.say(plain("ann", "secret")) == "454 4.7.0 Temporary authentication failure"
    assert not daemon.services[0].logins.throttle._clients


async def test_a_login_that_waits_hears_421_when_the_daemon_stops(bridge_process: Any) -> None:
    process = await bridge_process(**slowed("20s"))
    raw = await Raw.greeted(process.port)
    assert (await raw.say(plain("ann", "wrong"))).startswith("535")
    raw.send(plain("ann", "secret").encode() + b"\r\n")
    await asyncio.sleep(0.1)
    before = time.monotonic()

    stopping = asyncio.create_task(process.stop(signal.SIGTERM))
    await raw.expect("421 4.3.2")
    assert await stopping == 0
    assert time.monotonic() - before < 8
    assert "Traceback" not in process.log_path.read_text()


async def test_a_delay_of_0_slows_nobody(start_daemon: Any) -> None:
    daemon = await start_daemon(**slowed("0"))
    raw = await greeted(daemon)
    raw.send((plain("ann", "wrong") + "\r\n").encode() * 3)

    await raw.expect("535", "535", "535")
    assert (await cram(raw, "ann", "secret")).startswith("235")
    assert daemon.services[0].logins.throttle is None
