"""The API as a client sees it, over real sockets."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import orjson
import pytest

from bridge.sandbox import Received, Sandbox

MAIL = {"to": "ann@example.com", "from": "shop@example.com", "subject": "Hi", "body": "Hello\n"}


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    assert set(error) == {"code", "message", "field"}
    assert error["message"]
    return response.status_code, error["code"], error["field"]


async def test_a_mail_is_taken_and_recorded(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    response = await client.post("/send-email", json=MAIL)

    (received,) = sandbox.messages
    assert response.status_code == 200
    assert response.json() == {"id": received.id, "status": "sent"}
    assert response.headers["content-type"] == "application/json"
    assert (received.payload, received.at, received.shape) == (MAIL, 1_700_000_000.0, "simple")


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer sandbox-test-key", 200),
        ("bearer   sandbox-test-key", 200),
        ("", 401),
        ("Bearer", 401),
        ("Bearer sandbox-test-ke", 401),
        ("Bearer sandbox-test-key2", 401),
        ("Basic sandbox-test-key", 401),
        ("sandbox-test-key", 401),
    ],
)
@pytest.mark.parametrize("path", ["/send-email", "/send-full", "/send-raw"])
async def test_only_the_right_key_may_send(sandbox: Sandbox, path: str, authorization: str, status: int) -> None:
    async with httpx.AsyncClient(trust_env=False) as stranger:
        response = await stranger.post(sandbox.url + path, content=b"{", headers={"Authorization": authorization})

    if status == 401:
        assert error_of(response) == (401, "unauthorized", "")
        assert response.headers["www-authenticate"] == "Bearer"
    assert response.status_code == (status if status == 401 else 400)


async def test_what_is_wrong_is_said_with_its_field(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    wrong = await client.post("/send-email", json={**MAIL, "attachments": [{"filename": "a", "content": "?"}]})
    broken = await client.post("/send-email", content=b"{")

    assert error_of(wrong) == (422, "validation_error", "attachments[0].content")
    assert error_of(broken) == (400, "invalid_json", "")
    assert sandbox.messages == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"to": "bob@refused.example"}, (422, "recipient_unknown", "to")),
        ({"cc": "bob@Refused.Example"}, (422, "recipient_unknown", "cc")),
        ({"bcc": ["eve@example.com", "bob@refused.example"]}, (422, "recipient_unknown", "bcc")),
        ({"subject": "please [refuse] this"}, (422, "message_refused", "subject")),
        ({"from": "Eve <eve@forbidden.example>"}, (403, "sender_not_allowed", "from")),
    ],
)
async def test_some_messages_are_always_refused(
    client: httpx.AsyncClient, sandbox: Sandbox, changes: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    response = await client.post("/send-email", json={**MAIL, **changes})

    assert error_of(response) == expected
    assert sandbox.messages == []


async def test_the_refused_domain_is_refused_in_every_shape(client: httpx.AsyncClient) -> None:
    envelope = {"from": "", "to": ["bob@refused.example"]}
    full = {"envelope": envelope, "from": {"email": "a@x.example"}, "subject": ""}
    raw = {"envelope": envelope, "raw": base64.b64encode(b"Subject: a\r\n\r\n").decode()}

    assert error_of(await client.post("/send-full", json=full)) == (422, "recipient_unknown", "envelope.to")
    assert error_of(await client.post("/send-raw", json=raw)) == (422, "recipient_unknown", "envelope.to")


async def test_the_same_key_and_payload_answer_the_same_and_are_taken_once(
    client: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    answers = [await client.post("/send-email", json=MAIL, headers={"Idempotency-Key": "k1"}) for _ in range(3)]
    other = await client.post("/send-email", json=MAIL, headers={"Idempotency-Key": "k2"})

    assert len({answer.content for answer in answers}) == 1
    assert other.json()["id"] != answers[0].json()["id"]
    assert [message.idempotency_key for message in sandbox.messages] == ["k1", "k2"]
    assert sandbox.stats["replayed"] == 2


async def test_many_at_once_with_one_key_are_taken_once(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    large = {**MAIL, "body": "x" * 300_000}  # parsed in a thread
    keyed = {"Idempotency-Key": "k1"}
    answers = await asyncio.gather(*(client.post("/send-email", json=large, headers=keyed) for _ in range(8)))

    assert {answer.status_code for answer in answers} == {200}
    assert len(sandbox.messages) == 1


async def test_the_same_key_with_another_payload_is_a_conflict(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    await client.post("/send-email", json=MAIL, headers={"Idempotency-Key": "k1"})
    conflict = await client.post("/send-email", json={**MAIL, "body": "x"}, headers={"Idempotency-Key": "k1"})

    assert error_of(conflict) == (409, "idempotency_conflict", "Idempotency-Key")
    assert len(sandbox.messages) == 1


async def test_a_refused_attempt_does_not_use_up_its_key(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    sandbox.fail("503:1")
    keyed = {"Idempotency-Key": "k1"}
    statuses = [(await client.post("/send-email", json=MAIL, headers=keyed)).status_code for _ in range(2)]

    assert statuses == [503, 200]


async def test_without_a_key_each_request_is_a_message(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    for _ in range(2):
        await client.post("/send-email", json=MAIL)

    assert len(sandbox.messages) == 2


async def test_a_key_that_is_too_long_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/send-email", json=MAIL, headers={"Idempotency-Key": "k" * 256})

    assert error_of(response) == (422, "validation_error", "Idempotency-Key")


async def test_received_messages_are_listed_with_their_headers_and_without_the_key(client: httpx.AsyncClient) -> None:
    await client.post("/send-email", json={**MAIL, "bcc": "eve@example.com"}, headers={"X-Trace": "t1"})
    listed = await client.get("/sandbox/messages")

    (message,) = listed.json()["messages"]
    assert (message["to"], message["bcc"]) == (["ann@example.com"], ["eve@example.com"])
    assert ["x-trace", "t1"] in message["headers"]
    assert ["authorization", "***"] in message["headers"]
    assert b"sandbox-test-key" not in listed.content


async def test_clearing_forgets_messages_keys_and_counters_and_keeps_the_plan(
    client: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    keyed = {"Idempotency-Key": "k1"}
    await client.post("/send-email", json=MAIL, headers=keyed)
    await client.post("/sandbox/fail", json={"status": 503, "recipient": "bob@example.com"})
    await client.delete("/sandbox/messages")

    stats = (await client.get("/sandbox/stats")).json()
    assert (stats["received"], stats["kept"], stats["kept_bytes"]) == (0, 0, 0)
    assert stats["plan"] == [{"mode": "status", "status": 503, "recipient": "bob@example.com"}]
    assert (await client.post("/send-email", json={**MAIL, "body": "new"}, headers=keyed)).status_code == 200


async def test_stats_count_what_happened(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    await client.post("/sandbox/fail", json={"status": 503, "count": 1})
    for mail in (MAIL, MAIL, {**MAIL, "to": ""}):
        await client.post("/send-email", json=mail)

    stats = (await client.get("/sandbox/stats")).json()
    assert (stats["received"], stats["kept"], stats["failed"], stats["plan"]) == (1, 1, 1, [])
    assert stats["responses"] == {"200": 2, "422": 1, "503": 1}


async def test_failures_are_planned_and_taken_back_over_http(client: httpx.AsyncClient) -> None:
    planned = await client.post("/sandbox/fail", json={"status": 429, "retry_after": 7})
    first = await client.post("/send-email", json=MAIL)
    recovered = await client.request("DELETE", "/sandbox/fail")
    second = await client.post("/send-email", json=MAIL)

    assert planned.json() == {"plan": [{"mode": "status", "status": 429, "retry_after": 7}]}
    assert (first.status_code, first.headers["retry-after"]) == (429, "7")
    assert (recovered.json(), second.status_code) == ({"plan": []}, 200)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"status": 200}', (422, "validation_error", "")),
        (b'{"status": 503, "colour": 1}', (422, "validation_error", "")),
        (b"[]", (422, "validation_error", "")),
        (b"", (400, "invalid_json", "")),
    ],
)
async def test_a_plan_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, sandbox: Sandbox, body: bytes, expected: tuple[int, str, str]
) -> None:
    response = await client.post("/sandbox/fail", content=body)

    assert error_of(response) == expected
    assert sandbox.stats["plan"] == []


async def test_raw_and_full_are_taken_at_their_own_paths(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    headers = {
        "Content-Type": "message/rfc822",
        "X-Envelope-From": "a@x.example",
        "X-Envelope-To": "b@x.example,c@x.example",
    }
    raw = await client.post("/send-raw", content=b"Subject: raw\r\n\r\nHi\r\n", headers=headers)
    envelope = {"from": "a@x.example", "to": ["d@x.example"]}
    full = await client.post(
        "/send-full", json={"envelope": envelope, "from": {"email": "a@x.example"}, "subject": "full"}
    )

    assert (raw.status_code, full.status_code) == (200, 200)
    assert [(m.shape, m.subject, m.recipients) for m in sandbox.messages] == [
        ("raw", "raw", ("b@x.example", "c@x.example")),
        ("full", "full", ("d@x.example",)),
    ]


async def test_wait_for_returns_once_so_many_were_taken(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    waiters = [asyncio.create_task(sandbox.wait_for(count)) for count in (1, 2)]
    await asyncio.gather(client.post("/send-email", json=MAIL), client.post("/send-email", json=MAIL))
    first, second = await asyncio.gather(*waiters)

    assert len(first) >= 1
    assert len(second) == 2
    with pytest.raises(TimeoutError):
        await sandbox.wait_for(3, seconds=0.01)


async def test_each_message_is_handed_to_on_received() -> None:
    seen: list[Received] = []
    async with Sandbox(key="k", on_received=seen.append) as sandbox, httpx.AsyncClient(trust_env=False) as client:
        await client.post(sandbox.url + "/send-email", json=MAIL, headers={"Authorization": "Bearer k"})

        assert seen == sandbox.messages != []


async def test_what_is_listed_over_http_is_what_the_process_sees(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    await client.post("/send-email", json=MAIL)

    listed = (await client.get("/sandbox/messages")).json()["messages"]
    assert listed == orjson.loads(orjson.dumps(sandbox.messages))
