"""The REST door, `POST /send-email`: one message or many in JSON, through the same submission as SMTP (DESIGN 6).

What is answered is the same promise: 200 when a provider took the message, 202 when the spool committed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bridge.budget import Exhausted, Hold
from bridge.content import READING, Content, NoRoom, join
from bridge.mime.trace import HOPS
from bridge.mime.write import write
from bridge.model import Answer, Envelope, Origin, Peer, matches
from bridge.spool.base import SpoolError, SpoolFull
from bridge.web import guard, replies
from bridge.web.context import Web
from bridge.web.errors import Json, Problem, shown
from bridge.web.jobs import MESSAGES, Job, check_type, one, parsed, several
from bridge.web.keys import Key
from bridge.web.once import HEADER, Once, Said, scoped
from bridge.web.order import Order, read_key
from bridge.web.written import TooLarge, Written

log: Any = structlog.get_logger()

AT_ONCE = 8  # of them on their way
SLACK = 64 * 1024  # octets of a request beside its files
COST = (
    4  # times its size: the request, what is read of it, its files decoded, and what a thread lets go of a moment later
)
MAX_VALUES = 1_000_000  # in the JSON of a request, commas in its texts among them
SHORT = 64 * 1024  # octets of a request that is read at once; a longer one in a thread
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
        many, jobs, written = await self._received(request, origin, hops)
        try:
            for number, job in enumerate(jobs):
                job.key, job.origin, job.peer = caller.key, origin, peer
                own = job.order.key if job.order else ""
                job.idempotency_key = own or (f"{header}\0{number}" if header and many else header)
            async with _watched(request, peer):
                return await (self._all(jobs, written) if many else self._single(jobs[0], written))
        finally:
            written.close()

    # --- the request

    async def _received(self, request: Request, origin: Origin, hops: int) -> tuple[bool, list[Job], Written]:
        """Whether it may have several messages, and these, with what was written of them, which is all that is held of the
        request from here on. Raises Problem."""
        content: Content | None = None
        try:
            content = await self._web.begin()
            await self._body(request, content)
            # Nothing here keeps the body or its value, which are gone once the messages are made of them.
            value = await self._value([await _whole(content)], content.hold)
            many = isinstance(value, dict) and MESSAGES in value
            jobs = await self._read(value, many=many, size=content.size)
            del value
            return many, jobs, await self._written(jobs, content, hops, many=many)
        except Problem as problem:
            _note(problem, origin)
            raise
        except Exhausted:
            raise _later("No memory for it now") from None
        except (NoRoom, OSError):
            raise _later("No room for it now") from None
        finally:
            if content:
                content.abandon()

    async def _body(self, request: Request, content: Content) -> None:
        """As a message comes in by SMTP: to a file where it is long, and what all of it takes is held when it is there, so that
        who is slow holds up nobody. Raises Problem, `budget.Exhausted`, NoRoom."""
        limit = self._web.rules.max_message_size * 4 // 3 + SLACK
        await guard.each_piece(request, limit, content.write)
        await content.keep(COST * content.size + READING)

    async def _written(self, jobs: list[Job], content: Content, hops: int, *, many: bool) -> Written:
        """Of each its message, in place of its draft. Raises NoRoom."""
        limit = self._web.rules.max_message_size
        written = Written(content.split(), self._web.begin)
        try:
            for job in jobs:
                if job.order is None:
                    continue
                draft, job.order.draft = job.order.draft, None
                assert draft
                if hops:
                    draft = replace(draft, headers=((HOPS, str(hops)), *draft.headers))
                with contextlib.suppress(TooLarge):
                    job.part = await written.add(write(draft, _new_boundary), limit)
                del draft
            await written.end(shared=many)
        except BaseException:
            written.close()
            raise
        return written

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

    async def _single(self, job: Job, written: Written) -> Response:
        said = await self._answer(job, written)
        again = {"Idempotent-Replayed": "true"} if said.again else {}
        return Json(said.body, status_code=said.status, headers={**said.headers, **again})

    async def _all(self, jobs: list[Job], written: Written) -> Response:
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

        async def answer(job: Job) -> Said:
            job.paid = True
            async with slots:
                return await self._answer(job, written)

        found = await asyncio.gather(*map(answer, jobs))
        self._web.keys.give_back(key, sum(said.again or not said.promised for said in found))
        return Json({"results": [_result(said) for said in found]})

    async def _answer(self, job: Job, written: Written) -> Said:
        """Whatever comes of it."""
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

    async def _take(self, job: Job, written: Written) -> Said:
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
        key = scoped(job.key.name, job.idempotency_key)
        if self._once.is_running(key):
            written.not_sent()
        return await self._once.run(
            key,
            order.digest,
            lambda queue_id: self._send(job, order, queue_id, written),
            field="idempotency_key" if order.key else HEADER,
            admit=lambda: None if job.paid else self._admit(job.key),
        )

    async def _send(self, job: Job, order: Order, queue_id: str, written: Written) -> Said:
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

    async def _submit(self, job: Job, order: Order, queue_id: str, written: Written) -> Said:
        if not job.paid:
            self._pay(job.key, 1)
        taken = False
        try:
            if job.part is None:
                raise Problem(413, f"The message is larger than {self._web.rules.max_message_size} octets")
            content = await written.take(job.part)
            envelope = Envelope(
                reverse_path=order.sender,
                recipients=tuple(order.recipients),
                smtputf8=not all(map(str.isascii, (order.sender, *order.recipients))),
            )
            task = self._web.submit(envelope, content, origin=job.origin, peer=job.peer, queue_id=queue_id)
            answer = await _answered(task)
            said = replies.said(answer, queue_id, _placed(order.recipients, job.where))
            taken = said.promised
            return said
        except (Exhausted, NoRoom):
            raise _later("No room for it now") from None
        finally:
            if not taken and not job.paid:
                self._web.keys.give_back(job.key)

    def _pay(self, key: Key, number: int) -> None:
        if wait := self._web.keys.take(key, number):
            raise _too_many(key, wait)

    def _admit(self, key: Key) -> None:
        if wait := self._web.keys.wait(key):
            raise _too_many(key, wait)


async def _whole(content: Content) -> bytes:
    """All of it, and it is nowhere else. Raises OSError."""
    try:
        if content.long:
            return await asyncio.to_thread(lambda: join(*content.read(SHORT)))
        return content.read(SHORT)[0]
    finally:
        content.close()


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
