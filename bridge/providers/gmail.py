"""Gmail API, users.messages.send: https://developers.google.com/workspace/gmail/api/reference/rest/v1/users.messages/send"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx

from bridge.clock import Clock
from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form, Loss
from bridge.model import Addressing, Email, Envelope, Fault, Outcome
from bridge.providers.answers import id_of, pointed, words_of
from bridge.providers.api import NO_DOMAIN, NO_SENDER, ApiProvider, ApiSettings, Outgoing
from bridge.providers.base import Policy, Verified
from bridge.providers.http import Exchange
from bridge.providers.oauth import SUBJECT, TokenAuth, read_service_account, verified
from bridge.providers.outcomes import Meaning

SCOPE = "https://www.googleapis.com/auth/gmail.send"
_RETRY_AFTER = re.compile(r"retry after (\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-]\d\d:\d\d))", re.IGNORECASE)
# Of a recipient field; the texts are Google's own, there is no code.
_BAD_RECIPIENT = re.compile(r"invalid (?:to|cc|bcc) header", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class GmailSettings(ApiSettings):
    service_account_file: str = ""
    user: str = ""


class Gmail(ApiProvider):
    kind = "gmail"
    title = "Gmail"
    docs = "https://developers.google.com/workspace/gmail/api/reference/rest/v1/users.messages/send"
    base_url = "https://gmail.googleapis.com"
    Settings = GmailSettings

    # maxSize of the upload: the API's discovery document, revision 20261005
    forms = (Form(name="raw", carries=Carries(raw=True, max_size=36_700_160)),)
    takes_tags = takes_metadata = False
    raw_envelope = False  # mailed are those of To, Cc and Bcc
    # Recipients in one message (unverified). Addresses that differ in case alone are one to Gmail.
    raw_caps = Caps(total=500, once=True)
    # Reasons, from memory of Google's error guide: unverified.
    codes = {
        "invalidArgument": Meaning.CONTENT,
        "failedPrecondition": Meaning.ACCOUNT,  # no delegation, or the mail service is off
        "authError": Meaning.ACCOUNT,
        "insufficientPermissions": Meaning.ACCOUNT,
        "accessNotConfigured": Meaning.ACCOUNT,
        "domainPolicy": Meaning.ACCOUNT,
        "forbidden": Meaning.ACCOUNT,
        "rateLimitExceeded": Meaning.RATE,
        "userRateLimitExceeded": Meaning.RATE,
        "dailyLimitExceeded": Meaning.QUOTA,
        "quotaExceeded": Meaning.QUOTA,
        "uploadTooLarge": Meaning.TOO_BIG,
        "backendError": Meaning.LATER,
    }
    notes = (
        "The service account needs domain-wide delegation for the scope https://www.googleapis.com/auth/gmail.send.",
        "A From that is neither the mailbox nor one of its verified aliases is rewritten by Gmail; the Message-ID usually too.",
        "There is no way to repeat a call whose answer was lost.",
        "Tags and metadata have no place here and are dropped.",
    )
    unverified = ("the number of recipients", "the error codes")

    def __init__(
        self,
        name: str,
        policy: Policy,
        settings: GmailSettings,
        *,
        transport: httpx.AsyncBaseTransport,
        clock: Clock | None = None,
    ) -> None:
        """Raises ValueError when the key file cannot be used."""
        super().__init__(name, policy, settings, transport=transport, clock=clock)
        account = read_service_account(settings.service_account_file, SCOPE)
        self.tokens = TokenAuth(account, clock=self.clock, learn=self._learn)
        self.auth = self.tokens

    def _learn(self, tokens: tuple[str, ...]) -> None:
        self.secrets = tokens

    def losses(self, email: Email, envelope: Envelope) -> tuple[Loss, ...]:
        """Without a mailbox of the settings the sender is a part of the address that is called: `..` would be another call."""
        found = super().losses(email, envelope)
        named = self.settings.user or "@" in (email.sender.email or envelope.reverse_path)
        return found if named or found[:1] == (NO_SENDER,) else (NO_DOMAIN, *found)

    # Request

    def raw_request(self, mail: Outgoing) -> httpx.Request:
        user = self.settings.user or mail.sender.email
        path = f"/upload/gmail/v1/users/{quote(user, safe='@')}/messages/send?uploadType=media"
        request = self.post(path, self.mime(mail), {"Content-Type": "message/rfc822"})
        request.extensions = {**request.extensions, SUBJECT: user}  # the token is for this mailbox
        return request

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        return self.sent_all(addressing, id_of(pointed(body, "/id")))

    def code(self, response: httpx.Response, body: Any) -> str:
        found = pointed(body, "/error/errors/0/reason")
        return found if isinstance(found, str) and len(found) < 100 else ""

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        if _RETRY_AFTER.search(words_of(body)) and response.status_code in (403, 429):
            return Meaning.QUOTA  # of the mailbox: it may be for hours
        if response.status_code == 400 and _BAD_RECIPIENT.search(words_of(body)):
            return Meaning.ADDRESS
        return super().meaning(response, body)

    def wait(self, response: httpx.Response, body: Any) -> float | None:
        """`User-rate limit exceeded.  Retry after 2026-11-23T04:00:00.000Z`"""
        found = super().wait(response, body)
        if found is None and (until := _RETRY_AFTER.search(words_of(body))):
            found = _seconds_until(until[1], self.clock.now())
        return found

    def refused_together(self, outcomes: Mapping[str, Outcome], addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    # Credentials: a token for the mailbox, or without one for the service account itself

    async def verify(self) -> Verified:
        return await verified(
            self.tokens, Exchange(self.transport, self._deadline(), self.auth), subject=self.settings.user
        )


def _seconds_until(time: str, now: float) -> float | None:
    try:
        return max(0.0, datetime.fromisoformat(time).timestamp() - now)
    except ValueError:
        return None
