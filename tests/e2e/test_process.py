"""`smtp-bridge run` as a process of its own between a client and the API: what the API does, one thing after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from bridge.sandbox import Failure, Sandbox
from tests.e2e.conftest import eventually, rest

# what the API does for one message -> what the client hears in auto mode; a queued one arrives once the API is well again
TEMPORARY: dict[str, Failure] = {
    "an outage": Failure(status=503, count=3),
    "429 with Retry-After": Failure(status=429, retry_after=1, count=1),
    "a hang after the body": Failure(mode="hang", seconds=1.5, count=1),
    "a wrong key": Failure(status=401, count=2),
    "a slow answer": Failure(mode="slow", seconds=0.7, count=1),
}
PERMANENT = {"422": (Failure(status=422, count=1), "554 5.6.0"), "413": (Failure(status=413, count=1), "552 5.3.4")}


@pytest.fixture
async def process(sandbox: Sandbox, bridge_process: Any) -> Any:
    return await bridge_process(
        **rest(
            sandbox.url,
            SMTP_BRIDGE_RELAY__ATTEMPT_TIMEOUT="0.3s",
            SMTP_BRIDGE_PROVIDER__TIMEOUT="1s",
            SMTP_BRIDGE_PROVIDER__IDEMPOTENT="true",
            SMTP_BRIDGE_RETRY__MAXIMUM="2s",
        )
    )


@pytest.mark.serial
async def test_whatever_the_api_does_each_message_arrives_once_or_is_refused(
    process: Any, sandbox: Sandbox, connect: Callable[..., Any]
) -> None:
    client = await connect(process.port)
    for name, (failure, wanted) in PERMANENT.items():
        sandbox.fail(failure)
        assert (await client.send(subject=name)).startswith(wanted)
        sandbox.recover()
    for name, failure in TEMPORARY.items():
        sandbox.fail(failure)
        started = time.monotonic()
        reply = await client.send(subject=name)
        assert reply.startswith("250 2.0.0 Ok: queued as "), (name, reply)
        assert time.monotonic() - started < 1.0, name
        await eventually(lambda wanted=name: wanted in subjects(sandbox))
        sandbox.recover()

    assert (await client.send(subject="the last one")).startswith("250 2.0.0 Ok: ")
    await eventually(lambda: "the last one" in subjects(sandbox))
    assert subjects(sandbox) == [*TEMPORARY, "the last one"]


async def test_a_refused_connection_is_waited_out(process: Any, sandbox: Sandbox, connect: Callable[..., Any]) -> None:
    client = await connect(process.port)
    await sandbox.stop()

    assert (await client.send(subject="nobody listens")).startswith("250 2.0.0 Ok: queued as ")

    await asyncio.sleep(0.3)
    await sandbox.start()
    await eventually(lambda: subjects(sandbox) == ["nobody listens"])


async def test_a_client_that_leaves_in_the_middle_of_data_sends_nothing(
    process: Any, sandbox: Sandbox, connect: Callable[..., Any]
) -> None:
    client = await connect(process.port)
    await client.envelope(["bob@example.org"])
    assert (await client.say("DATA")).startswith("354")
    client.writer.write(b"Subject: half a message\r\n\r\ntext")
    client.close()
    other = await connect(process.port)

    assert (await other.send(subject="whole")).startswith("250 2.0.0 Ok: sent")
    assert subjects(sandbox) == ["whole"]


def subjects(sandbox: Sandbox) -> list[str]:
    return [received.subject for received in sandbox.messages]
