"""Clients that leave, providers whose slots are used up and spools that are full: what is delivered, kept and answered."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import structlog

from bridge.sandbox import Failure, Sandbox
from bridge.spool.base import SpoolError, SpoolFull
from tests.e2e.conftest import eventually, rest, statuses
from tests.smtp.raw import HEADER, OPEN, WHOLE, Raw, clients_end

__all__ = ["clients_end"]
TO_THE_DOT = ["250 2.1.0", "250 2.1.5", "354"]


def port_of(daemon: Any) -> int:
    return int(daemon.listeners[0].port)


async def all_sent(daemon: Any) -> bool:
    return set((await statuses(daemon)).values()) == {"sent"}


async def nothing_runs(daemon: Any) -> None:
    for raw in OPEN:
        raw.close()
    await eventually(lambda: not (daemon.submission._tasks or daemon.dispatchers.first._tasks or daemon.runner._works))


async def send_and_leave(daemon: Any, leave: Any, began: Any) -> None:
    raw = await Raw.greeted(port_of(daemon))
    raw.send(WHOLE)
    await raw.expect(*TO_THE_DOT)
    await eventually(began)
    leave(raw)


def half_close(raw: Raw) -> None:
    raw.writer.write_eof()


@pytest.mark.parametrize("leave", [Raw.close, Raw.reset])
async def test_a_client_that_leaves_while_a_slow_api_answers_has_sent_once(
    leave: Any, sandbox: Sandbox, start_daemon: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url))
    sandbox.fail(Failure(mode="slow", seconds=0.3))

    await send_and_leave(daemon, leave, lambda: sandbox.messages)
    await nothing_runs(daemon)

    assert len(sandbox.messages) == 1
    assert await statuses(daemon) == {"bob@example.org": "sent"}


@pytest.mark.parametrize("leave", [Raw.close, Raw.reset])
@pytest.mark.parametrize("timeout", ["10s", "0.1s"])
async def test_a_client_that_leaves_before_its_message_is_deferred_leaves_nothing_behind(
    timeout: str, leave: Any, sandbox: Sandbox, start_daemon: Any
) -> None:
    """It has heard no 250 and sends again; kept as well, it would be sent twice. Also when the attempt takes too long."""
    variables = rest(sandbox.url, SMTP_BRIDGE_RELAY__ATTEMPT_TIMEOUT=timeout, SMTP_BRIDGE_PROVIDER__TIMEOUT="0.4s")
    daemon = await start_daemon(**variables)
    sandbox.fail(Failure(mode="hang"))

    await send_and_leave(daemon, leave, lambda: sandbox.stats["failed"])
    await nothing_runs(daemon)

    assert await statuses(daemon) == {}
    assert sandbox.messages == []


async def test_a_client_that_half_closes_hears_451_when_nothing_is_kept(sandbox: Sandbox, start_daemon: Any) -> None:
    daemon = await start_daemon(**rest(sandbox.url))
    sandbox.fail(Failure(status=503))
    raw = await Raw.greeted(port_of(daemon))

    raw.send(WHOLE)
    raw.writer.write_eof()

    await raw.expect(*TO_THE_DOT, "451 4.3.2")
    assert await statuses(daemon) == {}


@pytest.mark.parametrize("leave", [Raw.close, Raw.reset, half_close])
async def test_in_queue_mode_a_client_that_leaves_while_we_commit_has_its_message_kept_once(
    leave: Any, sandbox: Sandbox, start_daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE="queue"))
    put, began, go_on = daemon.spool.put, asyncio.Event(), asyncio.Event()

    async def slow_put(*args: Any, **named: Any) -> None:
        began.set()
        await go_on.wait()
        await put(*args, **named)

    monkeypatch.setattr(daemon.spool, "put", slow_put)
    await send_and_leave(daemon, leave, began.is_set)
    if leave is Raw.reset:
        await eventually(lambda: not daemon.connections.sessions)
    go_on.set()

    await eventually(lambda: all_sent(daemon))
    assert len(sandbox.messages) == 1


# --- slots


def one_slot(sandbox: Sandbox, **more: str) -> dict[str, str]:
    return rest(sandbox.url, SMTP_BRIDGE_PROVIDER__CONCURRENCY="1", SMTP_BRIDGE_RELAY__ATTEMPT_TIMEOUT="0.2s", **more)


async def test_an_attempt_that_never_got_its_slot_waits_in_the_queue_without_a_lease(
    sandbox: Sandbox, start_daemon: Any
) -> None:
    daemon = await start_daemon(**one_slot(sandbox))
    sandbox.fail(Failure(mode="slow", seconds=1, count=1))
    raws = [await Raw.greeted(port_of(daemon)) for _ in range(3)]
    for raw in raws:
        raw.send(WHOLE)
        await raw.expect(*TO_THE_DOT)

    for raw in raws:
        await raw.expect("250 2.0.0 Ok: queued as ")

    await eventually(lambda: len(sandbox.messages) == 3)
    await nothing_runs(daemon)
    rows = [r for row in await daemon.spool.list_messages() for r in row["recipients"]]
    assert [(r["status"], r["attempts"], r["unknowns"]) for r in rows] == [("sent", 1, 0)] * 3
    assert sandbox.stats["replayed"] == 0


async def test_a_client_that_leaves_before_its_attempt_got_a_slot_has_sent_nothing(
    sandbox: Sandbox, start_daemon: Any
) -> None:
    daemon = await start_daemon(**one_slot(sandbox))
    sandbox.fail(Failure(mode="slow", seconds=0.6, count=1))
    first = await Raw.greeted(port_of(daemon))
    first.send(WHOLE)
    await eventually(lambda: sandbox.messages)

    await send_and_leave(daemon, Raw.close, lambda: len(daemon.dispatchers.first._tasks) == 2)
    await first.expect(*TO_THE_DOT, "250 2.0.0 Ok: queued")
    first.close()
    await nothing_runs(daemon)

    assert len(sandbox.messages) == 1
    assert await statuses(daemon) == {"bob@example.org": "sent"}


async def test_a_shutdown_while_clients_wait_spools_and_answers_250(sandbox: Sandbox, start_daemon: Any) -> None:
    variables = one_slot(sandbox, SMTP_BRIDGE_PROVIDER__TIMEOUT="0.5s") | {"SMTP_BRIDGE_RELAY__ATTEMPT_TIMEOUT": "30s"}
    daemon = await start_daemon(**variables)
    sandbox.fail(Failure(mode="hang"))
    raws = [await Raw.greeted(port_of(daemon)) for _ in range(2)]
    for raw in raws:
        raw.send(WHOLE)
        await raw.expect(*TO_THE_DOT)
    await eventually(lambda: sandbox.stats["failed"])

    stopping = asyncio.create_task(daemon.stop())
    for raw in raws:
        await raw.expect("250 2.0.0 Ok: queued as ", "421 4.3.2")
        await raw.expect_end()
    await stopping

    sandbox.recover()
    again = await start_daemon(**variables)
    await eventually(lambda: len(sandbox.messages) == 2)
    assert len(await again.spool.list_messages()) == 2


# --- a spool that is full


FULL = {"SMTP_BRIDGE_SPOOL__MAX_BYTES": "1MB", "SMTP_BRIDGE_SMTP__MAX_MESSAGE_SIZE": "1MB"}


async def fill(daemon: Any, lines: int) -> tuple[Raw, str]:
    """Send messages of so many lines until it refuses; the refusal."""
    raw = await Raw.greeted(port_of(daemon))
    for _ in range(200):
        mail = await raw.say("MAIL FROM:<ann@example.com>")
        if not mail.startswith("250"):
            return raw, mail
        await raw.say("RCPT TO:<bob@example.org>")
        await raw.say("DATA")
        raw.send(HEADER + (b"x" * 76 + b"\r\n") * lines + b".\r\n")
        reply = await raw.reply()
        if not reply.startswith("250"):
            return raw, reply
    raise AssertionError("it was never full")


async def test_queue_mode_refuses_at_mail_when_the_spool_is_full_and_takes_mail_again_when_it_drained(
    sandbox: Sandbox, start_daemon: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE="queue"), **FULL)
    sandbox.fail(Failure(status=503))

    _, at_the_dot = await fill(daemon, 2500)
    raw, at_mail = await fill(daemon, 100)
    for _ in range(50):
        at_mail = await raw.say("MAIL FROM:<ann@example.com>")
        if not at_mail.startswith("250"):
            break
        raw, _ = await fill(daemon, 10)

    assert at_the_dot.startswith("452 4.3.1")
    assert at_mail.startswith("452 4.3.1")
    sandbox.recover()
    await eventually(lambda: all_sent(daemon))
    await eventually(lambda: daemon.spool.writable())
    raw.send(WHOLE)
    await raw.expect(*TO_THE_DOT, "250 2.0.0 Ok: queued")


async def test_auto_mode_is_as_direct_mode_when_the_spool_is_full(sandbox: Sandbox, start_daemon: Any) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_BREAKER__FAILURES="1000000"), **FULL)
    sandbox.fail(Failure(status=503))

    raw, refusal = await fill(daemon, 2500)

    assert refusal.startswith("452 4.3.1")
    sandbox.recover()
    raw.send(WHOLE)
    await raw.expect(*TO_THE_DOT, "250 2.0.0 Ok: sent")
    await eventually(lambda: all_sent(daemon))


async def test_a_limit_of_0_is_none(sandbox: Sandbox, start_daemon: Any) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE="queue"), SMTP_BRIDGE_SPOOL__MAX_BYTES="0")
    raw = await Raw.greeted(port_of(daemon))

    raw.send(WHOLE)

    await raw.expect(*TO_THE_DOT, "250 2.0.0 Ok: queued")


EACH = b"From: ann@example.com\r\nSubject: x\r\n\r\nx\r\n"  # nobody stands in a header: a call for each recipient


async def answers(daemon: Any, *recipients: str) -> list[str]:
    """The replies to the final dot, as many as the protocol gives."""
    lmtp = daemon.settings.smtp.listener[0].protocol == "lmtp"
    raw = await Raw.connect(port_of(daemon))
    raw.send(b"LHLO x\r\n" if lmtp else b"EHLO x\r\n")
    await raw.expect("220", "250")
    for line in ("MAIL FROM:<ann@example.com>", *(f"RCPT TO:<{r}>" for r in recipients)):
        assert (await raw.say(line)).startswith("250")
    await raw.say("DATA")
    raw.send(EACH + b".\r\n")
    return [(await raw.reply())[:9] for _ in (recipients if lmtp else [0])]


@pytest.mark.parametrize(("error", "own"), [(SpoolFull("full"), "452 4.3.1"), (SpoolError("broken"), "451 4.3.0")])
@pytest.mark.parametrize(
    ("protocol", "recipients", "replies"),
    [
        # Who may still be told, is; a 250 for what nobody keeps is never said.
        ("lmtp", ("now@example.org", "later@example.org"), ["250 2.0.0", "451 4.3.2"]),
        ("smtp", ("now@example.org", "later@example.org"), ["own"]),
        ("smtp", ("later@example.org",), ["own"]),
        ("smtp", ("now@example.org",), ["250 2.0.0"]),
        ("smtp", ("nobody@refused.example",), ["554 5.6.0"]),
        ("smtp", ("now@example.org", "nobody@refused.example"), ["250 2.0.0"]),
    ],
)
async def test_when_the_spool_takes_nothing_the_client_is_told_what_is_open(
    protocol: str,
    recipients: tuple[str, ...],
    replies: list[str],
    error: Exception,
    own: str,
    sandbox: Sandbox,
    start_daemon: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_SMTP__LISTENER__PROTOCOL=protocol))
    sandbox.fail(Failure(status=503, recipient="later@example.org"))

    async def refuse(*args: Any, **named: Any) -> None:
        raise error

    with structlog.testing.capture_logs():
        monkeypatch.setattr(daemon.spool, "put", refuse)
        got = await answers(daemon, *recipients)
    replies = [own if wanted == "own" else wanted for wanted in replies]

    assert [reply.startswith(wanted) for reply, wanted in zip(got, replies, strict=True)] == [True] * len(replies), got


@pytest.mark.parametrize("error", [SpoolFull("full"), SpoolError("broken")])
async def test_an_attempt_that_cannot_be_left_in_the_spool_is_waited_for(
    error: Exception, sandbox: Sandbox, start_daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__ATTEMPT_TIMEOUT="0.1s"))
    sandbox.fail(Failure(mode="slow", seconds=0.5))

    async def refuse(*args: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(daemon.spool, "put", refuse)
    raw = await Raw.greeted(port_of(daemon))
    raw.send(WHOLE)

    await raw.expect(*TO_THE_DOT, "250 2.0.0 Ok: sent")
    assert len(sandbox.messages) == 1


async def test_a_client_in_direct_mode_hears_an_answer_at_shutdown_though_the_api_hangs(
    sandbox: Sandbox, start_daemon: Any
) -> None:
    """One recipient was sent, what became of the other is not known: a 4xx would mail the first one again."""
    variables = rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE="direct", SMTP_BRIDGE_SMTP__SHUTDOWN_TIMEOUT="0.5s")
    daemon = await start_daemon(**variables)
    sandbox.fail(Failure(mode="hang", recipient="later@example.org"))
    waiting = asyncio.create_task(answers(daemon, "now@example.org", "later@example.org"))
    await eventually(lambda: sandbox.messages and sandbox.stats["failed"])

    await daemon.stop()

    (reply,) = await waiting
    assert reply.startswith("250 2.0.0")
    sandbox.recover()
    again = await start_daemon(**variables)
    await eventually(lambda: all_sent(again))
    assert sorted(received.recipients for received in sandbox.messages) == [
        ("later@example.org",),
        ("now@example.org",),
    ]


async def test_a_client_in_direct_mode_hears_a_4xx_at_shutdown_when_nothing_was_sent(
    sandbox: Sandbox, start_daemon: Any
) -> None:
    variables = rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE="direct", SMTP_BRIDGE_SMTP__SHUTDOWN_TIMEOUT="0.5s")
    daemon = await start_daemon(**variables)
    sandbox.fail(Failure(mode="hang"))
    waiting = asyncio.create_task(answers(daemon, "later@example.org"))
    await eventually(lambda: sandbox.stats["failed"])

    await daemon.stop()

    (reply,) = await waiting
    assert reply.startswith("451 4.3.0")
    assert await statuses(await start_daemon(**variables)) == {}


async def test_direct_mode_begins_no_call_after_attempt_timeout(sandbox: Sandbox, start_daemon: Any) -> None:
    """Ten calls for one slot, and an API that hangs: the client waits for one call, not for ten."""
    variables = rest(
        sandbox.url,
        SMTP_BRIDGE_RELAY__MODE="direct",
        SMTP_BRIDGE_RELAY__ATTEMPT_TIMEOUT="0.1s",
        SMTP_BRIDGE_PROVIDER__TIMEOUT="0.5s",
        SMTP_BRIDGE_PROVIDER__CONCURRENCY="1",
    )
    daemon = await start_daemon(**variables)
    sandbox.fail(Failure(mode="hang"))
    started = time.monotonic()

    (reply,) = await answers(daemon, *(f"r{n}@example.org" for n in range(10)))

    assert reply.startswith("451 4.4.")
    assert time.monotonic() - started < 2
    assert sandbox.stats["failed"] == 1
    assert await statuses(daemon) == {}


async def test_a_client_that_leaves_when_some_were_sent_leaves_no_others_behind(
    sandbox: Sandbox, start_daemon: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url))
    sandbox.fail(Failure(mode="slow", seconds=0.2, recipient="now@example.org"))
    sandbox.fail(Failure(status=503, recipient="later@example.org"))
    waiting = asyncio.create_task(answers(daemon, "now@example.org", "later@example.org"))
    await eventually(lambda: sandbox.messages and sandbox.stats["failed"] == 2)

    OPEN[-1].reset()

    await nothing_runs(daemon)
    assert await statuses(daemon) == {"now@example.org": "sent"}
    await asyncio.gather(waiting, return_exceptions=True)
