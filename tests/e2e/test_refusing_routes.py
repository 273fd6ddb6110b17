"""Routes that refuse: as the pages on moving here have them, through every door, and for what we owe somebody already."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from bridge.sandbox import Failure, Sandbox
from tests.delivery.conftest import FakeClock, every_line
from tests.docs.blocks import ROOT, blocks
from tests.e2e.conftest import eventually, statuses
from tests.e2e.test_delivery import provider
from tests.e2e.test_reload import reload
from tests.web.conftest import bearer, keys, start_web

__all__ = ["start_web"]
FRIEND, STRANGER = "bob@example.com", "eve@evil.example"
REFUSED = "550 5.7.1 Recipient refused by a route"
CAPTURE = '[[provider]]\nkind = "capture"\n'
DENY = '[[route]]\nrecipient = "*@evil.example"\nrefuse = true\n'
# Who writes as this one is known with the header alone.
BY_SENDER = '[[route]]\nsender = "vip@example.com"\nproviders = ["capture"]\n'


def from_page(name: str) -> str:
    """The settings of the page's block with a route that refuses; its providers capture instead of asking for credentials."""
    (block,) = [one for one in blocks(ROOT / "docs" / name) if one.language == "toml" and "refuse" in one.text]
    tree = tomllib.loads(block.text)
    names = [one.get("name", one["kind"]) for one in tree["provider"]]
    return tomli_w.dumps(tree | {"provider": [{"name": one, "kind": "capture"} for one in names]})


@pytest.mark.parametrize("page", ["migrate-aws-smtp-relay.md", "migrate-smtp2graph.md"])
async def test_the_routes_of_the_page_refuse_a_stranger_and_take_a_friend(
    page: str, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(config=from_page(page))
    client = await connect(daemon.listeners[0].port)
    for sender in ("ann@example.com", ""):
        assert (await client.say(f"MAIL FROM:<{sender}>")).startswith("250")
        assert await client.say(f"RCPT TO:<{STRANGER}>") == REFUSED
        await client.say("RSET")

    assert (await client.send(FRIEND)).startswith("250 2.0.0")
    assert await statuses(daemon) == {FRIEND: "sent"}


@pytest.mark.parametrize("relay", ["", '[relay]\nfrom = "noreply@example.com"\n'])
async def test_a_recipient_that_a_route_refuses_is_refused_alone(relay: str, start_daemon: Any, connect: Any) -> None:
    daemon = await start_daemon(config=relay + DENY + BY_SENDER + CAPTURE)
    client = await connect(daemon.listeners[0].port)
    assert (await client.say("MAIL FROM:<ann@example.com>")).startswith("250")
    for spelt in ("Eve@EVIL.Example", "eve@evil.example.", '"eve"@evil.example', "@x.example:eve@evil.example"):
        assert await client.say(f"RCPT TO:<{spelt}>") == REFUSED
    assert (await client.say(f"RCPT TO:<{FRIEND}>")).startswith("250")
    assert (await client.say("DATA")).startswith("354")

    assert (await client.say("From: ann@example.com\r\n\r\ntext\r\n.")).startswith("250 2.0.0")
    assert await statuses(daemon) == {FRIEND: "sent"}


async def test_what_hangs_on_a_sender_of_the_header_is_refused_after_it_to_each_over_lmtp(
    start_daemon: Any, connect: Any
) -> None:
    relay = '[relay]\nfrom = "noreply@example.com"\n'
    daemon = await start_daemon(config=relay + BY_SENDER + DENY + CAPTURE, SMTP_BRIDGE_SMTP__LISTENER__PROTOCOL="lmtp")
    client = await connect(daemon.listeners[0].port, "LHLO client.example")

    assert await client.send(STRANGER, FRIEND) == REFUSED
    assert (await client.reply()).startswith("250 2.0.0")
    assert (await client.send(STRANGER, sender="vip@example.com")).startswith("250 2.0.0")


async def test_over_http_it_is_422_and_nothing_is_sent(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE + DENY + keys("send"))
    mail = {"to": STRANGER, "from": "shop@example.com", "subject": "hello", "body": "text"}
    answer = await client.post("/send-email", json=mail, headers=bearer("send"))

    assert answer.status_code == 422
    assert "Recipient refused by a route" in answer.json()["error"]["message"]
    assert (await client.post("/send-email", json=mail | {"to": FRIEND}, headers=bearer("send"))).status_code == 200
    assert await statuses(daemon) == {FRIEND: "sent"}


async def test_sendmail_tells_it(bridge_process: Any, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CAPTURE + DENY)
    process = await bridge_process()
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "sendmail", "--address", f"127.0.0.1:{process.port}", STRANGER],
        env=process.environ,
        cwd=tmp_path,
        input=b"Subject: x\n\ntext\n",
        capture_output=True,
        timeout=30,
    )

    assert done.returncode != 0
    assert REFUSED.encode() in done.stderr


async def test_what_waits_and_is_refused_by_new_routes_is_held_and_not_bounced(
    sandbox: Sandbox, start_daemon: Any, connect: Any, tmp_path: Path
) -> None:
    before = '[relay]\nmode = "queue"\n' + provider("main", sandbox.url)
    clock = FakeClock()
    daemon = await start_daemon(clock, config=before)
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(status=503))
    assert (await client.send(STRANGER)).startswith("250 2.0.0 Ok: queued")
    await eventually(lambda: _is(daemon, {STRANGER: "deferred"}))
    sandbox.recover()

    assert (await reload(daemon, tmp_path, before + DENY))["outcome"] == "reloaded"
    clock.advance(60)
    await eventually(lambda: _is(daemon, {STRANGER: "held"}))
    assert sandbox.messages == []


async def test_a_notice_that_a_route_refuses_is_told_once_and_causes_no_other(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(config='[relay]\nmode = "queue"\n' + DENY + provider("main", sandbox.url))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(status=422))
    with every_line() as lines:
        assert (await client.send(FRIEND, sender=STRANGER)).startswith("250 2.0.0 Ok: queued")
        await eventually(lambda: [line for line in lines if line["event"] == "dsn.refused"])
        await eventually(lambda: _settled(daemon))

    assert [line["text"] for line in lines if line["event"] == "dsn.refused"] == ["Recipient refused by a route"]
    assert await statuses(daemon) == {FRIEND: "bounced"}
    assert sandbox.messages == []


async def _is(daemon: Any, wanted: dict[str, str]) -> bool:
    return await statuses(daemon) == wanted


async def _settled(daemon: Any) -> bool:
    return not await daemon.spool.notices()
