"""The requests by which a mail was sent, or would be: made by the adapter, and not sent. Credentials are masked. Pure but
for the adapter, which may take a while over a large mail.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx
import orjson
import structlog

from bridge.mime.fields import strip_bcc
from bridge.model import Addressing, Email, idempotency_key
from bridge.providers.base import Provider
from bridge.providers.http import HttpProvider

MAX_CALLS: Final = 5
MAX_BODY: Final = 256 * 1024  # octets shown of one request
MAX_JSON: Final = 8 * 1024 * 1024  # octets that are read to show it in lines
_LONG_TEXT = 4000  # characters of one JSON string
_MASK = "***"
_HIDDEN_NAME = re.compile(r"auth|cookie|token|secret|signature|password|credential|api-?key|server-?key|^key$", re.I)
_SECRET_LIKE = re.compile(r"(?=[^/]*\d)(?=[^/]*[A-Za-z])[A-Za-z0-9_\-.~+=]{16,}")

log: Any = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One call. `note`: what is not in it, or why it cannot be shown. `cut`: there is more of the body."""

    recipients: tuple[str, ...]
    line: str = ""  # POST https://...
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    size: int = 0
    cut: bool = False
    note: str = ""


def requests_of(
    provider: Provider, email: Email, *, reverse_path: str, recipients: tuple[str, ...], queue_id: str
) -> list[Shown]:
    """Never raises: what an adapter cannot do is said in a note."""
    try:
        calls = provider.calls(email, reverse_path, recipients)
        shown = [_shown(provider, email, one, queue_id) for one in calls[:MAX_CALLS]]
    except Exception as error:  # an adapter may want what is there only while it sends
        log.warning("pages.no_request", queue_id=queue_id, provider=provider.name, error=type(error).__name__)
        return [Shown(recipients=recipients, note="The request is made only while it is sent, in several steps")]
    others = tuple(recipient for one in calls[MAX_CALLS:] for recipient in one.recipients)
    return [*shown, Shown(recipients=others, note="In further calls like these")] if others else shown


def _shown(provider: Provider, email: Email, addressing: Addressing, queue_id: str) -> Shown:
    to = addressing.recipients
    if not isinstance(provider, HttpProvider):
        return _as_mime(provider, email, addressing)
    key = idempotency_key(queue_id, to)
    request = provider.build_request(email, addressing, queue_id=queue_id, key=key)
    secrets = _secrets(provider)
    body, size, cut = _body(request)
    note = "Credentials and a signature are added when it is sent." if provider.auth else ""
    return Shown(
        recipients=to,
        line=f"{request.method} {masked_url(request.url, secrets)}",
        headers=tuple(masked_headers(request.headers, secrets, own=_own_headers(provider), keep=key)),
        body=masked(body, secrets),
        size=size,
        cut=cut,
        note=note,
    )


def _as_mime(provider: Provider, email: Email, addressing: Addressing) -> Shown:
    raw = strip_bcc(email.raw)
    text = raw[:MAX_BODY].decode("utf-8", "replace")
    captured = provider.keeps_bodies
    envelope = [("MAIL FROM", f"<{addressing.reverse_path}>")]
    envelope += [("RCPT TO", f"<{one}>") for one in addressing.recipients]
    return Shown(
        recipients=addressing.recipients,
        line="Captured: it goes nowhere" if captured else f"SMTP to {provider.remote or provider.name}",
        headers=tuple(envelope),
        body=text,
        size=len(raw),
        cut=len(raw) > MAX_BODY,
        note="" if captured else "The server may want it 7-bit, which is decided while it is sent.",
    )


def _body(request: httpx.Request) -> tuple[str, int, bool]:
    """(text, octets of the whole, whether it was cut)."""
    size = int(request.headers.get("content-length", 0))
    assert isinstance(request.stream, httpx.SyncByteStream)
    pieces, have, most = [], 0, MAX_JSON if "json" in request.headers.get("content-type", "") else MAX_BODY
    for piece in request.stream:
        pieces.append(bytes(piece)[: most - have])
        have += len(pieces[-1])
        if have >= most:
            break
    found = b"".join(pieces)
    if have == size:
        try:
            lines = orjson.dumps(_shortened(orjson.loads(found)), option=orjson.OPT_INDENT_2)
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            pass
        else:
            return lines[:MAX_BODY].decode("utf-8", "replace"), size, len(lines) > MAX_BODY
    return found[:MAX_BODY].decode("utf-8", "replace"), size, size > MAX_BODY


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONG_TEXT else f"{value[:200]}… ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {name: _shortened(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    return value


# masking


def _secrets(provider: HttpProvider) -> tuple[str, ...]:
    return tuple(sorted({one for one in provider.secrets if one}, key=len, reverse=True))


def _own_headers(provider: HttpProvider) -> frozenset[str]:
    """Names of the headers that carry its credentials."""
    made = getattr(provider, "auth_headers", None)
    return frozenset(name.lower() for name in made()) if made else frozenset()


def masked(text: str, secrets: Iterable[str]) -> str:
    """Secrets as they are, and as they stand in JSON and in a URL. Very short ones would mask everything, and are values of
    headers, which are masked whole."""
    for secret in secrets:
        if len(secret) < 4:
            continue
        forms = {secret, orjson.dumps(secret).decode()[1:-1], quote(secret, safe=""), quote(secret)}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, _MASK)
    return text


def masked_headers(
    headers: httpx.Headers, secrets: tuple[str, ...], *, own: frozenset[str], keep: str
) -> Iterable[tuple[str, str]]:
    """`keep`: the idempotency key, which is no secret whatever its header is called."""
    for name, value in headers.multi_items():
        hidden = name.lower() in own or _HIDDEN_NAME.search(name) or any(one in value for one in secrets)
        yield name, _MASK if hidden and value != keep else value


def masked_url(url: httpx.URL, secrets: tuple[str, ...]) -> str:
    """Without user and password, without values in its query, and without what looks like a key in its path."""
    path = "/".join(_MASK if _SECRET_LIKE.fullmatch(part) else part for part in url.path.split("/"))
    query = "&".join(f"{quote(name)}={_MASK}" for name, _ in url.params.multi_items())
    host = url.netloc.decode("ascii")
    return masked(f"{url.scheme}://{host}{path}" + (f"?{query}" if query else ""), secrets)
