"""What a long message holds, from its file to the end of the request, is never more than the budget holds for it."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.budget import MemoryBudget
from bridge.content import Contents, cost
from bridge.delivery.choice import Dispatchers
from bridge.delivery.dispatcher import Dispatcher
from bridge.delivery.preparation import Rules
from bridge.delivery.recorder import Recorder
from bridge.delivery.retry import RetryPolicy
from bridge.delivery.routing import Routes
from bridge.delivery.runner import Runner
from bridge.mime.parse import parse
from bridge.model import Envelope, Origin, Peer
from bridge.providers.base import Policy
from bridge.providers.catalogue import adapter
from bridge.spool.ids import new_queue_id
from bridge.spool.sqlite import SqliteSpool
from bridge.submission import Submission
from tests.delivery.conftest import FakeClock

SIZE = 2_000_000
BLOCK = 64 * 1024
SLACK = 300_000  # octets that are no message's: log lines, tasks, what modules keep for later
HEAD = b"From: ann@example.com\r\nTo: bob@example.org\r\nSubject: x\r\nMIME-Version: 1.0\r\n"


ANSWERS: dict[str, Any] = {
    "api.sendgrid.com": None,
    "api.postmarkapp.com": {"ErrorCode": 0, "MessageID": "1"},
    "mandrillapp.com": [{"email": "bob@example.org", "status": "sent", "_id": "1"}],
    "email.eu-west-1.amazonaws.com": {"MessageId": "1"},
}


class Watched(MemoryBudget):
    """`over`: of each time that something was held, by how many octets the memory in use exceeded it."""

    def __init__(self) -> None:
        super().__init__(256 << 20, wait_s=1)
        self.over: list[int] = []
        self.most = 0
        self.before = 0

    def begin(self) -> None:
        gc.collect()
        self.over, self.most, self.before = [], 0, tracemalloc.get_traced_memory()[0]

    def _count(self, octets: int, large: bool) -> None:
        if self.used:
            held = tracemalloc.get_traced_memory()[1] - self.before
            self.most = max(self.most, held)
            self.over.append(held - self.used)
        super()._count(octets, large)
        tracemalloc.reset_peak()


class Network(httpx.AsyncBaseTransport):
    """Takes a request piece by piece and says that all is well."""

    def __init__(self) -> None:
        self.octets = 0
        self.tail = b""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        self.octets = 0
        async for piece in request.stream:
            self.octets += len(piece)
            self.tail = (self.tail + piece)[-300:]
        return httpx.Response(202, headers={"X-Message-Id": "1"}, json=ANSWERS[request.url.host], request=request)


Place = Callable[..., Any]


@pytest.fixture
def place(spool: SqliteSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")

    def make(kind: str, **rules: Any) -> tuple[Submission, Runner, Watched, Network, Contents]:
        settings = {"api_key": "k", "region": "eu-west-1"}
        Kind = adapter(kind)
        names = Kind.Settings.__dataclass_fields__
        network, clock = Network(), FakeClock()
        provider = Kind(
            kind,
            Policy(),
            Kind.Settings(**{name: value for name, value in settings.items() if name in names}),
            transport=network,
        )
        dispatchers = Dispatchers(
            [Dispatcher(provider, clock=clock)], routes=Routes((), [kind]), degrade=False, mark="1"
        )  # fmt: skip
        recorder = Recorder(spool, RetryPolicy(), clock, timeout=dispatchers.timeout, onward=dispatchers.onward)
        budget = Watched()
        runner = Runner(
            spool=spool, dispatchers=dispatchers, recorder=recorder, parse=parse, clock=clock, owner="me", budget=budget
        )  # fmt: skip
        submission = Submission(
            spool=spool,
            dispatchers=dispatchers,
            recorder=recorder,
            rules=Rules(**rules),
            parse=parse,
            new_queue_id=new_queue_id,
            clock=clock,
            waits_in=runner.waits_in,
        )
        return submission, runner, budget, network, Contents(budget=budget, directory=tmp_path, threshold=100_000)

    return make


async def send(made: Any, raw: Path, *, binary: bool = False) -> str:
    submission, _, _, _, contents = made
    content = await contents.begin()
    with raw.open("rb") as file:
        while block := file.read(BLOCK):
            await content.write(block)
            del block
    envelope = Envelope(reverse_path="ann@example.com", recipients=("bob@example.org",), binary=binary)
    answer = await submission.submit(envelope, content, origin=Origin(client="192.0.2.7"), peer=Peer())
    return str(answer.reply)


def text(charset: str, line: str, *, kind: str = "plain", encoding: str = "8bit", last: str = "") -> bytes:
    body = (line.encode(charset) + b"\r\n") * (SIZE // len(line.encode(charset)))
    body += last.encode(charset) + b"\r\n"
    if encoding == "base64":
        body = base64.encodebytes(body).replace(b"\n", b"\r\n")
    head = f"Content-Type: text/{kind}; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return HEAD + head.encode() + body


def file(content: bytes, encoding: str = "8bit") -> bytes:
    return HEAD + f"Content-Type: application/x\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode() + content


def nested(raw: bytes, depth: int = 20, encoding: str = "8bit") -> bytes:
    around = HEAD + f"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode()
    return around * depth + raw


LINE = "the quick brown fox jumps over the lazy dog, again and again"
EIGHT_BIT = bytes(range(14, 256)) + b"\r\n"
SHAPES: dict[str, Callable[[], bytes]] = {
    "ascii": lambda: text("utf-8", LINE),
    "controls": lambda: text("utf-8", "\x01\x02\x03\x04\x05\x06\x07\x08" * 8),
    "latin-1": lambda: text("iso-8859-1", "Größe und Übermut tun selten gut"),
    "utf-8": lambda: text("utf-8", "Größe und Übermut tun selten gut"),
    "html with a euro sign in each line": lambda: text("utf-8", "<p>It costs 5 € in the shop</p>", kind="html"),
    "emoji": lambda: text("utf-8", LINE + " \U0001f600"),
    "one emoji at the end": lambda: text("utf-8", LINE, last="\U0001f600"),
    "quoted-printable": lambda: text("utf-8", LINE, encoding="quoted-printable", last="=F0=9F=98=80"),
    "base64": lambda: text("utf-8", LINE, encoding="base64", last="\U0001f600"),
    "gb18030, beyond the BMP at the end": lambda: text("gb18030", LINE, last="\U0001f600"),
    "gb18030, all beyond the BMP": lambda: text("gb18030", "\U0001f600\U00020000" * 8),
    "utf-16": lambda: text("utf-16-le", LINE, encoding="base64", last="\U0001f600"),
    "utf-7": lambda: text("utf-7", LINE, last="\U0001f600"),
    "big5-hkscs": lambda: text("big5-hkscs", "\u4e2d\u6587" * 20, last="\U00020547"),
    "iso-2022-jp that is broken": lambda: text("iso-2022-jp", LINE).replace(b"lazy", b"l\xffzy"),
    "utf-8 that is none": lambda: text("iso-8859-1", "Gr\xf6\xdfe und \xdcbermut").replace(b"iso-8859-1", b"utf-8"),
    "a file": lambda: file(base64.encodebytes(EIGHT_BIT * (SIZE // 340)).replace(b"\n", b"\r\n"), "base64"),
    "a file in broken base64": lambda: file(base64.encodebytes(EIGHT_BIT * (SIZE // 340)) + b"!x", "base64"),
    "a file in base64 with padding everywhere": lambda: file(b"QUI=Q-==" * (SIZE // 8), "base64"),
    "a file in quoted-printable": lambda: file(b"=41=42 plain text here\r\n" * (SIZE // 24), "quoted-printable"),
}
NESTED: dict[str, Callable[[], bytes]] = {
    "text": lambda: nested(text("utf-8", "Größe und Übermut tun selten gut")),
    "a file": lambda: nested(file(EIGHT_BIT * (SIZE // len(EIGHT_BIT)))),
    "quoted-printable that is none": lambda: nested(text("utf-8", LINE + "ä=C3=A4", encoding="quoted-printable")),
    "base64 in one line": lambda: nested(file(base64.b64encode(EIGHT_BIT * (SIZE // 340)), "base64")),
}
BINARY: dict[str, Callable[[], bytes]] = {
    "a file": lambda: file(bytes(range(256)) * (SIZE // 256), "binary"),
    "a file in messages": lambda: nested(file(bytes(range(256)) * (SIZE // 256), "binary"), encoding="binary"),
    "text": lambda: text("utf-8", LINE, encoding="binary", last="\U0001f600"),
}
SMALL = HEAD + b"\r\nx\r\n"


async def at_once() -> None:
    return None


async def is_within(
    made: Any, raw: bytes, directory: Path, *, sent: Callable[[], Awaitable[None]] = at_once, **named: Any
) -> None:
    """After a small message, that what the first one loads is no message's memory."""
    _, _, budget, network, _ = made
    large, small = directory / "large", directory / "small"
    large.write_bytes(raw)
    small.write_bytes(SMALL)
    size = len(raw)
    del raw
    assert "250" in await send(made, small)
    await sent()
    tracemalloc.start()
    try:
        network.octets = 0
        budget.begin()
        reply = await send(made, large, **named)
        await sent()
    finally:
        tracemalloc.stop()

    assert ("queued" if made[0].rules.mode == "queue" else "Ok: sent") in reply
    assert network.octets > size // 3
    assert budget.used == 0
    assert budget.most > size
    assert max(budget.over) < SLACK


@pytest.mark.parametrize("kind", ["sendgrid", "postmark"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_text_for_a_json_api(place: Place, tmp_path: Path, shape: str, kind: str) -> None:
    await is_within(place(kind), SHAPES[shape](), tmp_path)


@pytest.mark.parametrize("kind", ["mandrill", "ses"])
@pytest.mark.parametrize("shape", NESTED)
async def test_messages_in_messages_for_an_api_of_seven_bits(
    place: Place, tmp_path: Path, shape: str, kind: str
) -> None:
    await is_within(place(kind), NESTED[shape](), tmp_path)


@pytest.mark.parametrize("dedupe", [0.0, 60.0])
@pytest.mark.parametrize("shape", BINARY)
async def test_binarymime(place: Place, tmp_path: Path, shape: str, dedupe: float) -> None:
    await is_within(place("sendgrid", dedupe_window=dedupe), BINARY[shape](), tmp_path, binary=True)


@pytest.mark.parametrize("shape", ["ascii", "emoji", "a file"])
async def test_what_waited_in_the_queue(place: Place, tmp_path: Path, shape: str) -> None:
    made = place("sendgrid", mode="queue")
    _, runner, _, network, _ = made
    task = asyncio.create_task(runner.run())

    async def sent() -> None:
        async with asyncio.timeout(10):
            while runner._works or not network.octets:
                await asyncio.sleep(0.002)

    await is_within(made, SHAPES[shape](), tmp_path, sent=sent)
    runner.stop()
    await runner.drain(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_texts_in_memory_do_not_wait_for_each_other(place: Place) -> None:
    """Each asks for more than it has when it is known to be text that is not ASCII; who waits must hold nothing."""
    text = (
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        + "Größe und Übermut\r\n" * 9000
    )
    message = HEAD + text.encode()
    made = place("sendgrid")
    budget = MemoryBudget(12 * cost(len(message)) + 50_000, wait_s=10)
    submission, contents = made[0], dataclasses.replace(made[4], budget=budget, threshold=256 * 1024)

    async def one() -> str:
        content = await contents.begin()
        await content.write(message)
        assert not content.long
        envelope = Envelope(reverse_path="ann@example.com", recipients=("bob@example.org",))
        answer = await submission.submit(envelope, content, origin=Origin(client="192.0.2.7"), peer=Peer())
        return str(answer.reply)

    replies = await asyncio.gather(*(one() for _ in range(12)))

    assert {reply[:9] for reply in replies} == {"250 2.0.0"}
    assert budget.used == 0
