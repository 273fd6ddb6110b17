"""Bridges that send to each other's REST door: a message that goes round in a circle comes to an end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import reserved_port
from tests.e2e.conftest import eventually
from tests.web.conftest import KEYS, bearer, keys
from tests.web.test_send import CAPTURE, PLAIN, Door


def to_itself(port: int) -> str:
    """By a template, so that a notice goes as a text, which the door takes."""
    token = f'auth = "bearer"\ntoken = "{KEYS["send"][0]}"'
    body = '{to = "{to}", from = "{from}", subject = "{subject}", body = "{text}"}'
    url = f"http://127.0.0.1:{port}/send-email"
    return f'[[provider]]\nkind = "rest"\nurl = "{url}"\n{token}\nbody = {body}\n' + keys("send", "read")


async def test_a_bridge_that_sends_to_itself_ends_it_and_tells_the_sender_once(start_web: Any) -> None:
    with reserved_port() as port:
        daemon, client = await start_web(
            config=to_itself(port),
            SMTP_BRIDGE_HTTP__ADDRESS=f"127.0.0.1:{port}",
            SMTP_BRIDGE_SMTP__MAX_HOPS="3",
            SMTP_BRIDGE_RELAY__MODE="queue",
        )
        await Door(daemon, client).post(PLAIN)

        async def over() -> bool:
            rows = await daemon.spool.list_messages()
            return len(rows) > 4 and all(row["status"] in ("sent", "bounced") for row in rows)

        await eventually(over)
        await daemon.bounces.tell_all()  # what there is to tell has been told then
        rows = await daemon.spool.list_messages()

    bounced = [row for row in rows if row["status"] == "bounced"]
    assert sorted((row["sender"], row["kind"]) for row in bounced) == [("", "dsn"), ("shop@example.com", "mail")]
    assert all("554 5.4.6" in row["recipients"][0]["text"] for row in bounced)
    assert len(rows) == 5  # four hops, and one notice


async def test_the_hops_before_are_counted_and_told_on(start_web: Any) -> None:
    door = Door(*await start_web(config=CAPTURE + keys("send"), SMTP_BRIDGE_SMTP__MAX_HOPS="3"))

    taken = await door.post(**{"X-Bridge-Hops": "3"})
    refused = await door.post(**{"X-Bridge-Hops": "4"})

    assert b"\r\nX-Bridge-Hops: 3\r\n" in await door.raw(taken)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "refused")
    assert refused.json()["error"]["message"].startswith("554 5.4.6")
    assert b"X-Bridge-Hops" not in await door.raw(await door.post())


@pytest.mark.parametrize("told", ["", "-1", "x", "²", "123456"])
async def test_a_count_that_is_none_is_told(start_web: Any, told: str) -> None:
    _, client = await start_web(config=CAPTURE + keys("send"))
    headers = [(b"X-Bridge-Hops", told.encode()), (b"Content-Type", b"application/json")]
    headers += [(name.encode(), value.encode()) for name, value in bearer("send").items()]
    answer = await client.post("/send-email", content=b"{}", headers=headers)

    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "X-Bridge-Hops")


async def test_it_is_no_field_for_a_client_to_give(start_web: Any) -> None:
    door = Door(*await start_web(config=CAPTURE + keys("send")))

    assert await door.refused(headers={"X-Bridge-Hops": "0"}) == (400, "headers.X-Bridge-Hops")
