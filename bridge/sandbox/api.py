"""The API itself: a request in, a response out; no socket.

| method and path | what |
|---|---|
| `POST /send-email` | the simple shape: `to from subject body`, optionally `html cc bcc reply_to headers attachments` |
| `POST /send-full` | the full shape: envelope and content side by side |
| `POST /send-raw` | the raw shape, or message/rfc822 with `X-Envelope-From` and `X-Envelope-To` |
| any, `/KIND/...` | the twin of that provider's API (`twins/`), with its paths below it |
| `GET`, `DELETE /sandbox/messages` | what was received, `?kind=` of one API; forget it, with the keys and the counters |
| `GET /`, `GET /sandbox/messages/ID` | the same for people, as pages |
| `POST /sandbox/forget` | the button of that page: as DELETE, and back to it |
| `POST`, `DELETE /sandbox/fail` | add a failure to the plan (`failures.py`); recover |
| `GET /sandbox/stats` | counters and what is still planned |

Sending wants `Authorization: Bearer KEY`; the paths under `/sandbox` do not, so keep the sandbox on loopback. A message
that was taken answers 200 `{"id", "status": "sent"}`, and with the same `Idempotency-Key` and payload the same again;
with another payload 409. Errors are `{"error": {"code", "message", "field"}}`.

Some messages are always refused, to see what a refusal looks like: a recipient at `@refused.example` with 422
`recipient_unknown`, a subject that contains `[refuse]` with 422 `message_refused`, a sender at `@forbidden.example` with
403 `sender_not_allowed`.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from urllib.parse import parse_qs

from bridge.model import split_address
from bridge.sandbox.checks import load_object
from bridge.sandbox.exchange import LARGE_BODY, Refusal, Request, Response, empty_response, json_response
from bridge.sandbox.failures import Failure, failure_from
from bridge.sandbox.masking import mask
from bridge.sandbox.pages import failed_page, message_page, messages_page
from bridge.sandbox.payloads import Reader, Submission, read_full, read_raw, read_simple
from bridge.sandbox.state import Received, State
from bridge.sandbox.twinning import Twins

MAX_KEY_CHARACTERS = 255
_MESSAGE = "/sandbox/messages/"
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    422: "validation_error",
    429: "rate_limited",
    500: "internal_error",
    503: "unavailable",
}

Handler = Callable[[Request], Awaitable[Response]]


class Api:
    def __init__(self, *, key: str, state: State, twins: Twins, max_recipients: int) -> None:
        self._key = key.encode()
        self._state = state
        self._twins = twins
        self._max_recipients = max_recipients
        self._routes: dict[str, dict[str, Handler]] = {
            "/send-email": {"POST": partial(self._send, read_simple)},
            "/send-full": {"POST": partial(self._send, read_full)},
            "/send-raw": {"POST": partial(self._send, read_raw)},
            "/": {"GET": self._show_messages},
            "/sandbox/messages": {"GET": self._list_messages, "DELETE": self._clear},
            "/sandbox/forget": {"POST": self._forget},
            "/sandbox/fail": {"POST": self._plan_failure, "DELETE": self._recover},
            "/sandbox/stats": {"GET": self._stats},
        }

    async def answer(self, request: Request) -> Response:
        response = await self._answer(request)
        if response.status:
            self._state.responses[response.status] += 1
        return response

    async def _answer(self, request: Request) -> Response:
        methods = self._routes.get(request.path)
        if methods is None and request.path.startswith(_MESSAGE):
            methods = {"GET": self._show_message}
        if methods is None and self._twins.serves(request.path):
            return await self._twins.answer(request)
        if methods is None:
            return Refusal(404, "not_found", "there is nothing at this path").response()
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ", ".join([*methods, "HEAD"] if "GET" in methods else methods)
            return Refusal(405, "method_not_allowed", f"use {allowed}").response(("Allow", allowed))
        try:
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()

    async def _send(self, read: Reader, request: Request) -> Response:
        if not self._authorized(request):
            refusal = Refusal(401, "unauthorized", "send Authorization: Bearer KEY with the right key")
            return refusal.response(("WWW-Authenticate", "Bearer"))
        content = await self._read(read, request)
        # An outage comes before a refusal, but a failure for one recipient wants to know the recipients.
        failure = self._state.plan.take(content.recipients if isinstance(content, Submission) else ())
        self._state.failed += failure is not None
        if failure and not failure.takes:
            return failed_response(failure)
        response = content.response() if isinstance(content, Refusal) else self._accept(request, content)
        return replace(response, spoil=failure)

    async def _read(self, read: Reader, request: Request) -> Submission | Refusal:
        try:
            if len(request.body) >= LARGE_BODY:
                return await asyncio.to_thread(read, request, self._max_recipients)
            return read(request, self._max_recipients)
        except Refusal as refusal:
            return refusal

    def _authorized(self, request: Request) -> bool:
        scheme, _, key = request.header("authorization").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), self._key)

    def _accept(self, request: Request, submission: Submission) -> Response:
        key = request.header("idempotency-key")
        refusal = refuse_key(key) or refuse_by_rule(submission)
        if refusal:
            return refusal.response()
        first = self._state.remembered(key)
        if first is None:
            received = self._state.record(submission, key=key, headers=mask(request.headers, self._key.decode()))
            return _sent(received.id)
        fingerprint, message_id = first
        if fingerprint != submission.fingerprint:
            return Refusal(
                409, "idempotency_conflict", "the key was used for another payload", "Idempotency-Key"
            ).response()
        self._state.replayed += 1
        return _sent(message_id)

    async def _list_messages(self, request: Request) -> Response:
        return json_response({"messages": self._messages(_kind(request))})

    async def _show_messages(self, request: Request) -> Response:
        kind = _kind(request)
        return messages_page(self._messages(kind), self._state.plan.as_json(), kind)

    async def _show_message(self, request: Request) -> Response:
        wanted = request.path.removeprefix(_MESSAGE)
        for message in self._state.messages:
            if message.id == wanted:
                return message_page(message)
        raise Refusal(404, "not_found", "there is no such message, or it is no longer kept")

    def _messages(self, kind: str) -> list[Received]:
        return [message for message in self._state.messages if kind in ("", message.shape)]

    async def _forget(self, request: Request) -> Response:
        # A page of somebody else may post a form here too; browsers say so (RFC 6454 7).
        origin = request.header("origin")
        if origin and origin != f"http://{request.header('host')}":
            raise Refusal(403, "forbidden", "this form belongs to another page")
        self._forget_all()
        return empty_response(303, ("Location", "/"))

    async def _clear(self, request: Request) -> Response:
        self._forget_all()
        return json_response({"messages": []})

    def _forget_all(self) -> None:
        self._state.clear()
        self._twins.clear()

    async def _plan_failure(self, request: Request) -> Response:
        try:
            self._state.plan.add(failure_from(load_object(request.body)))
        except ValueError as error:
            raise Refusal(422, "validation_error", str(error)) from None
        return json_response({"plan": self._state.plan.as_json()})

    async def _recover(self, request: Request) -> Response:
        self._state.plan.clear()
        return json_response({"plan": []})

    async def _stats(self, request: Request) -> Response:
        return json_response(self._state.stats())


def _kind(request: Request) -> str:
    return parse_qs(request.query).get("kind", [""])[0]


def _sent(message_id: str) -> Response:
    return json_response({"id": message_id, "status": "sent"})


def refuse_key(key: str) -> Refusal | None:
    if len(key) <= MAX_KEY_CHARACTERS:
        return None
    return Refusal(422, "validation_error", f"more than {MAX_KEY_CHARACTERS} characters", "Idempotency-Key")


def refuse_by_rule(submission: Submission) -> Refusal | None:
    """The messages that are refused for what they say, so that anybody can see a refusal."""
    if _domain(submission.sender) == "forbidden.example":
        return Refusal(403, "sender_not_allowed", f"not allowed to send as {submission.sender}", "from")
    for recipient in submission.recipients:
        if _domain(recipient) == "refused.example":
            return Refusal(
                422, "recipient_unknown", f"recipient unknown: {recipient}", _field_of(recipient, submission)
            )
    if "[refuse]" in submission.subject:
        return Refusal(422, "message_refused", "the message was refused", "subject")
    return None


def _domain(address: str) -> str:
    return split_address(address)[1].lower()


def _field_of(recipient: str, submission: Submission) -> str:
    if submission.shape != "simple":
        return "envelope.to"
    return "to" if recipient in submission.to else "cc" if recipient in submission.cc else "bcc"


def failed_response(failure: Failure) -> Response:
    """The answer to a message that is not taken. Status 0 where no answer comes at all."""
    wait = (("Retry-After", str(failure.retry_after)),) if failure.retry_after is not None else ()
    if failure.mode == "html":
        return failed_page(failure)
    if failure.mode != "status":
        return Response(status=0, spoil=failure)
    code = failure.code or ("recipient_unknown" if failure.recipient else _CODES.get(failure.status, "error"))
    refusal = Refusal(failure.status, code, _phrase(failure.status), "to" if failure.recipient else "")
    return refusal.response(*wait)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase.lower() if status in HTTPStatus._value2member_map_ else "failed as planned"
