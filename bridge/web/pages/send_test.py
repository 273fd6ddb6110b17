"""A test message from a form, through the same submission as SMTP; the answer is what an SMTP client would have heard."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from bridge.budget import Exhausted
from bridge.content import NoRoom
from bridge.mime.headers import clean
from bridge.mime.strict import BadAddress, read_addresses
from bridge.mime.write import Draft, write
from bridge.model import Envelope, Mailbox, Origin, Peer, matches
from bridge.reply import Reply
from bridge.web.context import Web
from bridge.web.errors import Problem
from bridge.web.guard import Caller
from bridge.web.pages.layout import Form, posted, render, route, viewer
from bridge.web.pages.mails import ways

MAX_TO = 20
MAX_SUBJECT = 500  # characters
HERE = "/send-test"
FIRST: Mapping[str, str] = {
    "from": "",
    "to": "",
    "subject": "A test message",
    "text": "It works.\n",
    "html": "",
    "provider": "",
}
_EXAMPLES = {"from": "you@example.com", "to": "ann@example.org"}  # where nothing leaves this machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """`id`: of the message where there is a page of it."""

    reply: Reply
    id: str = ""


class Wrong(Exception):
    """What was entered cannot be sent; `field` is which one of the form."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


def routes(web: Web) -> list[BaseRoute]:
    async def page(request: Request) -> Response:
        viewer(web, request)
        return _page(web, request, {**FIRST, **(_EXAMPLES if web.rules.capture else {})})

    async def send(request: Request) -> Response:
        form = await posted(web, request)
        entered = {name: form.get(name) for name in FIRST}
        try:
            return _page(web, request, entered, said=await _send(web, request, form))
        except Wrong as wrong:
            return _page(web, request, entered, wrong=str(wrong), field=wrong.field)

    return [route(HERE, web, page), route(HERE, web, send, ("POST",))]


def _page(
    web: Web,
    request: Request,
    entered: Mapping[str, str],
    *,
    said: Said | None = None,
    wrong: str = "",
    field: str = "",
) -> Response:
    return render(
        web,
        request,
        "send_test.html",
        here="send",
        status=422 if wrong else 200,
        entered=entered,
        providers=[one.provider.name for one in web.dispatchers.all],
        said=said,
        wrong=wrong,
        field=field,
        ways=ways(web),
    )


async def _send(web: Web, request: Request, form: Form) -> Said:
    """Raises Wrong, and Problem when there is no room or too many were sent."""
    sender, recipients, draft = _draft(form)
    provider = form.get("provider")
    if provider and not web.dispatchers.named(provider):
        raise Wrong("provider", "There is no such provider (any more)")
    _check_sender(form.caller, sender.email)
    for recipient in recipients:
        if refusal := web.check_recipient(_user(form.caller), "", sender.email, recipient):
            raise Wrong("to", f"{recipient}: {refusal}")
    _pay(web, form.caller)
    queue_id = web.new_queue_id()
    reply = await _submit(web, request, form.caller, sender.email, recipients, draft, queue_id, provider)
    known = reply.code == 250 and await web.spool.show(queue_id)
    return Said(reply=reply, id=queue_id if known else "")


def _draft(form: Form) -> tuple[Mailbox, tuple[str, ...], Draft]:
    senders, to = _addresses(form, "from"), _addresses(form, "to")
    if len(senders) != 1:
        raise Wrong("from", "One address is needed")
    if not 1 <= len(to) <= MAX_TO:
        raise Wrong("to", f"1 to {MAX_TO} addresses are needed, with commas between them")
    subject = clean(form.get("subject")).strip()
    if len(subject) > MAX_SUBJECT:
        raise Wrong("subject", f"It may have {MAX_SUBJECT} characters")
    text, html = form.get("text"), form.get("html")
    draft = Draft(
        sender=senders[0],
        to=tuple(to),
        subject=subject,
        text=text if text.strip() or not html.strip() else None,
        html=html if html.strip() else None,
    )
    return senders[0], tuple(dict.fromkeys(one.email for one in to)), draft


def _addresses(form: Form, name: str) -> list[Mailbox]:
    try:
        return read_addresses(form.get(name))
    except BadAddress as error:
        raise Wrong(name, str(error)) from None


def _user(caller: Caller) -> str:
    return f"key:{caller.name}"


def _check_sender(caller: Caller, sender: str) -> None:
    if caller.key and not any(matches(pattern, sender) for pattern in caller.key.senders):
        raise Wrong("from", f"The key {caller.name} may not send as {sender}")


def _pay(web: Web, caller: Caller) -> None:
    if caller.key and (wait := web.keys.take(caller.key)):
        raise Problem(429, f"The key {caller.name} has sent as many as it may for now: wait {wait:.0f} s")


async def _submit(
    web: Web,
    request: Request,
    caller: Caller,
    sender: str,
    recipients: tuple[str, ...],
    draft: Draft,
    queue_id: str,
    provider: str,
) -> Reply:
    envelope = Envelope(
        reverse_path=sender, recipients=recipients, smtputf8=not all(map(str.isascii, (sender, *recipients)))
    )
    client = request.client.host.removeprefix("::ffff:") if request.client and request.client.host else "unix"
    origin = Origin(client=client, user=_user(caller), protocol="HTTP")
    try:
        content = await web.begin()
    except Exhausted:
        raise Problem(503, "No memory for it now: try again") from None
    try:
        for block in write(draft, lambda: f"=_{secrets.token_hex(16)}"):
            await content.write(block)
    except NoRoom:
        content.abandon()
        raise Problem(503, "No room for it now: try again") from None
    task = web.submit(envelope, content, origin=origin, peer=Peer(), queue_id=queue_id, provider=provider)
    return (await asyncio.shield(task)).reply
