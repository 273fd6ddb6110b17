"""Amazon's Simple Notification Service, which carries the events of SES.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bridge.providers.answers import json_of
from bridge.providers.events.base import Call, Fetch, Forged, Malformed, Unverified, json_body, text_at, time_of
from bridge.providers.events.signatures import check_rsa

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

TOLERANCE_S = 3600.0  # the time is that of the publishing, and what fails is sent again for an hour
_TOPIC = re.compile(r"arn:aws[a-z-]{0,20}:sns:([a-z0-9-]{5,30}):[0-9]{12}:[A-Za-z0-9_.-]{1,256}")
_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
MAX_CERTIFICATES = 16


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
    """The keys by the addresses of their certificates, each fetched once."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._keys: dict[str, RSAPublicKey] = {}

    async def key(self, url: str, fetch: Fetch) -> RSAPublicKey:
        """Raises Forged, Unverified."""
        if not is_amazon(url, self._region) or not urlsplit(url).path.endswith(".pem"):
            raise Forged("a certificate from elsewhere")
        if url not in self._keys:
            key = _key_of(await fetched(url, fetch))
            while len(self._keys) >= MAX_CERTIFICATES:
                del self._keys[next(iter(self._keys))]
            self._keys[url] = key
        return self._keys[url]


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
    key = await certificates.key(_string(message, "SigningCertURL"), fetch)
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
