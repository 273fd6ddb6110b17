"""SIGTERM: nobody new is let in, who is in the middle may finish, and it ends in time whatever the others do."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import Any

import pytest

from bridge.sandbox import Failure, Sandbox
from tests.e2e.conftest import eventually, rest
from tests.smtp.raw import CAPTURE, ENVELOPE, HEADER, WHOLE, Raw, clients_end, trusting

__all__ = ["clients_end"]
TIMEOUT = "SMTP_BRIDGE_SMTP__SHUTDOWN_TIMEOUT"


async def ended(process: Any) -> int:
    return int(await asyncio.wait_for(process.process.wait(), 20))


async def refuses(port: int) -> bool:
    with contextlib.suppress(ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            alive = await reader.read(3) == b"220"
            writer.close()
            return not alive
    return True


async def test_sigterm_closes_the_door_first_and_idle_clients_hear_421(bridge_process: Any) -> None:
    process = await bridge_process(**CAPTURE)
    idle = await Raw.greeted(process.port)
    busy = await Raw.greeted(process.port)
    await busy.begin_data()

    process.process.send_signal(signal.SIGTERM)
    await idle.expect("421 4.3.2")
    await idle.expect_end()

    assert await refuses(process.port)
    busy.send(HEADER + b"text\r\n.\r\n")
    await busy.expect("250 2.0.0", "421 4.3.2")
    await busy.expect_end()
    assert await ended(process) == 0


async def test_a_new_transaction_is_refused_while_we_stop_also_behind_the_dot(bridge_process: Any) -> None:
    process = await bridge_process(**CAPTURE)
    raw = await Raw.greeted(process.port)
    waiting = await Raw.greeted(process.port)
    await raw.begin_data()
    process.process.send_signal(signal.SIGTERM)
    await waiting.expect("421 4.3.2")

    raw.send(HEADER + b"text\r\n.\r\n" + ENVELOPE)

    await raw.expect("250 2.0.0", "421 4.3.2")
    await raw.expect_end()
    assert await ended(process) == 0


async def test_who_is_talking_may_send_the_one_message_he_came_for(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(daemon.listeners[0].port)
    silent = await Raw.greeted(daemon.listeners[0].port)
    stopping = asyncio.create_task(daemon.stop())
    while not daemon.services[0].stopping:
        await asyncio.sleep(0)

    raw.send(WHOLE)
    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
    raw.send(b"QUIT\r\n")
    await raw.expect("221 2.0.0")
    await silent.expect("421 4.3.2")
    await stopping


async def stopping(daemon: Any) -> asyncio.Task[None]:
    """Begun, and known to all its sessions."""
    task = asyncio.create_task(daemon.stop())
    while not daemon.services[0].stopping:
        await asyncio.sleep(0)
    return task


async def test_who_goes_on_talking_is_not_silent_and_may_take_his_time(
    start_daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.smtp.conversation.PARTING_S", 0.4)
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(daemon.listeners[0].port)
    silent = await Raw.greeted(daemon.listeners[0].port)
    task = await stopping(daemon)
    until = time.monotonic() + 0.6

    while time.monotonic() < until:  # longer than anybody may be silent
        assert await raw.say("NOOP") == "250 2.0.0 Ok"
        await asyncio.sleep(0.02)
    await silent.expect("421 4.3.2")
    raw.send(WHOLE)
    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
    raw.send(b"QUIT\r\n")
    await raw.expect("221 2.0.0")
    await task


@pytest.mark.parametrize("end", ["RSET", "EHLO client.example"])
async def test_one_message_is_one_transaction_also_when_nothing_was_taken(end: str, start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw, other = [await Raw.greeted(daemon.listeners[0].port) for _ in range(2)]
    assert (await other.say("MAIL FROM:<ann@example.com>")).startswith("250")  # begun before the stop
    task = await stopping(daemon)

    assert (await raw.say("MAIL FROM:<ann@example.com>")).startswith("250")
    assert (await raw.say(end)).startswith("250")
    assert (await raw.say("MAIL FROM:<ann@example.com>")).startswith("421 4.3.2")
    assert (await other.say(end)).startswith("250")
    other.send(WHOLE)
    await other.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
    assert (await other.say("MAIL FROM:<ann@example.com>")).startswith("421 4.3.2")
    await task


async def test_who_is_silent_in_a_login_that_began_during_the_stop_hears_421(
    start_daemon: Any, secret_hash: str
) -> None:
    daemon = await start_daemon(
        **CAPTURE,
        SMTP_BRIDGE_USER__NAME="ann",
        SMTP_BRIDGE_USER__PASSWORD_HASH=secret_hash,
        SMTP_BRIDGE_SMTP__LISTENER__AUTH_WITHOUT_TLS="true",
    )
    raw = await Raw.greeted(daemon.listeners[0].port)
    task = await stopping(daemon)
    began = time.monotonic()

    assert (await raw.say("AUTH LOGIN")).startswith("334")
    await raw.expect("421 4.3.2")
    assert time.monotonic() - began < 8
    await task


async def test_a_handshake_that_is_under_way_is_finished_and_its_message_taken(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    raw = await Raw.greeted(daemon.listeners[0].port)
    raw.send(b"STARTTLS\r\n")
    await raw.expect("220")
    task = await stopping(daemon)

    await raw.writer.start_tls(trusting())
    assert (await raw.say("EHLO client.example")).startswith("250")
    raw.send(WHOLE)
    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
    await task


async def test_with_tls_from_the_first_octet_too(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__TLS="implicit")
    (listener,) = daemon.listeners
    raw = await Raw.connect(listener.port)
    await eventually(lambda: listener.on_the_way == 1)
    task = await stopping(daemon)

    await raw.writer.start_tls(trusting())
    await raw.expect("220")
    assert (await raw.say("EHLO client.example")).startswith("250")
    raw.send(WHOLE)
    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
    await task


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_who_does_not_finish_his_handshake_is_not_waited_for(
    tls: str, start_daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.smtp.arrival.HANDSHAKE_S", 0.1)
    monkeypatch.setattr("bridge.smtp.conversation.HANDSHAKE_S", 0.1)
    monkeypatch.setattr("bridge.smtp.wire.LINGER_S", 0.1)
    daemon = await start_daemon(**CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__TLS=tls)
    (listener,) = daemon.listeners
    if tls == "implicit":
        raw = await Raw.connect(listener.port)
        await eventually(lambda: listener.on_the_way == 1)
    else:
        raw = await Raw.greeted(listener.port)
        raw.send(b"STARTTLS\r\n")
        await raw.expect("220")
    began = time.monotonic()

    await daemon.stop()
    await raw.expect_end()
    assert time.monotonic() - began < 5


async def test_a_client_in_the_middle_of_its_login_hears_421(bridge_process: Any, secret_hash: str) -> None:
    process = await bridge_process(
        **CAPTURE,
        SMTP_BRIDGE_USER__NAME="ann",
        SMTP_BRIDGE_USER__PASSWORD_HASH=secret_hash,
        SMTP_BRIDGE_SMTP__LISTENER__AUTH_WITHOUT_TLS="true",
    )
    raw = await Raw.greeted(process.port)
    assert (await raw.say("AUTH LOGIN")).startswith("334")
    started = time.monotonic()

    process.process.send_signal(signal.SIGTERM)

    await raw.expect("421 4.3.2")
    assert await ended(process) == 0
    assert time.monotonic() - started < 5


async def test_who_does_not_finish_hears_421_before_the_time_is_over(bridge_process: Any) -> None:
    process = await bridge_process(**CAPTURE, **{TIMEOUT: "1s"})
    in_data, after_mail, silent = [await Raw.greeted(process.port) for _ in range(3)]
    await in_data.begin_data()
    await after_mail.say("MAIL FROM:<ann@example.com>")
    silent.send(b"STARTTLS\r\n")
    await silent.expect("220")
    started = time.monotonic()

    process.process.send_signal(signal.SIGTERM)

    await after_mail.expect("421 4.3.2")
    await in_data.expect("421 4.3.2")
    await silent.expect_end()
    assert await ended(process) == 0
    assert 0.5 < time.monotonic() - started < 4


async def test_a_hanging_api_and_a_client_that_reads_nothing_do_not_hold_up_the_end(
    sandbox: Sandbox, bridge_process: Any
) -> None:
    variables = rest(
        sandbox.url, **{TIMEOUT: "2s"}, SMTP_BRIDGE_SMTP__MAX_JUNK_COMMANDS="1000000", SMTP_BRIDGE_LOG__LEVEL="debug"
    )
    process = await bridge_process(**variables)
    sandbox.fail(Failure(mode="hang"))
    raw = await Raw.greeted(process.port)
    raw.send(WHOLE)
    await raw.expect("250 2.1.0", "250 2.1.5", "354")
    deaf = await Raw.connect(process.port, rcvbuf=4096)
    deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(100):
        deaf.send(b"HELP\r\n" * 5000)
        await asyncio.sleep(0)
    await eventually(lambda: sandbox.stats["failed"])
    started = time.monotonic()

    process.process.send_signal(signal.SIGTERM)

    await raw.expect("250 2.0.0 Ok: queued as ", "421 4.3.2")
    assert await ended(process) == 0
    assert time.monotonic() - started < 5
    sandbox.recover()
    await process.start()
    await eventually(lambda: len(sandbox.messages) == 1)
    assert await process.stop() == 0
    log = process.log_path.read_text()
    assert "never retrieved" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(number: signal.Signals, bridge_process: Any) -> None:
    process = await bridge_process(**CAPTURE)
    raw = await Raw.greeted(process.port)
    await raw.begin_data()
    idle = await Raw.greeted(process.port)

    process.process.send_signal(number)
    await idle.expect("421 4.3.2")
    process.process.send_signal(number)

    assert await asyncio.wait_for(process.process.wait(), 2) == 128 + number


async def test_a_part_that_dies_ends_the_daemon_and_is_named(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)
    waiting = asyncio.create_task(daemon.wait())
    await asyncio.sleep(0)

    def broken(*args: Any) -> Any:
        raise ZeroDivisionError

    daemon.runner._claim = broken
    daemon.runner.wake()

    with pytest.raises(RuntimeError, match="runner died: ZeroDivisionError"):
        await asyncio.wait_for(waiting, 5)


async def test_a_start_that_fails_half_way_leaves_nothing_open(
    start_daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bridge.smtp.listener import Listener

    async def broken(self: Listener) -> None:
        raise OSError("no")

    tasks = asyncio.all_tasks()
    with monkeypatch.context() as patch:
        patch.setattr(Listener, "start", broken)
        with pytest.raises(OSError, match="no"):
            await start_daemon(**CAPTURE)

    assert asyncio.all_tasks() == tasks
    daemon = await start_daemon(**CAPTURE)  # the spool's lock is free again
    raw = await Raw.greeted(daemon.listeners[0].port)
    raw.send(WHOLE)
    await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")


async def test_stopping_twice_is_stopping_once(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE)

    await daemon.stop()
    await daemon.stop()

    assert not daemon.connections.sessions
