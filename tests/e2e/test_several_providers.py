"""Two providers, of which the first cannot carry everything: who gets what, and what the client hears."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from bridge.sandbox import Failure, Sandbox
from tests.delivery.conftest import every_line
from tests.e2e.conftest import KEY, eventually, statuses

HEADER = (
    b"From: Ann <ann@example.com>\r\nTo: bob@example.org\r\nSubject: signed\r\n"
    b"Date: Fri, 03 Jan 2025 10:00:00 +0000\r\nMessage-ID: <1@example.com>\r\nMIME-Version: 1.0\r\n"
)
SIGNED = HEADER + (
    b'Content-Type: multipart/signed; protocol="application/pgp-signature"; micalg=pgp-sha256; boundary="=_b"\r\n\r\n'
    b"--=_b\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n  every octet   \r\n\tcounts \r\n"
    b"--=_b\r\nContent-Type: application/pgp-signature\r\n\r\n-----BEGIN PGP SIGNATURE-----\r\n--=_b--\r\n"
)


def two(url: str, *, first: str = "", second: str = "", more: str = "") -> str:
    shared = f'auth = "bearer"\ntoken = "{KEY}"\n'
    return f"""
        {more}
        [retry]
        first = "0.05s"
        maximum = "0.2s"
        [[provider]]
        name = "json"
        kind = "rest"
        url = "{url}/send-email"
        shape = "simple"
        {shared}{first}
        [[provider]]
        name = "mime"
        kind = "rest"
        url = "{url}/send-raw"
        shape = "raw"
        {shared}{second}
    """


def shapes(sandbox: Sandbox) -> list[str]:
    return [message.shape for message in sandbox.messages]


async def providers(daemon: Any) -> dict[str, str]:
    rows = await daemon.spool.list_messages()
    return {r["address"]: r["provider"] for row in rows for r in row["recipients"]}


@pytest.mark.parametrize("mode", ["auto", "queue", "direct"])
async def test_signed_mail_arrives_octet_for_octet_and_plain_mail_goes_to_the_first(
    mode: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(config=two(sandbox.url, more=f'[relay]\nmode = "{mode}"'))
    client = await connect(daemon.listeners[0].port)

    with every_line() as logs:
        assert (await client.send("bob@example.org", content=SIGNED)).startswith("250 2.0.0")
        assert (await client.send("cyd@example.org")).startswith("250 2.0.0")
        await eventually(lambda: len(sandbox.messages) == 2)

    by_shape = {message.shape: message for message in sandbox.messages}
    raw = base64.b64decode(by_shape["raw"].payload["raw"])
    assert raw.endswith(b"\r\n" + SIGNED)
    assert raw.removesuffix(SIGNED).startswith(b"Received: from ")
    assert by_shape["simple"].recipients == ("cyd@example.org",)
    (line,) = [line for line in logs if line["event"] == "message.rerouted"]
    assert (line["provider"], line["passed_over"]) == ("mime", ["json"])
    assert line["losses"] == ["a signed message (multipart/signed)"]
    await eventually(lambda: _are_sent(daemon, 2))
    assert await providers(daemon) == {"bob@example.org": "mime", "cyd@example.org": "json"}


async def _are_sent(daemon: Any, number: int) -> bool:
    return list((await statuses(daemon)).values()) == ["sent"] * number


async def test_what_nobody_can_carry_is_refused_at_data_with_the_words_of_the_first(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(config=two(sandbox.url, second="max_size = 100"))
    client = await connect(daemon.listeners[0].port)

    reply = await client.send("bob@example.org", content=SIGNED)

    assert reply == "554 5.6.5 The provider cannot carry a signed message (multipart/signed)"
    assert not sandbox.messages


async def test_with_degrade_the_first_takes_what_nobody_can_carry_whole(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    config = two(sandbox.url, second="max_size = 100", more="[relay]\ndegrade = true")
    daemon = await start_daemon(config=config)
    client = await connect(daemon.listeners[0].port)

    assert (await client.send("bob@example.org", content=SIGNED)).startswith("250 2.0.0")

    assert shapes(sandbox) == ["simple"]


async def test_a_mail_too_large_for_the_first_goes_to_the_second(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(config=two(sandbox.url, first="max_size = 100000"))
    client = await connect(daemon.listeners[0].port)

    large = HEADER + b"\r\n" + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 3000
    assert (await client.send("bob@example.org", content=large)).startswith("250 2.0.0")
    assert (await client.send("bob@example.org", content=HEADER + b"\r\nsmall\r\n")).startswith("250 2.0.0")

    assert shapes(sandbox) == ["raw", "simple"]


async def test_a_lost_answer_is_asked_for_again_with_the_provider_that_lost_it(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    """The second could take a plain mail too; it never hears of this one."""
    daemon = await start_daemon(config=two(sandbox.url))
    sandbox.fail(Failure(mode="lost", count=2))
    client = await connect(daemon.listeners[0].port)

    reply = await client.send("bob@example.org")

    assert reply.startswith("250 2.0.0 Ok: queued as")
    await eventually(lambda: _are_sent(daemon, 1))
    assert set(shapes(sandbox)) == {"simple"}
    assert await providers(daemon) == {"bob@example.org": "json"}


@pytest.mark.parametrize("mode", ["auto", "queue"])
async def test_what_only_capture_can_take_is_kept_with_its_body_before_the_250(
    mode: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    config = f"""
        [relay]
        mode = "{mode}"
        [[provider]]
        kind = "rest"
        url = "{sandbox.url}/send-email"
        auth = "bearer"
        token = "{KEY}"
        [[provider]]
        kind = "capture"
    """
    daemon = await start_daemon(config=config)
    client = await connect(daemon.listeners[0].port)

    reply = await client.send("bob@example.org", content=SIGNED)

    assert reply.startswith("250 2.0.0 Ok: sent")
    (row,) = await daemon.spool.list_messages()
    assert (await daemon.spool.body(row["queue_id"])).endswith(SIGNED)
    assert not sandbox.messages


async def test_a_mail_goes_to_each_recipient_once_through_one_provider(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(config=two(sandbox.url))
    client = await connect(daemon.listeners[0].port)

    await client.send("bob@example.org", "cyd@example.org", "dan@example.org")

    assert shapes(sandbox) == ["simple"]
    assert set(await providers(daemon)) == {"bob@example.org", "cyd@example.org", "dan@example.org"}
