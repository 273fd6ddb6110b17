"""From a response, or from what went wrong, to an outcome: the default table (README, "Replies"). Pure.

Unknown means temporary. Who is to blame decides what happens: a wrong key or a wrong URL is the account's fault and never
bounces mail. "Never sent" may go elsewhere; "sent, answer lost" may not, or somebody gets the mail twice.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

import httpx

from bridge.model import Fault, Outcome
from bridge.providers.answers import is_html, json_of, reset_delay, retry_delay, words_of
from bridge.reply import Reply, sent

UNREACHABLE = Reply(451, "4.4.1", "Mail service cannot be reached, try again later")
ANSWER_LOST = Reply(451, "4.4.2", "The mail service's answer was lost")
UNAVAILABLE = Reply(451, "4.3.2", "Mail service not available, try again later")
CONGESTED = Reply(451, "4.4.5", "Mail service is busy, try again later")
MISCONFIGURED = Reply(451, "4.3.5", "Mail service is not usable at the moment, try again later")
TEMPORARY = Reply(451, "4.3.0", "Temporary failure, try again later")

_LATER = frozenset({408, 425, 503})
# 520 and 524 are Cloudflare's own: the origin took the request and its answer was unusable or came too late.
_LOST = frozenset({502, 504, 520, 524})
_ACCOUNT = frozenset({401, 402, 403})
_WRONG_URL = frozenset({404, 405, 410})
_CONTENT = frozenset({400, 422})


QUOTA_WAIT_S = 3600.0  # until the next look at a quota whose end nobody told


class Failed(Exception):
    """A call ends here, with this outcome for all of its recipients."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reply.text)
        self.outcome = outcome


class Meaning(enum.Enum):
    """What an API's own error code says, for an adapter's table."""

    LATER = "not available now"
    RATE = "too fast"
    QUOTA = "a quota of the account is used up"
    ACCOUNT = "credentials, payment, an address or domain the account may not send from"
    LOST = "it is not known whether the mail was taken"
    TEMPORARY = "temporary, for no reason that has a name"
    CONTENT = "the content is refused"
    TOO_BIG = "the message is too large"
    SENDER = "this sender is refused, others would do"
    ADDRESS = "a recipient's address is none"
    RECIPIENT = "a recipient does not exist"
    SUPPRESSED = "a recipient is on the provider's suppression list"


_DEFERRED: dict[Meaning, tuple[Reply, Fault]] = {
    Meaning.LATER: (UNAVAILABLE, Fault.PROVIDER),
    Meaning.RATE: (CONGESTED, Fault.PROVIDER),
    Meaning.QUOTA: (MISCONFIGURED, Fault.ACCOUNT),
    Meaning.ACCOUNT: (MISCONFIGURED, Fault.ACCOUNT),
    Meaning.TEMPORARY: (TEMPORARY, Fault.PROVIDER),
}
_BOUNCED: dict[Meaning, tuple[int, str, str, Fault]] = {
    Meaning.CONTENT: (554, "5.6.0", "Message refused by the mail service", Fault.MESSAGE),
    Meaning.TOO_BIG: (552, "5.3.4", "Message is too large for the mail service", Fault.MESSAGE),
    Meaning.SENDER: (550, "5.7.1", "Sender refused by the mail service", Fault.MESSAGE),
    Meaning.ADDRESS: (550, "5.1.3", "Recipient address refused by the mail service", Fault.RECIPIENT),
    Meaning.RECIPIENT: (550, "5.1.1", "No such recipient, says the mail service", Fault.RECIPIENT),
    Meaning.SUPPRESSED: (550, "5.7.1", "Recipient is suppressed by the mail service", Fault.RECIPIENT),
}


def outcome_of(meaning: Meaning, detail: str = "", *, words: str = "", retry_after: float | None = None) -> Outcome:
    """The outcome a meaning comes to. `words`: the provider's own, made safe; they are shown with a refusal only."""
    if meaning is Meaning.LOST:
        return unknown(detail)
    if meaning in _BOUNCED:
        code, enhanced, text, fault = _BOUNCED[meaning]
        return bounced(code, enhanced, f"{text}: {words}" if words else text, fault, detail)
    reply, fault = _DEFERRED[meaning]
    quota = meaning is Meaning.QUOTA
    wait = QUOTA_WAIT_S if quota and retry_after is None else retry_after
    return Outcome(status="deferred", reply=reply, fault=fault, detail=detail, retry_after=wait, quota=quota)


def outcome_for(
    status: int,
    headers: Mapping[str, str],
    *,
    now: float,
    api_error: bool = False,
    html: bool = False,
    words: str = "",
    provider_message_id: str = "",
) -> Outcome:
    """What a response means by its status, for who has no better knowledge.

    `api_error`: the body is the API's own error object. `html`: the body is a web page. `words`: the provider's, made safe.
    """
    detail = f"HTTP {status}: {words}" if words else f"HTTP {status}"
    if 200 <= status <= 299:
        return _accepted(detail, provider_message_id, html=html)
    if status == 429:
        wait = retry_delay(headers, now)
        return deferred(
            CONGESTED, Fault.PROVIDER, detail, retry_after=reset_delay(headers, now) if wait is None else wait
        )
    if status in _LATER or (status == 500 and api_error):
        return deferred(UNAVAILABLE, Fault.PROVIDER, detail, retry_after=retry_delay(headers, now))
    if status in _LOST or status == 500:
        return unknown(detail)
    if status in _ACCOUNT:
        return deferred(MISCONFIGURED, Fault.ACCOUNT, detail)
    if status in _WRONG_URL or 300 <= status <= 399:
        return deferred(MISCONFIGURED, Fault.ACCOUNT, f"{detail} (is the URL right?)")
    return _refused(status, words, detail)


def _accepted(detail: str, provider_message_id: str, *, html: bool) -> Outcome:
    if html:
        return deferred(MISCONFIGURED, Fault.ACCOUNT, f"{detail}, and a web page (is the URL right?)")
    return Outcome(
        status="sent", reply=sent(provider_message_id), detail=detail, provider_message_id=provider_message_id
    )


def _refused(status: int, words: str, detail: str) -> Outcome:
    if status == 413:
        return bounced(552, "5.3.4", "Message is too large for the mail service", Fault.MESSAGE, detail)
    if status in _CONTENT:
        said = f": {words}" if words else ""
        return bounced(554, "5.6.0", f"Message refused by the mail service{said}", Fault.MESSAGE, detail)
    return deferred(TEMPORARY, Fault.PROVIDER, detail)


def outcome_for_response(
    response: httpx.Response, *, now: float, secrets: Iterable[str] = (), provider_message_id: str = ""
) -> Outcome:
    """The same from a response as it came; `secrets` never appear in the outcome."""
    body = json_of(response.content)
    return outcome_for(
        response.status_code,
        response.headers,
        now=now,
        api_error=isinstance(body, dict) and bool(body),
        html=is_html(response),
        words=words_of(body, secrets) if response.status_code >= 300 else "",
        provider_message_id=provider_message_id,
    )


def exception_outcome(exc: BaseException, *, written: bool) -> Outcome:
    """What a failed exchange means. `written`: the request had left in full, so it may have been acted on."""
    detail = _describe(exc)
    if written:
        return unknown(detail)
    if isinstance(exc, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return deferred(MISCONFIGURED, Fault.ACCOUNT, detail)
    if isinstance(exc, httpx.PoolTimeout):
        return deferred(CONGESTED, Fault.PROVIDER, detail)
    if isinstance(exc, httpx.LocalProtocolError) or not isinstance(exc, httpx.TransportError | TimeoutError | OSError):
        return deferred(TEMPORARY, None, detail)  # ours, not the provider's
    return deferred(UNREACHABLE, Fault.PROVIDER, detail)


def _describe(exc: BaseException) -> str:
    """Only texts of the network's own exceptions: another's may quote the mail."""
    name = type(exc).__name__
    known = isinstance(exc, httpx.TransportError | OSError) and not isinstance(exc, httpx.LocalProtocolError)
    return f"{name}: {exc}" if known and str(exc) else name


def deferred(reply: Reply, fault: Fault | None, detail: str = "", *, retry_after: float | None = None) -> Outcome:
    return Outcome(status="deferred", reply=reply, fault=fault, detail=detail, retry_after=retry_after)


def unknown(detail: str = "") -> Outcome:
    return Outcome(status="unknown", reply=ANSWER_LOST, fault=Fault.PROVIDER, detail=detail)


def bounced(code: int, enhanced: str, text: str, fault: Fault, detail: str = "") -> Outcome:
    return Outcome(status="bounced", reply=Reply.safe(code, enhanced, text), fault=fault, detail=detail)
