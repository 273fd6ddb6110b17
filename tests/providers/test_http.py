"""What becomes of a request when the network, the server or its answer fails: "never sent" may be tried elsewhere, "sent,
answer lost" is unknown. Over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import structlog

from bridge.model import Attachment, Email, Fault, Outcome, Pieces
from bridge.providers import dialing
from bridge.providers.base import Policy
from bridge.providers.http import transport_for
from bridge.providers.rest import RestProvider, RestSettings
from bridge.providers.transport import MAX_ANSWER
from tests.providers.conftest import Make, Serve, send
from tests.providers.scripted_http import Connection, answer, close, garbage, hang, read_request, reset

ACCEPTED = answer(200, {"id": "abc"})


class Counted(Pieces):
    """A file made on the way: how many octets of it were asked for in all."""

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded
        self.asked = 0

    def __len__(self) -> int:
        return len(self.encoded)

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self.encoded), 100_000):
            piece = self.encoded[start : start + 100_000]
            self.asked += len(piece)
            yield piece


Big = Callable[..., Email]


def with_file(email: Email, encoded: bytes | Pieces) -> Email:
    attachment = Attachment(filename="a.bin", content_type="application/pdf", encoded=encoded, size=len(encoded))
    return replace(email, attachments=(attachment,))


@pytest.fixture(params=["bytes", "streamed"])
def big(request: pytest.FixtureRequest) -> Big:
    """More than the buffers of both kernels hold, as a body that is there and as one that is made on the way."""

    def make(email: Email, size: int = 24_000_000) -> Email:
        encoded = b"QUJD" * (size // 4)
        return with_file(email, encoded if request.param == "bytes" else Counted(encoded))

    return make


def never_sent(outcome: Outcome) -> None:
    assert (outcome.status, outcome.reply.code, outcome.reply.enhanced) == ("deferred", 451, "4.4.1"), outcome
    assert outcome.fault is Fault.PROVIDER


def answer_lost(outcome: Outcome) -> None:
    assert (outcome.status, outcome.reply.code, outcome.reply.enhanced) == ("unknown", 451, "4.4.2"), outcome
    assert outcome.fault is Fault.PROVIDER


@pytest.fixture
def free_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]  # bound, not listening: nobody else gets it, and it refuses


@pytest.fixture
async def deaf() -> AsyncIterator[str]:
    """A server that accepts and never reads."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind(("127.0.0.1", 0))
        sock.listen(4)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"


async def test_an_accepted_mail_is_sent_with_the_id_of_the_answer(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(ACCEPTED)

    outcome = await send(make(server.url), email)

    assert (outcome.status, outcome.provider_message_id, str(outcome.reply)) == (
        "sent",
        "abc",
        "250 2.0.0 Ok: sent, id abc",
    )


async def test_header_and_small_body_leave_in_one_write(serve: Serve, make: Make, email: Email) -> None:
    pieces: list[int] = []

    async def one_read(connection: Connection) -> bool:
        data = await connection.reader.read(1 << 20)
        pieces.append(len(data))
        return await ACCEPTED(connection) and False

    server = await serve(early=one_read)

    assert (await send(make(server.url), email)).status == "sent"
    assert len(pieces) == 1
    assert pieces[0] > 300


async def test_connections_are_reused(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(ACCEPTED)
    provider = make(server.url)

    for _ in range(5):
        assert (await send(provider, email)).status == "sent"

    assert (len(server.requests), server.connections) == (5, 1)


async def test_connect_refused_is_never_sent(make: Make, email: Email, free_port: int) -> None:
    never_sent(await send(make(f"http://127.0.0.1:{free_port}/"), email))


async def test_an_unknown_host_is_never_sent(make: Make, email: Email) -> None:
    never_sent(await send(make("http://no-such-host.invalid/"), email))


async def test_every_address_of_a_host_is_tried(serve: Serve, make: Make, email: Email, monkeypatch: Any) -> None:
    server = await serve(ACCEPTED)

    async def both(host: str, port: int, **_: Any) -> list[Any]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(dialing, "resolve", both)

    assert (await send(make(server.url), email)).status == "sent"


async def test_a_certificate_of_a_foreign_authority_is_never_sent(
    serve: Serve, make: Make, email: Email, certificates: Any
) -> None:
    server = await serve(ACCEPTED, context=certificates[0])

    outcome = await send(make(server.url), email)

    never_sent(outcome)
    assert "CERTIFICATE_VERIFY_FAILED" in outcome.detail
    assert not server.requests


async def test_a_certificate_for_another_name_is_never_sent(
    serve: Serve, make: Make, email: Email, certificates: Any
) -> None:
    server = await serve(ACCEPTED, context=certificates[0])
    url = server.url.replace("localhost", "127.0.0.2")

    never_sent(await send(make(url, ca_file=certificates[1]), email))


async def test_tls_to_a_plaintext_server_is_never_sent(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(early=garbage(b"220 mail.example.com ESMTP\r\n", then_close=False))

    provider = make(server.url.replace("http:", "https:"))

    never_sent(await send(provider, email))
    await asyncio.sleep(0)
    assert not provider.transport._backend._open  # type: ignore[attr-defined]


async def test_tls_with_the_operators_own_authority_works_and_is_reused(
    serve: Serve, make: Make, email: Email, certificates: Any
) -> None:
    server = await serve(ACCEPTED, context=certificates[0])
    provider = make(server.url, ca_file=certificates[1])

    assert [(await send(provider, email)).status for _ in range(3)] == ["sent"] * 3
    assert server.connections == 1


async def test_a_big_body_arrives_whole_over_tls(
    serve: Serve, make: Make, email: Email, certificates: Any, big: Big
) -> None:
    server = await serve(ACCEPTED, context=certificates[0])

    outcome = await send(make(server.url, ca_file=certificates[1]), big(email, 3_000_000))

    assert outcome.status == "sent"
    assert len(server.requests[0].json["attachments"][0]["content"]) == 3_000_000


async def test_a_handshake_that_hangs_is_never_sent(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(early=hang)

    never_sent(await send(make(server.url.replace("http:", "https:"), timeout=0.2), email))


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(close, id="closed before the answer"),
        pytest.param(reset, id="reset before the answer"),
        pytest.param(garbage(b"\x00\xffnonsense\r\n\r\n"), id="garbage"),
        pytest.param(garbage(b"HTTP/1.1 200 OK\r\nContent-Le"), id="half a header"),
        pytest.param(
            garbage(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"), id="content-length says more than comes"
        ),
        pytest.param(garbage(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}"), id="content-length is no number"),
        pytest.param(garbage(b"HTTP/1.1 200 OK\r\n" + b"X-Y: " + b"z" * 300_000), id="endless header"),
        pytest.param(garbage(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), id="bad chunk"),
    ],
)
async def test_an_unusable_answer_to_a_written_request_is_unknown(
    serve: Serve, make: Make, email: Email, step: Any
) -> None:
    server = await serve(step)

    answer_lost(await send(make(server.url), email))
    assert len(server.requests) == 1


async def test_a_server_that_hangs_is_unknown_at_the_deadline(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(hang)
    started = time.monotonic()

    answer_lost(await send(make(server.url, timeout=0.2), email))
    assert time.monotonic() - started < 2


async def test_an_answer_that_trickles_does_not_outlive_the_deadline(serve: Serve, make: Make, email: Email) -> None:
    async def trickle(connection: Connection) -> bool:
        connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not connection.server.released.is_set():
            connection.writer.write(b".")
            await asyncio.sleep(0.02)
        return False

    server = await serve(trickle)
    started = time.monotonic()

    answer_lost(await send(make(server.url, timeout=0.2), email))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_body_the_server_never_reads_is_never_sent(
    serve: Serve, make: Make, email: Email, certificates: Any, secure: bool, big: Big
) -> None:
    async def stop_reading(connection: Connection) -> bool:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        return await hang(connection)

    server = await serve(early=stop_reading, context=certificates[0] if secure else None)

    never_sent(await send(make(server.url, timeout=0.7, ca_file=certificates[1]), big(email)))


async def test_a_server_that_accepts_and_never_reads_is_never_sent_and_gets_no_more_than_the_buffers_hold(
    make: Make, email: Email, deaf: str
) -> None:
    file = Counted(b"QUJD" * 6_000_000)

    never_sent(await send(make(deaf, timeout=0.5), with_file(email, file)))
    assert 0 < file.asked < len(file) / 2


async def test_a_file_made_on_the_way_is_made_anew_for_another_connection(
    serve: Serve, make: Make, email: Email
) -> None:
    """The first is found closed when the request is about to leave."""
    server = await serve(ACCEPTED)
    provider = make(server.url)
    file = Counted(b"QUJD" * 300_000)
    await send(provider, with_file(email, file))
    await server.hang_up_idle()

    assert (await send(provider, with_file(email, file))).status == "sent"
    assert [r.json["attachments"][0]["content"] for r in server.requests] == [file.encoded.decode()] * 2
    assert server.connections == 2


async def test_others_get_their_turn_while_a_large_body_leaves(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(ACCEPTED)
    file = Counted(b"QUJD" * 300_000)
    running = asyncio.ensure_future(send(make(server.url), with_file(email, file)))
    seen = set()
    while not running.done():
        seen.add(file.asked)
        await asyncio.sleep(0)

    assert (await running).status == "sent"
    assert len(seen) > len(file) // 100_000 / 2


async def test_a_connection_broken_in_the_middle_of_the_body_is_never_sent(
    serve: Serve, make: Make, email: Email, big: Big
) -> None:
    async def read_some(connection: Connection) -> bool:
        await connection.reader.readexactly(1000)
        connection.reset()
        return False

    server = await serve(early=read_some)

    never_sent(await send(make(server.url), big(email)))


async def test_a_refusal_in_the_middle_of_the_body_is_heard(serve: Serve, make: Make, email: Email, big: Big) -> None:
    async def too_large(connection: Connection) -> bool:
        await connection.reader.readuntil(b"\r\n\r\n")
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await answer(413)(connection)
        return await hang(connection)

    server = await serve(early=too_large)
    provider = make(server.url)

    outcome = await send(provider, big(email))

    assert (outcome.status, str(outcome.reply)[:9], outcome.fault) == ("bounced", "552 5.3.4", Fault.MESSAGE)
    server.early, server.script = None, [ACCEPTED]
    assert (await send(provider, email)).status == "sent"  # not on the half-written connection
    assert server.connections == 2


async def test_an_idle_connection_the_server_closed_is_exchanged_silently(
    serve: Serve, make: Make, email: Email
) -> None:
    server = await serve(ACCEPTED)
    provider = make(server.url)
    await send(provider, email)

    for pause in (0.0, 0.05):  # before and after our loop has seen the end
        await server.hang_up_idle()
        await asyncio.sleep(pause)
        assert (await send(provider, email)).status == "sent"

    assert len(server.requests) == 3


async def test_an_end_that_only_the_kernel_knows_of_is_seen_before_writing(make: Make, email: Email) -> None:
    """The server's FIN is in our kernel and our loop has not run since."""
    listener = socket.create_server(("127.0.0.1", 0))
    provider = make(f"http://127.0.0.1:{listener.getsockname()[1]}/")

    def serve_once() -> socket.socket:
        peer, _ = listener.accept()
        peer.recv(65536)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        return peer

    first = asyncio.ensure_future(send(provider, email))
    peer = await asyncio.to_thread(serve_once)
    assert (await first).status == "sent"
    peer.close()  # and on, without giving the loop a turn
    second = asyncio.ensure_future(send(provider, email))
    again = await asyncio.to_thread(serve_once)

    assert (await second).status == "sent"
    again.close()
    listener.close()


async def test_an_idle_connection_closed_just_as_it_is_reused_is_unknown(
    serve: Serve, make: Make, email: Email
) -> None:
    """The request is on its way when the server gives up: it may have been read."""
    server = await serve(ACCEPTED, reset)
    provider = make(server.url)
    await send(provider, email)

    answer_lost(await send(provider, email))
    assert server.connections == 1


async def test_a_used_up_pool_is_never_sent_and_nobodys_fault_of_reach(serve: Serve, email: Email) -> None:
    server = await serve(hang)
    transport = transport_for(server.url, Policy(concurrency=1))
    request = httpx.Request("POST", server.url, content=b"x", extensions={"timeout": {"pool": 0.05}})
    first = asyncio.ensure_future(transport.handle_async_request(httpx.Request("POST", server.url, content=b"x")))
    while not server.requests:
        await asyncio.sleep(0.01)

    with pytest.raises(httpx.PoolTimeout):
        await transport.handle_async_request(request)
    server.released.set()
    with pytest.raises(httpx.RemoteProtocolError):
        await first
    await transport.aclose()


async def test_waiting_for_a_connection_counts_towards_the_deadline_and_is_never_sent(
    serve: Serve, make: Make, email: Email
) -> None:
    server = await serve(hang)
    provider = make(server.url, concurrency=1, timeout=0.3)

    outcomes = await asyncio.gather(*(send(provider, email) for _ in range(2)))

    assert sorted(o.status for o in outcomes) == ["deferred", "unknown"]
    assert len(server.requests) == 1


async def test_an_oversized_answer_is_read_to_a_limit_and_judged_by_its_status(
    serve: Serve, make: Make, email: Email
) -> None:
    server = await serve(answer(200, b"x" * (3 * MAX_ANSWER)), ACCEPTED)
    provider = make(server.url)

    assert (await send(provider, email)).status == "sent"
    assert (await send(provider, email)).status == "sent"
    assert server.connections == 2  # the rest of the answer was not waited for


async def test_a_compressed_bomb_stays_small_and_is_judged_by_its_status(
    serve: Serve, make: Make, email: Email
) -> None:
    bomb = gzip.compress(b"\0" * (64 * MAX_ANSWER))
    server = await serve(answer(200, bomb, headers={"Content-Encoding": "gzip"}))
    transport = transport_for(server.url, Policy())

    response = await transport.handle_async_request(httpx.Request("POST", server.url, content=b"x"))
    await transport.aclose()

    assert (response.status_code, len(response.content)) == (200, MAX_ANSWER)


@pytest.mark.parametrize(("encoding", "packed"), [("gzip", gzip.compress), ("br", bytes), ("gzip", bytes)])
async def test_answers_are_asked_for_uncompressed_and_unpacked_if_they_are_not(
    serve: Serve, make: Make, email: Email, encoding: str, packed: Any
) -> None:
    server = await serve(answer(200, packed(b'{"id":"abc"}'), headers={"Content-Encoding": encoding}))

    outcome = await send(make(server.url), email)

    assert server.requests[0].headers["accept-encoding"] == "identity"
    assert outcome.provider_message_id == ("abc" if packed is gzip.compress else "")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_never_followed(serve: Serve, make: Make, email: Email, status: int) -> None:
    other = await serve(ACCEPTED)
    server = await serve(answer(status, headers={"Location": other.url}))

    outcome = await send(make(server.url, auth="bearer", token="s3cret-token"), email)

    assert (outcome.status, outcome.fault, str(outcome.reply)[:9]) == ("deferred", Fault.ACCOUNT, "451 4.3.5")
    assert not other.requests


async def test_a_bug_in_building_is_deferred_and_in_reading_unknown(serve: Serve, email: Email) -> None:
    class Broken(RestProvider):
        bug = ""

        def build_request(self, *args: Any, **kwargs: Any) -> httpx.Request:
            if self.bug == "build":
                raise KeyError("The text.")
            return super().build_request(*args, **kwargs)

        def parse_response(self, *args: Any) -> dict[str, Outcome]:
            raise KeyError("The text.")

    server = await serve(ACCEPTED)
    provider = Broken("main", Policy(), RestSettings(url=server.url), transport=transport_for(server.url, Policy()))

    provider.bug = "build"
    with structlog.testing.capture_logs() as logged:
        outcome = await send(provider, email)
        provider.bug = "parse"
        lost = await send(provider, email)

    assert (outcome.status, str(outcome.reply)[:9], outcome.fault) == ("deferred", "451 4.3.0", None)
    answer_lost(lost)
    await provider.aclose()
    assert [event["event"] for event in logged] == ["provider.error"] * 2
    assert "The text." not in f"{logged}{outcome.detail}"


async def test_cancelling_a_call_gives_its_connection_up(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(hang, ACCEPTED)
    provider = make(server.url, concurrency=1)
    running = asyncio.ensure_future(send(provider, email))
    while not server.requests:
        await asyncio.sleep(0.01)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert (await send(provider, email)).status == "sent"
    assert server.connections == 2


async def test_many_calls_at_once_keep_within_the_concurrency(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(ACCEPTED)
    provider = make(server.url, concurrency=4)

    outcomes = await asyncio.gather(*(send(provider, email) for _ in range(60)))

    assert {o.status for o in outcomes} == {"sent"}
    assert (len(server.requests), server.connections) == (60, 4)


@pytest.fixture
async def proxy(serve: Serve) -> Any:
    """An HTTP proxy with CONNECT, which notes what it was asked."""
    asked: list[tuple[str, str, str]] = []

    async def handle(connection: Connection) -> bool:
        request = await read_request(connection.reader)
        asked.append((request.method, request.path, request.headers.get("proxy-authorization", "")))
        if request.method != "CONNECT":
            return await ACCEPTED(connection)
        if refuse:
            return await answer(407)(connection) and False
        host, port = request.path.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        connection.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_copy(connection.reader, writer), _copy(reader, connection.writer))
        return False

    refuse: list[bool] = []
    server = await serve(early=handle)
    return server, asked, refuse


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass
    writer.close()


async def test_https_goes_through_the_tunnel_of_the_proxy(
    serve: Serve, make: Make, email: Email, certificates: Any, proxy: Any
) -> None:
    server = await serve(ACCEPTED, reset, context=certificates[0])
    through, asked, _ = proxy
    url = f"http://user:pass@127.0.0.1:{through.port}"
    provider = make(server.url, proxy=url, ca_file=certificates[1])

    assert (await send(provider, email)).status == "sent"
    answer_lost(await send(provider, email))
    assert asked == [("CONNECT", f"localhost:{server.port}", "Basic dXNlcjpwYXNz")]


async def test_a_proxy_that_refuses_is_never_sent(serve: Serve, make: Make, email: Email, proxy: Any) -> None:
    through, asked, refuse = proxy
    refuse.append(True)

    outcome = await send(make("https://api.example.com/", proxy=f"http://user:pass@127.0.0.1:{through.port}"), email)

    never_sent(outcome)
    assert "pass" not in outcome.detail
    assert len(asked) == 1


async def test_plain_http_is_handed_to_the_proxy(make: Make, email: Email, proxy: Any) -> None:
    through, asked, _ = proxy

    outcome = await send(make("http://api.example.com/send", proxy=f"http://127.0.0.1:{through.port}"), email)

    assert outcome.status == "sent"
    assert asked == [("POST", "http://api.example.com/send", "")]


async def test_closing_leaves_no_connection_behind(serve: Serve, make: Make, email: Email, certificates: Any) -> None:
    server = await serve(ACCEPTED, context=certificates[0])
    provider = make(server.url, ca_file=certificates[1])
    await send(provider, email)

    await provider.aclose()

    transport = provider.transport
    assert not transport._backend._open  # type: ignore[attr-defined]
