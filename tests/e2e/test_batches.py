"""A provider that takes several messages in one request, behind a real SMTP server and a real spool."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pytest

from bridge.mime.addressing import address
from bridge.model import Addressing, Email, Envelope, Outcome
from bridge.providers.base import Call, Policy, Provider, Unfit
from bridge.reply import sent
from tests.e2e.conftest import eventually, statuses


class Batching(Provider):
    """`requests`: the recipients of each. While `gate` is not set, none is answered."""

    kind = "batching"

    def __init__(self) -> None:
        super().__init__("batching", Policy(concurrency=1, timeout=20))
        self.max_batch = 25
        self.gate = asyncio.Event()
        self.requests: list[list[str]] = []

    def unfit(self, email: Email, envelope: Envelope) -> Unfit | None:
        return None

    def calls(self, email: Email, reverse_path: str, recipients: tuple[str, ...]) -> tuple[Addressing, ...]:
        return address(email, reverse_path, recipients, carries_envelope=True)

    def batch_key(self, call: Call) -> Hashable | None:
        return call.addressing.reverse_path

    async def send(self, email: Email, addressing: Addressing, *, queue_id: str, key: str) -> Mapping[str, Outcome]:
        (outcomes,) = await self.send_many([Call(email=email, addressing=addressing, queue_id=queue_id, key=key)])
        return outcomes

    async def send_many(self, calls: Sequence[Call]) -> Sequence[Mapping[str, Outcome]]:
        self.requests.append([r for call in calls for r in call.addressing.recipients])
        await self.gate.wait()
        outcome = Outcome(status="sent", reply=sent("1"))
        return [dict.fromkeys(call.addressing.recipients, outcome) for call in calls]


@pytest.fixture
def batching(monkeypatch: pytest.MonkeyPatch) -> list[Batching]:
    """What daemons use instead of the provider of their settings; one for each daemon."""
    made: list[Batching] = []

    def build(*args: Any) -> list[Batching]:
        made.append(Batching())
        return made[-1:]

    monkeypatch.setattr("bridge.daemon.build_providers", build)
    return made


def queue(**more: str) -> dict[str, str]:
    named = {"SMTP_BRIDGE_PROVIDER__KIND": "capture", "SMTP_BRIDGE_PROVIDER__NAME": "batching"}
    return {**named, "SMTP_BRIDGE_RELAY__MODE": "queue", **more}


async def send(client: Any, numbers: range, sender: str = "ann@example.com") -> list[str]:
    recipients = [f"r{n}@example.org" for n in numbers]
    for recipient in recipients:
        assert (await client.send(recipient, sender=sender)).startswith("250 2.0.0 Ok: queued")
    return recipients


async def all_sent(daemon: Any, recipients: list[str]) -> bool:
    return await statuses(daemon) == dict.fromkeys(recipients, "sent")


async def test_a_queue_that_grew_goes_out_in_few_requests_and_nobody_is_mailed_twice(
    start_daemon: Any, connect: Any, batching: list[Batching]
) -> None:
    daemon = await start_daemon(**queue())
    (provider,) = batching
    client = await connect(daemon.listeners[0].port)
    recipients = await send(client, range(90))

    provider.gate.set()

    await eventually(lambda: all_sent(daemon, recipients))
    assert sorted(r for request in provider.requests for r in request) == sorted(recipients)
    assert max(len(request) for request in provider.requests) == 25
    assert len(provider.requests) <= 8


async def test_mail_of_different_senders_goes_apart_where_the_provider_wants_that(
    start_daemon: Any, connect: Any, batching: list[Batching]
) -> None:
    daemon = await start_daemon(**queue())
    (provider,) = batching
    client = await connect(daemon.listeners[0].port)
    first = await send(client, range(1))
    await eventually(lambda: provider.requests)
    ann, eve = await send(client, range(1, 9)), await send(client, range(9, 17), "eve@example.com")
    await eventually(lambda: len(daemon.runner._works) == 17)
    await asyncio.sleep(0.05)

    provider.gate.set()

    await eventually(lambda: all_sent(daemon, first + ann + eve))
    assert [set(request) for request in provider.requests] == [set(first), set(ann), set(eve)]


async def test_a_client_that_waits_gets_a_request_of_its_own(
    start_daemon: Any, connect: Any, batching: list[Batching]
) -> None:
    daemon = await start_daemon(**queue(SMTP_BRIDGE_RELAY__MODE="auto"))
    (provider,) = batching
    clients = [await connect(daemon.listeners[0].port) for _ in range(5)]
    provider.gate.set()

    replies = await asyncio.gather(*(client.send(f"r{n}@example.org") for n, client in enumerate(clients)))

    assert all(reply.startswith("250 2.0.0 Ok: sent") for reply in replies)
    assert [len(request) for request in provider.requests] == [1] * 5


async def test_a_stop_while_a_batch_waits_loses_and_repeats_nothing(
    start_daemon: Any, connect: Any, batching: list[Batching]
) -> None:
    daemon = await start_daemon(**queue(SMTP_BRIDGE_SMTP__SHUTDOWN_TIMEOUT="1s"))
    client = await connect(daemon.listeners[0].port)
    begun = await send(client, range(1))
    await eventually(lambda: batching[0].requests)
    waiting = await send(client, range(1, 21))
    await eventually(lambda: len(daemon.runner._works) == 21)
    client.close()
    await daemon.stop()
    assert batching[0].requests == [begun]

    again = await start_daemon(**queue())
    batching[1].gate.set()

    await eventually(lambda: all_sent(again, begun + waiting))
    assert sorted(r for request in batching[1].requests for r in request) == sorted(begun + waiting)
