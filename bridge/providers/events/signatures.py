"""The ways in which providers sign, each compared in constant time. Everything raises Forged."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from bridge.providers.events.base import Call, Forged

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey


def same(given: str | bytes, wanted: str | bytes) -> bool:
    """In a time that says nothing about where they differ."""
    return hmac.compare_digest(_octets(given), _octets(wanted))


def _octets(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def check_fresh(stamp: str, call: Call, tolerance: float) -> None:
    """`stamp`: seconds since the epoch; the clocks may differ, so it may as well lie ahead."""
    if not re.fullmatch(r"[0-9]{9,11}", stamp):
        raise Forged("no time that could be signed")
    if abs(call.now - int(stamp)) > tolerance:
        raise Forged("signed too long ago")


def check_hex(given: str, key: str, content: bytes) -> None:
    """HMAC-SHA256 in hexadecimal."""
    if not same(given.lower(), hmac.new(key.encode(), content, hashlib.sha256).hexdigest()):
        raise Forged("another signature")


def check_standard(call: Call, key: bytes, tolerance: float, prefix: str = "webhook") -> str:
    """Standard Webhooks, and Svix, where the headers are named otherwise; returns the message's id.

    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#webhook-headers-sending-metadata-to-consumers
    """
    message_id, stamp = call.header(f"{prefix}-id"), call.header(f"{prefix}-timestamp")
    if not message_id:
        raise Forged("not signed")
    content = b".".join((message_id.encode(), stamp.encode(), call.body))
    wanted = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    found = [version == "v1" and same(signature, wanted) for version, signature in _signatures(call, prefix)]
    if not any(found):
        raise Forged("another signature")
    check_fresh(stamp, call, tolerance)
    return message_id


def _signatures(call: Call, prefix: str) -> list[tuple[str, str]]:
    """Several, while a secret is being changed for another."""
    words = call.header(f"{prefix}-signature").split()[:20]
    return [(version, signature) for version, _, signature in (word.partition(",") for word in words)]


def standard_key(secret: str) -> bytes:
    """`whsec_` and base64. Raises ValueError."""
    key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    if not key:
        raise ValueError("no key")
    return key


def check_shared(call: Call, secret: str) -> None:
    """For who signs nothing: the secret in the address (`?secret=`), as the password of a login, or in a header."""
    given = [call.query.get("secret", ""), call.header("x-webhook-secret"), _password(call), _bearer(call)]
    if not any(same(one, secret) for one in given if one):
        raise Forged("another secret" if any(given) else "no secret")


def _bearer(call: Call) -> str:
    scheme, _, token = call.header("authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _password(call: Call) -> str:
    """Of basic authentication (RFC 7617), whatever the user is called."""
    scheme, _, encoded = call.header("authorization").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


# --- public keys


def public_key(text: str) -> EllipticCurvePublicKey | RSAPublicKey:
    """From base64 of its DER form (SubjectPublicKeyInfo), with or without the lines of PEM around it. Raises ValueError."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    bare = re.sub(r"-----[A-Z ]+-----|\s", "", text)
    try:
        key = load_der_public_key(base64.b64decode(bare, validate=True))
    except Exception as error:  # it raises several kinds, of which UnsupportedAlgorithm is no ValueError
        raise ValueError("not a public key in base64") from error
    if not isinstance(key, EllipticCurvePublicKey | RSAPublicKey):
        raise ValueError("neither an EC nor an RSA key")
    return key


def check_ecdsa(key: EllipticCurvePublicKey, signature: str, content: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key.verify(from_base64(signature), content, ECDSA(SHA256()))
    except InvalidSignature:
        raise Forged("another signature") from None


def check_rsa(key: RSAPublicKey, signature: str, content: bytes, *, sha1: bool = False) -> None:
    """PKCS #1 v1.5. SHA-1 where the provider signs with nothing else: what matters here is that nobody can make a second
    text for a signature, which for SHA-1 nobody can."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA1, SHA256

    try:
        key.verify(from_base64(signature), content, PKCS1v15(), SHA1() if sha1 else SHA256())  # noqa: S303 see above
    except InvalidSignature:
        raise Forged("another signature") from None


def from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Forged("the signature is no base64") from None
