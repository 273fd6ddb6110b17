"""`kind = "rest"`: any API that takes a mail in one request, described by settings.

`shape = "simple"` (the four fields), "full" or "raw", or a body template (`template.py`). With `content_type =
"message/rfc822"` the MIME bytes are the body and the envelope stands in headers: `X-Envelope-From` (`<>` for the null one)
and `X-Envelope-To` (separated by commas), each address percent-encoded in UTF-8 (RFC 3986) where it is not plain ASCII,
and `X-Message-Key`, the idempotency key. Many recipients are split into calls that keep that header below 4 KiB.

`X-Bridge-Hops` says how many hops the message took, as its Received fields would, so that a loop of bridges ends.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import httpx
import orjson

import bridge
from bridge.clock import Clock
from bridge.mime.addressing import address, unseen
from bridge.mime.fidelity import IMPOSSIBLE, Carries, losses
from bridge.mime.trace import HOPS, count_hops
from bridge.model import Addressing, Content, Email, Envelope, Fault, Mailbox, Outcome
from bridge.providers import shapes, template
from bridge.providers.answers import id_of, json_of, pointed, retry_delay, words_of
from bridge.providers.base import Policy, Unfit
from bridge.providers.body import json_body, request
from bridge.providers.http import HttpProvider
from bridge.providers.outcomes import outcome_for_response
from bridge.providers.values import template_values
from bridge.reply import Reply

MAX_ENVELOPE_HEADER = 4096  # servers take 8 KiB for all headers together, commonly
NO_SENDER = Reply(554, "5.6.0", "The message has neither a From address nor an envelope sender")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRule:
    """A response that matches all that is given means `reply`. `contains` is looked for in any case of letters; an
    `error` pointer without `equals` and `contains` only has to point at something."""

    reply: Reply
    fault: Fault
    statuses: tuple[int, ...] = ()
    error: str = ""
    equals: str = ""
    contains: str = ""

    def __post_init__(self) -> None:
        if self.reply.code < 400:
            raise ValueError("an outcome's reply is a 4xx or a 5xx")
        if self.fault in (Fault.PROVIDER, Fault.ACCOUNT) and self.reply.permanent:
            raise ValueError(f"a fault of the {self.fault} never bounces mail")

    def matches(self, status: int, body: Any) -> bool:
        if self.statuses and status not in self.statuses:
            return False
        return not self.error or self._says(pointed(body, self.error))

    def _says(self, found: Any) -> bool:
        if found is None:
            return False
        text = found if isinstance(found, str) else orjson.dumps(found).decode()
        return (not self.equals or text == self.equals) and self.contains.lower() in text.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class RestSettings:
    """`token` is the bearer's or the header's value; `header` its name. `body` (a template) comes before `shape`."""

    url: str = field(repr=False)
    method: str = "POST"
    shape: Literal["simple", "full", "raw"] = "simple"
    body: Mapping[str, Any] = field(default_factory=dict)
    content_type: str = "application/json"
    auth: Literal["none", "bearer", "basic", "header"] = "none"
    token: str = field(default="", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)
    header: str = ""
    id: str = "/id"
    idempotency_header: str = "Idempotency-Key"
    idempotent: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    outcomes: tuple[OutcomeRule, ...] = ()
    max_size: int = 0


class RestProvider(HttpProvider):
    kind = "rest"

    def __init__(
        self,
        name: str,
        policy: Policy,
        settings: RestSettings,
        *,
        transport: httpx.AsyncBaseTransport,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(name, policy, transport=transport, secrets=secrets_of(settings), clock=clock)
        self.settings = settings
        self.idempotent = settings.idempotent
        self._url = httpx.URL(settings.url)
        self.remote = self._url.host
        self._headers = fixed_headers(settings)
        self._hops_given = any(name.lower() == HOPS.lower() for name in settings.headers)
        self._names = template.placeholders(settings.body)
        self._carries = carries_of(settings)
        self._bytes_body = not settings.body and settings.content_type == "message/rfc822"

    def unfit(self, email: Email, envelope: Envelope) -> Unfit | None:
        if not email.sender.email and not envelope.reverse_path and not self._carries.raw:
            return Unfit(reply=NO_SENDER, losses=("no sender",), degradable=False)
        found = losses(email, envelope, self._carries)
        if not found:
            return None
        degradable = not any(loss.kind in IMPOSSIBLE for loss in found)
        return Unfit(reply=found[0].reply, losses=tuple(loss.text for loss in found), degradable=degradable)

    def not_shown(self, email: Email, recipients: tuple[str, ...]) -> tuple[str, ...]:
        return () if self._carries.raw else unseen(email, recipients)

    def calls(self, email: Email, reverse_path: str, recipients: tuple[str, ...]) -> tuple[Addressing, ...]:
        if self._bytes_body:
            groups = [address(email, reverse_path, group, carries_envelope=True) for group in _header_sized(recipients)]
            return tuple(call for group in groups for call in group)
        found = address(email, reverse_path, recipients, carries_envelope=self._carries.envelope)
        if not self.settings.body or self._carries.envelope:
            return found
        return tuple(call for one in found for call in slotted(one, self._names))

    def build_request(self, email: Email, addressing: Addressing, *, queue_id: str, key: str) -> httpx.Request:
        headers = list(self._headers)
        if self.settings.idempotency_header:
            headers.append((self.settings.idempotency_header, key))
        if self._bytes_body:
            headers += envelope_headers(addressing, key)
        if not self._hops_given:
            headers.append((HOPS, str(count_hops(email.raw))))
        content = self._content(email, addressing, queue_id=queue_id, key=key)
        return request(self.settings.method, self._url, headers, content)

    def _content(self, email: Email, addressing: Addressing, *, queue_id: str, key: str) -> Content:
        if self._bytes_body:
            return shapes.mime(email)
        if self.settings.body:
            values = template_values(email, addressing, names=self._names, queue_id=queue_id, key=key)
            return json_body(template.fill(self.settings.body, values))
        if self.settings.shape == "simple":
            return json_body(shapes.simple(email, addressing))
        shape = shapes.full if self.settings.shape == "full" else shapes.raw
        return json_body(shape(email, addressing, key=key))

    def parse_response(self, response: httpx.Response, addressing: Addressing) -> dict[str, Outcome]:
        """The answer speaks of the whole call; the first rule that matches comes before the table."""
        body = json_of(response.content)
        rule = next((r for r in self.settings.outcomes if r.matches(response.status_code, body)), None)
        outcome = self._by_rule(rule, response, body) if rule else self._by_table(response, body)
        return dict.fromkeys(addressing.recipients, outcome)

    def _by_rule(self, rule: OutcomeRule, response: httpx.Response, body: Any) -> Outcome:
        words = words_of(body, self.secrets)
        return Outcome(
            status="bounced" if rule.reply.permanent else "deferred",
            reply=rule.reply,
            fault=rule.fault,
            detail=f"HTTP {response.status_code}" + (f": {words}" if words else ""),
            retry_after=retry_delay(response.headers, self.clock.now()),
        )

    def _by_table(self, response: httpx.Response, body: Any) -> Outcome:
        found = id_of(pointed(body, self.settings.id)) if self.settings.id else ""
        return outcome_for_response(response, now=self.clock.now(), secrets=self.secrets, provider_message_id=found)

    def refused_together(self, outcomes: Mapping[str, Outcome], addressing: Addressing) -> bool:
        return all(o.fault is Fault.RECIPIENT and o.status in ("bounced", "deferred") for o in outcomes.values())


def carries_of(settings: RestSettings) -> Carries:
    """What the shape or the template can express. Non-ASCII local parts fit into JSON; whether the API likes them it says.

    A template that asks for bare addresses has decided that names do not matter to it, so they are no loss.
    """
    if not settings.body:
        whole, size = settings.shape == "raw", settings.max_size
        every = settings.shape in ("full", "raw")
        return Carries(raw=whole, alternatives=every, envelope=every, smtputf8=True, max_size=size)
    names = template.placeholders(settings.body)
    return Carries(
        raw="raw" in names,
        html="html" in names,
        headers=not names.isdisjoint({"headers", "header_list"}),
        attachments="attachments" in names,
        alternatives="alternatives" in names,
        reply_to=template.carries_field(names, "reply_to"),
        smtputf8=True,
        envelope="envelope_to" in names,
        max_size=settings.max_size,
    )


def slotted(call: Addressing, names: frozenset[str]) -> tuple[Addressing, ...]:
    """A call cut to what a template shows: Cc goes to To where there is no Cc, and each Bcc gets a call of its own where
    there is no Bcc; somebody the template does not name would otherwise not be mailed at all."""
    if template.one_at_a_time(names):
        return alone(call)
    to, cc, bcc = call.to, call.cc, call.bcc
    if not template.carries_field(names, "cc"):
        to, cc = (*to, *cc), ()
    hidden = (
        ()
        if template.carries_field(names, "bcc")
        else alone(Addressing(reverse_path=call.reverse_path, to=(), bcc=bcc))
    )
    return (Addressing(reverse_path=call.reverse_path, to=to, cc=cc, bcc=() if hidden else bcc), *hidden)


def alone(addressing: Addressing) -> tuple[Addressing, ...]:
    """One call per recipient, each as the only To, so that nobody sees another who was not mailed with them."""
    shown = (*addressing.to, *addressing.cc, *(Mailbox(address) for address in addressing.bcc))
    return tuple(Addressing(reverse_path=addressing.reverse_path, to=(mailbox,)) for mailbox in shown)


def fixed_headers(settings: RestSettings) -> tuple[tuple[str, str], ...]:
    """What is the same in every request. A header of the operator's comes instead of ours."""
    headers = {
        "User-Agent": f"smtp-rest-bridge/{bridge.__version__}",
        "Accept": "application/json",
        "Content-Type": settings.content_type,
    }
    headers |= authorization(settings)
    theirs = {name.lower() for name in settings.headers}
    return (*((n, v) for n, v in headers.items() if n.lower() not in theirs), *settings.headers.items())


def authorization(settings: RestSettings) -> dict[str, str]:
    match settings.auth:
        case "bearer":
            return {"Authorization": f"Bearer {settings.token}"}
        case "basic":
            return {"Authorization": f"Basic {_basic(settings)}"}
        case "header":
            return {settings.header: settings.token}
    return {}


def _basic(settings: RestSettings) -> str:
    return base64.b64encode(f"{settings.username}:{settings.password}".encode()).decode()  # RFC 7617 2.1


def secrets_of(settings: RestSettings) -> tuple[str, ...]:
    basic = (settings.password, _basic(settings)) if settings.auth == "basic" else ()
    return (settings.token, *basic, *settings.headers.values())


def envelope_headers(addressing: Addressing, key: str) -> Iterator[tuple[str, str]]:
    yield "X-Envelope-From", _encoded(addressing.reverse_path) if addressing.reverse_path else "<>"
    yield "X-Envelope-To", ", ".join(map(_encoded, addressing.recipients))
    yield "X-Message-Key", key


def _encoded(recipient: str) -> str:
    """ASCII addresses as they are, but for the few characters that would be read as something else."""
    return quote(recipient, safe="@!#$&'*+-./=?^_`{|}~:[]")


def _header_sized(recipients: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    group: list[str] = []
    size = 0
    for recipient in recipients:
        length = len(_encoded(recipient)) + 2
        if group and size + length > MAX_ENVELOPE_HEADER:
            yield tuple(group)
            group, size = [], 0
        group.append(recipient)
        size += length
    yield tuple(group)
