"""Routes, failover, limits, duplicates, suppressions, reload and alerts, from a real client to the sandbox over HTTP."""

from __future__ import annotations

import asyncio
import base64
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from bridge import metrics
from bridge.config.load import load_settings
from bridge.sandbox import Failure, Sandbox
from tests.conftest import environment
from tests.delivery.conftest import FakeClock, every_line
from tests.e2e.conftest import KEY, eventually, rest, statuses
from tests.e2e.test_notices import Hook

BOB = "bob@example.org"
FAST = '[retry]\nfirst = "0.05s"\nmaximum = "0.2s"\n[breaker]\nwait = "0.05s"\nmaximum = "0.2s"\n'


def provider(name: str, url: str, more: str = "") -> str:
    return f"""
[[provider]]
name = "{name}"
kind = "rest"
url = "{url}/send-email"
auth = "bearer"
token = "{KEY}"
{more}
"""


@pytest.fixture
async def backup() -> Any:
    async with Sandbox(key=KEY) as running:
        yield running


def recipients(sandbox: Sandbox) -> list[tuple[str, ...]]:
    return [message.recipients for message in sandbox.messages]


async def tried_with(daemon: Any) -> dict[str, str]:
    rows = await daemon.spool.list_messages()
    return {r["address"]: r["provider"] for row in rows for r in row["recipients"]}


# --- failover


@pytest.mark.parametrize("mode", ["auto", "queue", "direct"])
@pytest.mark.parametrize("failure", ["503", "401", "429,retry_after=100"])
async def test_what_the_first_certainly_did_not_take_goes_to_the_next_in_every_mode(
    failure: str, mode: str, sandbox: Sandbox, backup: Sandbox, start_daemon: Any, connect: Any
) -> None:
    config = f'[relay]\nmode = "{mode}"\n' + FAST + provider("main", sandbox.url) + provider("backup", backup.url)
    daemon = await start_daemon(config=config)
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(failure)

    assert (await client.send()).startswith("250 2.0.0 Ok: " + ("queued" if mode == "queue" else "sent"))
    await eventually(lambda: recipients(backup) == [(BOB,)])
    assert recipients(sandbox) == []
    await eventually(lambda: _are(daemon, {BOB: "sent"}))
    assert await tried_with(daemon) == {BOB: "backup"}


@pytest.mark.parametrize("mode", ["auto", "queue"])
async def test_a_lost_answer_is_never_failed_over(
    mode: str, sandbox: Sandbox, backup: Sandbox, start_daemon: Any, connect: Any
) -> None:
    config = f'[relay]\nmode = "{mode}"\n' + FAST + provider("main", sandbox.url) + provider("backup", backup.url)
    daemon = await start_daemon(config=config)
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(mode="lost", count=1))

    assert (await client.send()).startswith("250 2.0.0 Ok: queued")
    await eventually(lambda: _are(daemon, {BOB: "sent"}))

    assert len(sandbox.messages) >= 1
    assert backup.messages == []
    assert {m.idempotency_key for m in sandbox.messages} == {sandbox.messages[0].idempotency_key}


async def test_a_connection_refused_goes_to_the_next_and_the_first_is_back_by_itself(
    sandbox: Sandbox, backup: Sandbox, start_daemon: Any, connect: Any
) -> None:
    config = FAST + provider("main", "http://127.0.0.1:9") + provider("backup", backup.url)
    daemon = await start_daemon(config=config)
    client = await connect(daemon.listeners[0].port)
    with structlog.testing.capture_logs():
        for _ in range(8):
            assert (await client.send()).startswith("250 2.0.0 Ok: sent")

    assert len(backup.messages) == 8
    assert daemon.dispatchers.first.breaker.state != "closed"


async def test_killed_between_acceptance_and_record_the_mail_stays_with_who_may_have_it(
    sandbox: Sandbox, backup: Sandbox, bridge_process: Any, connect: Any, tmp_path: Path
) -> None:
    config = '[relay]\nmode = "queue"\n' + FAST + provider("main", sandbox.url) + provider("backup", backup.url)
    (tmp_path / "config.toml").write_text(config)
    sandbox.fail(Failure(mode="slow", seconds=30, count=1))
    process = await bridge_process()
    client = await connect(process.port)
    assert (await client.send()).startswith("250 2.0.0 Ok: queued")
    await eventually(lambda: len(sandbox.messages) == 1)
    await process.stop(signal.SIGKILL)
    sandbox.recover()
    again = await bridge_process()

    await eventually(lambda: len(sandbox.messages) == 2 or again.events("attempt.sent"))
    await eventually(lambda: bool(again.events("attempt.sent")))
    assert {m.idempotency_key for m in sandbox.messages} == {sandbox.messages[0].idempotency_key}
    assert backup.messages == []


# --- routes and senders


async def test_each_recipient_goes_its_own_route_once(
    sandbox: Sandbox, backup: Sandbox, start_daemon: Any, connect: Any
) -> None:
    routes = '[[route]]\nrecipient = "*@news.example"\nproviders = ["backup"]\n[[route]]\nproviders = ["main"]\n'
    daemon = await start_daemon(config=FAST + routes + provider("main", sandbox.url) + provider("backup", backup.url))
    client = await connect(daemon.listeners[0].port)

    assert (await client.send("a@news.example", "b@x.example", "c@news.example")).startswith("250 2.0.0 Ok: sent")
    assert sorted(recipients(backup)) == [("a@news.example", "c@news.example")]
    assert recipients(sandbox) == [("b@x.example",)]


async def test_credentials_of_one_user_never_serve_anothers_mail(
    sandbox: Sandbox, backup: Sandbox, start_daemon: Any, connect: Any, secret_hash: str
) -> None:
    users = "".join(f'[[user]]\nname = "{name}"\npassword_hash = "{secret_hash}"\n' for name in ("shop", "erp"))
    routes = '[[route]]\nuser = "shop"\nproviders = ["main"]\n[[route]]\nuser = "erp"\nproviders = ["backup", "main"]\n'
    listener = '[[smtp.listener]]\naddress = "127.0.0.1:0"\nauth_without_tls = true\n'
    config = listener + users + routes + FAST + provider("main", sandbox.url) + provider("backup", backup.url)
    daemon = await start_daemon(config=config, SMTP_BRIDGE_SMTP__LISTENER__ADDRESS="127.0.0.1:0")
    client = await connect(daemon.listeners[0].port)
    assert (await client.say("MAIL FROM:<ann@example.com>")).startswith("250")
    assert (await client.say(f"RCPT TO:<{BOB}>")).startswith("550 5.7.1 No route")
    await client.say("RSET")
    plain = base64.b64encode(b"\0shop\0secret").decode()
    assert (await client.say(f"AUTH PLAIN {plain}")).startswith("235")
    sandbox.fail("503")

    assert (await client.send()).startswith("250 2.0.0 Ok: queued")
    await asyncio.sleep(0.1)
    assert backup.messages == []
    sandbox.recover()
    await eventually(lambda: _are(daemon, {BOB: "sent"}))


async def test_who_may_send_as_some_may_not_name_others_in_from(
    sandbox: Sandbox, start_daemon: Any, connect: Any, secret_hash: str
) -> None:
    user = f'[[user]]\nname = "shop"\npassword_hash = "{secret_hash}"\nsenders = ["*@shop.example"]\n'
    listener = '[[smtp.listener]]\naddress = "127.0.0.1:0"\nauth_without_tls = true\n'
    relay = '[relay]\nfrom = "noreply@example.com"\n'
    daemon = await start_daemon(
        config=listener + relay + user + FAST + provider("main", sandbox.url),
        SMTP_BRIDGE_SMTP__LISTENER__ADDRESS="127.0.0.1:0",
    )
    client = await connect(daemon.listeners[0].port)
    plain = base64.b64encode(b"\0shop\0secret").decode()
    assert (await client.say(f"AUTH PLAIN {plain}")).startswith("235")

    async def reply(path: str, *froms: str) -> str:
        assert (await client.say(f"MAIL FROM:<{path}>")).startswith("250")
        assert (await client.say(f"RCPT TO:<{BOB}>")).startswith("250")
        assert (await client.say("DATA")).startswith("354")
        return str(await client.say("".join(f"From: {text}\r\n" for text in froms) + "\r\ntext\r\n."))

    ours, other = "a@shop.example", "ceo@example.org"
    refused = "550 5.7.1 From address not allowed for this user"
    assert await reply(ours, f"The boss <{other}>") == refused
    assert await reply("", other) == refused
    assert await reply(ours, f"{ours}, {other}") == refused
    assert await reply(ours, ours, other) == refused
    assert sandbox.messages == []
    assert (await reply(ours, ours)).startswith("250")
    assert (await reply(ours, "root@localhost")).startswith("250")  # replaced by the operator's
    assert len(sandbox.messages) == 2


async def test_a_legacy_sender_becomes_a_verified_one_in_header_and_envelope(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    relay = '[relay]\nfrom = "Servers <noreply@example.com>"\n[[relay.rewrite]]\nsender = "erp@*"\nfrom = "erp@example.com"\n'
    config = FAST + relay + provider("main", sandbox.url, 'shape = "full"').replace("/send-email", "/send-full")
    daemon = await start_daemon(config=config)
    client = await connect(daemon.listeners[0].port)
    content = b"From: Cron <root@localhost>\r\nTo: bob@example.org\r\nSubject: x\r\n\r\nx\r\n"
    assert (await client.send(content=content, sender="root@web1")).startswith("250 2.0.0 Ok: sent")
    assert (await client.send(sender="erp@intranet.example")).startswith("250 2.0.0 Ok: sent")

    first, second = (message.payload for message in sandbox.messages)
    assert first["envelope"]["from"] == "noreply@example.com"
    assert first["from"] == {"email": "noreply@example.com", "name": "Servers"}
    assert first["reply_to"] == [{"email": "root@localhost", "name": "Cron"}]
    assert (second["envelope"]["from"], second["from"]["email"]) == ("erp@example.com", "erp@example.com")


# --- limits


async def test_a_used_up_rate_spools_in_auto_mode_and_is_a_4xx_in_direct_mode(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_PROVIDER__RATE="3/h"))
    client = await connect(daemon.listeners[0].port)
    replies = [await client.send() for _ in range(5)]
    assert [reply[:16] for reply in replies] == ["250 2.0.0 Ok: se"] * 3 + ["250 2.0.0 Ok: qu"] * 2
    await asyncio.sleep(0.2)
    assert len(sandbox.messages) == 3
    await daemon.stop()

    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_PROVIDER__RATE="1/h", SMTP_BRIDGE_RELAY__MODE="direct"))
    await eventually(lambda: len(sandbox.messages) == 4)  # one of those in the spool
    client = await connect(daemon.listeners[0].port)
    assert (await client.send()).startswith("451 4.4.5")


@pytest.mark.serial
@pytest.mark.parametrize("mode", ["auto", "queue"])
async def test_no_more_than_the_rate_reaches_the_api(
    mode: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_PROVIDER__RATE="10/s", SMTP_BRIDGE_RELAY__MODE=mode))
    clients = [await connect(daemon.listeners[0].port) for _ in range(5)]
    replies = await asyncio.gather(*(client.send(f"r{n}@example.org") for n, client in enumerate(clients)))
    for n in range(5):
        replies += await asyncio.gather(*(client.send(f"s{n}{i}@example.org") for i, client in enumerate(clients)))
    assert all(reply.startswith("250") for reply in replies)
    await eventually(lambda: len(sandbox.messages) == 30)

    times = sorted(message.at for message in sandbox.messages)
    assert max(sum(begin <= at < begin + 0.95 for at in times) for begin in times) <= 10


async def test_what_was_sent_today_is_known_after_a_restart(sandbox: Sandbox, start_daemon: Any, connect: Any) -> None:
    variables = rest(sandbox.url, SMTP_BRIDGE_PROVIDER__MAX_PER_DAY="2")
    daemon = await start_daemon(**variables)
    client = await connect(daemon.listeners[0].port)
    assert (await client.send()).startswith("250 2.0.0 Ok: sent")
    await daemon.stop()
    daemon = await start_daemon(**variables)
    client = await connect(daemon.listeners[0].port)

    assert (await client.send()).startswith("250 2.0.0 Ok: sent")
    assert (await client.send()).startswith("250 2.0.0 Ok: queued")
    assert len(sandbox.messages) == 2


# --- duplicates from clients


async def test_the_same_mail_again_gets_the_firsts_answer_and_is_not_sent(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    variables = rest(sandbox.url, SMTP_BRIDGE_RELAY__DEDUPE_WINDOW="10m")
    daemon = await start_daemon(**variables)
    client = await connect(daemon.listeners[0].port)
    content = b"From: a@example.com\r\nMessage-ID: <1@x>\r\nSubject: x\r\n\r\nx\r\n"
    first = await client.send(content=content)
    assert first.startswith("250 2.0.0 Ok: sent")
    assert await client.send(content=b"Received: from elsewhere\r\n" + content) == first
    assert (await client.send("eve@example.org", content=content)) != first
    assert (await client.send(content=content.replace(b"<1@x>", b"<2@x>"))) != first
    assert (await client.send(content=content + b"more\r\n")) != first
    assert (await client.send(content=content, sender="other@example.com")) != first
    assert len(sandbox.messages) == 5
    await daemon.stop()
    daemon = await start_daemon(**variables)
    client = await connect(daemon.listeners[0].port)

    assert await client.send(content=content) == first
    assert len(sandbox.messages) == 5


async def test_one_that_still_runs_is_waited_for_and_a_refused_one_does_not_count(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__DEDUPE_WINDOW="10m"))
    clients = [await connect(daemon.listeners[0].port) for _ in range(4)]
    content = b"From: a@example.com\r\nMessage-ID: <1@x>\r\nSubject: x\r\n\r\nx\r\n"
    sandbox.fail(Failure(status=422, count=1))
    assert (await clients[0].send(content=content)).startswith("554")
    sandbox.fail(Failure(mode="slow", seconds=0.3))

    replies = await asyncio.gather(*(client.send(content=content) for client in clients))
    assert len(set(replies)) == 1
    assert replies[0].startswith("250 2.0.0 Ok: sent")
    assert len(sandbox.messages) == 1


@pytest.mark.parametrize("method", ["find_seen", "note_seen"])
async def test_a_disk_that_refuses_costs_no_duplicate(
    method: str, sandbox: Sandbox, start_daemon: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bridge.spool.base import SpoolError

    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__DEDUPE_WINDOW="10m"))
    client = await connect(daemon.listeners[0].port)

    async def refuse(*args: Any, **named: Any) -> None:
        raise SpoolError("broken")

    monkeypatch.setattr(daemon.spool, method, refuse)
    with structlog.testing.capture_logs():
        reply = await client.send(content=b"From: a@example.com\r\nMessage-ID: <1@x>\r\n\r\nx\r\n")

    assert reply.startswith("250 2.0.0 Ok: sent")
    assert len(sandbox.messages) == 1


async def test_over_lmtp_who_waits_for_the_same_mail_hears_of_each_recipient_itself(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(
        **rest(sandbox.url, SMTP_BRIDGE_RELAY__DEDUPE_WINDOW="10m", SMTP_BRIDGE_SMTP__LISTENER__PROTOCOL="lmtp")
    )
    clients = [await connect(daemon.listeners[0].port, "LHLO client.example") for _ in range(2)]
    sandbox.fail(Failure(mode="slow", seconds=0.2, recipient=BOB))
    sandbox.fail(Failure(status=422, recipient="eve@example.org"))

    async def send(client: Any) -> list[str]:
        content = b"From: a@example.com\r\nMessage-ID: <1@x>\r\n\r\nx\r\n"
        return [await client.send(BOB, "eve@example.org", content=content), await client.reply()]

    replies = await asyncio.gather(*(send(client) for client in clients))
    assert [[reply[:3] for reply in one] for one in replies] == [["250", "554"], ["250", "554"]]


async def test_mails_that_say_nothing_of_their_identity_are_all_sent(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__DEDUPE_WINDOW="10m"))
    client = await connect(daemon.listeners[0].port)
    for _ in range(3):
        assert (await client.send(content=b"From: scan@example.com\r\nSubject: Scan\r\n\r\nx\r\n")).startswith("250")

    assert len(sandbox.messages) == 3


# --- suppressions


@pytest.mark.parametrize("suppress", ["true", "false"])
async def test_an_address_that_a_provider_says_is_none_is_refused_at_rcpt_from_then_on(
    suppress: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    outcome = '[[provider.outcome]]\nstatus = 422\nreply = "550 5.1.1 No such user here"\nfault = "recipient"\n'
    config = FAST + provider("main", sandbox.url, f"suppress = {suppress}\n{outcome}")
    daemon = await start_daemon(config=config)
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(status=422, recipient=BOB))
    with structlog.testing.capture_logs():
        assert (await client.send()).startswith("550 5.1.1")
        await eventually(lambda: not daemon.suppressions._tasks)
        assert (await client.say("MAIL FROM:<ann@example.com>")).startswith("250")
        reply = await client.say("RCPT TO:<Bob@Example.org>")

    assert reply.startswith("550 5.7.1 Recipient is suppressed: 550 5.1.1" if suppress == "true" else "250")


async def test_an_address_suppressed_by_hand_is_refused_and_one_that_is_removed_is_not(
    sandbox: Sandbox, start_daemon: Any, connect: Any, tmp_path: Path
) -> None:
    import sys

    variables = rest(sandbox.url)
    daemon = await start_daemon(**variables)
    client = await connect(daemon.listeners[0].port)

    async def command(*words: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bridge", "suppress", *words),
            env=environment(tmp_path, **variables) | {"PATH": "/usr/bin"},
            cwd=tmp_path,
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0

    async def rcpt() -> str:
        await client.say("RSET")
        await client.say("MAIL FROM:<ann@example.com>")
        answer: str = await client.say(f"RCPT TO:<{BOB}>")
        return answer

    assert (await rcpt()).startswith("250")
    await command("add", BOB, "--reason", "asked us to stop")
    await eventually(lambda: _says(rcpt, "550 5.7.1 Recipient is suppressed: asked us to stop"))
    await command("remove", BOB)
    await eventually(lambda: _says(rcpt, "250"))


# --- reload


async def test_a_right_key_after_a_reload_sends_what_a_wrong_one_kept(
    sandbox: Sandbox, start_daemon: Any, connect: Any, tmp_path: Path
) -> None:
    slow = '[breaker]\nwait = "5m"\nmaximum = "5m"\n[retry]\nfirst = "5m"\n'
    wrong = slow + provider("main", sandbox.url).replace(KEY, "wrong")
    daemon = await start_daemon(config=wrong)
    client = await connect(daemon.listeners[0].port)
    with every_line() as lines:
        for n in range(5):
            assert (await client.send(f"r{n}@example.org")).startswith("250 2.0.0 Ok: queued")
        (tmp_path / "config.toml").write_text(slow + provider("main", sandbox.url))
        await daemon.reload(load_settings(environ=environment(tmp_path), cwd=tmp_path))
        await eventually(lambda: _are(daemon, {f"r{n}@example.org": "sent" for n in range(5)}))

    assert (await client.send("now@example.org")).startswith("250 2.0.0 Ok: sent")
    assert [line["needs_restart"] for line in lines if line["event"] == "daemon.reloaded"] == [[]]
    assert [line["event"] for line in lines if line["event"] == "provider.blocked"] == ["provider.blocked"]


async def test_sighup_reads_the_settings_again_and_mistakes_change_nothing(
    sandbox: Sandbox, backup: Sandbox, bridge_process: Any, connect: Any, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(FAST + provider("main", sandbox.url))
    process = await bridge_process()
    client = await connect(process.port)
    assert (await client.send()).startswith("250 2.0.0 Ok: sent")
    file.write_text("[relay]\nmode = 'nonsense'\n")
    process.process.send_signal(signal.SIGHUP)
    await eventually(lambda: process.events("daemon.reload_refused"))
    assert (await client.send()).startswith("250 2.0.0 Ok: sent")
    file.write_text(FAST + '[log]\nlevel = "debug"\n' + provider("other", backup.url))
    process.process.send_signal(signal.SIGHUP)
    await eventually(lambda: process.events("daemon.reloaded"))

    assert (await client.send()).startswith("250 2.0.0 Ok: sent")
    assert (len(sandbox.messages), len(backup.messages)) == (2, 1)
    assert process.events("daemon.reloaded")[0]["needs_restart"] == []
    assert await process.stop() == 0


# --- alerts


async def test_an_alert_is_told_once_when_it_begins_and_once_when_it_is_over(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    async with Hook(200) as hook:
        daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_ALERT__WEBHOOK=hook.url))
        client = await connect(daemon.listeners[0].port)
        sandbox.fail("401")
        with every_line() as lines:
            for _ in range(3):
                await client.send()
                await daemon.housekeeping.look()
            assert metrics.alert.values["provider_blocked", "rest"] == 1
            sandbox.recover()
            await eventually(lambda: daemon.dispatchers.first.breaker.closed)
            await daemon.housekeeping.look()
            await daemon.housekeeping.look()
        await eventually(lambda: len(hook.requests) == 2)
        assert metrics.alert.values["provider_blocked", "rest"] == 0

    events = [orjson.loads(body) for _, body in hook.requests]
    assert sorted(event["type"] for event in events) == ["alert.over", "alert.raised"]
    assert {(e["data"]["kind"], e["data"]["subject"]) for e in events} == {("provider_blocked", "rest")}
    told = [(line["event"], line["log_level"]) for line in lines if line["event"].startswith("alert.")]
    assert told == [("alert.raised", "error"), ("alert.over", "info")]


async def test_what_is_told_survives_a_restart_and_is_not_told_again(sandbox: Sandbox, start_daemon: Any) -> None:
    variables = rest(sandbox.url, SMTP_BRIDGE_ALERT__DISK_FREE="1000000GiB")
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            daemon = await start_daemon(**variables)
            await daemon.housekeeping.look()
            await daemon.stop()

    assert [line["kind"] for line in lines if line["event"] == "alert.raised"] == ["disk"]


async def test_a_block_and_its_alert_outlive_a_restart_and_mail_keeps_its_lifetime(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    clock = FakeClock()
    variables = rest(
        sandbox.url,
        SMTP_BRIDGE_BREAKER__WAIT="5m",
        SMTP_BRIDGE_BREAKER__MAXIMUM="5m",
        SMTP_BRIDGE_ALERT__QUEUE_AGE="0",
        SMTP_BRIDGE_RETRY__DELAY_NOTICE="0",
    )
    sandbox.fail("401")
    with structlog.testing.capture_logs() as lines:
        daemon = await start_daemon(clock, **variables)
        client = await connect(daemon.listeners[0].port)
        for n in range(3):
            assert (await client.send(f"r{n}@example.org")).startswith("250 2.0.0 Ok: queued")
        await daemon.housekeeping.look()
        await daemon.housekeeping.stand()
        await daemon.stop()
        clock.advance(3 * 86400)
        daemon = await start_daemon(clock, **variables)
        await daemon.housekeeping.house()
        await daemon.housekeeping.look()
        assert daemon.dispatchers.first.breaker.blocked
        assert set((await statuses(daemon)).values()) <= {"queued", "deferred"}
        sandbox.recover()
        daemon.runner.hurry()
        await eventually(lambda: _are(daemon, {f"r{n}@example.org": "sent" for n in range(3)}))
        await daemon.housekeeping.look()

    assert [line["event"] for line in lines if line["event"].startswith("alert.")] == ["alert.raised"]


async def test_the_status_that_others_look_at_is_true(sandbox: Sandbox, start_daemon: Any, connect: Any) -> None:
    daemon = await start_daemon(**rest(sandbox.url))
    client = await connect(daemon.listeners[0].port)
    await client.send()
    sandbox.fail("401")
    await client.send()
    await daemon.housekeeping.stand()

    status = orjson.loads((await daemon.spool.recall("daemon."))["daemon.status"])
    assert (status["received"], status["sent"]) == (2, 1)
    (main,) = status["providers"]
    assert (main["name"], main["kind"], main["sent"]) == ("rest", "rest", 1)
    assert main["state"] in ("blocked", "half-open")
    assert main["reason"]


async def _are(daemon: Any, wanted: dict[str, str]) -> bool:
    return await statuses(daemon) == wanted


async def _says(rcpt: Any, wanted: str) -> bool:
    return (await rcpt()).startswith(wanted)
