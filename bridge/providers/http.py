"""The one place where an adapter meets the network: build, send, parse, and every failure as an outcome, once."""

from __future__ import annotations

import asyncio
import time
import traceback
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import httpx
import structlog

from bridge.clock import Clock, SystemClock
from bridge.model import Addressing, Email, Fault, Outcome, idempotency_key
from bridge.providers.answers import allowance
from bridge.providers.base import Call, Policy, Provider, Verified
from bridge.providers.body import of_large
from bridge.providers.network import Progress
from bridge.providers.outcomes import CONGESTED, Failed, deferred, exception_outcome, unknown
from bridge.providers.transport import KEEPALIVE_S, CoreTransport
from bridge.providers.trust import proxy_url

OFF_LOOP_SIZE = 64 * 1024
CONNECT_S = 10.0  # a host that does not answer is given up before the whole time of the call is gone
REPLAYS = 3  # of a batch whose answer was lost, where the API knows its key: later calls will carry other keys
REPLAY_PAUSE_S = 0.5
REPLAYED = frozenset({409, 502, 504, 520, 524})  # the answer is lost, or the first call with this key is still at work

log = structlog.get_logger()


def transport_for(
    url: str, policy: Policy, *, proxy: str = "", ca_file: str = "", keepalive_s: float = KEEPALIVE_S
) -> CoreTransport:
    """The pool for one provider's address; opens nothing yet."""
    target = httpx.URL(url)
    return CoreTransport(
        max_connections=policy.concurrency,
        keepalive_s=keepalive_s,
        ca_file=ca_file,
        proxy=proxy_url(proxy, target.scheme, target.host),
    )


class Fetch(Protocol):
    """One request of a call that mails nobody by itself (a token, an upload, a look at a status)."""

    async def __call__(self, request: httpx.Request) -> httpx.Response: ...


class Auth(Protocol):
    """Credentials that are more than a fixed header."""

    async def sign(self, request: httpx.Request, fetch: Fetch) -> None:
        """Put them on a request, fetching a token first where one is needed. Raises Failed."""

    def renew(self, request: httpx.Request) -> bool:
        """After a 401 to this request: True when another try with fresh credentials makes sense."""


class Exchange:
    """The requests of one call, all within its deadline.

    `written`: a request that mails somebody had left in full, so that it may have been acted on.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, deadline: float, auth: Auth | None) -> None:
        self._transport = transport
        self._deadline = deadline
        self._auth = auth
        self.written = False
        self.allowance: tuple[int, float] | None = None  # as the last answer to a mail said

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    async def __call__(self, request: httpx.Request, *, mails: bool = True, sign: bool = True) -> httpx.Response:
        """Send it. `mails` False: nobody is mailed by this request alone. `sign` False: it goes without the credentials.

        A 401 is answered once with fresh credentials: the API did not act on the request. Raises httpx's exceptions,
        TimeoutError and Failed.
        """
        auth = self._auth if sign else None
        if auth:
            await self._sign(request, auth)
        response = await self._once(request, mails)
        if response.status_code == 401 and auth and auth.renew(request):
            self.written = False  # refused unread, so a failure to get fresh credentials is nobody's lost answer
            await self._sign(request, auth)
            response = await self._once(request, mails)
        return response

    async def _sign(self, request: httpx.Request, auth: Auth) -> None:
        """Within the deadline too: it may wait for a token that another call fetches."""
        async with asyncio.timeout_at(self._deadline):
            await auth.sign(request, self._fetch)

    async def _fetch(self, request: httpx.Request) -> httpx.Response:
        return await self(request, mails=False, sign=False)

    async def _once(self, request: httpx.Request, mails: bool) -> httpx.Response:
        """The transport is used directly: AsyncClient's redirects, cookies and hooks are not wanted, and cost a quarter of
        the rate (tests/bench/http_engine.py)."""
        left, progress = self.left, Progress()
        # Who gets a connection at the last moment could send, and not hear the answer.
        waits = {"pool": 0.9 * left, "connect": min(CONNECT_S, left), "read": None, "write": None}
        request.extensions = {**request.extensions, "timeout": waits, "progress": progress}
        request.headers.setdefault("Accept-Encoding", "identity")
        try:
            async with asyncio.timeout_at(self._deadline):
                response = await self._transport.handle_async_request(request)
            progress.written = True  # answered, at whatever point
        finally:
            if mails:
                self.written = progress.written
        if mails:
            # A look at the names first: most APIs say nothing, and reading headers by name is dear.
            told = any(b"rate" in name.lower() for name, _ in response.headers.raw)
            self.allowance = allowance(response.headers, time.time()) if told else None
        return response


class HttpProvider(Provider):
    """An adapter that speaks HTTP. What it knows of its API is in pure methods; `secrets` never reach a reply or a log."""

    auth: Auth | None = None

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        transport: httpx.AsyncBaseTransport,
        secrets: Iterable[str] = (),
        clock: Clock | None = None,
    ) -> None:
        super().__init__(name, policy)
        self.transport = transport
        self.secrets = tuple(s for s in secrets if s)
        self.clock = clock or SystemClock()

    @abstractmethod
    def build_request(self, email: Email, addressing: Addressing, *, queue_id: str, key: str) -> httpx.Request:
        """The same bytes for the same arguments: some APIs refuse a known key with another body."""

    @abstractmethod
    def parse_response(self, response: httpx.Response, addressing: Addressing) -> dict[str, Outcome]:
        """An outcome for every recipient; never called for a request that failed."""

    def refused_together(self, outcomes: Mapping[str, Outcome], addressing: Addressing) -> bool:
        """True when a call with several recipients was refused for one of them and the answer does not say which."""
        return False

    def build_batch(self, calls: Sequence[Call]) -> httpx.Request:
        """One request for calls of one `batch_key`; the same bytes for the same calls."""
        raise NotImplementedError

    def parse_batch(self, response: httpx.Response, calls: Sequence[Call]) -> list[dict[str, Outcome]] | None:
        """The outcomes of each call, in order; None when all were refused for one that the answer does not name."""
        raise NotImplementedError

    # --- the conversation; an adapter that needs more than one request overrides these two

    async def converse(self, call: Call, exchange: Exchange) -> Mapping[str, Outcome]:
        """Make one call; may raise whatever `exchange` raises."""
        request = await self.built(call)
        return self.parse_response(await exchange(request), call.addressing)

    async def converse_batch(self, calls: Sequence[Call], exchange: Exchange) -> list[dict[str, Outcome]] | None:
        build = partial(self.build_batch, calls)
        large = any(len(call.email.raw) > OFF_LOOP_SIZE for call in calls)
        request = await asyncio.to_thread(of_large, build) if large else await asyncio.to_thread(build)
        response = await self._replayed(request, exchange) if self.idempotent else await exchange(request)
        return self.parse_batch(response, calls)

    async def _replayed(self, request: httpx.Request, exchange: Exchange) -> httpx.Response:
        """The API knows the key of this very batch and no other, so a lost answer is asked for again at once."""
        lost = False
        for number in range(REPLAYS + 1):
            try:
                response = await exchange(request)
            except httpx.TransportError:
                lost = lost or exchange.written
                if not lost or number == REPLAYS or exchange.left <= REPLAY_PAUSE_S:
                    exchange.written = lost  # also when the last try never left: the one before it did
                    raise
            else:
                settled = response.status_code not in REPLAYED
                if settled and (not lost or response.status_code < 400 or response.status_code in (400, 422)):
                    return response
                lost = lost or not settled
                if number == REPLAYS or exchange.left <= REPLAY_PAUSE_S:
                    break
            await asyncio.sleep(REPLAY_PAUSE_S)
        if lost:
            raise Failed(unknown(f"HTTP {response.status_code} after a lost answer"))
        return response

    async def built(self, call: Call) -> httpx.Request:
        """A large mail in a thread: the text of its HTML or its many addresses would hold up everybody."""
        build = partial(self.build_request, call.email, call.addressing, queue_id=call.queue_id, key=call.key)
        return await asyncio.to_thread(of_large, build) if len(call.email.raw) > OFF_LOOP_SIZE else build()

    # --- one call

    async def send(self, email: Email, addressing: Addressing, *, queue_id: str, key: str) -> Mapping[str, Outcome]:
        deadline = self._deadline()
        call = Call(email=email, addressing=addressing, queue_id=queue_id, key=key)
        outcomes = await self._call(call, deadline)
        if len(addressing.recipients) > 1 and self.refused_together(outcomes, addressing):
            return await self._each_alone(call, deadline)
        return outcomes

    async def _each_alone(self, call: Call, deadline: float) -> dict[str, Outcome]:
        """The API mailed nobody, so each recipient is tried in a call of its own, under its own key.

        One after the other, and no further than the time of the call or the first that failed for another reason than its
        recipient: then at most one is `unknown`, and a later attempt for it alone carries the same key.
        """
        outcomes: dict[str, Outcome] = {}
        rest = deferred(CONGESTED, Fault.PROVIDER, "not tried: each recipient alone took too long")
        for recipient in call.addressing.recipients:
            if asyncio.get_running_loop().time() >= deadline:
                break
            # as a later attempt would make it
            (one,) = self.calls(call.email, call.addressing.reverse_path, (recipient,))
            key = idempotency_key(call.queue_id, one.recipients)
            outcomes |= await self._call(replace(call, addressing=one, key=key), deadline)
            last = outcomes[recipient]
            if last.status in ("deferred", "unknown") and last.fault is not Fault.RECIPIENT:
                rest = last if last.status == "deferred" else deferred(CONGESTED, Fault.PROVIDER, "not tried")
                break
        return {r: outcomes.get(r, rest) for r in call.addressing.recipients}

    async def _call(self, call: Call, deadline: float) -> dict[str, Outcome]:
        exchange = Exchange(self.transport, deadline, self.auth)
        try:
            outcomes = await self.converse(call, exchange)
        except Exception as exc:  # the contract of send: never raises; whatever it is, it is temporary
            return dict.fromkeys(call.addressing.recipients, self._failure(exc, exchange, call.queue_id))
        finally:
            self.allowance = exchange.allowance
        return _complete(outcomes, call)

    # --- several calls as one request

    async def send_many(self, calls: Sequence[Call]) -> Sequence[Mapping[str, Outcome]]:
        return await self._batch(calls, self._deadline())

    async def _batch(self, calls: Sequence[Call], deadline: float) -> list[Mapping[str, Outcome]]:
        """All at once; refused as a whole for one of them, half and half, until that one stands alone."""
        if len(calls) == 1:
            (call,) = calls
            outcomes = await self._call(call, deadline)
            alone = len(outcomes) > 1 and self.refused_together(outcomes, call.addressing)
            return [await self._each_alone(call, deadline) if alone else outcomes]
        exchange = Exchange(self.transport, deadline, self.auth)
        try:
            found = await self.converse_batch(calls, exchange)
        except Exception as exc:  # as in _call
            outcome = self._failure(exc, exchange, calls[0].queue_id)
            outcome = _keyless(outcome)
            return [dict.fromkeys(call.addressing.recipients, outcome) for call in calls]
        finally:
            self.allowance = exchange.allowance
        if found is None:
            if asyncio.get_running_loop().time() >= deadline:
                late = deferred(CONGESTED, Fault.PROVIDER, "not tried: the batch was refused and halving took too long")
                return [dict.fromkeys(call.addressing.recipients, late) for call in calls]
            half = len(calls) // 2
            return [*await self._batch(calls[:half], deadline), *await self._batch(calls[half:], deadline)]
        complete = [_complete(outcomes, call) for outcomes, call in zip(found, calls, strict=True)]
        return [
            await self._each_alone(call, deadline)
            if len(outcomes) > 1 and self.refused_together(outcomes, call.addressing)
            else {r: _keyless(outcome) for r, outcome in outcomes.items()}
            for call, outcomes in zip(calls, complete, strict=True)
        ]

    # --- credentials, without a mail

    def probe(self) -> httpx.Request | None:
        """A request that sends nothing and is refused with wrong credentials; None where the API has none."""
        return None

    async def verify(self) -> Verified:
        exchange = Exchange(self.transport, self._deadline(), self.auth)
        try:
            request = self.probe()
            if request is None:
                return Verified(ok=None, text="this API has no call that tells without sending a mail")
            response = await exchange(request, mails=False)
        except Exception as exc:
            outcome = self._failure(exc, exchange, "")
            return Verified(ok=False, text=outcome.detail or outcome.reply.text)
        return self.read_probe(response)

    def read_probe(self, response: httpx.Response) -> Verified:
        status = response.status_code
        if 200 <= status <= 299:
            return Verified(ok=True, text="the credentials are accepted")
        if status in (401, 403):
            return Verified(ok=False, text=f"the credentials are refused (HTTP {status})")
        return Verified(ok=None, text=f"unexpected answer (HTTP {status})")

    # --- helpers

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.policy.timeout

    def _failure(self, exc: Exception, exchange: Exchange, queue_id: str) -> Outcome:
        if isinstance(exc, Failed):
            return exc.outcome
        self._note(exc, queue_id)
        return exception_outcome(exc, written=exchange.written)

    def _note(self, exc: Exception, queue_id: str) -> None:
        """A bug of ours is named by type and place: its text may quote the mail."""
        if isinstance(exc, httpx.TransportError | TimeoutError | OSError):
            return
        frame = traceback.extract_tb(exc.__traceback__)[-1]
        place = f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        log.error("provider.error", provider=self.name, queue_id=queue_id, error=type(exc).__name__, place=place)

    async def aclose(self) -> None:
        await self.transport.aclose()


def _complete(outcomes: Mapping[str, Outcome], call: Call) -> dict[str, Outcome]:
    missing = unknown("the answer names no verdict for this recipient")
    return {r: outcomes.get(r, missing) for r in call.addressing.recipients}


def _keyless(outcome: Outcome) -> Outcome:
    """Of a batch: a later call carries another key than the batch did."""
    return replace(outcome, keyless=True) if outcome.status == "unknown" else outcome
