"""Bearer tokens from a token endpoint (RFC 6749): client credentials, and a service account's signed assertion (RFC 7523).

A token is kept until shortly before it expires and is fetched by one call at a time, whose success or failure the others
share. A token that the API refuses (401) is fetched anew once. Refused credentials are the account's fault and never bounce
mail; an endpoint that is busy or away is the provider's. Neither tokens nor secrets appear in what is raised.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

import httpx
import orjson

from bridge.clock import Clock
from bridge.model import Outcome
from bridge.providers.answers import is_html, json_of, retry_delay, safe_words
from bridge.providers.base import Verified
from bridge.providers.http import Exchange, Fetch
from bridge.providers.outcomes import Failed, Meaning, exception_outcome, outcome_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

EARLY_S = 300.0  # a token is given up so long before it expires, so that it holds while a call is on its way
LIFETIME_S = 3600.0  # where the endpoint does not say
ASSERTION_S = 3600  # Google takes no longer ones
MOST_SUBJECTS = 256  # tokens kept at a time, of those a token is fetched for
SUBJECT = "subject"  # extension of a request: whose mailbox it is for, where the token depends on that
_BUSY = frozenset({"temporarily_unavailable", "server_error", "slow_down"})  # RFC 6749 4.1.2.1, RFC 8628 3.5


class Grant(Protocol):
    """What is shown to get a token. `secrets` never leave but to the endpoint."""

    @property
    def secrets(self) -> tuple[str, ...]: ...

    def request(self, subject: str, now: float) -> httpx.Request:
        """The request for a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """RFC 6749 4.4, with the credentials in the form."""

    endpoint: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.client_secret,)

    def request(self, subject: str, now: float) -> httpx.Request:
        return token_request(
            self.endpoint,
            {
                "grant_type": "client_credentials",
                "client_id": self.client_id,
                "client_secret": self.client_secret,
                "scope": self.scope,
            },
        )


def entra(settings: Any, authority: str, scope: str) -> ClientCredentials:
    """An application of Microsoft Entra, v2.0: settings with `tenant`, `client_id` and `client_secret`.

    https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
    """
    return ClientCredentials(
        endpoint=f"{authority.rstrip('/')}/{quote(settings.tenant, safe='')}/oauth2/v2.0/token",
        client_id=settings.client_id,
        client_secret=settings.client_secret,
        scope=scope,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccount:
    """RFC 7523 2.1 as Google has it: an assertion signed with RS256, on behalf of `subject` where one is named.

    https://developers.google.com/identity/protocols/oauth2/service-account
    """

    email: str
    key: RSAPrivateKey = field(repr=False)
    key_id: str = ""
    endpoint: str
    scope: str

    @property
    def secrets(self) -> tuple[str, ...]:
        return ()  # the key itself is never sent

    def request(self, subject: str, now: float) -> httpx.Request:
        grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
        return token_request(self.endpoint, {"grant_type": grant, "assertion": self.assertion(subject, now)})

    def assertion(self, subject: str, now: float) -> str:
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        header = {"alg": "RS256", "typ": "JWT"} | ({"kid": self.key_id} if self.key_id else {})
        claims = {"iss": self.email, "scope": self.scope, "aud": self.endpoint, "iat": int(now)}
        claims |= {"exp": int(now) + ASSERTION_S} | ({"sub": subject} if subject else {})
        signed = b".".join(_base64url(orjson.dumps(part)) for part in (header, claims))
        return b".".join((signed, _base64url(self.key.sign(signed, PKCS1v15(), SHA256())))).decode()


def read_service_account(path: str, scope: str) -> ServiceAccount:
    """From the key file (JSON) that Google's console gives. Raises ValueError, whose text quotes nothing of the file."""
    try:
        content = orjson.loads(Path(path).read_bytes())
    except OSError as exc:
        raise ValueError(f"the service account file {path} cannot be read: {exc.strerror}") from None
    except orjson.JSONDecodeError:
        raise ValueError(f"the service account file {path} is not JSON") from None
    given = content if isinstance(content, dict) else {}
    if given.get("type") != "service_account":
        raise ValueError(f"{path} is not the key file of a service account")
    given = {"token_uri": "https://oauth2.googleapis.com/token", "private_key_id": "", **given}
    for name in ("client_email", "private_key", "private_key_id", "token_uri"):
        if not isinstance(given.get(name), str):
            raise ValueError(f"the service account file {path} has no {name}")
    if not _is_safe(given["token_uri"]):
        raise ValueError(f"the token_uri of the service account file {path} is not https://")
    key = _private_key(given["private_key"], path)
    return ServiceAccount(
        email=given["client_email"], key=key, key_id=given["private_key_id"], endpoint=given["token_uri"], scope=scope
    )


def _private_key(pem: str, path: str) -> RSAPrivateKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except Exception:  # many kinds, and their texts may quote the key
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError(f"the private key of the service account file {path} cannot be used")
    return key


def _is_safe(url: str) -> bool:
    """https, or http to this machine."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    if parts.scheme != "http":
        return parts.scheme == "https" and bool(parts.host)
    try:
        return parts.host == "localhost" or ipaddress.ip_address(parts.host).is_loopback
    except ValueError:
        return False


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token_request(endpoint: str, form: dict[str, str]) -> httpx.Request:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    return httpx.Request("POST", httpx.URL(endpoint), headers=headers, content=urlencode(form).encode())


# --- the tokens of one provider


class TokenAuth:
    """An `Auth` that sends a bearer token; one for each subject that requests name in their extension `subject`.

    `learn` is told the tokens that are now in use, so that they are kept out of replies and logs.
    """

    def __init__(
        self, grant: Grant, *, clock: Clock, learn: Callable[[tuple[str, ...]], None] = lambda tokens: None
    ) -> None:
        self._grant = grant
        self._clock = clock
        self._learn = learn
        self._kept: dict[str, _Kept] = {}  # by subject, the one used last at the end

    async def sign(self, request: httpx.Request, fetch: Fetch) -> None:
        token = await self.token(fetch, request.extensions.get(SUBJECT, ""))
        request.headers["Authorization"] = f"Bearer {token}"

    def renew(self, request: httpx.Request) -> bool:
        """The token is given up, unless another call has done so and fetched a new one already."""
        kept = self._kept.get(request.extensions.get(SUBJECT, ""))
        if kept is not None and request.headers.get("Authorization") == f"Bearer {kept.token}":
            kept.token = ""
        return True

    def forget(self, subject: str = "") -> None:
        self._kept.pop(subject, None)

    async def token(self, fetch: Fetch, subject: str = "") -> str:
        """Raises Failed."""
        kept = self._of(subject)
        if kept.holds(self._clock.now()):
            return kept.token
        tries = kept.tries
        async with kept.lock:
            if kept.holds(self._clock.now()):
                return kept.token
            if kept.tries != tries and kept.failed is not None:
                raise Failed(kept.failed)  # that of the call that fetched while this one waited
            await self._renewed(kept, fetch, subject)
            return kept.token

    def _of(self, subject: str) -> _Kept:
        kept = self._kept.pop(subject, None) or _Kept()
        self._kept[subject] = kept
        if len(self._kept) > MOST_SUBJECTS:
            del self._kept[next(iter(self._kept))]
        return kept

    async def _renewed(self, kept: _Kept, fetch: Fetch, subject: str) -> None:
        try:
            kept.token, lifetime = await self._fetched(fetch, subject)
        except Failed as exc:
            kept.tries, kept.failed = kept.tries + 1, exc.outcome
            raise
        kept.tries, kept.failed = kept.tries + 1, None
        kept.until = self._clock.now() + lifetime - min(EARLY_S, lifetime / 2)
        self._learn(tuple(one.token for one in self._kept.values() if one.token))

    async def _fetched(self, fetch: Fetch, subject: str) -> tuple[str, float]:
        request = self._grant.request(subject, self._clock.now())
        try:
            response = await fetch(request)
        except (httpx.TransportError, httpx.InvalidURL, TimeoutError, OSError) as exc:
            outcome = exception_outcome(exc, written=False)  # nobody was mailed
            raise Failed(replace(outcome, detail=f"no token: {outcome.detail}")) from None
        return read_token(response, now=self._clock.now(), secrets=(*self._grant.secrets, *_sent(request)))


@dataclass(slots=True)
class _Kept:
    """The token for one subject, and how the last fetch went."""

    token: str = field(default="", repr=False)
    until: float = 0.0
    tries: int = 0
    failed: Outcome | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def holds(self, now: float) -> bool:
        return bool(self.token) and now < self.until


def _sent(request: httpx.Request) -> Iterable[str]:
    """An assertion is as good as a password for an hour; an endpoint might quote it."""
    return (value for pair in request.content.decode().split("&") for value in pair.split("=")[1:] if len(value) > 100)


# --- answers


def read_token(response: httpx.Response, *, now: float, secrets: Iterable[str] = ()) -> tuple[str, float]:
    """Token and seconds it holds. Raises Failed."""
    body = json_of(response.content)
    given = body if isinstance(body, dict) else {}
    if not 200 <= response.status_code <= 299:
        raise Failed(_refused(response, given, now, secrets))
    token, kind = given.get("access_token"), given.get("token_type", "Bearer")
    if not isinstance(token, str) or not _is_header_safe(token) or str(kind).lower() != "bearer":
        page = " and a web page" if is_html(response) else ""
        detail = f"no token: HTTP {response.status_code}{page} (is the address of the token endpoint right?)"
        raise Failed(outcome_of(Meaning.ACCOUNT, detail))
    return token, _seconds(given.get("expires_in"))


def _refused(response: httpx.Response, body: dict[str, Any], now: float, secrets: Iterable[str]) -> Outcome:
    """RFC 6749 5.2. What is not known to be the endpoint's trouble is that of the credentials: mail waits either way."""
    given = body.get("error")
    status, error = response.status_code, given if isinstance(given, str) else ""
    said = [f"HTTP {status}", safe_words(error, secrets)]
    if isinstance(words := body.get("error_description"), str):
        said.append(safe_words(words, secrets))
    detail = "no token: " + ": ".join(filter(None, said))
    if status == 429:
        return outcome_of(Meaning.RATE, detail, retry_after=retry_delay(response.headers, now))
    if status >= 500 or status in (408, 425) or error in _BUSY:
        return outcome_of(Meaning.LATER, detail, retry_after=retry_delay(response.headers, now))
    return outcome_of(Meaning.ACCOUNT, detail)


def _is_header_safe(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable() and " " not in token


def _seconds(value: Any) -> float:
    """Some endpoints write the number as text."""
    try:
        found = float(value) if isinstance(value, str | int | float) else LIFETIME_S
    except ValueError:
        found = LIFETIME_S
    return found if 0 < found < 1e9 else LIFETIME_S


async def verified(auth: TokenAuth, exchange: Exchange, subject: str = "") -> Verified:
    """Whether the endpoint gives a token now; nothing else is asked."""

    async def fetch(request: httpx.Request) -> httpx.Response:
        return await exchange(request, mails=False, sign=False)

    auth.forget(subject)
    try:
        async with asyncio.timeout(exchange.left):
            await auth.token(fetch, subject)
    except Failed as exc:
        return Verified(ok=False, text=exc.outcome.detail)
    except TimeoutError:
        return Verified(ok=False, text="no token: the token endpoint did not answer in time")
    return Verified(ok=True, text="the token endpoint accepts the credentials")
