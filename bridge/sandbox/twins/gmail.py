"""The Gmail API's users.messages.send, and Google's token endpoint for service accounts:
https://developers.google.com/workspace/gmail/api/reference/rest/v1/users.messages/send

`GET /gmail/service-account.json` gives the key file to use with it.
"""

from __future__ import annotations

import base64
import functools
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from bridge.clock import Clock
from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.twins.base import ApiError, Call, Route, Twin
from bridge.sandbox.twins.mimemail import mail_from_mime
from bridge.sandbox.twins.schema import Base64, Fields, PayloadError, Text, decode_base64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

EMAIL = "bridge@sandbox.iam.gserviceaccount.com"
KEY_ID = "sandbox-key-1"
SCOPES = ("https://www.googleapis.com/auth/gmail.send", "https://mail.google.com/")
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LIFETIME_S = 3599
MAX_UPLOAD = 36_700_160
MAX_JSON = 5_000_000
RAW = Fields({"raw": Base64(least=1, urlsafe=True)}, {"threadId": Text()})


def _answer(status: int, reason: str, message: str, kind: str = "") -> Answer:
    errors = [{"message": message, "domain": "global", "reason": reason}]
    return Answer(status=status, body={"error": {"code": status, "message": message, "errors": errors, "status": kind}})


@dataclass(frozen=True, slots=True)
class _Token:
    subject: str
    until: float


class Gmail(Twin):
    kind = "gmail"
    targets = ("send", "token")
    errors: ClassVar[Mapping[str, Answer]] = {
        "invalid_argument": _answer(400, "invalidArgument", "Recipient address required", "INVALID_ARGUMENT"),
        "invalid_to": _answer(400, "invalidArgument", "Invalid To header", "INVALID_ARGUMENT"),
        "failed_precondition": _answer(400, "failedPrecondition", "Precondition check failed.", "FAILED_PRECONDITION"),
        "upload_too_large": _answer(400, "uploadTooLarge", "The upload is too large."),
        "auth_error": _answer(401, "authError", "Invalid Credentials", "UNAUTHENTICATED"),
        "insufficient_permissions": _answer(403, "insufficientPermissions", "Insufficient Permission"),
        "access_not_configured": _answer(
            403, "accessNotConfigured", "Gmail API has not been used in project 1 before."
        ),
        "domain_policy": _answer(403, "domainPolicy", "The domain administrators have disabled Gmail apps."),
        "forbidden": _answer(403, "forbidden", "Delegation denied for ann@example.com"),
        "rate_limit": _answer(403, "rateLimitExceeded", "Rate Limit Exceeded"),
        "user_rate_limit": _answer(403, "userRateLimitExceeded", "User Rate Limit Exceeded"),
        "daily_limit": _answer(403, "dailyLimitExceeded", "Daily Limit Exceeded"),
        "mailbox_limit": _answer(
            429,
            "rateLimitExceeded",
            "User-rate limit exceeded.  Retry after 2099-01-01T00:00:00.000Z",
            "RESOURCE_EXHAUSTED",
        ),
        "quota_exceeded": _answer(403, "quotaExceeded", "Quota exceeded"),
        "too_many_requests": _answer(429, "rateLimitExceeded", "Too many concurrent requests for user"),
        "not_found": _answer(404, "notFound", "Not Found", "NOT_FOUND"),
        "too_large": Answer(status=413, body="Request Entity Too Large"),
        "backend_error": _answer(500, "backendError", "Backend Error"),
        "unavailable": _answer(503, "backendError", "The service is currently unavailable.", "UNAVAILABLE"),
    }

    def __init__(self, *, key: str, clock: Clock) -> None:
        super().__init__(key=key, clock=clock)
        self._tokens: dict[str, _Token] = {}

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/upload/gmail/v1/users/{user}/messages/send", self._upload, target="send"),
            Route("POST", "/gmail/v1/users/{user}/messages/send", self._send, target="send"),
            Route("POST", "/token", self._give, target="token", open=True),
            Route(
                "GET",
                "/service-account.json",
                lambda call: json_response(service_account(f"{call.url}/token")),
                open=True,
            ),
        )

    def authorize(self, call: Call) -> None:
        """A token is for one mailbox."""
        scheme, _, value = call.header("authorization").partition(" ")
        token = self._tokens.get(value) if scheme == "Bearer" else None
        if token is None or token.until <= self.clock.now():
            raise self.error("auth_error")
        if not token.subject:
            raise self.error("failed_precondition")  # the service account itself has no mailbox
        if call.parameters["user"] not in ("me", token.subject):
            raise self.error("forbidden")

    def error_body(self, status: int, message: str = "") -> Response:
        reason = "backendError" if status >= 500 else "invalidArgument"
        return _answer(status, reason, message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        return _answer(400, "invalidArgument", str(error), "INVALID_ARGUMENT").response()

    def _upload(self, call: Call) -> Response:
        if call.query("uploadType") != "media" or call.content_type != "message/rfc822":
            message = "'raw' RFC822 payload message string or uploading message via /upload/* URL required"
            raise ApiError(_answer(400, "invalidArgument", message, "INVALID_ARGUMENT").response())
        if len(call.body) > MAX_UPLOAD:
            raise self.error("upload_too_large")
        return self._taken(call, call.body)

    def _send(self, call: Call) -> Response:
        payload = call.json()
        RAW.check(payload)
        if len(call.body) > MAX_JSON:
            raise self.error("too_large")
        return self._taken(call, decode_base64(payload["raw"], urlsafe=True))

    def _taken(self, call: Call, raw: bytes) -> Response:
        mail = mail_from_mime(raw, None)
        if not mail.recipients:
            raise self.error("invalid_argument")
        if any("@" not in r or r.count("@") > 1 for r in mail.recipients):
            raise self.error("invalid_to")
        message_id = call.accept(mail)
        return json_response({"id": message_id, "threadId": message_id, "labelIds": ["SENT"]})

    # --- tokens: https://developers.google.com/identity/protocols/oauth2/service-account

    def _give(self, call: Call) -> Response:
        form = call.form()
        given = {name: form.values(name)[0] for name in form.names()}
        if given.get("grant_type") != GRANT:
            return _refused("unsupported_grant_type", "Invalid grant_type")
        try:
            claims = _verified(given.get("assertion", ""))
        except ValueError:
            return _refused("invalid_grant", "Invalid JWT Signature.")
        if problem := self._problem(claims, f"{call.url}/token"):
            return _refused("invalid_grant", problem)
        if claims.get("scope") not in SCOPES:
            return _refused("invalid_scope", "Some requested scopes were invalid.")
        value = secrets.token_urlsafe(24)
        self._tokens[value] = _Token(claims.get("sub", ""), self.clock.now() + LIFETIME_S)
        return json_response({"access_token": value, "expires_in": LIFETIME_S, "token_type": "Bearer"})

    def _problem(self, claims: dict[str, Any], audience: str) -> str:
        issued, expires = claims.get("iat"), claims.get("exp")
        if claims.get("iss") != EMAIL or claims.get("aud") != audience:
            return "Invalid JWT: issuer or audience"
        if not isinstance(issued, int) or not isinstance(expires, int) or not issued < expires <= issued + 3600:
            return "Invalid JWT: Token must be a short-lived token (60 minutes)"
        return "" if abs(self.clock.now() - issued) < 300 else "Invalid JWT: Check your iat and exp values"


def _refused(error: str, description: str) -> Response:
    return json_response({"error": error, "error_description": description}, status=400)


def _verified(assertion: str) -> dict[str, Any]:
    """The claims. Raises ValueError."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    header, claims, signature = (part.encode() for part in assertion.split("."))
    try:
        key = private_key().public_key()
        key.verify(_decoded(signature), header + b"." + claims, PKCS1v15(), SHA256())
    except InvalidSignature:
        raise ValueError("the signature is wrong") from None
    if orjson.loads(_decoded(header)) != {"alg": "RS256", "typ": "JWT", "kid": KEY_ID}:
        raise ValueError("the header is wrong")
    found = orjson.loads(_decoded(claims))
    if not isinstance(found, dict):
        raise ValueError("the claims are no object")
    return found


def _decoded(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


@functools.cache
def private_key() -> RSAPrivateKey:
    """Of the service account; a new one in each process."""
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    return generate_private_key(public_exponent=65537, key_size=2048)


def service_account(token_uri: str) -> dict[str, str]:
    """The key file as Google's console gives it."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return {
        "type": "service_account",
        "project_id": "sandbox",
        "private_key_id": KEY_ID,
        "private_key": pem,
        "client_email": EMAIL,
        "client_id": "1",
        "token_uri": token_uri,
    }
