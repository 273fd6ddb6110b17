"""Tokens: kept, shared, fetched anew when they are refused, and what an endpoint's answers mean. Over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from bridge.providers.oauth import ClientCredentials, TokenAuth, read_service_account, read_token
from bridge.providers.outcomes import Failed
from bridge.sandbox.twins.gmail import service_account

SECRET = "client-s3cret"


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        raise AssertionError


class Endpoint:
    """`answers`: what is given to one request after the other, the last one for all that follow."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = [
            (200, b'{"access_token": "T1", "expires_in": 3600, "token_type": "Bearer"}')
        ]
        self.requests: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(
            next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1]
        )
        self.requests.append(await reader.readexactly(length))
        await self.gate.wait()
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        writer.close()


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[Endpoint, str]]:
    found = Endpoint()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    yield found, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
    server.close()


Fetch = Callable[[httpx.Request], Awaitable[httpx.Response]]


@pytest.fixture
async def fetch() -> AsyncIterator[Fetch]:
    async with httpx.AsyncClient() as client:

        async def once(request: httpx.Request) -> httpx.Response:
            return await client.send(request)

        yield once


def auth_for(url: str, clock: Clock, **more: Any) -> TokenAuth:
    grant = ClientCredentials(endpoint=url, client_id="app", client_secret=SECRET, scope="all")
    return TokenAuth(grant, clock=clock, **more)


async def test_a_token_is_kept_until_shortly_before_it_expires(endpoint: tuple[Endpoint, str], fetch: Fetch) -> None:
    server, url = endpoint
    clock = Clock()
    auth = auth_for(url, clock)
    for passed in (0, 3000, 299):
        clock.time += passed
        assert await auth.token(fetch) == "T1"
    assert len(server.requests) == 1

    clock.time += 2  # less than five minutes are left
    await auth.token(fetch)
    assert len(server.requests) == 2
    assert server.requests[0] == (b"grant_type=client_credentials&client_id=app&client_secret=client-s3cret&scope=all")


async def test_many_calls_share_one_fetch_and_its_failure(endpoint: tuple[Endpoint, str], fetch: Fetch) -> None:
    server, url = endpoint
    server.gate.clear()
    good = auth_for(url, Clock())
    calls = [asyncio.create_task(good.token(fetch)) for _ in range(10)]
    await asyncio.sleep(0.05)
    server.gate.set()
    assert await asyncio.gather(*calls) == ["T1"] * 10
    assert len(server.requests) == 1

    server.answers = [(503, b"")]
    bad = auth_for(url, Clock())
    found = await asyncio.gather(*(bad.token(fetch) for _ in range(10)), return_exceptions=True)
    assert all(isinstance(error, Failed) for error in found)
    assert len(server.requests) == 2


async def test_a_refused_token_is_given_up_but_not_one_that_was_fetched_meanwhile(
    endpoint: tuple[Endpoint, str], fetch: Fetch
) -> None:
    server, url = endpoint
    server.answers = [(200, orjson.dumps({"access_token": f"T{n}", "expires_in": "3600"})) for n in (1, 2, 3)]
    auth = auth_for(url, Clock())
    old, other = (httpx.Request("POST", "http://api.example/") for _ in range(2))
    for request in (old, other):
        await auth.sign(request, fetch)

    assert auth.renew(old)
    await auth.sign(old, fetch)
    assert auth.renew(other)  # it carried T1, which is gone already
    await auth.sign(other, fetch)

    assert [r.headers["authorization"] for r in (old, other)] == ["Bearer T2", "Bearer T2"]


@pytest.mark.parametrize(
    ("status", "body", "reply"),
    [
        (400, b'{"error": "invalid_grant", "error_description": "nope client-s3cret"}', "451 4.3.5"),
        (401, b'{"error": "invalid_client"}', "451 4.3.5"),
        (400, b'{"error": {"code": 400}}', "451 4.3.5"),
        (400, b'{"error": "temporarily_unavailable"}', "451 4.3.2"),
        (429, b"{}", "451 4.4.5"),
        (503, b"", "451 4.3.2"),
        (200, b"<html>log in</html>", "451 4.3.5"),
        (200, b'{"access_token": "a b"}', "451 4.3.5"),
        (200, b'{"access_token": "T", "token_type": "mac"}', "451 4.3.5"),
        (200, b"[]", "451 4.3.5"),
    ],
)
async def test_what_an_answer_of_the_endpoint_means(
    endpoint: tuple[Endpoint, str], fetch: Fetch, status: int, body: bytes, reply: str
) -> None:
    server, url = endpoint
    server.answers = [(status, body)]
    with pytest.raises(Failed) as caught:
        await auth_for(url, Clock()).token(fetch)

    outcome = caught.value.outcome
    assert (outcome.status, f"{outcome.reply.code} {outcome.reply.enhanced}") == ("deferred", reply)
    assert SECRET not in outcome.detail + outcome.reply.text


async def test_an_endpoint_that_is_not_there_is_unreachable(fetch: Fetch) -> None:
    with pytest.raises(Failed) as caught:
        await auth_for("http://127.0.0.1:1/token", Clock()).token(fetch)

    assert str(caught.value.outcome.reply).startswith("451 4.4.1")


@pytest.mark.parametrize("expires", [None, "soon", 0, -5, True])
def test_a_lifetime_that_cannot_be_read_is_an_hour(expires: object) -> None:
    response = httpx.Response(200, json={"access_token": "T", "expires_in": expires})

    assert read_token(response, now=0.0)[0] == "T"
    assert read_token(response, now=0.0)[1] in (3600.0, 1.0)


async def test_tokens_in_use_are_told_so_that_they_stay_secret(endpoint: tuple[Endpoint, str], fetch: Fetch) -> None:
    told: list[tuple[str, ...]] = []
    await auth_for(endpoint[1], Clock(), learn=told.append).token(fetch)

    assert told == [("T1",)]


# --- key files

GOOD = service_account("https://oauth2.googleapis.com/token")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not JSON"),
        (b"{}", "is not the key file of a service account"),
        (orjson.dumps({**GOOD, "client_email": 5}), "has no client_email"),
        (
            orjson.dumps({**GOOD, "private_key": "-----BEGIN PRIVATE KEY-----\nxx\n-----END PRIVATE KEY-----"}),
            "cannot be used",
        ),
        (orjson.dumps({**GOOD, "token_uri": "http://evil.example/token"}), "is not https://"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_one_clear_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "key.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_service_account(str(path), "scope")

    assert "BEGIN" not in str(caught.value)


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_service_account(str(tmp_path / "none.json"), "scope")
