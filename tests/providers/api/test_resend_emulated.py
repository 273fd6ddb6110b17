"""Resend against an emulator that others wrote (the npm package `emulate`): a second witness beside our twin."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from bridge.mime.parse import parse
from bridge.model import Addressing, Mailbox
from bridge.providers.base import Call, Policy
from bridge.providers.catalogue import settings_of
from bridge.providers.http import transport_for
from bridge.providers.resend import Resend
from tests.conftest import reserved_port
from tests.providers.api import mails
from tests.providers.api.mails import ANN, BOB, CAT, SENDER

MODULES = Path(sys.prefix) / "node" / "node_modules"
NODE, EMULATE = MODULES / ".bin" / "node", MODULES / "emulate" / "dist" / "index.js"

pytestmark = pytest.mark.skipif(
    not (NODE.exists() and EMULATE.exists()), reason="emulate is not installed on this machine (needs npm)"
)


@pytest.fixture
async def emulator() -> AsyncIterator[str]:
    with reserved_port() as port:
        process = await asyncio.create_subprocess_exec(
            *(str(NODE), str(EMULATE), "start", "--service", "resend", "--port", str(port)),
            stdout=asyncio.subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient() as client:
            for _ in range(200):
                try:
                    await client.get(f"{url}/emails")
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.05)
        yield url
        process.terminate()
        await process.wait()


@pytest.fixture
async def provider(emulator: str) -> AsyncIterator[Resend]:
    given = SimpleNamespace(url=emulator, region="", batch=0, api_key="re_test")
    policy = Policy(timeout=10)
    made = Resend("main", policy, settings_of("resend", given), transport=transport_for(emulator, policy))
    yield made
    await made.aclose()


async def listed(url: str) -> list[dict[str, object]]:
    async with httpx.AsyncClient() as client:
        found = await client.get(f"{url}/emails", headers={"Authorization": "Bearer re_test"})
    data: list[dict[str, object]] = found.json()["data"]
    return data


async def test_a_mail_is_taken_once_however_often_it_is_sent_with_its_key(provider: Resend, emulator: str) -> None:
    email = parse(mails.raw(mails.build(Reply_To=BOB, X_Bridge_Tag="welcome")))
    call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN, "Ann Lee"),), bcc=(CAT,))

    first = await provider.send(email, call, queue_id="Q1", key="K1")
    second = await provider.send(email, call, queue_id="Q1", key="K1")

    assert first == second
    assert {outcome.status for outcome in first.values()} == {"sent"}
    (mail,) = await listed(emulator)
    assert mail["to"] == [f"Ann Lee <{ANN}>"]
    assert mail["bcc"] == [CAT]
    assert mail["reply_to"] == [BOB]


async def test_a_known_key_with_another_mail_is_never_called_sent(provider: Resend) -> None:
    call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN),))
    await provider.send(parse(mails.raw(mails.build(Subject="one"))), call, queue_id="Q1", key="K1")
    outcomes = await provider.send(parse(mails.raw(mails.build(Subject="two"))), call, queue_id="Q1", key="K1")

    assert outcomes[ANN].status == "unknown"


async def test_a_batch_is_taken(provider: Resend, emulator: str) -> None:
    email = parse(mails.raw(mails.build()))
    calls = [
        Call(email=email, addressing=Addressing(reverse_path=SENDER, to=(Mailbox(r),)), queue_id=r, key=r)
        for r in (ANN, BOB)
    ]
    found = await provider.send_many(calls)

    assert [next(iter(outcomes.values())).status for outcomes in found] == ["sent", "sent"]
    assert len(await listed(emulator)) == 2
