"""The REST door over real HTTP: a daemon, its spool, and the sandbox API behind it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from email import message_from_bytes, policy
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bridge.mime.headers import clean
from bridge.sandbox import Sandbox
from bridge.sandbox.failures import Failure
from bridge.web import jobs, send
from bridge.web.keys import Keys
from tests.conftest import reserved_port
from tests.e2e.conftest import KEY, eventually, rest
from tests.leaks import BODY
from tests.web.conftest import bearer, keys

CAPTURE = '[[provider]]\nkind = "capture"\n'
PLAIN = {"to": "ann@example.com", "from": "shop@example.com", "subject": "hello", "body": BODY}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    with reserved_port() as port:
        async with Sandbox(key=KEY, port=port) as running:
            yield running


class Door:
    """A client with the key `send`, and the daemon behind it."""

    def __init__(self, daemon: Any, client: httpx.AsyncClient) -> None:
        self.daemon = daemon
        self.client = client

    async def post(self, body: Any = PLAIN, scope: str = "send", **headers: str) -> httpx.Response:
        headers = {"Content-Type": "application/json", **bearer(scope), **headers}
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.client.post("/send-email", content=content, headers=headers)

    async def refused(self, **fields: Any) -> tuple[int, str]:
        """(status, field) of a plain mail with these fields; None takes one away."""
        body = {name: value for name, value in (PLAIN | fields).items() if value is not None}
        answer = await self.post(body)
        assert answer.json().keys() == {"error"}, answer.text
        assert answer.json()["error"].keys() == {"code", "message", "field"}
        assert answer.json()["error"]["message"]
        return answer.status_code, answer.json()["error"]["field"]

    async def raw(self, answer: httpx.Response) -> bytes:
        body: bytes = await self.daemon.spool.body(answer.json()["id"])
        return body


@pytest.fixture
async def door(start_web: Any) -> Door:
    """With the provider capture, which keeps what it takes."""
    return Door(*await start_web(config=CAPTURE + keys("send", "read", "manage")))


@pytest.fixture
def to_sandbox(start_web: Any, sandbox: Sandbox) -> Any:
    async def start(**variables: str) -> Door:
        return Door(*await start_web(config=keys("send", "read"), **rest(sandbox.url, **variables)))

    return start


async def test_four_fields_are_a_mail(to_sandbox: Any, sandbox: Sandbox) -> None:
    door = await to_sandbox()
    answer = await door.post()

    assert answer.status_code == 200
    assert answer.json() == {"id": answer.json()["id"], "status": "sent"}
    (received,) = sandbox.messages
    assert (received.sender, received.recipients, received.subject) == (
        "shop@example.com",
        ("ann@example.com",),
        "hello",
    )


async def test_every_field_arrives(door: Door) -> None:
    answer = await door.post(
        {
            "to": ["Ann Lée <ann@example.com>", '"Lee, Bob" <bob@example.org>'],
            "cc": "carol@example.com, Dan <dan@example.com>",
            "bcc": ["eve@example.com", "ann@EXAMPLE.com"],
            "from": "Shöp <shop@example.com>",
            "reply_to": ["help@müller.example"],
            "subject": "Grüße",
            "body": "ein Text\nmit ü\n",
            "html": '<p>ü <img src="cid:logo">',
            "headers": {"X-Order": "42", "X-Many": ["a", "b"], "Message-ID": "<42@example.com>"},
            "attachments": [
                {"filename": "Rechnung ü.pdf", "content": base64.encodebytes(bytes(range(256))).decode()},
                {"filename": "logo.png", "content_type": "image/png", "content": "aGVsbG8=", "content_id": "<logo>"},
            ],
        }
    )
    raw = await door.raw(answer)
    found: Any = message_from_bytes(raw, policy=policy.default)

    assert str(found["From"]) == "Shöp <shop@example.com>"
    assert str(found["To"]) == 'Ann Lée <ann@example.com>, "Lee, Bob" <bob@example.org>'
    assert str(found["Cc"]) == "carol@example.com, Dan <dan@example.com>"
    assert str(found["Reply-To"]) == "help@xn--mller-kva.example"
    assert (found["Subject"], found["X-Order"], found.get_all("X-Many")) == ("Grüße", "42", ["a", "b"])
    assert (found["Message-ID"], found["Bcc"]) == ("<42@example.com>", None)
    assert b"eve@example.com" not in raw
    assert found.get_body(("plain",)).get_content().replace("\r\n", "\n") == "ein Text\nmit ü\n"
    assert "cid:logo" in found.get_body(("html",)).get_content()
    (file,) = found.iter_attachments()
    assert (file.get_filename(), file.get_content_type()) == ("Rechnung ü.pdf", "application/pdf")
    assert file.get_content() == bytes(range(256))
    assert b"filename*=utf-8''Rechnung%20%C3%BC.pdf" in raw
    assert b"Content-ID: <logo>" in raw
    assert b"\n" not in raw.replace(b"\r\n", b"")
    row = (await door.daemon.spool.show(answer.json()["id"])) or {}
    assert [r["address"] for r in row["recipients"]] == [
        "ann@example.com", "bob@example.org", "carol@example.com", "dan@example.com", "eve@example.com",
    ]  # fmt: skip
    assert (row["user"], row["protocol"], row["client"], row["listener"]) == ("key:send", "HTTP", "127.0.0.1", "")


WRONG = [
    ({"to": None}, "to"),
    ({"to": []}, "to"),
    ({"to": ""}, "to"),
    ({"to": 1}, "to"),
    ({"to": "ann"}, "to"),
    ({"to": ["ann@example.com", "bob"]}, "to[1]"),
    ({"to": ["ann@example.com", ["bob@example.org"]]}, "to[1]"),
    ({"to": ["ann@example.com, bob@example.org"]}, "to[0]"),
    ({"cc": {"email": "ann@example.com"}}, "cc"),
    ({"bcc": ["x@example.com\r\nTo: y@example.com"]}, "bcc[0]"),
    ({"reply_to": "nobody"}, "reply_to"),
    ({"from": None}, "from"),
    ({"from": ["shop@example.com"]}, "from"),
    ({"from": "a@example.com, b@example.com"}, "from"),
    ({"from": "Sh\nop <shop@example.com>"}, "from"),
    ({"subject": None}, "subject"),
    ({"subject": 42}, "subject"),
    ({"subject": "a\r\nBcc: evil@example.net"}, "subject"),
    ({"subject": "x" * 10_001}, "subject"),
    ({"body": None}, "body"),
    ({"body": ["text"]}, "body"),
    ({"body": "a\0b"}, "body"),
    ({"html": False}, "html"),
    ({"headers": ["X-A: b"]}, "headers"),
    ({"headers": {"X-A": 1}}, "headers.X-A"),
    ({"headers": {"X-A": ["b", "c\nd"]}}, "headers.X-A[1]"),
    ({"headers": {"X-A\r\nBcc": "evil@example.net"}}, "headers.X-A Bcc"),
    ({"headers": {"bcc": "evil@example.net"}}, "headers.bcc"),
    ({"headers": {"-Bcc-": "evil@example.net"}}, "headers.-Bcc-"),
    ({"headers": {"Resent-Bcc": "evil@example.net"}}, "headers.Resent-Bcc"),
    ({"headers": {"Content-Type": "text/html"}}, "headers.Content-Type"),
    ({"headers": {"Received": "x"}}, "headers.Received"),
    ({"headers": {"Message-ID": "42"}}, "headers.Message-ID"),
    ({"attachments": {}}, "attachments"),
    ({"attachments": ["x"]}, "attachments[0]"),
    ({"attachments": [{"filename": "a"}]}, "attachments[0].content"),
    ({"attachments": [{"content": "aGVsbG8"}]}, "attachments[0].content"),
    ({"attachments": [{"content": "é"}]}, "attachments[0].content"),
    ({"attachments": [{"content": ""}, {"content": 1}]}, "attachments[1].content"),
    ({"attachments": [{"content": "", "filename": "a\nb"}]}, "attachments[0].filename"),
    ({"attachments": [{"content": "", "content_type": "pdf"}]}, "attachments[0].content_type"),
    ({"attachments": [{"content": "", "content_type": "multipart/mixed"}]}, "attachments[0].content_type"),
    ({"attachments": [{"content": "", "content_type": "message/partial"}]}, "attachments[0].content_type"),
    ({"attachments": [{"content": "AA==", "content_type": "message/rfc822"}]}, "attachments[0].content"),
    ({"attachments": [{"content": "", "content_id": "a b"}]}, "attachments[0].content_id"),
    ({"attachments": [{"content": "", "name": "a"}]}, "attachments[0].name"),
    ({"subjct": "x"}, "subjct"),
]


async def test_what_is_wrong_is_told_with_its_field(door: Door) -> None:
    found = [(fields, await door.refused(**fields)) for fields, _ in WRONG]

    assert found == [(fields, (400, field)) for fields, field in WRONG]
    assert await door.daemon.spool.list_messages() == []


@pytest.mark.parametrize(
    ("field", "meant"), [("subjct", "subject"), ("replyTo", "reply_to"), ("text", "body"), ("CC", "cc"), ("zzz", "")]
)
async def test_an_unknown_field_is_told_with_the_one_that_was_meant(door: Door, field: str, meant: str) -> None:
    error = (await door.post(PLAIN | {field: "x"})).json()["error"]

    assert error["message"] == "There is no such field" + (f'; did you mean "{meant}"?' if meant else "")


async def test_what_is_no_request_is_told(door: Door) -> None:
    async def status(body: bytes, **headers: str) -> tuple[int, str]:
        answer = await door.post(body, **headers)
        return answer.status_code, answer.json()["error"]["code"]

    assert await status(b"") == (400, "not_json")
    assert await status(b'{"to": ') == (400, "not_json")
    assert await status(b'"\xff"') == (400, "not_json")
    assert await status(b'{"subject": "\\ud800"}') == (400, "not_json")
    assert await status(b"[" * 100_000) == (400, "not_json")
    assert await status(b"[]") == (400, "bad_request")
    form = await door.post(b"to=ann", **{"Content-Type": "application/x-www-form-urlencoded"})
    assert form.status_code == 415
    assert (await door.post(**{"Content-Encoding": "gzip"})).status_code == 415
    assert (await door.client.get("/send-email")).status_code == 405


async def test_only_a_key_that_may_send_sends(door: Door) -> None:
    assert (await door.client.post("/send-email", json=PLAIN)).status_code == 401
    assert (await door.post(scope="read")).status_code == 403
    assert (await door.post(scope="manage")).status_code == 403
    assert (await door.post(**{"Authorization": "Bearer x"})).status_code == 401


async def test_a_key_sends_as_its_senders_only(start_web: Any) -> None:
    config = keys("send").replace("[[http.key]]", '[[http.key]]\nsenders = ["*@shop.example"]')
    door = Door(*await start_web(config=CAPTURE + config))

    assert (await door.post(PLAIN | {"from": "Ann <ann@SHOP.example>"})).status_code == 200
    assert await door.refused() == (403, "from")


async def test_what_is_too_large_is_413(start_web: Any) -> None:
    limit = {"SMTP_BRIDGE_SMTP__MAX_MESSAGE_SIZE": "200KiB"}
    door = Door(*await start_web(config=CAPTURE + keys("send"), **limit))
    fits = base64.b64encode(bytes(140_000)).decode()

    assert (await door.post(PLAIN | {"attachments": [{"content": fits}]})).status_code == 200
    assert await door.refused(attachments=[{"content": fits}, {"content": fits[:16_000]}]) == (413, "")
    assert await door.refused(body="x" * 400_000) == (413, "")
    assert door.daemon.budget.used == 0


async def test_a_large_message_goes_through_a_file(start_web: Any) -> None:
    door = Door(*await start_web(config=CAPTURE + keys("send")))
    content = bytes(range(256)) * 12_000

    async def pieces() -> Any:  # of a length that is not told
        body = orjson.dumps(PLAIN | {"attachments": [{"content": base64.b64encode(content).decode()}]})
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    headers = {"Content-Type": "application/json", **bearer("send")}
    answer = await door.client.post("/send-email", content=pieces(), headers=headers)

    assert answer.status_code == 200
    found: Any = message_from_bytes(await door.raw(answer), policy=policy.default)
    assert next(found.iter_attachments()).get_content() == content
    assert door.daemon.budget.used == 0


async def test_without_memory_it_is_put_off(start_web: Any) -> None:
    few = {"SMTP_BRIDGE_SMTP__MEMORY_BUDGET": "1MiB", "SMTP_BRIDGE_SMTP__MEMORY_WAIT": "20ms"}
    door = Door(*await start_web(config=CAPTURE + keys("send"), **few))
    taken = door.daemon.budget.take(door.daemon.budget.total)
    answer = await door.post()

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    taken.release()
    assert (await door.post()).status_code == 200
    assert door.daemon.budget.used == 0


async def test_a_refused_recipient_is_told_before_anything_is_sent(door: Door) -> None:
    await door.daemon.spool.suppress("bob@example.org", "it bounced", now=0)
    await door.daemon.suppressions.load()
    answer = await door.post(PLAIN | {"cc": ["carol@example.com", "Bob <bob@example.org>"]})

    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "code": "refused", "message": "550 5.7.1 Recipient is suppressed: it bounced", "field": "cc[1]",
    }  # fmt: skip
    assert [(r["address"], r["field"]) for r in answer.json()["recipients"]] == [("bob@example.org", "cc[1]")]
    assert await door.daemon.spool.list_messages() == []


async def test_more_recipients_than_allowed_are_refused(start_web: Any) -> None:
    door = Door(*await start_web(config=CAPTURE + keys("send"), SMTP_BRIDGE_SMTP__MAX_RECIPIENTS="2"))

    assert await door.refused(cc=["a@example.com", "b@example.com"]) == (400, "cc[1]")


async def test_a_provider_that_is_down_queues_or_defers(to_sandbox: Any, sandbox: Sandbox) -> None:
    door = await to_sandbox()
    sandbox.fail(Failure(status=503, count=1))
    answer = await door.post()
    assert answer.status_code == 202
    assert answer.json() == {"id": answer.json()["id"], "status": "queued"}

    await eventually(lambda: sandbox.messages)

    async def done() -> bool:
        found = await door.client.get(f"/messages/{answer.json()['id']}", headers=bearer("send"))
        return bool(found.json()["status"] == "sent")

    await eventually(done)


async def test_in_direct_mode_a_provider_that_is_down_is_503(to_sandbox: Any, sandbox: Sandbox) -> None:
    door = await to_sandbox(SMTP_BRIDGE_RELAY__MODE="direct")
    sandbox.fail(Failure(status=503, count=1))
    answer = await door.post()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
    await asyncio.sleep(0.06)  # the breaker's wait
    sandbox.fail(Failure(status=429, count=1, retry_after=1))

    assert (await door.post()).status_code == 429
    assert sandbox.messages == []


async def test_what_the_provider_refuses_is_422_with_its_words(to_sandbox: Any) -> None:
    door = await to_sandbox()
    answer = await door.post(PLAIN | {"to": ["ann@refused.example"], "cc": "bob@refused.example"})

    assert answer.status_code == 422
    assert answer.json()["error"]["field"] in ("", "to[0]")
    assert {r["address"]: r["status"] for r in answer.json()["recipients"]} == {
        "ann@refused.example": "refused", "bob@refused.example": "refused",
    }  # fmt: skip
    assert (await door.post(PLAIN | {"subject": "[refuse]"})).status_code == 422


async def test_in_queue_mode_it_is_queued(to_sandbox: Any, sandbox: Sandbox) -> None:
    door = await to_sandbox(SMTP_BRIDGE_RELAY__MODE="queue")

    assert (await door.post()).status_code == 202
    await eventually(lambda: sandbox.messages)


async def test_a_client_that_hangs_up_before_it_was_safe_sent_nothing(to_sandbox: Any, sandbox: Sandbox) -> None:
    """As over SMTP: nobody was promised anything, and the client will send it again."""
    door = await to_sandbox()
    sandbox.fail(Failure(status=503, count=1))
    submit = door.daemon.web.submit
    tasks: list[asyncio.Task[Any]] = []

    def after_it_hung_up(*args: Any, peer: Any, **more: Any) -> Any:
        async def later() -> Any:
            await eventually(lambda: peer.gone)
            return await submit(*args, peer=peer, **more)

        tasks.append(asyncio.create_task(later()))
        return tasks[-1]

    door.daemon.web.submit = after_it_hung_up
    body = orjson.dumps(PLAIN)
    head = f"POST /send-email HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", door.daemon.http.port)
    writer.write(f"{head}Authorization: {bearer('send')['Authorization']}\r\n\r\n".encode() + body)
    await eventually(lambda: tasks)
    writer.close()

    assert (await tasks[0]).reply.temporary
    await eventually(lambda: door.daemon.budget.used == 0)
    assert await door.daemon.spool.list_messages() == []
    assert sandbox.messages == []


async def test_a_body_that_ends_too_early_is_nothing(door: Door) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", door.daemon.http.port)
    head = "POST /send-email HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    writer.write(f"{head}Authorization: {bearer('send')['Authorization']}\r\n\r\n{{".encode())
    await eventually(lambda: door.daemon.budget.used > 0)
    writer.close()

    await eventually(lambda: door.daemon.budget.used == 0)
    assert (await door.post()).status_code == 200


async def test_while_it_stops_nothing_is_taken(door: Door) -> None:
    door.daemon.web.stopping = True
    answer = await door.post()

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")


async def test_a_key_has_its_rate_and_what_was_refused_does_not_count(start_web: Any) -> None:
    config = keys("send").replace("[[http.key]]", '[[http.key]]\nrate = "2/h"')
    door = Door(*await start_web(config=CAPTURE + config))
    await door.daemon.spool.suppress("bob@example.org", "it bounced", now=0)
    await door.daemon.suppressions.load()

    assert (await door.post()).status_code == 200
    assert (await door.post({})).status_code == 400
    assert (await door.post(PLAIN | {"to": "bob@example.org"})).status_code == 422
    assert (await door.post()).status_code == 200
    refused = await door.post()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
    assert 0 < int(refused.headers["retry-after"]) <= 3600


async def test_what_became_of_it_is_told_to_who_sent_it(door: Door) -> None:
    queue_id = (await door.post()).json()["id"]

    async def show(scope: str, of: str = queue_id) -> httpx.Response:
        return await door.client.get(f"/messages/{of}", headers=bearer(scope))

    found = (await show("send")).json()
    assert (found["id"], found["status"], found["from"], found["subject"]) == (
        queue_id,
        "sent",
        "shop@example.com",
        "hello",
    )
    assert [(r["address"], r["status"], r["code"]) for r in found["recipients"]] == [("ann@example.com", "sent", 250)]
    assert [(e["event"], e["address"]) for e in found["events"]] == [("sent", "ann@example.com")]
    assert (await show("read")).json() == (await show("manage")).json() == found
    assert (await show("send", "nothing")).status_code == 404
    assert (await door.client.get(f"/messages/{queue_id}")).status_code == 401


async def test_a_key_does_not_see_what_another_sent(start_web: Any) -> None:
    door = Door(*await start_web(config=CAPTURE + keys("send", "read")))
    queue_id = (await door.post()).json()["id"]
    ring: Keys = door.daemon.web.keys
    other = ring.named("read")
    assert other
    ring.replace([type(other)(name="other", key_hash=other.key_hash, scopes=frozenset({"send"}))])
    found = await door.client.get(f"/messages/{queue_id}", headers=bearer("read"))

    assert found.status_code == 404


# --- several


async def test_several_are_answered_each(door: Door) -> None:
    answer = await door.post({"messages": [PLAIN, PLAIN | {"to": "bob"}, 7, PLAIN | {"subject": "last"}]})

    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [r["code"] for r in results] == [200, 400, 400, 200]
    assert [r.get("error", {}).get("field") for r in results] == [None, "messages[1].to", "messages[2]", None]
    assert [r.get("status") for r in results] == ["sent", None, None, "sent"]
    last = await door.daemon.spool.show(results[3]["id"])
    assert last["subject"] == "last"


async def test_how_many_and_what_beside_them_is_bounded(door: Door) -> None:
    for body, field in [
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": [PLAIN] * (jobs.MOST + 1)}, "messages"),
        ({"messages": [PLAIN], "to": "ann@example.com"}, "to"),
    ]:
        answer = await door.post(body)
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


async def test_a_few_of_them_at_a_time_are_on_their_way(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    running = most = 0
    begin = door.daemon.web.begin

    async def counted() -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return await begin()

    door.daemon.web.begin = counted
    answer = await door.post({"messages": [PLAIN] * 40})

    assert {r["code"] for r in answer.json()["results"]} == {200}
    assert 1 < most <= send.AT_ONCE
    assert door.daemon.budget.used == 0


async def test_several_count_as_many(start_web: Any) -> None:
    config = keys("send").replace("[[http.key]]", '[[http.key]]\nrate = "3/h"')
    door = Door(*await start_web(config=CAPTURE + config))

    assert (await door.post({"messages": [PLAIN] * 4})).json()["error"]["field"] == "messages"
    mixed = await door.post({"messages": [PLAIN, {}, PLAIN]})
    assert [r["code"] for r in mixed.json()["results"]] == [200, 400, 200]
    assert (await door.post({"messages": [PLAIN] * 2})).status_code == 429
    assert (await door.post()).status_code == 200
    assert (await door.post()).status_code == 429


# --- no value becomes anything else


INJECTION = 'x\r\nBcc: evil@example.net\r\n\r\n--=_guessed\r\nX: "y'
FIELDS = ("to", "from", "subject", "body", "html", "headers", "attachments")
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


async def test_no_value_becomes_anything_else(door: Door) -> None:
    """Each is refused, or stands where it was put and nowhere else."""
    loop = asyncio.get_running_loop()

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @example(list(FIELDS), *[INJECTION] * 4)
    @example(["to"], 'a" <evil@example.net>, "', "", "", "")
    @example(["from"], "evil@example.net,", "", "", "")
    @example(["subject", "headers"], "", "=?utf-8?b?DQpCY2M6IHg=?=", "\x85a", "a\u2028b")
    @example(["body", "attachments"], "*0*=x'", ".\r\n.\r\nQUIT", "", "")
    @given(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3), anything, anything, anything, anything)
    def run(fields: list[str], name: str, text: str, value: str, header: str) -> None:
        asyncio.run_coroutine_threadsafe(check(fields, name, text, value, header), loop).result()

    async def check(fields: list[str], name: str, text: str, value: str, header: str) -> None:
        asked: dict[str, Any] = {
            "to": [f'"{name}" <ann@example.com>'],  # in a list each is one, whatever quotes a name brings
            "from": f"{name} <shop@example.com>",
            "subject": text,
            "body": text,
            "html": text,
            "headers": {f"X-{header}": value},
            "attachments": [{"filename": name, "content": "aGVsbG8=", "content_id": "x"}],
        }
        answer = await door.post(PLAIN | {field: asked[field] for field in fields})
        if answer.status_code == 400:
            return
        assert answer.status_code == 200, answer.text
        found: Any = message_from_bytes(await door.raw(answer), policy=policy.default)
        names = [field.lower() for field in found.keys()]  # noqa: SIM118 it may have one twice
        added = [f"x-{header}".lower()] if "headers" in fields else []
        assert sorted(names) == sorted(
            ["received", "date", "message-id", "from", "to", "subject", "mime-version", "content-type", *added]
            + ([] if found.is_multipart() else ["content-transfer-encoding"])
        )
        row = await door.daemon.spool.show(answer.json()["id"])
        assert ([r["address"] for r in row["recipients"]], row["sender"]) == (["ann@example.com"], "shop@example.com")
        if "subject" in fields:
            assert row["subject"] == clean(text)[:200]

    await asyncio.to_thread(run)


async def test_who_waits_at_a_shutdown_still_hears_that_it_is_queued(to_sandbox: Any, sandbox: Sandbox) -> None:
    door = await to_sandbox()
    sandbox.fail(Failure(mode="slow", seconds=0.3, count=1))
    waiting = asyncio.create_task(door.post())
    await eventually(lambda: sandbox.messages)
    await door.daemon.stop()
    answer = await waiting

    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
