"""The REST door: the rules of SMTP hold here too, and what is asked and what is answered is bounded."""

# ruff: noqa: F811 a fixture
from __future__ import annotations

import asyncio
import smtplib
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from bridge.mime.parse import parse
from bridge.providers.catalogue import KINDS, adapter
from bridge.providers.features import read_features
from bridge.web import send
from bridge.web.errors import MAX_FIELD, MAX_MESSAGE, MAX_SHOWN
from bridge.web.keys import Keys
from bridge.web.once import scoped
from tests.e2e.conftest import eventually
from tests.web.conftest import bearer, keys
from tests.web.test_send import CAPTURE, PLAIN, Door, door  # noqa: F401 a fixture

# What the SMTP services of the providers understand, with parts in it that nobody may ask for.
FEATURES = {
    "X-Bridge-Tag": "welcome, new",
    "X-Bridge-Metadata": '{"order": "17", "name": "Zoë"}',
    "X-SMTPAPI": orjson.dumps(
        {"category": ["a"], "to": ["evil@example.net"], "unique_args": {"k": "v" * 1200}, "filters": {"bcc": {}}}
    ).decode(),
    "X-MC-Tags": "one,two",
    "X-MC-BccAddress": "evil@example.net",
    "X-MC-Subaccount": "other",
    "X-MC-SendAt": "2030-01-01 00:00:00",
    "X-PM-Tag": "tag",
    "X-PM-Metadata-shop": "3",
    "X-PM-Message-Stream": "broadcast",
    "X-Mailgun-Tag": "t",
    "X-Mailgun-Variables": '{"a": "b"}',
    "X-MSYS-API": '{"cc": ["evil@example.net"], "campaign_id": "c", "options": {"transactional": true}}',
    "X-SES-Configuration-Set": "set",
    "X-SES-Message-Tags": "a=b",
    "X-MJ-CustomID": "4",
    "X-Mailin-Tag": "t",
    "X-MT-Category": "c",
    "X-LM-Tag": "t",
}


async def test_what_providers_read_from_header_fields_is_the_same_as_by_smtp(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE + keys("send"))
    door = Door(daemon, client)

    def by_smtp() -> None:
        lines = [f"{name}: {value}" for name, value in FEATURES.items()]
        text = "\r\n".join(("From: shop@example.com", "To: ann@example.com", "Subject: hello", *lines, "", "text"))
        with smtplib.SMTP("127.0.0.1", daemon.listeners[0].port) as smtp:
            smtp.sendmail("shop@example.com", ["ann@example.com"], text.encode(), ["BODY=8BITMIME"])

    posted = parse(await door.raw(await door.post(PLAIN | {"headers": FEATURES})))
    await asyncio.to_thread(by_smtp)
    (queue_id,) = [row["queue_id"] for row in await daemon.spool.list_messages() if row["protocol"] != "HTTP"]
    mailed = parse(await daemon.spool.body(queue_id))

    taken: set[str] = set()
    for kind in KINDS:
        found = read_features(posted.headers, adapter(kind).readers)
        assert found == read_features(mailed.headers, adapter(kind).readers), kind
        assert "evil" not in repr((found.tags, found.metadata, found.options))
        taken |= found.used
    assert {name.lower() for name in FEATURES} - taken <= {"x-mc-bccaddress", "x-mc-subaccount", "x-mc-sendat"}


async def test_a_header_in_two_spellings_is_told(door: Door) -> None:
    assert await door.refused(headers={"X-Order": "1", "x-order": "2"}) == (400, "headers.x-order")
    assert (await door.post(PLAIN | {"headers": {"X-Order": ["1", "2"]}})).status_code == 200


async def test_more_values_than_memory_is_asked_for_are_refused(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "MAX_VALUES", 50)

    assert (await door.post(PLAIN | {"headers": {"X-Many": ["a"] * 40}})).status_code == 200
    for body in (b"[" * 51, b"{" * 51, b'{"to": [' + b"1," * 50 + b"1]}", orjson.dumps(PLAIN | {"body": "," * 60})):
        answer = await door.post(body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


LONG = "x" * 20_000


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/send-email", PLAIN | {LONG: 1}),
        ("POST", "/send-email", {"messages": [], LONG: 1}),
        ("POST", "/send-email", PLAIN | {"to": LONG}),
        ("POST", "/send-email", PLAIN | {"headers": {LONG: "1"}}),
        ("POST", "/send-email", PLAIN | {"headers": {"X-A": {LONG: 1}}}),
        ("POST", "/send-email", PLAIN | {"attachments": [{"content": "", "content_type": f"multipart/{LONG[:200]}"}]}),
        ("POST", "/send-email", PLAIN | {"attachments": [{"content": "", LONG: ""}]}),
        ("POST", "/api/v1/messages/retry", {LONG: 1}),
        ("POST", "/api/v1/messages/retry", {"filter": {LONG: "1"}}),
        ("POST", "/api/v1/messages/retry", {"ids": ["1"], "provider": LONG}),
        ("POST", f"/api/v1/messages/{LONG}", {"ids": ["1"]}),
        ("GET", f"/api/v1/messages?{LONG}=1", None),
        ("GET", f"/api/v1/messages?since={LONG}", None),
        ("GET", f"/api/v1/messages?status={LONG}", None),
    ],
)
async def test_what_is_told_back_is_short(door: Door, method: str, path: str, body: Any) -> None:
    scope = "send" if path == "/send-email" else "manage"
    headers = {"Content-Type": "application/json", **bearer(scope)}
    content = orjson.dumps(body) if body else b""
    answer = await door.client.request(method, path, content=content, headers=headers)

    assert 400 <= answer.status_code < 500
    assert len(answer.text) < MAX_SHOWN + 500, answer.text
    assert "x" * 150 not in answer.json()["error"]["message"]
    assert len(answer.json()["error"]["field"]) <= MAX_FIELD < MAX_MESSAGE


async def test_what_the_rate_puts_off_leaves_nothing_and_goes_through_later(start_web: Any) -> None:
    config = keys("send").replace("[[http.key]]", '[[http.key]]\nrate = "1/h"')
    daemon, client = await start_web(config=CAPTURE + config)
    door = Door(daemon, client)
    moment = 0.0
    daemon.web.keys = Keys([daemon.web.keys.named("send")], clock=lambda: moment)
    first, again = await door.post(**{"Idempotency-Key": "a"}), await door.post(**{"Idempotency-Key": "b"})
    replayed = await door.post(**{"Idempotency-Key": "a"})

    assert (first.status_code, again.status_code, replayed.status_code) == (200, 429, 200)
    assert await daemon.spool.find_request(scoped("send", "b"), since=0) is None
    moment = 3601.0
    assert (await door.post(**{"Idempotency-Key": "b"})).status_code == 200
    assert len(await daemon.spool.list_messages()) == 2


# --- the end of a body, and of the daemon


async def begun(door: Door, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request of 100 octets of which these have come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.daemon.http.port)
    head = "POST /send-email HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    writer.write(f"{head}Authorization: {bearer('send')['Authorization']}\r\n\r\n".encode() + body)
    await eventually(lambda: door.daemon.web.bodies)
    return reader, writer


async def test_who_is_still_sending_at_a_shutdown_is_told_to_come_again(door: Door) -> None:
    reader, writer = await begun(door, b"{")
    await asyncio.wait_for(door.daemon.stop(), 2)  # it waits for nobody's body
    answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 30\r\n" in answer.lower()
    assert b'"code":"unavailable"' in answer


async def test_a_submission_that_a_shutdown_cuts_off_is_told_to_come_again(door: Door) -> None:
    def cut_off(*args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(task.cancel)
        return task

    door.daemon.web.submit = cut_off
    answer = await door.post()

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json()["error"]["code"] == "unavailable"


async def test_a_client_that_hangs_up_in_its_body_is_no_defect(door: Door) -> None:
    with capture_logs() as logs:
        _, writer = await begun(door, b"{")
        writer.close()
        await eventually(lambda: door.daemon.budget.used == 0)

    assert not door.daemon.web.bodies
    assert [one for one in logs if one["event"] == "http.error"] == []
