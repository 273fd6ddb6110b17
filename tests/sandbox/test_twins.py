"""What all twins have from their base, shown by one that does little else."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar

import httpx
import orjson
import pytest

from bridge.sandbox import Sandbox, app, twinning, twins
from bridge.sandbox.exchange import Answer, Response, empty_response, json_response
from bridge.sandbox.failures import Failure
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins.base import Call, Route, Twin, basic_credentials, kept_payload
from bridge.sandbox.twins.schema import Address, Fields, Items, PayloadError, Text

PAYLOAD = Fields({"to": Items(Address(), least=1)}, {"text": Text(), "key": Text()})
KEY = "sandbox-test-key"


class Toy(Twin):
    kind = "toy"
    targets = ("send", "token")
    max_body = 1_000_000
    errors: ClassVar[Mapping[str, Answer]] = {
        "out_of_paper": Answer(status=429, body={"toy": "out of paper"}, headers=(("Retry-After", "60"),)),
        "jammed": Answer(status=429, body="jammed"),
        "expired": Answer(status=401, body={"toy": "expired"}),
    }

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.drafts: list[str] = []

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/v1/{domain}/send:now", self._send, target="send"),
            Route("GET", "/v1/{domain}/drafts", self._list),
            Route("PUT", "/v1/{domain}/drafts/{name}", self._draft),
            Route("DELETE", "/v1/{domain}/drafts/{name}", self._draft),
            Route("PATCH", "/v1/{domain}/drafts/{name}", self._draft),
            Route("POST", "/token", self._token, target="token", open=True),
            Route("POST", "/form", self._form, target="send"),
        )

    def authorize(self, call: Call) -> None:
        if not self.has_bearer(call) and basic_credentials(call) != ("api", self.key):
            raise self.error("expired")

    def error_body(self, status: int, message: str = "") -> Response:
        return json_response({"toy": message or "error"}, status=status)

    def invalid(self, error: PayloadError) -> Response:
        return json_response({"toy": error.reason, "at": error.at}, status=422)

    def finish(self, response: Response) -> Response:
        return Response(
            status=response.status,
            body=response.body,
            content_type=response.content_type,
            headers=(*response.headers, ("X-Toy", "1")),
            spoil=response.spoil,
        )

    def clear(self) -> None:
        self.drafts.clear()

    def _send(self, call: Call) -> Response:
        payload = call.json()
        PAYLOAD.check(payload)
        mail = Mail(
            sender=f"robot@{call.parameters['domain']}",
            recipients=tuple(payload["to"]),
            text=payload.get("text", ""),
            idempotency_key=call.header("x-once"),
        )
        return json_response({"id": call.accept(mail)}, status=201)

    def _form(self, call: Call) -> Response:
        form = call.form()
        return json_response(
            {"id": call.accept(Mail(sender="", recipients=tuple(form.values("to"))), id="given", payload=None)}
        )

    def _list(self, call: Call) -> Response:
        return json_response({"drafts": self.drafts, "page": call.query("page"), "all": call.query_values("page")})

    def _draft(self, call: Call) -> Response:
        self.drafts.append(f"{call.method} {call.parameters['name']} of {call.parameters['domain']} at {call.url}")
        return empty_response(204)

    def _token(self, call: Call) -> Response:
        return json_response({"access_token": self.key})


@pytest.fixture(autouse=True)
def only_the_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, type[Twin]] = {"toy": Toy}
    monkeypatch.setattr(twins, "twin_class", found.__getitem__)
    monkeypatch.setattr(twinning, "twin_class", found.__getitem__)
    monkeypatch.setattr(app, "twin_class", found.__getitem__)
    monkeypatch.setattr(twinning, "kinds", lambda: ("toy",))


@pytest.fixture
async def toy(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=f"{sandbox.url}/toy", headers=headers, trust_env=False) as client:
        yield client


SEND = "/v1/x.example/send:now"
MAIL = {"to": ["ann@example.com"]}


async def test_what_a_handler_accepts_is_recorded_as_what_it_understood(
    toy: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    response = await toy.post(SEND, json={**MAIL, "text": "Hi", "key": KEY}, headers={"X-Server-Token": KEY})

    (received,) = sandbox.received("toy")
    assert (response.status_code, response.json()) == (201, {"id": received.provider_id})
    assert response.headers["x-toy"] == "1"
    assert (received.shape, received.recipients) == ("toy", ("ann@example.com",))
    assert received.mail is not None
    assert (received.mail.sender, received.mail.text) == ("robot@x.example", "Hi")
    assert received.payload == {**MAIL, "text": "Hi", "key": "***"}
    assert dict(received.headers)["x-server-token"] == "***"
    assert KEY not in repr(received)


async def test_a_mail_is_shown_among_the_received_and_chosen_by_kind(
    toy: httpx.AsyncClient, client: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    await toy.post(SEND, json=MAIL)
    mail = {"to": "b@x.example", "from": "a@x.example", "subject": "", "body": ""}
    await client.post("/send-email", json=mail)

    listed = [
        (await client.get(f"/sandbox/messages{query}")).json()["messages"] for query in ("", "?kind=toy", "?kind=x")
    ]
    assert [[m["shape"] for m in messages] for messages in listed] == [["toy", "simple"], ["toy"], []]
    assert listed[0] == orjson.loads(orjson.dumps(sandbox.messages))
    assert listed[0][0]["mail"]["recipients"] == ["ann@example.com"]
    assert listed[0][1]["mail"] is None


async def test_credentials_are_checked_on_all_routes_but_the_open_ones(
    sandbox: Sandbox, toy: httpx.AsyncClient
) -> None:
    basic = base64.b64encode(f"api:{KEY}".encode()).decode()
    for given, status in (("Bearer wrong", 401), (f"Basic {basic}", 201), ("Basic ?", 401), ("", 401)):
        response = await toy.post(SEND, json=MAIL, headers={"Authorization": given})

        assert response.status_code == status
    assert (await toy.post("/token", headers={"Authorization": ""})).status_code == 200
    assert response.json() == {"toy": "expired"}
    assert len(sandbox.messages) == 1


async def test_mistakes_are_said_in_the_provider_s_own_way(toy: httpx.AsyncClient, sandbox: Sandbox) -> None:
    answers = [
        await toy.post(SEND, json={"to": ["ann"]}),
        await toy.post(SEND, content=b'{"to": ["\xff"]}'),
        await toy.post("/form", content=b"{}"),
        await toy.post("/nowhere"),
        await toy.get(SEND),
        await toy.post(SEND, content=b" " * 1_000_001),
    ]

    assert [answer.status_code for answer in answers] == [422, 400, 400, 404, 405, 413]
    assert answers[0].json() == {"toy": "is not one email address", "at": "to[0]"}
    assert all("toy" in answer.json() and answer.headers["x-toy"] for answer in answers)
    assert answers[4].headers["allow"] == "POST"
    assert sandbox.messages == []


async def test_all_methods_placeholders_and_the_query_reach_the_handler(
    toy: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    for method in ("PUT", "PATCH", "DELETE"):
        response = await toy.request(method, "/v1/x.example/drafts/a%2Fb")
        assert (response.status_code, response.content) == (204, b"")
        assert not {"content-length", "content-type"} & response.headers.keys()
    listed = await toy.get("/v1/x.example/drafts?page=2&page=%C3%BC")
    head = await toy.head("/v1/x.example/drafts")

    assert listed.json()["drafts"] == [
        f"{m} a/b of x.example at {sandbox.twin_url('toy')}" for m in ("PUT", "PATCH", "DELETE")
    ]
    assert (listed.json()["page"], listed.json()["all"]) == ("2", ["2", "ü"])
    assert (head.status_code, head.content) == (200, b"")
    sandbox.clear()
    assert (await toy.get("/v1/x.example/drafts")).json()["drafts"] == []


async def test_a_form_is_shown_as_its_fields_with_files_by_their_size(toy: httpx.AsyncClient, sandbox: Sandbox) -> None:
    response = await toy.post("/form", data={"to": ["a@x.example", "b@x.example"], "s": "1"}, files={"f": b"abc"})

    (received,) = sandbox.messages
    assert response.json() == {"id": "given"}
    assert (received.payload["to"], received.payload["s"]) == (["a@x.example", "b@x.example"], "1")
    assert received.payload["f (files)"][0]["content"]["size"] == 3


@pytest.mark.parametrize(
    ("fail", "status", "body", "retry_after"),
    [
        ("toy=out_of_paper:1", 429, {"toy": "out of paper"}, "60"),
        ("toy=429:1", 429, {"toy": "out of paper"}, "60"),
        ("toy=429:1,retry_after=5", 429, {"toy": "out of paper"}, "5"),
        ("toy=jammed:1", 429, "jammed", None),
        ("toy=503:1,retry_after=1", 503, {"toy": "error"}, "1"),
        ("503:1", 503, {"toy": "error"}, None),
        ("toy=422:1,recipient=ann@example.com", 422, {"toy": "error"}, None),
    ],
)
async def test_a_planned_failure_is_answered_as_documented_and_takes_nothing(
    toy: httpx.AsyncClient, sandbox: Sandbox, fail: str, status: int, body: Any, retry_after: str | None
) -> None:
    sandbox.fail(fail)
    failed, second = [await toy.post(SEND, json=MAIL) for _ in range(2)]

    assert (failed.status_code, failed.headers.get("retry-after")) == (status, retry_after)
    assert (failed.json() if isinstance(body, dict) else failed.text) == body
    assert second.status_code == 201
    assert len(sandbox.messages) == 1


async def test_other_failures_leave_a_twin_alone(
    toy: httpx.AsyncClient, client: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    sandbox.fail("toy=503")
    sandbox.fail("429:1,recipient=bob@example.com")
    mail = {"to": "b@x.example", "from": "a@x.example", "subject": "", "body": ""}

    assert (await client.post("/send-email", json=mail)).status_code == 200
    assert (await toy.get("/v1/x.example/drafts")).status_code == 200
    assert (await toy.post("/token")).status_code == 200
    sandbox.fail("toy.token=expired:1")
    assert [(await toy.post("/token")).status_code for _ in range(2)] == [401, 200]


@pytest.mark.parametrize("mode", ["hang:1,seconds=0", "reset:1", "close_before_answer:1", "garbage:1"])
async def test_a_broken_connection_takes_nothing(toy: httpx.AsyncClient, sandbox: Sandbox, mode: str) -> None:
    sandbox.fail(f"toy={mode}")
    with pytest.raises(httpx.TransportError):
        await toy.post(SEND, json=MAIL)

    assert sandbox.messages == []


@pytest.mark.parametrize("mode", ["lost:1", "half:1"])
async def test_a_lost_answer_takes_the_message(toy: httpx.AsyncClient, sandbox: Sandbox, mode: str) -> None:
    sandbox.fail(f"toy={mode}")
    with pytest.raises(httpx.TransportError):
        await toy.post(SEND, json=MAIL)

    assert len(sandbox.messages) == 1


async def test_a_slow_answer_and_a_web_page(toy: httpx.AsyncClient, sandbox: Sandbox) -> None:
    sandbox.fail("toy=slow:1")
    sandbox.fail("toy=html:1,status=502")
    slow, page = [await toy.post(SEND, json=MAIL) for _ in range(2)]

    assert (slow.status_code, page.status_code) == (201, 502)
    assert page.headers["content-type"].startswith("text/html")
    assert len(sandbox.messages) == 1


async def test_failures_are_planned_over_http_and_checked_against_the_twin(
    client: httpx.AsyncClient, toy: httpx.AsyncClient
) -> None:
    good = await client.post("/sandbox/fail", json={"provider": "toy", "error": "jammed", "count": 1})
    bad = await client.post("/sandbox/fail", json={"provider": "toy", "error": "burnt"})

    assert good.json()["plan"] == [{"mode": "status", "count": 1, "provider": "toy", "error": "jammed"}]
    assert (bad.status_code, bad.json()["error"]["code"]) == (422, "validation_error")
    assert "toy has: out_of_paper, jammed, expired" in bad.json()["error"]["message"]
    assert (await toy.post(SEND, json=MAIL)).text == "jammed"


async def test_a_failure_made_in_the_process_is_checked_too(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError):
        sandbox.fail(Failure(provider="toy", target="post", status=503))


async def test_an_idempotency_key_replays_its_answer_and_refuses_another_payload(
    toy: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    once = {"X-Once": "k1"}
    sandbox.fail("toy=lost:1")
    with pytest.raises(httpx.TransportError):
        await toy.post(SEND, json=MAIL, headers=once)
    first, again = [await toy.post(SEND, json=MAIL, headers=once) for _ in range(2)]
    other = await toy.post(SEND, json={"to": ["bob@example.com"]}, headers=once)
    fresh = await toy.post(SEND, json=MAIL, headers={"X-Once": "k2"})

    assert first.json() == again.json() == {"id": sandbox.messages[0].provider_id}
    assert (other.status_code, fresh.status_code) == (409, 201)
    assert (len(sandbox.messages), sandbox.stats["replayed"]) == (2, 2)


async def test_large_bodies_at_once_with_one_key_are_taken_once(toy: httpx.AsyncClient, sandbox: Sandbox) -> None:
    large = {**MAIL, "text": "x" * 300_000}  # handled in a thread
    answers = await asyncio.gather(*(toy.post(SEND, json=large, headers={"X-Once": "k"}) for _ in range(6)))

    assert len({answer.content for answer in answers}) == 1
    (received,) = sandbox.messages
    assert received.payload["text"]["size"] == 300_000
    assert received.mail is not None
    assert len(received.mail.text) == 300_000


def test_a_payload_is_kept_without_the_key_and_without_what_is_long() -> None:
    kept = kept_payload({"a": ["k", {"b": "k"}], "long": "x" * 20_000, "raw": b"ab", "n": 1}, "k")

    assert kept["a"] == ["***", {"b": "***"}]
    assert (kept["long"]["size"], kept["raw"]["size"], kept["n"]) == (20_000, 2, 1)
