"""The REST door, `POST /send-email`: one message or many in JSON, through the same submission as SMTP (DESIGN 6).

What is answered is the same promise: 200 when a provider took the message, 202 when the spool committed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bridge.budget import Exhausted, Hold
from bridge.content import Content, NoRoom
from bridge.mime.trace import HOPS
from bridge.mime.write import Draft, write
from bridge.model import Answer, Envelope, Origin, Peer, matches
from bridge.spool.base import SpoolError, SpoolFull
from bridge.web import guard, replies
from bridge.web.context import Web
from bridge.web.errors import Json, Problem, shown
from bridge.web.jobs import MESSAGES, Job, check_type, one, parsed, several
from bridge.web.keys import Key
from bridge.web.once import HEADER, Once, Said, scoped
from bridge.web.order import Order, read_key

log: Any = structlog.get_logger()

AT_ONCE = 8  # of them on their way
SLACK = 64 * 1024  # octets of a request beside its files
COST = (
    4  # times its size: the request, what is read of it, its files decoded, and what a thread lets go of a moment later
)
MAX_VALUES = 1_000_000  # in the JSON of a request, commas in its texts among them
SHORT = 64 * 1024  # octets of a request that is read at once; a longer one in a thread
BLOCK = 64 * 1024
MAX_HOPS_DIGITS = 5


def owner(key: Key) -> str:
    """As which user its messages go, for routes and the history."""
    return f"key:{key.name}"


def routes(web: Web) -> list[BaseRoute]:
    return [Route("/send-email", Door(web).post, methods=["POST"])]


class Door:
    def __init__(self, web: Web) -> None:
        self._web = web
        self._once = Once(web.spool, web.clock, web.new_queue_id)

    async def post(self, request: Request) -> Response:
        caller = guard.allowed(self._web, request, "send")
        guard.csrf_in_header(caller, request)
        assert caller.key  # nobody may send without
        if self._web.stopping:
            raise guard.stopping()
        check_type(request)
        header = read_key(request.headers[HEADER], HEADER) if HEADER in request.headers else ""
        hops = _hops(request)
        origin = Origin(client=_client(request), user=owner(caller.key), protocol="HTTP")
        peer = Peer()
        async with self._body(request) as (value, hold):
            many = isinstance(value, dict) and MESSAGES in value
            try:
                jobs = await self._read(value, many=many, size=hold.octets // COST)
            except Problem as problem:
                _note(problem, origin)
                raise
            del value
            for number, job in enumerate(jobs):
                job.key, job.origin, job.peer, job.hops = caller.key, origin, peer, hops
                own = job.order.key if job.order else ""
                job.idempotency_key = own or (f"{header}\0{number}" if header and many else header)
            async with _watched(request, peer):
                found = await (self._all(jobs, hold) if many else self._single(jobs[0], hold))
        return found

    # --- the request

    @contextlib.asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[tuple[Any, Hold]]:
        """What it says, and the hold of what that takes. Raises Problem."""
        limit = self._web.rules.max_message_size * 4 // 3 + SLACK
        told = request.headers.get("content-length", "")
        size = int(told) if told.isdigit() else SHORT
        if size > limit:
            raise Problem(413, f"The body is larger than {limit} octets")
        try:
            hold = await self._web.hold(COST * size, large=size > SHORT or not told)
        except Exhausted:
            raise _later("No memory for it now") from None
        room = hold.octets // COST

        def grow(octets: int) -> bool:
            nonlocal room
            room -= octets
            return room >= 0 or told.isdigit() or hold.grow(COST * octets)

        try:
            # Nothing here keeps the body or its value, which are gone once the messages are made of them.
            yield await self._value([await guard.read_body(request, limit, grow=grow)], hold), hold
        finally:
            hold.release()

    async def _value(self, box: list[bytes], hold: Hold) -> Any:
        """Of the JSON in the box, which is emptied. Raises Problem."""
        body = box.pop()
        if sum(map(body.count, (b",", b"{", b"["))) > MAX_VALUES:
            # each is a hundred octets, and none lets the loop go on
            raise Problem(413, f"The request has more than {MAX_VALUES} values")
        value, wide = _measured(body) if len(body) <= SHORT else await asyncio.to_thread(_measured, body)
        if self._web.stopping:
            raise guard.stopping()
        hold.resize(hold.octets + wide)
        return value

    async def _read(self, value: Any, *, many: bool, size: int) -> list[Job]:
        """Each message of it, or what is wrong with it. Raises Problem when that is the only one."""
        most = self._web.rules.max_recipients
        work: Callable[[Any, int], list[Job]] = several if many else one
        return work(value, most) if size <= SHORT else await asyncio.to_thread(work, value, most)

    # --- the answers

    async def _single(self, job: Job, hold: Hold) -> Response:
        said = await self._answer(job, lambda: hold.resize(0))
        again = {"Idempotent-Replayed": "true"} if said.again else {}
        return Json(said.body, status_code=said.status, headers={**said.headers, **again})

    async def _all(self, jobs: list[Job], hold: Hold) -> Response:
        """A result for each; those that were not taken do not count."""
        key, number = jobs[0].key, len(jobs)
        if key.rate and number > key.rate.count:
            raise Problem(
                429,
                f"The key {key.name} may send {key.rate.count} at once",
                field=MESSAGES,
                headers=_after(key.rate.period),
            )
        self._pay(key, number)
        slots = asyncio.Semaphore(AT_ONCE)
        share = hold.octets // number

        async def answer(job: Job) -> Said:
            job.paid = True
            async with slots:
                return await self._answer(job, lambda: hold.resize(max(hold.octets - share, 0)))

        found = await asyncio.gather(*map(answer, jobs))
        self._web.keys.give_back(key, sum(said.again or not said.promised for said in found))
        return Json({"results": [_result(said) for said in found]})

    async def _answer(self, job: Job, written: Callable[[], None]) -> Said:
        """Whatever comes of it. `written`: the draft is gone."""
        try:
            return await self._take(job, written)
        except Problem as problem:
            _note(problem, job.origin)
            field = f"{job.where}{problem.field}" if problem.field != HEADER else HEADER
            return replies.refusal(
                Problem(problem.status, problem.message, code=problem.code, field=field, headers=problem.headers)
            )
        except SpoolFull:
            return replies.refusal(_later("The spool is full"))
        except SpoolError as error:
            log.error("spool.error", where="send", error=str(error))
            return replies.refusal(_later("The spool cannot be used now"))

    async def _take(self, job: Job, written: Callable[[], None]) -> Said:
        if job.refused:
            return job.refused
        order = job.order
        assert order
        if job.peer.gone and not job.idempotency_key:
            raise _later("The client has gone")
        if not any(matches(pattern, order.sender) for pattern in job.key.senders):
            raise Problem(403, f"The key {job.key.name} may not send as {shown(order.sender)}", field="from")
        if not job.idempotency_key:
            return await self._send(job, order, self._web.new_queue_id(), written)
        # Who sends a key comes again for the answer, so the message is taken also when it has hung up.
        job.peer = Peer()
        return await self._once.run(
            scoped(job.key.name, job.idempotency_key),
            order.digest,
            lambda queue_id: self._send(job, order, queue_id, written),
            field="idempotency_key" if order.key else HEADER,
            admit=lambda: None if job.paid else self._admit(job.key),
        )

    async def _send(self, job: Job, order: Order, queue_id: str, written: Callable[[], None]) -> Said:
        return self._refused_recipients(job, order) or await self._submit(job, order, queue_id, written)

    def _refused_recipients(self, job: Job, order: Order) -> Said | None:
        """As RCPT would be: all of them are told, and nothing is sent."""
        check = self._web.check_recipient
        found = {a: reply for a in order.recipients if (reply := check(job.origin.user, "", order.sender, a))}
        if not found:
            return None
        first = next(iter(found))
        problem = replies.problem(found[first], field=job.where + order.recipients[first])
        _note(problem, job.origin)
        return replies.refusal(problem, replies.recipients(found, order.recipients))

    async def _submit(self, job: Job, order: Order, queue_id: str, written: Callable[[], None]) -> Said:
        if not job.paid:
            self._pay(job.key, 1)
        content: Content | None = None
        taken = False
        try:
            content = await self._web.begin()
            draft, order.draft = order.draft, None
            assert draft
            if job.hops:
                draft = replace(draft, headers=((HOPS, str(job.hops)), *draft.headers))
            await self._write(draft, content)
            del draft
            written()
            envelope = Envelope(
                reverse_path=order.sender,
                recipients=tuple(order.recipients),
                smtputf8=not all(map(str.isascii, (order.sender, *order.recipients))),
            )
            task = self._web.submit(envelope, content, origin=job.origin, peer=job.peer, queue_id=queue_id)
            content = None  # it is the submission's
            answer = await _answered(task)
            said = replies.said(answer, queue_id, _placed(order.recipients, job.where))
            taken = said.promised
            return said
        except (Exhausted, NoRoom):
            raise _later("No room for it now") from None
        finally:
            if content:
                content.abandon()
            if not taken and not job.paid:
                self._web.keys.give_back(job.key)

    async def _write(self, draft: Draft, content: Content) -> None:
        limit = self._web.rules.max_message_size
        for block in _blocks(write(draft, _new_boundary)):
            if content.size + len(block) > limit:
                raise Problem(413, f"The message is larger than {limit} octets")
            await content.write(block)

    def _pay(self, key: Key, number: int) -> None:
        if wait := self._web.keys.take(key, number):
            raise _too_many(key, wait)

    def _admit(self, key: Key) -> None:
        if wait := self._web.keys.wait(key):
            raise _too_many(key, wait)


def _measured(body: bytes) -> tuple[Any, int]:
    """What it says, and the octets that text beyond ASCII takes as characters, twice: one emoji, and each takes four."""
    value = parsed(body)
    wide, stack = 0, [] if body.isascii() and b"\\u" not in body else [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            wide += 0 if one.isascii() else sys.getsizeof(one)
        elif isinstance(one, dict):
            stack += one.values()
        elif isinstance(one, list):
            stack += one
    return value, 2 * wide


def _result(said: Said) -> dict[str, Any]:
    return {"code": said.status, **said.body}


def _placed(recipients: Mapping[str, str], where: str) -> dict[str, str]:
    return {address: where + field for address, field in recipients.items()} if where else dict(recipients)


def _client(request: Request) -> str:
    """Nobody in particular is the other end of a unix socket."""
    return request.client.host.removeprefix("::ffff:") if request.client and request.client.host else "unix"


def _note(problem: Problem, origin: Origin) -> None:
    """Of what never comes to the submission. What stood in the field is not told."""
    log.info(
        "message.rejected",
        client=origin.client,
        user=origin.user,
        status=problem.status,
        reason=problem.code,
        field=problem.field,
    )


def _new_boundary() -> str:
    return f"=_{secrets.token_hex(16)}"


def _blocks(pieces: Iterable[bytes]) -> Iterable[bytes]:
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        if len(gathered) >= BLOCK:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


def _after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(math.ceil(seconds), 1))}


def _too_many(key: Key, wait: float) -> Problem:
    return Problem(429, f"The key {key.name} has sent as many as it may for now", headers=_after(wait))


def _hops(request: Request) -> int:
    """Of a message that another bridge sends (`providers/rest.py`)."""
    told = request.headers.get(HOPS, "0")
    if not (told.isascii() and told.isdigit() and len(told) <= MAX_HOPS_DIGITS):
        raise Problem(400, "must be a number", field=HOPS)
    return int(told)


async def _answered(task: asyncio.Task[Answer]) -> Answer:
    """A shutdown that takes too long cuts it off: nothing was promised then."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise guard.stopping() from None
        raise


def _later(text: str) -> Problem:
    return Problem(503, text, headers=_after(replies.RETRY_S))


@contextlib.asynccontextmanager
async def _watched(request: Request, peer: Peer) -> AsyncIterator[None]:
    """`peer.gone` as soon as the client hangs up; the body has been read."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        peer.gone = True

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
