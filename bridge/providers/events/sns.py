"""Amazon's Simple Notification Service, which carries the events of SES.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from bridge.providers.answers import json_of
from bridge.providers.events.base import Call, Fetch, Forged, Malformed, Unverified, json_body, text_at, time_of
from bridge.providers.events.signatures import check_rsa

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

T = TypeVar("T")

TOLERANCE_S = 3600.0  # the time is that of the publishing, and what fails is sent again for an hour
_TOPIC = re.compile(r"arn:aws[a-z-]{0,20}:sns:([a-z0-9-]{5,30}):[0-9]{12}:[A-Za-z0-9_.-]{1,256}")
_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
MAX_CERTIFICATES = 16
FAILED_S = 60.0  # a certificate that could not be had is not asked for again: anybody can name one
MAX_FAILED = 256
AT_ONCE = 4
_CERTIFICATE = re.compile(r"/SimpleNotificationService-[0-9a-f]{1,64}\.pem")


def envelope_of(call: Call) -> dict[str, Any]:
    """Raises Malformed for what is no message of SNS."""
    body = json_body(call)
    if not isinstance(body, dict) or body.get("Type") not in _SIGNED:
        raise Malformed("not a message of SNS; raw message delivery must be off")
    return body


def region_of(topic: str) -> str:
    """Raises ValueError for what is no topic."""
    found = _TOPIC.fullmatch(topic)
    if not found:
        raise ValueError("not the ARN of a topic: arn:aws:sns:REGION:ACCOUNT:NAME")
    return found[1]


def is_amazon(url: str, region: str) -> bool:
    """An https address at SNS itself, in this region, with nothing in it that could lead elsewhere."""
    hosts = (f"sns.{region}.amazonaws.com", f"sns.{region}.amazonaws.com.cn")
    return is_https_at(url, lambda netloc: netloc in hosts)  # also no port, and no login before an @


def is_https_at(url: str, known: Callable[[str], bool]) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" and known(parts.netloc) and not re.search(r"[\x00-\x20\\]", url)


class Certificates:
    """The keys by the addresses of their certificates, each fetched once. Whoever knows the topic may name what is not there:
    few are asked for at a time, none of them twice, and what failed not soon again."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._keys: dict[str, RSAPublicKey] = {}
        self._failed: dict[str, float] = {}  # until when
        self._fetching: dict[str, asyncio.Lock] = {}

    async def key(self, url: str, fetch: Fetch, now: float) -> RSAPublicKey:
        """Raises Forged, Unverified."""
        if not is_amazon(url, self._region) or not _is_certificate(url):
            raise Forged("a certificate from elsewhere")
        if url not in self._keys:
            await self._once(url, fetch, now)
        return self._keys[url]

    async def _once(self, url: str, fetch: Fetch, now: float) -> None:
        """Who comes while it is fetched waits for it."""
        if url not in self._fetching and len(self._fetching) >= AT_ONCE:
            raise Unverified("other certificates are being fetched")
        lock = self._fetching.setdefault(url, asyncio.Lock())
        try:
            async with lock:
                if url not in self._keys:
                    await self._fetch(url, fetch, now)
        finally:
            if self._fetching.get(url) is lock and not lock.locked():
                del self._fetching[url]

    async def _fetch(self, url: str, fetch: Fetch, now: float) -> None:
        if 0 <= self._failed.get(url, 0.0) - now <= FAILED_S:
            raise Unverified("this certificate could not be had a moment ago")
        try:
            key = _key_of(await fetched(url, fetch))
        except Unverified:
            _keep(self._failed, url, now + FAILED_S, MAX_FAILED)
            raise
        self._failed.pop(url, None)
        _keep(self._keys, url, key, MAX_CERTIFICATES)


def _is_certificate(url: str) -> bool:
    parts = urlsplit(url)
    return bool(_CERTIFICATE.fullmatch(parts.path)) and url.endswith(parts.path)  # no query, no fragment


def _keep(values: dict[str, T], name: str, value: T, most: int) -> None:
    values.pop(name, None)
    while len(values) >= most:
        del values[next(iter(values))]
    values[name] = value


async def fetched(url: str, fetch: Fetch) -> bytes:
    """Raises Unverified."""
    try:
        return await fetch(url)
    except OSError as error:
        raise Unverified(str(error)) from error


def _key_of(pem: bytes) -> RSAPublicKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import load_pem_x509_certificate

    try:
        key = load_pem_x509_certificate(pem).public_key()
    except Exception as error:  # it raises several kinds
        raise Unverified("what was fetched is no certificate") from error
    if not isinstance(key, RSAPublicKey):
        raise Unverified("what was fetched is no certificate of SNS")
    return key


async def check_signed(message: dict[str, Any], call: Call, certificates: Certificates, fetch: Fetch) -> None:
    """Raises Forged, Unverified."""
    version = text_at(message, "/SignatureVersion")
    if version not in ("1", "2"):
        raise Forged("not signed")
    key = await certificates.key(_string(message, "SigningCertURL"), fetch, call.now)
    content = "".join(
        f"{name}\n{message[name]}\n" for name in _SIGNED[message["Type"]] if message.get(name) is not None
    )
    check_rsa(key, _string(message, "Signature"), content.encode(), sha1=version == "1")
    at = time_of(message.get("Timestamp"))
    if at is None or abs(call.now - at) > TOLERANCE_S:
        raise Forged("signed too long ago")


def _string(message: dict[str, Any], name: str) -> str:
    value = message.get(name)
    return value if isinstance(value, str) else ""


async def confirm(message: dict[str, Any], fetch: Fetch, *, ours: Callable[[str], bool]) -> None:
    """Visit the address that says that we want this topic. Raises Forged, Unverified."""
    url = _string(message, "SubscribeURL")
    if not ours(url):
        raise Forged("a confirmation that leads elsewhere")
    await fetched(url, fetch)


def content_of(message: dict[str, Any]) -> dict[str, Any] | None:
    """What the message carries; None when it is no JSON object (SES says hello in plain words)."""
    found = json_of(_string(message, "Message").encode())
    return found if isinstance(found, dict) else None
