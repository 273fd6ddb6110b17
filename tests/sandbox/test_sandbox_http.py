"""HTTP/1.1 as it comes over a raw socket, odd and wrong."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from bridge.sandbox import Sandbox

KEY = b"Authorization: Bearer sandbox-test-key\r\n"
BODY = b'{"to":"ann@example.com","from":"shop@example.com","subject":"","body":""}'


def post(*headers: bytes, body: bytes = BODY, path: bytes = b"/send-email", length: bool = True) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: x", KEY.strip(), *headers]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: x\r\n\r\n"


async def connect(sandbox: Sandbox) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(sandbox.url.rpartition(":")[2]))


async def talk(sandbox: Sandbox, sent: bytes) -> bytes:
    """Everything that comes back once the client has said all it has to say."""
    reader, writer = await connect(sandbox)
    try:
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


def statuses(answer: bytes) -> list[int]:
    """Of every response in it; no body of ours holds that text."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


async def test_requests_on_one_connection_are_answered_in_order(sandbox: Sandbox) -> None:
    answer = await talk(
        sandbox, post() + post(path=b"/nowhere") + b"GET /sandbox/stats HTTP/1.1\r\nHost: x\r\n\r\n" + post()
    )

    assert statuses(answer) == [200, 404, 200, 200]
    assert len(sandbox.messages) == 2


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_chunked_body_is_put_together(sandbox: Sandbox, size: int) -> None:
    answer = await talk(sandbox, post(b"Transfer-Encoding: chunked", body=chunked(BODY, size), length=False))

    assert statuses(answer) == [200]
    assert sandbox.messages[0].recipients == ("ann@example.com",)


async def test_a_request_may_come_byte_by_byte(sandbox: Sandbox) -> None:
    reader, writer = await connect(sandbox)
    for byte in post():
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    answer = await reader.readuntil(b"}")
    writer.close()

    assert statuses(answer) == [200]


async def test_100_continue_comes_before_the_body_is_sent(sandbox: Sandbox) -> None:
    reader, writer = await connect(sandbox)
    head, _, body = post(b"Expect: 100-continue").partition(b"\r\n\r\n")
    writer.write(head + b"\r\n\r\n")
    interim = await reader.readuntil(b"\r\n\r\n")
    writer.write(body)
    answer = await reader.readuntil(b"}")
    writer.close()

    assert statuses(interim) == [100]
    assert statuses(answer) == [200]


async def test_a_body_declared_too_large_is_refused_before_it_is_sent(sandbox: Sandbox) -> None:
    head = post(b"Expect: 100-continue", b"Content-Length: 2000001", body=b"", length=False)

    answer = await talk(sandbox, head)
    assert statuses(answer) == [413]
    assert b'"code":"too_large"' in answer
    assert b"connection: close" in answer.lower()


async def test_a_chunked_body_that_grows_too_large_is_refused(sandbox: Sandbox) -> None:
    body = chunked(b"x" * 2_100_000, 100_000)

    assert statuses(await talk(sandbox, post(b"Transfer-Encoding: chunked", body=body, length=False))) == [413]


async def test_a_client_that_sends_on_regardless_still_reads_the_413(
    client: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    response = await client.post("/send-email", content=b"x" * 20_000_000)

    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
    assert (await client.post("/send-email", content=BODY)).status_code == 200


async def test_a_body_of_exactly_the_limit_is_read(client: httpx.AsyncClient) -> None:
    padded = BODY[:-1].ljust(1_999_999) + b"}"

    assert (await client.post("/send-email", content=padded)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/send-email", 405, "POST"),
        ("HEAD", "/send-raw", 405, "POST"),
        ("PUT", "/sandbox/messages", 405, "GET, DELETE, HEAD"),
        ("OPTIONS", "/sandbox/fail", 405, "POST, DELETE"),
        ("GET", "/", 200, ""),
        ("GET", "/nowhere", 404, ""),
        ("POST", "/", 405, "GET, HEAD"),
        ("OPTIONS", "*", 404, ""),
        ("DELETE", "/sandbox/messages/msg_1", 405, "GET, HEAD"),
        ("GET", "/sandbox/messages/msg_1", 404, ""),
        ("POST", "/send-email/", 404, ""),
        ("GET", "/sandbox/stats?x=1", 200, ""),
        ("GET", "http://elsewhere.example/sandbox/stats", 200, ""),
        ("BREW", "/send-email", 405, "POST"),
    ],
)
async def test_paths_and_methods(sandbox: Sandbox, method: str, path: str, status: int, allow: str) -> None:
    answer = await talk(sandbox, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    assert statuses(answer) == [status]
    assert f"\r\nallow: {allow}\r\n".lower().encode() in answer.lower() or not allow
    assert allow or b"allow:" not in answer.lower()


async def test_head_has_the_headers_of_get_and_no_body(sandbox: Sandbox) -> None:
    requests = [f"{method} /sandbox/messages HTTP/1.1\r\nHost: x\r\n\r\n".encode() for method in ("HEAD", "GET")]
    head, _, rest = (await talk(sandbox, b"".join(requests))).partition(b"\r\n\r\n")

    assert head == rest.partition(b"\r\n\r\n")[0]
    assert b"\r\nContent-Length: 15\r\n" in head or b"\r\ncontent-length: 15\r\n" in head
    assert rest.endswith(b'{"messages":[]}')


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"EHLO me\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host: RFC 9112 3.2
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000, 431),
        (post()[:-5], 400),  # the client stops in the middle
    ],
)
async def test_what_is_not_http_is_answered_and_the_connection_closed(
    sandbox: Sandbox, sent: bytes, status: int
) -> None:
    answer = await talk(sandbox, sent)

    assert statuses(answer) == [status]
    assert b"connection: close" in answer.lower()
    assert sandbox.messages == []


async def test_connection_close_and_http_10_end_the_connection(sandbox: Sandbox) -> None:
    for sent in (post(b"Connection: close"), b"GET /sandbox/stats HTTP/1.0\r\n\r\n"):
        reader, writer = await connect(sandbox)
        writer.write(sent)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()

        assert statuses(answer) == [200]


async def test_a_client_that_connects_and_leaves_is_no_error(sandbox: Sandbox) -> None:
    assert await talk(sandbox, b"") == b""


async def test_a_stopped_sandbox_refuses_connections_and_starts_again_on_its_port(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    url = sandbox.url
    assert (await client.post("/send-email", content=BODY)).status_code == 200
    await sandbox.stop()
    with pytest.raises(httpx.ConnectError):
        await client.post("/send-email", content=BODY)
    await sandbox.start()

    assert sandbox.url == url
    assert (await client.post("/send-email", content=BODY)).status_code == 200
    assert len(sandbox.messages) == 2


async def test_stop_is_bounded_with_clients_that_never_read(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    await client.post("/send-email", content=BODY[:-2] + b"x" * 1_900_000 + b'"}')
    _reader, writer = await connect(sandbox)
    writer.write(b"GET /sandbox/messages HTTP/1.1\r\nHost: x\r\n\r\n" * 20)  # more than all buffers on the way hold
    await asyncio.sleep(0.1)

    assert sandbox.stats["responses"] != {"200": 21}
    async with asyncio.timeout(1):
        await sandbox.stop()
        await sandbox.stop()
    writer.close()


async def test_a_client_that_pipelines_much_does_not_stop_the_others(
    sandbox: Sandbox, client: httpx.AsyncClient
) -> None:
    _reader, writer = await connect(sandbox)
    writer.write(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000)
    response = await client.post("/send-email", content=BODY)
    answered = sandbox._state.responses[404]
    writer.close()

    assert response.status_code == 200
    assert answered < 2_000
