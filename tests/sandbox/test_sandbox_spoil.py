"""Each planned failure as a client meets it."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from bridge.clock import Clock
from bridge.sandbox import Failure, Sandbox

MAIL = {"to": "ann@example.com", "from": "shop@example.com", "subject": "Hi", "body": "Hello\n"}


async def send(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/send-email", json=MAIL, headers={"Idempotency-Key": "k1"})


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        ("400:1", 400, "bad_request"),
        ("429:1", 429, "rate_limited"),
        ("500:1", 500, "internal_error"),
        ("503:1", 503, "unavailable"),
        ("599:1", 599, "error"),
        ("402:1,code=quota_exceeded", 402, "quota_exceeded"),
    ],
)
async def test_a_status_comes_with_the_apis_own_error_body(
    client: httpx.AsyncClient, sandbox: Sandbox, failure: str, status: int, code: str
) -> None:
    sandbox.fail(failure)
    response = await send(client)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert "retry-after" not in response.headers
    assert sandbox.messages == []
    assert (await send(client)).status_code == 200


async def test_a_failure_for_a_recipient_names_the_recipients_field(
    client: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    sandbox.fail("422:1,recipient=bob@example.com")
    other = await send(client)
    hit = await client.post("/send-email", json={**MAIL, "to": ["ann@example.com", "bob@example.com"]})

    assert other.status_code == 200
    assert (hit.status_code, hit.json()["error"]["code"], hit.json()["error"]["field"]) == (
        422,
        "recipient_unknown",
        "to",
    )


async def test_an_outage_comes_before_a_refusal_but_after_the_key(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    sandbox.fail("503")

    assert (await client.post("/send-email", content=b"{")).status_code == 503
    assert (await client.post("/send-email", headers={"Authorization": "Bearer x"})).status_code == 401


@pytest.mark.parametrize(("failure", "status"), [("html:1", 200), ("html:1,status=502,retry_after=3", 502)])
async def test_html_is_a_web_page_with_any_status(
    client: httpx.AsyncClient, sandbox: Sandbox, failure: str, status: int
) -> None:
    sandbox.fail(failure)
    response = await send(client)

    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/html")
    assert response.text.startswith("<!DOCTYPE html>")
    assert sandbox.messages == []


@pytest.mark.parametrize(
    ("mode", "seen", "taken"),
    [
        ("reset", httpx.ReadError, 0),
        ("close_before_answer", httpx.RemoteProtocolError, 0),
        ("garbage", httpx.RemoteProtocolError, 0),
        ("hang:1,seconds=3", httpx.RemoteProtocolError, 0),
        ("half", httpx.RemoteProtocolError, 1),
        ("lost", httpx.RemoteProtocolError, 1),
    ],
)
async def test_a_spoilt_answer_is_a_transport_error_and_the_message_taken_or_not(
    client: httpx.AsyncClient, sandbox: Sandbox, mode: str, seen: type[Exception], taken: int
) -> None:
    sandbox.fail(mode)
    with pytest.raises(seen):
        await send(client)

    assert len(sandbox.messages) == taken
    sandbox.recover()
    assert (await send(client)).status_code == 200
    assert len(sandbox.messages) == 1  # the same idempotency key: never twice


async def test_a_lost_answer_without_a_key_makes_a_duplicate(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    sandbox.fail("lost:1")
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/send-email", json=MAIL)
    await client.post("/send-email", json=MAIL)

    assert len(sandbox.messages) == 2


async def test_half_sends_the_whole_head_and_half_of_the_body(sandbox: Sandbox) -> None:
    sandbox.fail("half:1")
    body = b'{"to":"a@x.example","from":"b@x.example","subject":"","body":""}'
    head = (
        f"POST /send-email HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sandbox-test-key\r\nContent-Length: {len(body)}"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sandbox.url.rpartition(":")[2]))
    writer.write(head.encode() + b"\r\n\r\n" + body)
    answered, _, half = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()

    whole = b'{"id":"%s","status":"sent"}' % sandbox.messages[0].id.encode()
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert half == whole[: len(whole) // 2]


async def test_slow_takes_the_message_at_once_and_answers_late(client: httpx.AsyncClient) -> None:
    release = asyncio.Event()
    waited: list[float] = []

    class HeldClock:
        def now(self) -> float:
            return 0.0

        async def wait(self, event: asyncio.Event, seconds: float) -> bool:
            waited.append(seconds)
            return await release.wait()

    clock: Clock = HeldClock()
    async with Sandbox(key="sandbox-test-key", clock=clock) as sandbox:
        sandbox.fail(Failure(mode="slow", seconds=7.5, count=1))
        sending = asyncio.create_task(client.post(sandbox.url + "/send-email", json=MAIL))
        await sandbox.wait_for(1)

        assert (sending.done(), waited) == (False, [7.5])
        release.set()
        assert (await sending).status_code == 200


async def test_stop_ends_what_hangs(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    sandbox.fail("hang")
    hanging = [asyncio.create_task(send(client)) for _ in range(3)]
    while sandbox.stats["failed"] != 3:
        await asyncio.sleep(0.01)

    async with asyncio.timeout(1):
        await sandbox.stop()
        errors = await asyncio.gather(*hanging, return_exceptions=True)
    assert all(isinstance(error, httpx.TransportError) for error in errors)


async def test_a_client_that_gives_up_on_a_hang_leaves_nothing_behind(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    sandbox.fail("hang:1")
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/send-email", json=MAIL, timeout=0.05)
    await client.aclose()

    async with asyncio.timeout(2):
        while sandbox._server._connections:
            await asyncio.sleep(0.01)
