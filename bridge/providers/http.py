"""The one place where an adapter meets the network: build, send, parse, and every failure as an outcome, once."""

from __future__ import annotations

import asyncio
import traceback
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from functools import partial

import httpx
import structlog

from bridge.clock import Clock, SystemClock
from bridge.model import Addressing, Email, Fault, Outcome, idempotency_key
from bridge.providers.base import Policy, Provider
from bridge.providers.network import Progress
from bridge.providers.outcomes import CONGESTED, deferred, exception_outcome, unknown
from bridge.providers.transport import KEEPALIVE_S, CoreTransport
from bridge.providers.trust import proxy_url

OFF_LOOP_SIZE = 64 * 1024
CONNECT_S = 10.0  # a host that does not answer is given up before the whole time of the call is gone

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


class HttpProvider(Provider):
    """An adapter that speaks HTTP. What it knows of its API is in two pure methods; `secrets` never reach a reply or a log."""

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

    async def send(self, email: Email, addressing: Addressing, *, queue_id: str, key: str) -> Mapping[str, Outcome]:
        deadline = asyncio.get_running_loop().time() + self.policy.timeout
        outcomes = await self._call(email, addressing, queue_id=queue_id, key=key, deadline=deadline)
        if len(addressing.recipients) > 1 and self.refused_together(outcomes, addressing):
            return await self._each_alone(email, addressing, queue_id=queue_id, deadline=deadline)
        return outcomes

    async def _each_alone(
        self, email: Email, addressing: Addressing, *, queue_id: str, deadline: float
    ) -> dict[str, Outcome]:
        """The API mailed nobody, so each recipient is tried in a call of its own, under its own key.

        One after the other, and no further than the time of the call or the first that failed for another reason than its
        recipient: then at most one is `unknown`, and a later attempt for it alone carries the same key.
        """
        outcomes: dict[str, Outcome] = {}
        rest = deferred(CONGESTED, Fault.PROVIDER, "not tried: each recipient alone took too long")
        for recipient in addressing.recipients:
            if asyncio.get_running_loop().time() >= deadline:
                break
            (one,) = self.calls(email, addressing.reverse_path, (recipient,))  # as a later attempt would make it
            key = idempotency_key(queue_id, one.recipients)
            outcomes |= await self._call(email, one, queue_id=queue_id, key=key, deadline=deadline)
            last = outcomes[recipient]
            if last.status in ("deferred", "unknown") and last.fault is not Fault.RECIPIENT:
                rest = last if last.status == "deferred" else deferred(CONGESTED, Fault.PROVIDER, "not tried")
                break
        return {r: outcomes.get(r, rest) for r in addressing.recipients}

    async def _call(
        self, email: Email, addressing: Addressing, *, queue_id: str, key: str, deadline: float
    ) -> dict[str, Outcome]:
        progress = Progress()
        try:
            request = await self._build(email, addressing, queue_id=queue_id, key=key)
            response = await self._exchange(request, progress, deadline)
            progress.written = True  # answered, at whatever point
            outcomes = self.parse_response(response, addressing)
        except Exception as exc:  # the contract of send: never raises; whatever it is, it is temporary
            self._note(exc, queue_id)
            return dict.fromkeys(addressing.recipients, exception_outcome(exc, written=progress.written))
        missing = unknown("the answer names no verdict for this recipient")
        return {r: outcomes.get(r, missing) for r in addressing.recipients}

    async def _build(self, email: Email, addressing: Addressing, *, queue_id: str, key: str) -> httpx.Request:
        """A large mail in a thread: the text of its HTML or its many addresses would hold up everybody."""
        build = partial(self.build_request, email, addressing, queue_id=queue_id, key=key)
        return await asyncio.to_thread(build) if len(email.raw) > OFF_LOOP_SIZE else build()

    async def _exchange(self, request: httpx.Request, progress: Progress, deadline: float) -> httpx.Response:
        """One request within the deadline. The transport is used directly: AsyncClient's redirects, cookies and hooks are
        not wanted, and cost a quarter of the rate (tests/bench/http_engine.py)."""
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        waits = {"pool": left, "connect": min(CONNECT_S, left), "read": None, "write": None}
        request.extensions = {**request.extensions, "timeout": waits, "progress": progress}
        request.headers.setdefault("Accept-Encoding", "identity")
        async with asyncio.timeout_at(deadline):
            return await self.transport.handle_async_request(request)

    def _note(self, exc: Exception, queue_id: str) -> None:
        """A bug of ours is named by type and place: its text may quote the mail."""
        if isinstance(exc, httpx.TransportError | TimeoutError | OSError):
            return
        frame = traceback.extract_tb(exc.__traceback__)[-1]
        place = f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        log.error("provider.error", provider=self.name, queue_id=queue_id, error=type(exc).__name__, place=place)

    async def aclose(self) -> None:
        await self.transport.aclose()
