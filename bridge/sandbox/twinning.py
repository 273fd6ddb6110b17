"""Requests for twins: which one and which handler, what was accepted, and what a planned failure makes of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson

from bridge.clock import Clock
from bridge.sandbox.exchange import LARGE_BODY, Request, Response
from bridge.sandbox.failures import Failure
from bridge.sandbox.forms import FormError, read_form
from bridge.sandbox.masking import mask
from bridge.sandbox.pages import failed_page
from bridge.sandbox.state import State
from bridge.sandbox.twins import kinds, twin_class
from bridge.sandbox.twins.base import ApiError, BodyError, Call, Route, Twin, kept_payload
from bridge.sandbox.twins.schema import PayloadError


class Twins:
    def __init__(self, *, key: str, clock: Clock, state: State) -> None:
        self._key = key
        self._clock = clock
        self._state = state
        self._twins: dict[str, Twin] = {}

    def serves(self, path: str) -> bool:
        return path.startswith("/") and path.split("/")[1] in kinds()

    def clear(self) -> None:
        for twin in self._twins.values():
            twin.clear()

    async def answer(self, request: Request) -> Response:
        kind, _, below = request.path[1:].partition("/")
        twin = self._twin(kind)
        call = Call(request=request, path=f"/{below}", kind=kind)
        if len(request.body) > twin.max_body:
            return twin.finish(twin.documented(413))
        return twin.finish(await self._routed(twin, call))

    def _twin(self, kind: str) -> Twin:
        if kind not in self._twins:
            self._twins[kind] = twin_class(kind)(key=self._key, clock=self._clock)
        return self._twins[kind]

    async def _routed(self, twin: Twin, call: Call) -> Response:
        routes: dict[str, tuple[Route, dict[str, str]]] = {}
        for route in twin.routes():
            found = route.match(call.path)
            if found is not None:
                routes.setdefault(route.method, (route, found))
        if not routes:
            return twin.documented(404)
        method = "GET" if call.method == "HEAD" and "HEAD" not in routes else call.method
        if method not in routes:
            response = twin.documented(405)
            allowed = [*routes, "HEAD"] if "GET" in routes else [*routes]
            return replace(response, headers=(*response.headers, ("Allow", ", ".join(allowed))))
        route, call.parameters = routes[method]
        return await self._called(twin, route, call)

    async def _called(self, twin: Twin, route: Route, call: Call) -> Response:
        if not route.open:
            try:
                twin.authorize(call)
            except ApiError as error:
                return error.response
        # An outage comes before a refusal, but a failure for one recipient wants to know the recipients.
        response = await self._handled(twin, route, call)
        recipients = tuple(address for accepted in call.accepted for address in accepted.mail.recipients)
        failure = self._state.plan.take(recipients, provider=twin.kind, target=route.target) if route.target else None
        self._state.failed += failure is not None
        if failure and not failure.takes:
            response = self._failed(twin, failure, call)
            self._record(twin, call)
            return response
        return replace(self._remembered(twin, call, response), spoil=failure)

    async def _handled(self, twin: Twin, route: Route, call: Call) -> Response:
        try:
            if len(call.body) >= LARGE_BODY:
                return await asyncio.to_thread(route.handler, call)
            return route.handler(call)
        except ApiError as error:
            response = error.response
        except PayloadError as error:
            response = twin.invalid(error)
        except BodyError as error:
            response = twin.bad_body(error)
        call.accepted.clear()
        return response

    def _failed(self, twin: Twin, failure: Failure, call: Call) -> Response:
        if failure.mode == "status":
            return twin.fail(failure, call)
        call.accepted.clear()
        if failure.mode == "html":
            return failed_page(failure)
        return Response(status=0, spoil=failure)

    def _remembered(self, twin: Twin, call: Call, response: Response) -> Response:
        """Record what was accepted, unless its idempotency key was used before."""
        key = call.accepted[0].mail.idempotency_key if call.accepted else ""
        if not key:
            self._record(twin, call)
            return response
        fingerprint = twin.fingerprint(call)
        first = self._state.remembered_answer(twin.kind, key)
        if first is None:
            self._state.remember_answer(twin.kind, key, fingerprint, response)
            self._record(twin, call)
            return response
        if first[0] != fingerprint:
            return twin.conflict(call)
        self._state.replayed += 1
        return first[1]

    def _record(self, twin: Twin, call: Call) -> None:
        headers = mask(call.request.headers, self._key)
        needs_whole = any(accepted.payload is None for accepted in call.accepted)
        whole = kept_payload(_whole_payload(call), self._key) if needs_whole else None
        for accepted in call.accepted:
            self._state.record_mail(
                twin.kind,
                accepted.mail,
                provider_id=accepted.id,
                payload=whole if accepted.payload is None else kept_payload(accepted.payload, self._key),
                headers=headers,
            )


def _whole_payload(call: Call) -> Any:
    """The body, whatever it is; a form as its fields, with files by their size."""
    try:
        form = read_form(call.header("content-type"), call.body)
    except FormError:
        try:
            return orjson.loads(call.body)
        except orjson.JSONDecodeError:
            return call.body
    shown: dict[str, Any] = {name: form.values(name) for name in form.names() if form.values(name)}
    shown = {name: values[0] if len(values) == 1 else values for name, values in shown.items()}
    for file in form.files:
        part = {"filename": file.filename, "content_type": file.content_type, "content": file.content}
        shown.setdefault(f"{file.name} (files)", []).append(part)
    return shown
