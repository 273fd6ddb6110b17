"""Microsoft 365 through Microsoft Graph, sendMail: https://learn.microsoft.com/graph/api/user-sendmail

MIME up to the limit of a POST; beyond it the API knows only its own JSON, as a draft whose files are uploaded in pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import structlog

from bridge.clock import Clock
from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form, Loss, payload_size
from bridge.mime.pieces import base64_of, decoded, pieces_of
from bridge.mime.repair import Needs
from bridge.model import Addressing, Attachment, Email, Envelope, Fault, Mailbox, Outcome
from bridge.providers.answers import is_html, json_of, pointed, safe_words
from bridge.providers.api import NO_DOMAIN, NO_SENDER, ApiProvider, ApiSettings, Outgoing, without_empty
from bridge.providers.base import Call, Policy, Verified
from bridge.providers.body import of_large, size_in_json, size_of
from bridge.providers.display import bcc_of, one_line
from bridge.providers.http import Exchange
from bridge.providers.oauth import TokenAuth, entra, verified
from bridge.providers.outcomes import Failed, Meaning, outcome_of
from bridge.providers.shapes import quoted
from bridge.reply import Reply

# "4 MB" for a request, "3 MB" for a file in one: the smaller reading of both. Measured by a user in 2020: a file of
# 3 145 611 octets still goes in a POST, and an upload session wants 2 097 152 at least.
MAX_POST = 4_000_000
MAX_FILE = 3_000_000
MAX_HEADER_GROWTH = 131_072  # the recipient fields of 500 people, written anew
MAX_RAW = MAX_POST // 4 * 3 - MAX_HEADER_GROWTH
MAX_UPLOAD = 150 * 1024 * 1024  # one file: https://learn.microsoft.com/graph/outlook-large-attachments
CHUNK = 3 * 1024 * 1024  # less than 4 MB
DISCARD_S = 5.0

# https://learn.microsoft.com/graph/deployments; the last name is unverified.
AUTHORITIES = {
    "": "https://login.microsoftonline.com",
    "us": "https://login.microsoftonline.us",
    "dod": "https://login.microsoftonline.us",
    "china": "https://login.chinacloudapi.cn",
}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSettings(ApiSettings):
    tenant: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    authority: str = ""
    user: str = ""
    content: str = "auto"
    save_to_sent_items: bool = False


class Graph(ApiProvider):
    kind = "graph"
    title = "Microsoft 365 (Graph)"
    docs = "https://learn.microsoft.com/graph/api/user-sendmail"
    base_url = "https://graph.microsoft.com"
    # https://learn.microsoft.com/graph/deployments; the last two names are unverified.
    regions = {
        "us": "https://graph.microsoft.us",
        "dod": "https://dod-graph.microsoft.us",
        "china": "https://microsoftgraph.chinacloudapi.cn",
    }
    Settings = GraphSettings

    forms = (
        Form(name="raw", carries=Carries(raw=True, max_size=MAX_RAW)),
        Form(
            name="json",
            carries=Carries(
                text_with_html=False,  # one body
                headers=False,  # only x- fields, so no In-Reply-To and its like
                type_parameters=False,
                max_size=MAX_UPLOAD,  # the mailbox's own limit, 35 MB unless changed, answers for itself
            ),
        ),
    )
    raw_envelope = False  # mailed are those of To, Cc and Bcc
    # Recipients in one message. Addresses that differ in case alone are one to Exchange.
    raw_caps = caps = Caps(total=500, once=True)
    takes_tags = takes_metadata = False
    needs = Needs(
        only_headers=frozenset({"x-*"}),  # others: 400 InvalidInternetMessageHeader
        max_headers=5,  # unverified, seen by others
    )
    max_concurrency = 4  # for an app and mailbox: https://learn.microsoft.com/graph/throttling-limits
    # Codes seen in public clients; there is no official list.
    codes = {
        "ErrorInvalidRecipients": Meaning.ADDRESS,
        "ErrorMimeContentInvalid": Meaning.CONTENT,
        "ErrorMimeContentInvalidBase64String": Meaning.CONTENT,
        "InvalidInternetMessageHeader": Meaning.CONTENT,
        "RequestBodyRead": Meaning.CONTENT,
        "InvalidAuthenticationToken": Meaning.ACCOUNT,
        "ErrorAccessDenied": Meaning.ACCOUNT,
        "Authorization_RequestDenied": Meaning.ACCOUNT,
        "ErrorSendAsDenied": Meaning.ACCOUNT,
        "ErrorExceededMessageLimit": Meaning.QUOTA,
        "ErrorQuotaExceeded": Meaning.QUOTA,
        "ErrorSubmissionQuotaExceeded": Meaning.QUOTA,
        "ErrorInvalidUser": Meaning.ACCOUNT,
        "ResourceNotFound": Meaning.ACCOUNT,
        "Request_ResourceNotFound": Meaning.ACCOUNT,
        "MailboxNotEnabledForRESTAPI": Meaning.ACCOUNT,
        "ErrorMessageSizeExceeded": Meaning.TOO_BIG,
        "ApplicationThrottled": Meaning.RATE,
        "MailboxConcurrency": Meaning.RATE,
        "TooManyRequests": Meaning.RATE,
        "ErrorInternalServerTransientError": Meaning.LATER,
        "ErrorServerBusy": Meaning.LATER,
        "MailboxStoreUnavailable": Meaning.LATER,
    }
    notes = (
        "The application needs the permission Mail.Send; for mail of more than 2.8 MB also Mail.ReadWrite.",
        "The API gives no id of a sent mail, and no way to repeat a call whose answer was lost.",
        "MIME mail is always kept in Sent Items, and so is mail sent as a draft; `save_to_sent_items` is for JSON alone.",
        "Mail of more than 2.8 MB goes as JSON: one body, at most five header fields, all X-, a new Message-ID. What that "
        "would lose is refused, unless `degrade` is on. Uploads take time: mind `timeout`.",
        "Tags and metadata have no place here and are dropped.",
        "A draft whose creation or sending had its answer lost stays in the mailbox's Drafts.",
    )
    unverified = ("the regions `dod` and `china`", "the number of header fields")

    def __init__(
        self,
        name: str,
        policy: Policy,
        settings: GraphSettings,
        *,
        transport: httpx.AsyncBaseTransport,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(name, policy, settings, transport=transport, clock=clock)
        region = settings.region.lower()
        authority = settings.authority or AUTHORITIES.get(region, AUTHORITIES[""])
        scope = f"{self.regions.get(region, self.base_url)}/.default"
        self.tokens = TokenAuth(entra(settings, authority, scope), clock=self.clock, learn=self._learn)
        self.auth = self.tokens
        self._discards: set[asyncio.Task[None]] = set()

    def _learn(self, tokens: tuple[str, ...]) -> None:
        self.secrets = (self.settings.client_secret, *tokens)

    # What is lost

    def losses(self, email: Email, envelope: Envelope) -> tuple[Loss, ...]:
        found = super().losses(email, envelope)
        if self.form(email).name == "raw":
            # As in Gmail: `..` in the place of a mailbox would be another call.
            named = self.settings.user or "@" in (email.sender.email or envelope.reverse_path)
            return found if named or found[:1] == (NO_SENDER,) else (NO_DOMAIN, *found)
        if (size := _body_size(email)) > MAX_POST - MAX_HEADER_GROWTH:
            reply = Reply(552, "5.3.4", f"Message too big for the provider: its text alone has {size} octets")
            return (Loss("size", f"a text of {size} octets", reply), *found)
        too_large = self._forms[0].name == "raw" and len(email.raw) > MAX_RAW
        return tuple(_for_its_size(loss, len(email.raw)) for loss in found) if too_large else found

    # Request

    def raw_request(self, mail: Outgoing) -> httpx.Request:
        content = base64_of(self.mime(mail))
        return self.post(f"{self._mailbox(mail)}/sendMail", content, {"Content-Type": "text/plain"})

    def json_request(self, mail: Outgoing) -> httpx.Request:
        message = _message(mail, mail.email.attachments)
        content = {"message": message, "saveToSentItems": self.settings.save_to_sent_items}
        return self.post(f"{self._mailbox(mail)}/sendMail", content)

    def _mailbox(self, mail: Outgoing) -> str:
        return f"/v1.0/users/{quote(self.settings.user or mail.sender.email, safe='@')}"

    # A large mail: a draft, its files, and the one request that mails it

    async def converse(self, call: Call, exchange: Exchange) -> Mapping[str, Outcome]:
        if self.form(call.email).name == "json" and _needs_draft(call.email):
            return await self._by_draft(call, exchange)
        request = await self.built(call)
        if size_of(request) > MAX_POST and self.form(call.email).name == "json":  # JSON's escapes made it so
            return await self._by_draft(call, exchange)
        return self.parse_response(await exchange(request), call.addressing)

    async def _by_draft(self, call: Call, exchange: Exchange) -> Mapping[str, Outcome]:
        mail = await asyncio.to_thread(self.outgoing, call)
        now, later = _divided(mail.email.attachments, MAX_POST - MAX_HEADER_GROWTH - _body_size(mail.email))
        message = await asyncio.to_thread(_message, mail, now)
        post = partial(self.post, f"{self._mailbox(mail)}/messages", message)
        answer = await self._step(exchange, await asyncio.to_thread(of_large, post))
        path = f"{self._mailbox(mail)}/messages/{quote(_text(answer, '/id'), safe='=')}"
        try:
            for attachment in later:
                await self._attach(exchange, path, attachment)
            outcomes = self.parse_response(await exchange(self._bare("POST", f"{path}/send")), call.addressing)
        except BaseException:  # a cancellation too: whoever gave up wants no stray draft
            if not exchange.written:
                await self._discard(path, exchange)
            raise
        if {outcome.status for outcome in outcomes.values()} & {"deferred", "bounced"}:
            await self._discard(path, exchange)
        return outcomes

    async def _attach(self, exchange: Exchange, path: str, attachment: Attachment) -> None:
        if attachment.size < MAX_FILE:
            await self._step(exchange, self.post(f"{path}/attachments", _file(attachment)))
            return
        item = {"attachmentType": "file", "size": attachment.size, **_described(attachment)}
        request = self.post(f"{path}/attachments/createUploadSession", {"AttachmentItem": item})
        url = self._upload_url(_text(await self._step(exchange, request), "/uploadUrl"))
        chunks = _chunks(attachment)
        for start in range(0, attachment.size, CHUNK):
            piece = await asyncio.to_thread(next, chunks, b"")
            await self._put(exchange, url, piece, start, attachment.size)

    def _upload_url(self, text: str) -> httpx.URL:
        """Mail goes only where it is encrypted, or to where we talk already. The address holds its own credentials."""
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            url = httpx.URL("")
        base = httpx.URL(self.base)
        if url.scheme != "https" and (url.scheme, url.host, url.port) != (base.scheme, base.host, base.port):
            raise Failed(outcome_of(Meaning.LATER, "the upload address is not https://"))
        return url

    async def _put(self, exchange: Exchange, url: httpx.URL, piece: bytes, start: int, total: int) -> None:
        headers = {
            "User-Agent": self._headers["User-Agent"],
            "Content-Type": "application/octet-stream",
            "Content-Range": f"bytes {start}-{start + len(piece) - 1}/{total}",
        }
        response = await exchange(httpx.Request("PUT", url, headers=headers, content=piece), mails=False, sign=False)
        if not 200 <= response.status_code <= 299:  # of a session, not of the account: another one may do
            raise Failed(
                outcome_of(Meaning.LATER, f"upload: HTTP {response.status_code}", retry_after=self.wait(response, None))
            )

    async def _step(self, exchange: Exchange, request: httpx.Request) -> Any:
        """A request that mails nobody; its JSON. Whatever is wrong, nothing is lost: `unknown` becomes a plain later."""
        response = await exchange(request, mails=False)
        body = json_of(response.content)
        if 200 <= response.status_code <= 299 and not is_html(response):
            return body
        outcome = self.outcome(response, body)
        if outcome.status == "unknown":
            outcome = outcome_of(Meaning.LATER, outcome.detail, retry_after=self.wait(response, body))
        raise Failed(outcome)

    async def _discard(self, path: str, exchange: Exchange) -> None:
        """Delete the draft in a task of its own, which a cancellation or the end of the call's time does not end."""
        task = asyncio.create_task(self._delete(path))
        self._discards.add(task)
        task.add_done_callback(self._discards.discard)
        await asyncio.wait({task}, timeout=exchange.left)

    async def _delete(self, path: str) -> None:
        exchange = Exchange(self.transport, asyncio.get_running_loop().time() + DISCARD_S, self.auth)
        try:
            response = await exchange(self._bare("DELETE", path), mails=False)
        except Exception as exc:  # whatever it is, what was sent or not is settled; the draft stays
            log.warning("provider.draft_left", provider=self.name, error=type(exc).__name__)
            return
        if response.status_code not in (204, 200, 404):
            log.warning("provider.draft_left", provider=self.name, error=f"HTTP {response.status_code}")

    def _bare(self, method: str, path: str) -> httpx.Request:
        headers = {name: value for name, value in self._headers.items() if name != "Content-Type"}
        return httpx.Request(method, httpx.URL(f"{self.base}{path}"), headers=headers)

    async def aclose(self) -> None:
        if self._discards:
            await asyncio.wait(set(self._discards), timeout=DISCARD_S)
        await super().aclose()

    # Response: 202 without a body

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        request_id = safe_words(response.headers.get("request-id", ""), self.secrets)
        return self.sent_all(addressing, "", f"request-id {request_id}" if request_id else "")

    def code(self, response: httpx.Response, body: Any) -> str:
        found = pointed(body, "/error/code")
        return found if isinstance(found, str) and len(found) < 100 else ""

    def refused_together(self, outcomes: Mapping[str, Outcome], addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    # Credentials: a token, and nothing else; whether it may send is told only by sending

    async def verify(self) -> Verified:
        return await verified(self.tokens, Exchange(self.transport, self._deadline(), self.auth))


def _for_its_size(loss: Loss, size: int) -> Loss:
    """Why a mail that goes as it is while it is small is refused when it is large."""
    if loss.reply.code == 552:
        return loss
    text = f"Message of {size} octets is too large to go as it is, and otherwise {loss.text} cannot be carried"
    return replace(loss, reply=Reply.safe(554, loss.reply.enhanced, text))


def _body_size(email: Email) -> int:
    return size_in_json(email.html or email.text)


def _needs_draft(email: Email) -> bool:
    return payload_size(email) > MAX_POST or any(a.size >= MAX_FILE for a in email.attachments)


def _divided(attachments: Sequence[Attachment], room: int) -> tuple[list[Attachment], list[Attachment]]:
    """Those that fit in the draft's own request, and the rest."""
    now: list[Attachment] = []
    later: list[Attachment] = []
    for attachment in attachments:
        size = len(attachment.encoded) + 2048
        if attachment.size < MAX_FILE and size <= room:
            now.append(attachment)
            room -= size
        else:
            later.append(attachment)
    return now, later


def _message(mail: Outgoing, attachments: Sequence[Attachment]) -> dict[str, Any]:
    email, to = mail.email, mail.addressing
    body = (
        {"contentType": "HTML", "content": email.html} if email.html else {"contentType": "Text", "content": email.text}
    )
    return {"subject": one_line(email.subject), "body": body, "from": _person(mail.sender)} | without_empty(
        {
            "toRecipients": [_person(m) for m in to.to],
            "ccRecipients": [_person(m) for m in to.cc],
            "bccRecipients": [_person(m) for m in bcc_of(to)],
            "replyTo": [_person(m) for m in email.reply_to],
            "internetMessageHeaders": [{"name": name, "value": one_line(value)} for name, value in email.headers],
            "attachments": [_file(a) for a in attachments],
        }
    )


def _person(mailbox: Mailbox) -> dict[str, Any]:
    name = one_line(mailbox.name).strip()
    return {"emailAddress": {"address": mailbox.email} | ({"name": name} if name else {})}


def _file(attachment: Attachment) -> dict[str, Any]:
    content = {"contentBytes": quoted(attachment.encoded)}
    return {"@odata.type": "#microsoft.graph.fileAttachment", **_described(attachment), **content}


def _described(attachment: Attachment) -> dict[str, Any]:
    found: dict[str, Any] = {"name": attachment.filename, "contentType": attachment.content_type}
    if attachment.content_id:
        found |= {"isInline": attachment.disposition == "inline", "contentId": attachment.content_id}
    return found


def _chunks(attachment: Attachment) -> Iterator[bytes]:
    """The content in pieces of CHUNK octets, the last one shorter."""
    chunk = bytearray()
    for piece in pieces_of(decoded(attachment.encoded, attachment.size)):
        chunk += piece
        if len(chunk) >= CHUNK:
            yield bytes(chunk[:CHUNK])
            del chunk[:CHUNK]
    if chunk:
        yield bytes(chunk)


def _text(body: Any, pointer: str) -> str:
    """What the next request needs. Raises Failed."""
    found = pointed(body, pointer)
    if not isinstance(found, str) or not found:
        raise Failed(outcome_of(Meaning.LATER, f"the answer has no {pointer[1:]}"))
    return found
