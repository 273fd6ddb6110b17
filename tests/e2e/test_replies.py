"""The reply table and the three modes, over real SMTP and real HTTP: what the API says becomes what the client hears."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from bridge.sandbox import Failure, Sandbox
from tests.e2e.conftest import eventually, rest, statuses

# what the API does -> (reply in direct mode, status of the recipient afterwards in auto mode)
TABLE: dict[str, tuple[Failure, str, str]] = {
    "408": (Failure(status=408), "451 4.3.2", "deferred"),
    "425": (Failure(status=425), "451 4.3.2", "deferred"),
    "503": (Failure(status=503), "451 4.3.2", "deferred"),
    "500 of the API": (Failure(status=500), "451 4.3.2", "deferred"),
    "500 as a web page": (Failure(mode="html", status=500), "451 4.4.2", "deferred"),
    "502": (Failure(mode="html", status=502), "451 4.4.2", "deferred"),
    "504": (Failure(mode="html", status=504), "451 4.4.2", "deferred"),
    "429": (Failure(status=429), "451 4.4.5", "deferred"),
    "401": (Failure(status=401), "451 4.3.5", "deferred"),
    "402": (Failure(status=402), "451 4.3.5", "deferred"),
    "403": (Failure(status=403), "451 4.3.5", "deferred"),
    "404": (Failure(status=404), "451 4.3.5", "deferred"),
    "405": (Failure(status=405), "451 4.3.5", "deferred"),
    "410": (Failure(status=410), "451 4.3.5", "deferred"),
    "301": (Failure(mode="html", status=301), "451 4.3.5", "deferred"),
    "200 as a web page": (Failure(mode="html", status=200), "451 4.3.5", "deferred"),
    "409": (Failure(status=409), "451 4.3.0", "deferred"),
    "418": (Failure(status=418), "451 4.3.0", "deferred"),
    "413": (Failure(status=413), "552 5.3.4", ""),
    "400": (Failure(status=400), "554 5.6.0", ""),
    "422": (Failure(status=422), "554 5.6.0", ""),
    "answer lost": (Failure(mode="lost"), "451 4.4.2", "deferred"),
    "closed before the answer": (Failure(mode="close_before_answer"), "451 4.4.2", "deferred"),
    "reset": (Failure(mode="reset"), "451 4.4.2", "deferred"),
    "garbage": (Failure(mode="garbage"), "451 4.4.2", "deferred"),
    "half an answer": (Failure(mode="half"), "451 4.4.2", "deferred"),
}


@pytest.mark.parametrize("case", TABLE, ids=str)
async def test_direct_mode_answers_by_the_table_and_keeps_nothing(
    case: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    failure, reply, _ = TABLE[case]
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE="direct"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(failure)

    assert (await client.send()).startswith(reply)
    assert await statuses(daemon) == {}
    sandbox.recover()
    replies = []

    async def sent() -> bool:
        replies.append(await client.send())
        return replies[-1].startswith("250 2.0.0 Ok: sent")

    await eventually(sent)
    # Meanwhile it may be left alone for a moment: a limit or a fault of the account says nothing else of the next mail.
    assert {answer[:9] for answer in replies[:-1]} <= {"451 4.4.5"}


@pytest.mark.parametrize("case", TABLE, ids=str)
async def test_auto_mode_defers_what_may_pass_and_refuses_what_never_will(
    case: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    failure, reply, status = TABLE[case]
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_PROVIDER__MAX_UNKNOWN="1000"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(failure)

    answer = await client.send()

    if not status:
        assert answer.startswith(reply)
        assert await statuses(daemon) == {}
        return
    assert answer.startswith("250 2.0.0 Ok: queued as ")
    assert await statuses(daemon) == {"bob@example.org": status}
    sandbox.recover()
    await eventually(lambda: _all_sent(daemon))


@pytest.mark.parametrize("case", ["503", "401", "422", "answer lost"])
async def test_queue_mode_answers_at_once_and_the_rest_is_in_the_queue(
    case: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    failure, _, status = TABLE[case]
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE="queue"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(failure)

    assert (await client.send()).startswith("250 2.0.0 Ok: queued as ")
    await eventually(lambda: _has_status(daemon, status or "bounced"))
    sandbox.recover()
    if status:
        await eventually(lambda: _all_sent(daemon))


@pytest.mark.parametrize("case", TABLE, ids=str)
async def test_queue_mode_answers_250_and_the_queue_shows_the_table(
    case: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    failure, reply, status = TABLE[case]
    daemon = await start_daemon(
        **rest(
            sandbox.url,
            SMTP_BRIDGE_RELAY__MODE="queue",
            SMTP_BRIDGE_PROVIDER__MAX_UNKNOWN="1000",
            SMTP_BRIDGE_BOUNCE__FROM="off",
        )
    )
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(failure)

    assert (await client.send()).startswith("250 2.0.0 Ok: queued as ")

    async def shown() -> bool:
        (row,) = await daemon.spool.list_messages()
        (one,) = row["recipients"]
        return f"{one['code']} {one['enhanced']}" == reply and one["status"] == (status or "bounced")

    await eventually(shown)
    if status:
        sandbox.recover()
        await eventually(lambda: _all_sent(daemon))


async def _all_sent(daemon: Any) -> bool:
    return set((await statuses(daemon)).values()) == {"sent"}


async def _has_status(daemon: Any, status: str) -> bool:
    return status in (await statuses(daemon)).values()


@pytest.mark.parametrize(("mode", "reply"), [("direct", "451 4.4.1"), ("auto", "250 2.0.0 Ok: queued")])
async def test_an_api_that_nobody_listens_for_is_temporary(
    mode: str, reply: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    url = sandbox.url
    await sandbox.stop()
    daemon = await start_daemon(**rest(url, SMTP_BRIDGE_RELAY__MODE=mode))
    client = await connect(daemon.listeners[0].port)

    assert (await client.send()).startswith(reply)
    await sandbox.start()
    if mode == "auto":
        await eventually(lambda: _all_sent(daemon))


async def test_a_host_that_does_not_exist_is_temporary(start_daemon: Any, connect: Any) -> None:
    variables = rest("https://nothing.invalid", SMTP_BRIDGE_RELAY__MODE="direct")
    daemon = await start_daemon(**variables)
    client = await connect(daemon.listeners[0].port)

    assert (await client.send()).startswith("451 4.4.1")


@pytest.mark.serial
async def test_a_slow_api_does_not_hold_the_client_longer_than_attempt_timeout_and_sends_once(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__ATTEMPT_TIMEOUT="0.2s"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(mode="slow", seconds=1, count=1))
    started = time.monotonic()

    assert (await client.send()).startswith("250 2.0.0 Ok: queued")
    assert time.monotonic() - started < 0.9
    await eventually(lambda: _all_sent(daemon))
    assert len(sandbox.messages) == 1


async def test_an_api_that_hangs_after_the_body_is_retried_with_the_same_key(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    variables = rest(sandbox.url, SMTP_BRIDGE_RELAY__ATTEMPT_TIMEOUT="0.1s", SMTP_BRIDGE_PROVIDER__TIMEOUT="0.3s")
    daemon = await start_daemon(**variables, SMTP_BRIDGE_PROVIDER__IDEMPOTENT="true")
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(mode="lost", count=2))

    assert (await client.send()).startswith("250 2.0.0 Ok: queued")
    await eventually(lambda: _all_sent(daemon))
    assert len(sandbox.messages) == 1
    assert sandbox.stats["replayed"] == 2


async def test_lost_answers_are_held_when_the_operator_wants_it(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_PROVIDER__ON_UNKNOWN="hold"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(mode="lost", count=1))

    assert (await client.send()).startswith("250 2.0.0 Ok: queued")
    assert await statuses(daemon) == {"bob@example.org": "held"}


async def test_lost_answers_are_held_after_max_unknown_of_them(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_PROVIDER__MAX_UNKNOWN="3"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(mode="close_before_answer"))

    await client.send()

    await eventually(lambda: _has_status(daemon, "held"))
    assert sandbox.stats["failed"] == 3


async def test_retry_after_is_waited_for(sandbox: Sandbox, start_daemon: Any, connect: Any) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RETRY__MAXIMUM="10s"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(status=429, retry_after=1, count=1))
    started = time.monotonic()

    assert (await client.send()).startswith("250 2.0.0 Ok: queued")
    await eventually(lambda: _all_sent(daemon))
    assert time.monotonic() - started >= 1.0


async def test_a_wrong_key_never_bounces_and_goes_out_when_the_key_is_right_again(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RETRY__EXPIRE="0.1s"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(status=401))

    await client.send()
    await asyncio.sleep(0.6)
    assert await statuses(daemon) == {"bob@example.org": "deferred"}
    sandbox.recover()
    await eventually(lambda: _all_sent(daemon))


async def test_mail_that_cannot_be_sent_expires_with_its_last_reply(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RETRY__EXPIRE="0.3s"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(status=503))

    await client.send()

    await eventually(lambda: _has_status(daemon, "expired"))
    (row,) = await daemon.spool.list_messages(status="failed")
    assert row["recipients"][0]["enhanced"] == "4.3.2"
    assert b"Subject: hello" in (await daemon.spool.body(row["queue_id"]) or b"")


async def test_one_data_one_answer_the_refused_recipient_is_in_the_failed_queue(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    """No recipient stands in a header, so each gets a call of its own; one is refused."""
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_BOUNCE__FROM="off"))
    client = await connect(daemon.listeners[0].port)

    reply = await client.send(
        "bob@example.org", "nobody@refused.example", content=b"From: ann@example.com\r\nSubject: x\r\n\r\nx\r\n"
    )

    assert reply.startswith("250 2.0.0")
    assert await statuses(daemon) == {"bob@example.org": "sent", "nobody@refused.example": "bounced"}
    assert [row["status"] for row in await daemon.spool.list_messages(status="failed")] == ["bounced"]


async def test_all_recipients_refused_is_a_5xx_and_nothing_is_kept(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**rest(sandbox.url))
    client = await connect(daemon.listeners[0].port)

    assert (await client.send("a@refused.example", "b@refused.example")).startswith("554 5.6.0")
    assert await statuses(daemon) == {}


async def test_direct_mode_spools_the_rest_when_some_were_sent(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    """A 4xx would mail the first one again."""
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_RELAY__MODE="direct"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(status=503, recipient="later@example.org", count=2))

    reply = await client.send(
        "now@example.org", "later@example.org", content=b"From: ann@example.com\r\nSubject: x\r\n\r\nx\r\n"
    )

    assert reply.startswith("250 2.0.0 Ok: queued")
    await eventually(lambda: _all_sent(daemon))
    assert sorted(m.recipients for m in sandbox.messages) == [("later@example.org",), ("now@example.org",)]


async def test_lmtp_answers_each_recipient_for_itself(sandbox: Sandbox, start_daemon: Any, connect: Any) -> None:
    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_SMTP__LISTENER__PROTOCOL="lmtp"))
    client = await connect(daemon.listeners[0].port, "LHLO client")
    sandbox.fail(Failure(status=503, recipient="later@example.org", count=1))

    first = await client.send(
        "now@example.org",
        "nobody@refused.example",
        "later@example.org",
        content=b"From: ann@example.com\r\nSubject: x\r\n\r\nx\r\n",
    )
    replies = [first, await client.reply(), await client.reply()]

    assert [reply[:9] for reply in replies] == ["250 2.0.0", "554 5.6.0", "250 2.0.0"]
    assert "queued" in replies[2]
    await eventually(lambda: _all_sent(daemon))
    assert "nobody@refused.example" not in await statuses(daemon)


async def test_who_is_refused_or_held_while_the_client_waits_is_logged_as_an_error(
    sandbox: Sandbox, bridge_process: Any, connect: Any
) -> None:
    process = await bridge_process(**rest(sandbox.url, SMTP_BRIDGE_PROVIDER__ON_UNKNOWN="hold"))
    client = await connect(process.port)
    content = b"From: ann@example.com\r\nSubject: x\r\n\r\nx\r\n"

    await client.send("bob@example.org", "nobody@refused.example", content=content)
    sandbox.fail(Failure(mode="lost", count=1))
    await client.send("cyd@example.org", content=content)

    bounced, held = process.events("message.bounced"), process.events("message.held")
    assert [(e["recipient"], e["level"]) for e in bounced] == [("nobody@refused.example", "error")]
    assert [(e["recipient"], e["level"]) for e in held] == [("cyd@example.org", "error")]
