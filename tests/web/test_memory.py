"""What requests hold, from their body or a message in the spool to the last octet that is sent, is within the memory budget."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

import bridge.daemon
import bridge.web.send
from bridge.budget import MemoryBudget
from bridge.content import footprint
from bridge.mime.parse import parse
from bridge.model import Envelope, Message
from bridge.spool.base import Result
from bridge.spool.ids import new_queue_id
from bridge.web.memory import PASSING
from bridge.web.pages import message as pages
from tests.web.conftest import KEYS, bearer, keys

CAPTURE = '[[provider]]\nkind = "capture"\nname = "main"\n'
SIGNED = CAPTURE + keys("send", "read", "manage")
HEAD = b"From: ann@example.com\r\nTo: bob@example.org\r\nSubject: large\r\nMIME-Version: 1.0\r\n"
LINE = "the quick brown fox jumps over the lazy dog & again, again"
SLACK = 1_500_000  # octets that are no message's: connections, threads, what modules keep for later
SIZE = 20_000_000
N = 3  # at the same time


class Watched(MemoryBudget):
    """`over`: of each time that something was held, by how many octets the memory in use exceeded it. What is given back goes
    with the frame that gives it back, and the thread that made it, so nothing is looked at for a moment then."""

    def begin(self) -> None:
        gc.collect()
        self.over, self.most, self.before, self.going = [0], 0, tracemalloc.get_traced_memory()[0], 0

    def _count(self, octets: int, large: bool) -> None:
        if tracemalloc.is_tracing() and not self.going:
            held = tracemalloc.get_traced_memory()[1] - self.before
            self.most = max(self.most, held)
            self.over.append(held - self.used)
        super()._count(octets, large)
        if tracemalloc.is_tracing():
            if octets < 0:
                self.going += 1
                asyncio.get_running_loop().call_later(0.03, self._gone)
            tracemalloc.reset_peak()

    def _gone(self) -> None:
        self.going -= 1
        tracemalloc.reset_peak()


@pytest.fixture
async def start(start_web: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(bridge.daemon, "MemoryBudget", Watched)

    async def begin(budget: str = "256MiB", wait: str = "10s", **more: str) -> Any:
        variables = {"SMTP_BRIDGE_SMTP__MEMORY_BUDGET": budget, "SMTP_BRIDGE_SMTP__MEMORY_WAIT": wait}
        return (await start_web(config=SIGNED, **variables, **more))[0]

    return begin


def multipart(*parts: tuple[str, Iterable[bytes]]) -> bytes:
    """`parts`: a type, with what its header says more, and the content."""
    found = [HEAD, b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n']
    for kind, content in parts:
        found += [b"--b\r\nContent-Type: ", kind.encode(), b"\r\n\r\n", *content, b"\r\n"]
    return b"".join([*found, b"--b--\r\n"])


def with_file(size: int = SIZE) -> bytes:
    line = base64.b64encode(bytes(range(57))) + b"\r\n"
    kind = 'application/pdf; name="a.pdf"\r\nContent-Transfer-Encoding: base64'
    return multipart(("text/plain; charset=utf-8", [b"see the file\r\n"]), (kind, [line * (size // len(line))]))


def with_text(size: int, kind: str, last: str = "\U0001f600") -> bytes:
    line = f"{LINE}\r\n".encode()
    whole = line * (size // len(line)) + last.encode()
    return multipart((f"{kind}; charset=utf-8\r\nContent-Transfer-Encoding: 8bit", [whole]))


async def stored(daemon: Any, raw: bytes) -> str:
    mail = Message(
        queue_id=new_queue_id(),
        envelope=Envelope(reverse_path="ann@example.com", recipients=("bob@example.org",)),
        raw=raw,
        created_at=time.time(),
        expires_at=time.time() + 86400,
        subject="large",
    )
    await daemon.spool.put_history(
        mail, {"bob@example.org": Result(status="sent", provider="main")}, keep_body=True, durable=True
    )
    return mail.queue_id


async def call(
    daemon: Any, head: str, body: Iterable[bytes] = (), *, pause: asyncio.Event | None = None
) -> tuple[str, int]:
    """The status line and how many octets came after the header; read in small pieces, none of which is kept."""
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.http.port)
    writer.write(f"{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    for piece in body:
        writer.write(piece)
        await writer.drain()
    line = (await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")[0]
    if pause:
        await pause.wait()
    octets = 0
    while piece := await reader.read(65536):
        octets += len(piece)
        del piece
    writer.close()
    return line, octets


async def all_given_back(daemon: Any) -> None:
    async with asyncio.timeout(5):
        while daemon.budget.used:
            await asyncio.sleep(0.005)


def get(path: str, scope: str = "read") -> str:
    return f"GET {path} HTTP/1.1\r\nAuthorization: Bearer {KEYS[scope][0]}"


PATHS = {
    "raw": (with_file, "/api/v1/messages/{}/raw", SIZE * 0.9),
    "export": (with_file, "/api/v1/export?id={}", SIZE * 1.2),
    "source": (with_file, "/mail/{}/raw", SIZE * 0.9),
    "attachment": (with_file, "/mail/{}/files/1", SIZE * 0.7),
    "page": (with_file, "/mail/{}?view=source", 1000),
    "as sent": (with_file, "/mail/{}?view=request", 1000),
    "text": (lambda: with_text(4_000_000, "text/plain"), "/mail/{}?view=text", 1000),
    "html": (lambda: with_text(4_000_000, "text/html"), "/mail/{}/html", 1000),
    "html page": (lambda: with_text(4_000_000, "text/html"), "/mail/{}?view=html", 1000),
}


@pytest.mark.parametrize("name", PATHS)
async def test_downloads_at_the_same_time_hold_what_is_counted(start: Any, name: str) -> None:
    make, path, least = PATHS[name]
    daemon = await start()
    small, large = await stored(daemon, with_file(1000)), await stored(daemon, make())
    await call(daemon, get(path.format(small)))  # what the first one loads is no message's
    tracemalloc.start()
    try:
        daemon.budget.begin()
        answers = await asyncio.gather(*(call(daemon, get(path.format(large))) for _ in range(N)))
        end = tracemalloc.get_traced_memory()[1] - daemon.budget.before
        await asyncio.sleep(0.05)
        daemon.budget.charge(0)
    finally:
        tracemalloc.stop()

    assert {line for line, _ in answers} == {"HTTP/1.1 200 OK"}
    assert all(octets > least for _, octets in answers)
    await all_given_back(daemon)
    assert max(daemon.budget.over) < SLACK
    if least > 1_000_000 and name != "attachment":
        assert max(end, daemon.budget.most) < N * PASSING + SLACK  # and none of it is the message


async def test_a_client_that_takes_nothing_holds_no_message(start: Any) -> None:
    daemon = await start()
    large, pause = await stored(daemon, with_file()), asyncio.Event()
    paused = [asyncio.create_task(call(daemon, get(f"/mail/{large}/raw"), pause=pause)) for _ in range(3)]
    async with asyncio.timeout(5):
        while daemon.budget.used != 3 * PASSING:
            await asyncio.sleep(0.01)
    pause.set()

    assert {line for line, _ in await asyncio.gather(*paused)} == {"HTTP/1.1 200 OK"}
    await all_given_back(daemon)


@pytest.mark.parametrize("path", ["/api/v1/messages/{}/raw", "/mail/{}/raw", "/mail/{}/files/1", "/mail/{}?view=text"])
async def test_without_memory_it_is_503_after_a_wait(start: Any, path: str) -> None:
    daemon = await start(wait="50ms")
    large = await stored(daemon, with_file(300_000))
    everything = daemon.budget.charge(daemon.budget.total)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{daemon.http.port}", headers=bearer("read")) as client:
        refused = await client.get(path.format(large))
        everything.release()
        taken = await client.get(path.format(large))

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
    assert taken.status_code == 200
    await all_given_back(daemon)


async def test_a_form_or_json_that_comes_slowly_is_held(start: Any) -> None:
    daemon = await start()
    _, writer = await asyncio.open_connection("127.0.0.1", daemon.http.port)
    head = f"POST /api/v1/messages/retry HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEYS['manage'][0]}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 900000\r\n\r\n".encode())
    async with asyncio.timeout(5):
        while daemon.budget.used != 1_800_000:
            await asyncio.sleep(0.01)
        writer.close()
        while daemon.budget.used:
            await asyncio.sleep(0.01)


def order(size: int, text: str) -> bytes:
    content = base64.b64encode(bytes(range(256)) * (size // 256)).decode()
    asked = {"from": "ann@example.com", "to": "bob@example.org", "subject": "x", "body": text}
    return json.dumps(asked | {"attachments": [{"filename": "a.bin", "content": content}]}).encode()


@pytest.mark.parametrize("text", ["short", LINE * 20_000 + "\U0001f600"], ids=["a file", "and a text with an emoji"])
async def test_bodies_of_the_rest_door_hold_what_is_counted(
    start: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # orjson asks for twelve times the text, and touches what it needs of it, which tracemalloc cannot know.
    monkeypatch.setattr(bridge.web.send, "parsed", lambda body: json.loads(body))
    daemon = await start()

    async def post(path: Path, size: int) -> tuple[str, int]:
        def pieces() -> Iterable[bytes]:
            with path.open("rb") as file:
                while piece := file.read(65536):
                    yield piece

        head = f"POST /send-email HTTP/1.1\r\nAuthorization: Bearer {KEYS['send'][0]}\r\nContent-Length: {size}\r\n"
        return await call(daemon, f"{head}Content-Type: application/json", pieces())

    small, large = tmp_path / "small", tmp_path / "large"
    sizes = small.write_bytes(order(256, "x")), large.write_bytes(order(3_000_000, text))
    await post(small, sizes[0])
    tracemalloc.start()
    try:
        daemon.budget.begin()
        answers = await asyncio.gather(*(post(large, sizes[1]) for _ in range(N)))
        await asyncio.sleep(0.05)
        daemon.budget.charge(0)
    finally:
        tracemalloc.stop()

    assert {line for line, _ in answers} == {"HTTP/1.1 200 OK"}
    assert daemon.budget.most > N * sizes[1]
    assert max(daemon.budget.over) < SLACK + N * 256 * 1024  # what a connection reads at once


async def test_a_message_that_is_too_large_for_a_page_is_shown_from_its_beginning(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MAX_PARSED", 500_000)
    monkeypatch.setattr(pages, "MAX_COST", 1_000_000)
    daemon = await start()
    for raw in (with_file(600_000), with_text(400_000, "text/plain")):
        queue_id = await stored(daemon, raw)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{daemon.http.port}", headers=bearer("read")) as client:
            page, headers, source = [
                await client.get(f"/mail/{queue_id}?view={view}") for view in ("text", "headers", "source")
            ]
            parts = [await client.get(f"/mail/{queue_id}/{part}") for part in ("html", "files/1")]
            whole = await client.get(f"/mail/{queue_id}/raw")

        assert "too large to be shown here" in page.text
        assert "bob@example.org" in headers.text
        assert "multipart/mixed" in source.text
        assert [part.status_code for part in parts] == [413, 413]
        assert whole.content == raw
    await all_given_back(daemon)


def watch_the_making(monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> list[tuple[int, int]]:
    """Of each call: the octets it had in use at most beyond those before, and those that were held when it began."""
    made = getattr(where, name)
    seen: list[tuple[int, int]] = []

    def measured(*args: Any, **values: Any) -> Any:
        tracemalloc.start()
        try:
            answer = made(*args, **values)
            seen.append((tracemalloc.get_traced_memory()[1], values["opened"].hold.octets - footprint(values["email"])))
        finally:
            tracemalloc.stop()
        return answer

    monkeypatch.setattr(where, name, measured)
    return seen


@pytest.mark.parametrize("view", ["text", "source"])
async def test_a_page_is_held_before_it_is_made(start: Any, monkeypatch: pytest.MonkeyPatch, view: str) -> None:
    daemon = await start()
    queue_id = await stored(daemon, with_text(400_000, "text/plain"))
    path = f"/mail/{queue_id}?view={view}"
    await call(daemon, get(path))
    seen = watch_the_making(monkeypatch, pages, "render")
    await call(daemon, get(path))

    ((used, held),) = seen
    assert used > 1_000_000
    assert used < held


async def test_the_html_of_a_frame_is_held_when_it_is_sent(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await start()
    raw = with_text(900_000, "text/html")
    queue_id, held = await stored(daemon, raw), []
    made = pages.Streamed
    monkeypatch.setattr(pages, "Streamed", lambda *args, **more: held.append(daemon.budget.used) or made(*args, **more))
    await call(daemon, get(f"/mail/{queue_id}/html"))

    assert held[0] >= footprint(parse(raw)) + PASSING + 900_000


async def test_wide_text_of_a_request_is_held_when_it_is_written(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await start()
    held: list[int] = []
    made = bridge.web.send.write
    monkeypatch.setattr(bridge.web.send, "write", lambda *args: held.append(daemon.budget.used) or made(*args))
    body = order(256, LINE * 50_000 + "\U0001f600")
    head = f"POST /send-email HTTP/1.1\r\nAuthorization: Bearer {KEYS['send'][0]}\r\nContent-Length: {len(body)}\r\n"
    await call(daemon, f"{head}Content-Type: application/json", [body])

    assert held[0] >= 4 * len(body) + 2 * 4 * len(LINE) * 50_000  # each character takes four octets, in two places
