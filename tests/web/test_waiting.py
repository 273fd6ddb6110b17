"""Nobody who waits for memory, or is slow, holds any that others need: requests at once get through however little there is."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from bridge.budget import MemoryBudget
from bridge.content import READING, Contents
from bridge.web import asked, guard
from bridge.web.context import Web
from tests.e2e.conftest import Smtp, eventually
from tests.web.conftest import KEYS, bearer, keys

CONFIG = '[[provider]]\nkind = "capture"\n' + keys("send", "manage")
PLAIN = {"to": "ann@example.com", "from": "shop@example.com", "subject": "hello", "body": "x"}
JSON = {"Content-Type": "application/json", **bearer("send")}


@pytest.fixture
def start(start_web: Any) -> Callable[..., Awaitable[Any]]:
    def begin(budget: str, wait: str = "5s") -> Any:
        variables = {"SMTP_BRIDGE_SMTP__MEMORY_BUDGET": budget, "SMTP_BRIDGE_SMTP__MEMORY_WAIT": wait}
        return start_web(config=CONFIG, **variables)

    return begin


def with_file(octets: int) -> dict[str, Any]:
    return PLAIN | {"attachments": [{"filename": "a.bin", "content": base64.b64encode(bytes(octets)).decode()}]}


async def header_only(daemon: Any, path: str, size: int) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", daemon.http.port)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEYS['send'][0]}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode())
    return writer


async def test_who_only_announces_a_large_body_holds_up_no_mail(start: Any) -> None:
    daemon, _ = await start("24MiB", wait="300ms")
    slow = [await header_only(daemon, "/send-email", 4_000_000) for _ in range(3)]
    await eventually(lambda: daemon.budget.used == len(slow) * READING)
    smtp = await Smtp(daemon.listeners[0].port).open()
    content = b"Subject: x\r\n\r\n" + b"y" * 70 + (b"\r\n" + b"y" * 70) * 20_000 + b"\r\n"

    assert (await smtp.send("bob@example.org", content=content)).startswith("250")
    for writer in slow:
        writer.close()
    smtp.writer.close()
    await eventually(lambda: daemon.budget.used == 0)


async def test_lists_of_messages_at_once_do_not_wait_for_each_other(start: Any) -> None:
    daemon, client = await start("16MiB")
    body = orjson.dumps({"messages": [with_file(300_000)] * 6})
    answers = await asyncio.gather(*(client.post("/send-email", content=body, headers=JSON) for _ in range(3)))

    assert [Counter(one["code"] for one in answer.json()["results"]) for answer in answers] == [{200: 6}] * 3
    assert daemon.budget.used == 0


async def test_the_messages_of_a_list_arrive_as_they_are(start: Any) -> None:
    daemon, client = await start("64MiB")
    messages = [with_file(3) | {"subject": "first"}, PLAIN | {"subject": "second"}, with_file(400_000)]
    answer = await client.post("/send-email", json={"messages": [*messages, {}]}, headers=JSON)
    found = [await daemon.spool.body(one["id"]) for one in answer.json()["results"][:3]]

    assert [one["code"] for one in answer.json()["results"]] == [200, 200, 200, 400]
    assert b"\r\nSubject: first\r\n" in found[0]
    assert found[0].endswith(b"\r\n\r\nAAAA\r\n--" + found[0].split(b"\r\n--")[-1])
    assert b"\r\nSubject: second\r\n" in found[1]
    assert found[1].endswith(b"\r\n\r\nx\r\n")
    assert found[2].replace(b"\r\n", b"").count(b"A" * 500_000)
    assert daemon.budget.used == 0


async def test_one_too_large_among_several_is_told_and_the_others_are_sent(start_web: Any) -> None:
    _, client = await start_web(config=CONFIG, SMTP_BRIDGE_SMTP__MAX_MESSAGE_SIZE="200KiB")
    answer = await client.post("/send-email", json={"messages": [PLAIN, with_file(150_000), PLAIN]}, headers=JSON)

    assert [one["code"] for one in answer.json()["results"]] == [200, 413, 200]


async def test_more_small_requests_than_there_is_memory_for_all_get_through(start: Any) -> None:
    daemon, client = await start("1MiB")
    body = orjson.dumps(PLAIN | {"body": "x" * 60_000})
    answers = await asyncio.gather(*(client.post("/send-email", content=body, headers=JSON) for _ in range(40)))

    assert Counter(answer.status_code for answer in answers) == {200: 40}
    assert daemon.budget.used == 0


async def test_who_waits_for_the_answer_to_the_same_key_holds_nothing(start: Any) -> None:
    daemon, client = await start("1MiB")
    body, headers = orjson.dumps(PLAIN | {"body": "x" * 60_000}), {**JSON, "Idempotency-Key": "one"}
    answers = await asyncio.gather(*(client.post("/send-email", content=body, headers=headers) for _ in range(40)))

    assert Counter(answer.status_code for answer in answers) == {200: 40}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert daemon.budget.used == 0


async def test_what_takes_more_memory_than_there_can_be_is_taken_as_by_smtp(start: Any) -> None:
    """Alone: a 413 would be for good, whatever `max_message_size` says."""
    daemon, client = await start("8MiB")
    large = orjson.dumps(with_file(2_500_000))

    async def untold() -> Any:
        yield large

    answers = [await client.post("/send-email", content=body, headers=JSON) for body in (large, untold())]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert daemon.budget.used == 0


async def test_values_without_end_are_refused_before_they_are_made(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, client = await start("64MiB")
    held: list[int] = []
    parse = asked.orjson.loads
    monkeypatch.setattr(
        asked, "orjson", SimpleNamespace(loads=lambda body: held.append(daemon.budget.used) or parse(body))
    )

    async def act(ids: bytes) -> int:
        headers = {"Content-Type": "application/json", **bearer("manage")}
        answer = await client.post("/api/v1/messages/hold", content=b'{"ids":[' + ids + b"]}", headers=headers)
        return int(answer.status_code)

    assert await act(b",".join([b"[]"] * 300_000)) == 413
    assert not held
    assert await act(b",".join([b"[]"] * 9000)) == 422
    assert held[0] > 9000 * 100  # an empty list takes so many octets, with its place in the list
    assert daemon.budget.used == 0


async def test_a_stop_in_the_moment_when_a_body_s_time_ends_is_none_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    web = cast("Web", SimpleNamespace(bodies=set(), stopping=False))
    failed: list[BaseException] = []

    async def slow() -> None:
        async with guard._in_time(web, 0.01):
            await asyncio.sleep(10)

    def stop() -> None:
        assert any(body.expired() for body in web.bodies)
        try:
            Web.stop(web)
        except RuntimeError as error:
            failed.append(error)

    task = asyncio.create_task(slow())
    await asyncio.sleep(0)
    (timeout,) = web.bodies
    asyncio.get_running_loop().call_at(cast("float", timeout.when()) + 1e-9, stop)  # in the same turn of the loop
    with pytest.raises(TimeoutError):
        await task
    assert web.stopping
    assert not failed


@pytest.mark.parametrize("size", [1, 3, 7, 50])
async def test_a_part_of_what_the_disk_did_not_take_is_its_octets(tmp_path: Any, size: int) -> None:
    budget = MemoryBudget(1 << 24, wait_s=1)
    content = await Contents(budget=budget, directory=tmp_path, threshold=10, min_free=1 << 60).begin()
    whole = bytes(range(50))
    for start in range(0, 50, size):
        await content.write(whole[start : start + size])
    await content.put_away()

    assert [content.part(start, end) for start in range(51) for end in range(start, 51)] == [
        whole[start:end] for start in range(51) for end in range(start, 51)
    ]
    content.abandon()
    assert budget.used == 0
