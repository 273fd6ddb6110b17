"""`Idempotency-Key`: the same request again, at the same time, after a restart, and after a crash."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import httpx
import orjson
import pytest

from bridge.clock import SystemClock
from bridge.housekeeping import REQUESTS_S
from bridge.spool.base import Asked, SpoolError
from bridge.web import once
from bridge.web.once import scoped
from bridge.web.order import read_order
from tests.e2e.conftest import eventually, rest
from tests.web.conftest import bearer, keys
from tests.web.test_send import CAPTURE, PLAIN, Door, door, sandbox, to_sandbox  # noqa: F401 fixtures

KEYED = {"Idempotency-Key": "order-42"}
DIGEST = read_order(PLAIN, max_recipients=1).digest


async def test_the_same_again_is_answered_the_same_and_not_sent(to_sandbox: Any, sandbox: Any) -> None:  # noqa: F811
    door = await to_sandbox()  # noqa: F811
    first, again = await door.post(**KEYED), await door.post(dict(reversed(PLAIN.items())), **KEYED)

    assert (first.status_code, "idempotent-replayed" in first.headers) == (200, False)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.json() == first.json()
    assert len(sandbox.messages) == 1


async def test_a_key_means_one_request(door: Door) -> None:  # noqa: F811
    await door.post(**KEYED)
    other = await door.post(PLAIN | {"subject": "another"}, **KEYED)

    assert other.status_code == 422
    assert (other.json()["error"]["code"], other.json()["error"]["field"]) == (
        "idempotency_key_reused",
        "Idempotency-Key",
    )
    assert (await door.post(PLAIN, **{"Idempotency-Key": '"order-42"'})).headers["idempotent-replayed"] == "true"
    assert (await door.post(PLAIN, **{"Idempotency-Key": "order-43"})).headers.get("idempotent-replayed") is None


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "\xe9"])
async def test_a_key_that_is_none_is_told(door: Door, key: str) -> None:  # noqa: F811
    answer = await door.client.post(
        "/send-email", json=PLAIN, headers={**bearer("send"), "Idempotency-Key": key.encode("latin-1")}
    )

    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "Idempotency-Key")


async def test_keys_of_two_clients_have_nothing_to_do_with_each_other(start_web: Any) -> None:
    config = keys("send", "read").replace('"read"]', '"send"]')
    door = Door(*await start_web(config=CAPTURE + config))  # noqa: F811
    first, other = await door.post(**KEYED), await door.post(scope="read", **KEYED)

    assert other.status_code == 200
    assert other.json()["id"] != first.json()["id"]


async def test_those_that_come_meanwhile_wait_for_the_answer(to_sandbox: Any, sandbox: Any) -> None:  # noqa: F811
    door = await to_sandbox()  # noqa: F811
    sandbox.fail("slow:1,seconds=0.1")
    answers = await asyncio.gather(*(door.post(**KEYED) for _ in range(10)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 9
    assert len(sandbox.messages) == 1


async def test_another_request_does_not_wait_for_a_key_that_is_used(to_sandbox: Any, sandbox: Any) -> None:  # noqa: F811
    door = await to_sandbox()  # noqa: F811
    sandbox.fail("slow:1,seconds=0.2")
    first = asyncio.create_task(door.post(**KEYED))
    await eventually(lambda: sandbox.messages)

    assert (await door.post(PLAIN | {"subject": "another"}, **KEYED)).status_code == 422
    assert (await first).status_code == 200


async def test_it_is_known_over_a_restart(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE + keys("send"))
    first = await Door(daemon, client).post(**KEYED)
    await daemon.stop()
    daemon, client = await start_web(config=CAPTURE + keys("send"))
    again = await Door(daemon, client).post(**KEYED)

    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert len(await daemon.spool.list_messages()) == 1


async def test_after_a_crash_the_spool_tells_whether_it_was_taken(to_sandbox: Any, sandbox: Any) -> None:  # noqa: F811
    """The answer was not noted: the message may be there or not."""
    door = await to_sandbox(SMTP_BRIDGE_RELAY__MODE="queue")  # noqa: F811
    taken = (await door.post()).json()["id"]
    spool, now = door.daemon.spool, door.daemon.clock.now()
    await spool.note_request(Asked(scoped("send", "taken"), DIGEST, taken), now=now)
    lost = door.daemon.web.new_queue_id()
    await spool.note_request(Asked(scoped("send", "lost"), DIGEST, lost), now=now)
    await eventually(lambda: len(sandbox.messages) == 1)

    async def sent() -> bool:
        return bool((await spool.show(taken))["status"] == "sent")

    await eventually(sent)
    again, anew = await door.post(**{"Idempotency-Key": "taken"}), await door.post(**{"Idempotency-Key": "lost"})

    assert (again.status_code, again.json()["id"]) == (200, taken)
    assert (anew.status_code, anew.json()["id"]) == (202, lost)
    await eventually(lambda: len(sandbox.messages) == 2)
    assert (await spool.find_request(scoped("send", "taken"), since=0)).status == 200


async def test_what_promised_nothing_is_tried_again(to_sandbox: Any, sandbox: Any) -> None:  # noqa: F811
    door = await to_sandbox(SMTP_BRIDGE_RELAY__MODE="direct", SMTP_BRIDGE_BREAKER__WAIT="1ms")  # noqa: F811
    sandbox.fail("503:1")
    first = await door.post(**KEYED)
    assert (first.status_code, sandbox.messages) == (503, [])

    async def taken() -> bool:
        return bool((await door.post(**KEYED)).status_code == 200)

    await eventually(taken)
    assert len(sandbox.messages) == 1


async def test_a_client_that_hangs_up_gets_its_answer_when_it_comes_again(to_sandbox: Any, sandbox: Any) -> None:  # noqa: F811
    door = await to_sandbox()  # noqa: F811
    sandbox.fail("slow:1,seconds=0.2")
    body = orjson.dumps(PLAIN)
    _, writer = await asyncio.open_connection("127.0.0.1", door.daemon.http.port)
    writer.write(
        f"POST /send-email HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Idempotency-Key: order-42\r\nAuthorization: {bearer('send')['Authorization']}\r\n\r\n".encode()
        + body
    )
    await eventually(lambda: sandbox.messages)
    writer.close()
    again = await door.post(**KEYED)

    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert len(sandbox.messages) == 1


async def test_it_is_forgotten_after_a_day(start_web: Any) -> None:
    class Clock(SystemClock):
        ahead = 0.0

        def now(self) -> float:
            return super().now() + self.ahead

    clock = Clock()
    door = Door(*await start_web(config=CAPTURE + keys("send"), clock=clock))  # noqa: F811
    key = scoped("send", "order-42")
    await door.post(**KEYED)
    clock.ahead += REQUESTS_S - 1
    await door.daemon.housekeeping.house()
    assert (await door.post(**KEYED)).headers["idempotent-replayed"] == "true"
    clock.ahead += 2
    assert "idempotent-replayed" not in (await door.post(**KEYED)).headers
    clock.ahead += REQUESTS_S + 1
    assert await door.daemon.spool.find_request(key, since=0)
    await door.daemon.housekeeping.house()

    assert await door.daemon.spool.find_request(key, since=0) is None
    assert once.KEPT_S == REQUESTS_S


async def test_what_was_said_stands_whatever_has_changed(door: Door) -> None:  # noqa: F811
    first = await door.post(**KEYED)
    await door.daemon.spool.suppress("ann@example.com", "it bounced", now=0)
    await door.daemon.suppressions.load()

    assert (await door.post()).status_code == 422
    assert (await door.post(**KEYED)).json() == first.json()


async def test_a_crash_in_the_middle_mails_nobody_twice(bridge_process: Any, sandbox: Any, tmp_path: Any) -> None:  # noqa: F811
    """The provider has the message, and nothing was noted but the key: it is sent again under the same name."""
    (tmp_path / "config.toml").write_text(keys("send"))
    bridge = await bridge_process(**rest(sandbox.url), SMTP_BRIDGE_HTTP__ADDRESS="127.0.0.1:0")

    async def post() -> httpx.Response:
        await eventually(lambda: bridge.events("daemon.ready"))
        port = next(e["port"] for e in reversed(bridge.events("daemon.listening")) if e.get("protocol") == "http")
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"http://127.0.0.1:{port}/send-email"
            return await client.post(url, json=PLAIN, headers={**bearer("send"), **KEYED})

    sandbox.fail("slow:1,seconds=1")
    lost = asyncio.create_task(post())
    await eventually(lambda: sandbox.messages)
    await bridge.stop(signal.SIGKILL)
    with pytest.raises(httpx.TransportError):
        await lost
    bridge.log_path.unlink()
    await bridge.start()
    answer = await post()

    assert answer.status_code == 200
    assert len(sandbox.messages) == 1
    assert sandbox.messages[0].idempotency_key.startswith(answer.json()["id"])


async def test_without_the_spool_a_key_is_put_off(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Who asks for it to be sent once does not want it sent twice."""

    async def broken(*args: Any, **more: Any) -> None:
        raise SpoolError("the disk is gone")

    monkeypatch.setattr(door.daemon.spool, "find_request", broken)

    assert (await door.post(**KEYED)).status_code == 503
    assert (await door.post()).status_code == 200


async def test_several_have_each_their_own(to_sandbox: Any, sandbox: Any) -> None:  # noqa: F811
    """What was refused is tried again with the rest of them, and what was taken is not sent again."""
    door = await to_sandbox(SMTP_BRIDGE_RELAY__MODE="direct")  # noqa: F811
    several = {"messages": [PLAIN | {"subject": "a"}, PLAIN | {"to": "x@refused.example"}, PLAIN | {"subject": "b"}]}
    first = (await door.post(several, **KEYED)).json()["results"]
    several["messages"][1] = PLAIN | {"to": "x@refused.example"}
    again = (await door.post(several, **KEYED)).json()["results"]

    assert [r["code"] for r in first] == [r["code"] for r in again] == [200, 422, 200]
    assert (again[0], again[2]) == (first[0], first[2])
    assert sorted(received.subject for received in sandbox.messages) == ["a", "b"]


async def test_a_message_may_bring_its_own(door: Door) -> None:  # noqa: F811
    own = PLAIN | {"idempotency_key": "order-1"}
    found = (await door.post({"messages": [own, own, own | {"subject": "another"}, PLAIN]})).json()["results"]

    assert [r["code"] for r in found] == [200, 200, 422, 200]
    assert found[0]["id"] == found[1]["id"] != found[3]["id"]
    assert found[2]["error"]["field"] == "messages[2].idempotency_key"
    alone = await door.post(own)
    assert (alone.status_code, alone.json()["error"]["field"]) == (400, "idempotency_key")
