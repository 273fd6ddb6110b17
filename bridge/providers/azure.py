"""Azure Communication Services Email: https://learn.microsoft.com/rest/api/communication/email/email/send

A mail is an operation: accepted at once, and looked at until it is done, while there is time.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any

import httpx

from bridge.clock import Clock
from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form
from bridge.mime.repair import Needs
from bridge.model import Addressing, Attachment, Email, Fault, Mailbox, Outcome
from bridge.providers.answers import id_of, is_html, json_of, pointed, retry_delay
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, without_empty
from bridge.providers.base import Call, Policy, Verified
from bridge.providers.body import sha256_of, size_of
from bridge.providers.display import bcc_of, header_object, one_line
from bridge.providers.http import OFF_LOOP_SIZE, Auth, Exchange, Fetch
from bridge.providers.oauth import TokenAuth, entra
from bridge.providers.outcomes import Failed, Meaning, outcome_of
from bridge.providers.shapes import quoted

VERSION = "2025-09-01"
AUTHORITY = "https://login.microsoftonline.com"
SCOPE = "https://communication.azure.com/.default"  # unverified
MAX_REQUEST = 10_000_000  # "10 MB": the smaller reading, less some room for what is around the content
POLL_S = 2.0  # where the answer does not say when to look again
_GOING_ON = frozenset({"NotStarted", "Running"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureSettings(KeySettings):
    tenant: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    authority: str = ""


class Azure(ApiProvider):
    kind = "azure"
    title = "Azure Communication Services"
    docs = "https://learn.microsoft.com/rest/api/communication/email/email/send"
    Settings = AzureSettings  # `url` is the resource's endpoint, https://NAME.communication.azure.com

    forms = (
        Form(
            name="json",
            carries=Carries(
                type_parameters=False,
                max_size=MAX_REQUEST - 100_000,  # the request with its attachments in base64: the email API's schema
            ),
        ),
    )
    # https://learn.microsoft.com/azure/communication-services/concepts/service-limits
    caps = Caps(total=50, once=True)
    takes_tags = takes_metadata = False
    needs = Needs(
        subject=True,  # content.subject is required
        body=True,  # whether a mail may have none is not said
        reserved=frozenset({"to", "from", "cc", "bcc", "subject", "reply-to", "content-type"}),
    )
    idempotent = True  # by Operation-Id
    # Codes are unverified; see `meaning` for those of which only the beginning is known.
    codes = {
        "BadRequest": Meaning.CONTENT,
        "DomainNotLinked": Meaning.ACCOUNT,
        "ResourceNotFound": Meaning.ACCOUNT,
        "Unauthorized": Meaning.ACCOUNT,  # also a clock that is wrong
        "Denied": Meaning.ACCOUNT,
        "Forbidden": Meaning.ACCOUNT,
        "TooManyRequests": Meaning.RATE,
        "EmailDroppedAllRecipientsSuppressed": Meaning.SUPPRESSED,
    }
    notes = (
        "The sender is an address alone: its display name is that of the resource's sender user name.",
        "A mail is looked at until it is done, within `timeout`; one that is still going on then counts as sent.",
        "A new resource sends 30 mails a minute and 100 an hour, one with an Azure-managed domain 5 and 10.",
        "Tags and metadata have no place here and are dropped.",
    )
    unverified = ("the error codes", "the scope of an access token")

    def __init__(
        self,
        name: str,
        policy: Policy,
        settings: AzureSettings,
        *,
        transport: httpx.AsyncBaseTransport,
        clock: Clock | None = None,
    ) -> None:
        """Raises ValueError when the key is none."""
        super().__init__(name, policy, settings, transport=transport, clock=clock)
        self.auth = self._auth_of(settings)

    def _auth_of(self, settings: AzureSettings) -> Auth:
        if settings.api_key:
            return HmacAuth(settings.api_key, clock=self.clock)
        grant = entra(settings, settings.authority or AUTHORITY, SCOPE)
        return TokenAuth(grant, clock=self.clock, learn=self._learn)

    def _learn(self, tokens: tuple[str, ...]) -> None:
        self.secrets = (self.settings.client_secret, *tokens)

    # Request

    def mended(self, email: Email) -> tuple[Email, tuple[str, ...]]:
        email, notes = super().mended(email)
        if not email.sender.name:
            return email, notes
        sender = replace(email.sender, name="")
        return replace(email, sender=sender), (*notes, "display name of the sender dropped, the provider has its own")

    def json_request(self, mail: Outgoing) -> httpx.Request:
        email, to = mail.email, mail.addressing
        content = {"subject": one_line(email.subject)} | without_empty({"plainText": email.text, "html": email.html})
        recipients = {"to": to.to, "cc": to.cc, "bcc": bcc_of(to)}
        payload = {
            "senderAddress": mail.sender.email,
            "content": content,
            "recipients": {name: [_person(m) for m in slot] for name, slot in recipients.items() if slot},
            "replyTo": [_person(m) for m in email.reply_to],
            "headers": header_object((name, one_line(value)) for name, value in email.headers),
            "attachments": [_attachment(a, email.html) for a in email.attachments],
        }
        path = f"/emails:send?api-version={VERSION}"
        return self.post(path, without_empty(payload), {"Operation-Id": _operation(mail.key)})

    # The operation

    async def converse(self, call: Call, exchange: Exchange) -> Mapping[str, Outcome]:
        request = await self.built(call)
        try:
            response = await exchange(request)
        except (httpx.TransportError, TimeoutError, OSError):
            found = await self._look(self._operation_url(request), exchange) if exchange.written else None
            if found is None:
                raise
            response = found
        outcomes = self.parse_response(response, call.addressing)
        # What a repeated id is answered with is not documented: 409 is taken as "I have it".
        if response.status_code == 409 or any(outcome.status == "unknown" for outcome in outcomes.values()):
            found = await self._look(self._operation_url(request), exchange)
            if found is None:
                return outcomes
            response = found
        return await self._followed(response, self._operation_url(request), call, exchange)

    async def _followed(
        self, response: httpx.Response, url: httpx.URL, call: Call, exchange: Exchange
    ) -> Mapping[str, Outcome]:
        """Look at the operation until it is done. It was accepted, so whatever hinders that, the mail is sent."""
        url = self._named(response, url)
        left = exchange.left
        while pointed(json_of(response.content), "/status") in _GOING_ON and response.status_code < 300:
            wait = retry_delay(response.headers, self.clock.now())
            pause = POLL_S if wait is None else max(wait, 0.1)
            left -= pause
            if left <= 0 or pause >= exchange.left:
                break
            await self.clock.wait(asyncio.Event(), pause)
            found = await self._look(url, exchange)
            if found is None:
                break
            response = found
        return self.parse_response(response, call.addressing)

    async def _look(self, url: httpx.URL, exchange: Exchange) -> httpx.Response | None:
        """What the operation has come to; None when it is not known, or not told."""
        request = self.get("")
        request.url = url
        try:
            response = await exchange(request, mails=False)
        except (httpx.TransportError, TimeoutError, OSError, Failed):
            return None
        known = isinstance(pointed(json_of(response.content), "/status"), str)
        return response if response.status_code == 200 and known and not is_html(response) else None

    def _operation_url(self, request: httpx.Request) -> httpx.URL:
        path = f"/emails/operations/{request.headers['Operation-Id']}?api-version={VERSION}"
        return httpx.URL(f"{self.base}{path}")

    def _named(self, response: httpx.Response, otherwise: httpx.URL) -> httpx.URL:
        """The Operation-Location, if it is where we talk already: the credentials go nowhere else."""
        try:
            named = httpx.URL(response.headers.get("operation-location", ""))
        except httpx.InvalidURL:
            return otherwise
        same = (named.scheme, named.host, named.port) == (otherwise.scheme, otherwise.host, otherwise.port)
        return named if same else otherwise

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        status = pointed(body, "/status")
        if status == "Failed":
            # BUG: a failed operation is tried again under the same id, and whether it then begins anew is not documented.
            return dict.fromkeys(addressing.recipients, self._failed(response, body))
        if status == "Canceled":
            return dict.fromkeys(addressing.recipients, outcome_of(Meaning.TEMPORARY, "the operation was canceled"))
        detail = "accepted, and still going on" if status in _GOING_ON else ""
        return self.sent_all(addressing, id_of(pointed(body, "/id")), detail)

    def _failed(self, response: httpx.Response, body: Any) -> Outcome:
        meaning = self.codes.get(self.code(response, body))
        return self.meant(meaning if meaning is Meaning.SUPPRESSED else Meaning.LATER, response, body)

    def code(self, response: httpx.Response, body: Any) -> str:
        found = pointed(body, "/error/code") or response.headers.get("x-ms-error-code", "")
        return found if isinstance(found, str) and len(found) < 100 else ""

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        code = self.code(response, body)
        if code.startswith("InvalidSender"):
            return Meaning.ACCOUNT
        if code.startswith("EmailSizeLimit"):
            return Meaning.TOO_BIG
        if code.startswith("InvalidEmail"):
            target = pointed(body, "/error/target")
            return Meaning.ADDRESS if "recipient" in str(target).lower() else Meaning.CONTENT
        return super().meaning(response, body)

    def refused_together(self, outcomes: Mapping[str, Outcome], addressing: Addressing) -> bool:
        """All of them suppressed is said of all."""
        return all(o.fault is Fault.RECIPIENT and "Suppressed" not in o.detail for o in outcomes.values())

    # Credentials: an operation that nobody knows is looked at

    def probe(self) -> httpx.Request:
        return self.get(f"/emails/operations/{uuid.UUID(int=0)}?api-version={VERSION}")

    def read_probe(self, response: httpx.Response) -> Verified:
        if response.status_code == 404 and isinstance(json_of(response.content), dict):
            return Verified(ok=True, text="the credentials are accepted")
        return super().read_probe(response)


class HmacAuth:
    """https://learn.microsoft.com/azure/communication-services/tutorials/hmac-header-tutorial"""

    def __init__(self, key: str, *, clock: Clock) -> None:
        try:
            self._key = base64.b64decode(key, validate=True)
        except ValueError:
            raise ValueError("the api_key is not base64, as the access keys of Azure are") from None
        self._clock = clock

    async def sign(self, request: httpx.Request, fetch: Fetch) -> None:
        digest = await asyncio.to_thread(_digest, request) if size_of(request) > OFF_LOOP_SIZE else _digest(request)
        request.headers.update(
            signature(request, self._key, date=formatdate(self._clock.now(), usegmt=True), digest=digest)
        )

    def renew(self, request: httpx.Request) -> bool:
        return False


def _digest(request: httpx.Request) -> str:
    return base64.b64encode(sha256_of(request)).decode()


def signature(request: httpx.Request, key: bytes, *, date: str, digest: str) -> dict[str, str]:
    """The headers that sign a request; path and host exactly as they are sent."""
    target = request.url.raw_path.decode("ascii")
    text = f"{request.method}\n{target}\n{date};{request.headers['host']};{digest}"
    signed = base64.b64encode(hmac.digest(key, text.encode(), "sha256")).decode()
    return {
        "x-ms-date": date,
        "x-ms-content-sha256": digest,
        "Authorization": f"HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature={signed}",
    }


def _operation(key: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"smtp-rest-bridge:{key}"))


def _person(mailbox: Mailbox) -> dict[str, str]:
    name = one_line(mailbox.name).strip()
    return {"address": mailbox.email} | ({"displayName": name} if name else {})


def _attachment(attachment: Attachment, html: str) -> dict[str, Any]:
    found = {
        "name": attachment.filename,
        "contentType": attachment.content_type,
        "contentInBase64": quoted(attachment.encoded),
    }
    # A content id makes it an inline image, so only what the text shows gets one.
    shown = attachment.disposition == "inline" or f"cid:{attachment.content_id}" in html
    return found | ({"contentId": attachment.content_id} if attachment.content_id and shown else {})
