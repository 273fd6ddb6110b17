"""The providers' side: webhooks signed with real keys, as each of them does it."""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from bridge.providers.events.base import Call, HookSettings

NOW = 1_800_000_000.0
SECRET = "a-secret-of-the-webhook"
WHSEC = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
AHA = "aha-whsec-0123456789abcdef"  # the key itself
TOPIC = "arn:aws:sns:eu-west-1:123456789012:mail-events"
CERTIFICATE = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem"
SUBSCRIBE = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=t"
URL = "https://bridge.example.com/webhooks/main"


@functools.cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def public(key: Any) -> str:
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


@functools.cache
def certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sns.amazonaws.com")])
    start = datetime.datetime.fromtimestamp(NOW - 86400, datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(rsa_key().public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=365))
        .sign(rsa_key(), hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM)


def rsa_signature(content: bytes, algorithm: Any) -> str:
    return base64.b64encode(rsa_key().sign(content, padding.PKCS1v15(), algorithm)).decode()


def hmac_hex(content: bytes, key: str = SECRET) -> str:
    return hmac.new(key.encode(), content, hashlib.sha256).hexdigest()


SETTINGS: Mapping[str, HookSettings] = {
    "sendgrid": HookSettings(key=public(ec_key())),
    "postal": HookSettings(key=public(rsa_key())),
    "ses": HookSettings(topic=TOPIC),
    "resend": HookSettings(secret=WHSEC),
    "ahasend": HookSettings(secret=AHA),
    "mandrill": HookSettings(secret=SECRET, url=URL),
}


def settings(kind: str) -> HookSettings:
    return SETTINGS.get(kind, HookSettings(secret=SECRET))


# kind -> (the provider's event or events, now) -> headers and body
Signed = tuple[dict[str, str], bytes]


def sendgrid(told: Any, now: float) -> Signed:
    body, stamp = orjson.dumps(told), str(int(now))
    signature = ec_key().sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return {
        "x-twilio-email-event-webhook-signature": base64.b64encode(signature).decode(),
        "x-twilio-email-event-webhook-timestamp": stamp,
    }, body


def mailgun(told: Any, now: float, token: str = "") -> Signed:
    stamp = str(int(now))
    token = token or hashlib.sha256(orjson.dumps(told)).hexdigest()[:50]
    signature = {"timestamp": stamp, "token": token, "signature": hmac_hex(f"{stamp}{token}".encode())}
    return {}, orjson.dumps({"signature": signature, "event-data": told})


def standard(
    prefix: str, key: bytes = base64.b64decode(WHSEC.removeprefix("whsec_"))
) -> Callable[[Any, float], Signed]:
    def sign(told: Any, now: float) -> Signed:
        body, stamp = orjson.dumps(told), str(int(now))
        message_id = "msg_" + hashlib.sha256(body).hexdigest()[:20]
        content = f"{message_id}.{stamp}.".encode() + body
        digest = hmac.new(key, content, hashlib.sha256).digest()
        signature = f"v1,{base64.b64encode(bytes(32)).decode()} v1,{base64.b64encode(digest).decode()}"
        return {f"{prefix}-id": message_id, f"{prefix}-timestamp": stamp, f"{prefix}-signature": signature}, body

    return sign


def in_header(name: str) -> Callable[[Any, float], Signed]:
    def sign(told: Any, now: float) -> Signed:
        body = orjson.dumps(told)
        return {name: hmac_hex(body)}, body

    return sign


def lettermint(told: Any, now: float) -> Signed:
    body, stamp = orjson.dumps(told), str(int(now))
    return {"x-lettermint-signature": f"t={stamp},v1={hmac_hex(f'{stamp}.'.encode() + body)}"}, body


def mandrill(told: Any, now: float, url: str = URL) -> Signed:
    value = orjson.dumps(told).decode()
    digest = hmac.new(SECRET.encode(), f"{url}mandrill_events{value}".encode(), hashlib.sha1).digest()
    headers = {
        "x-mandrill-signature": base64.b64encode(digest).decode(),
        "content-type": "application/x-www-form-urlencoded",
    }
    return headers, urlencode({"mandrill_events": value}).encode()


def postal(told: Any, now: float, *, sha1: bool = False) -> Signed:
    body = orjson.dumps(told)
    if sha1:
        return {"x-postal-signature": rsa_signature(body, hashes.SHA1())}, body
    return {"x-postal-signature-256": rsa_signature(body, hashes.SHA256()), "x-postal-signature-kid": "1"}, body


def iso(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def sns(told: Any, now: float, *, version: str = "2", **more: str) -> Signed:
    message = {
        "Type": "Notification",
        "MessageId": hashlib.sha256(orjson.dumps(told)).hexdigest()[:32],
        "TopicArn": TOPIC,
        "Message": orjson.dumps(told).decode(),
        "Timestamp": iso(now),
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE,
        **more,
    }
    names = ("Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
    content = "".join(f"{name}\n{message[name]}\n" for name in names if name in message)
    message["Signature"] = rsa_signature(content.encode(), hashes.SHA1() if version == "1" else hashes.SHA256())
    return {"x-amz-sns-message-type": message["Type"]}, orjson.dumps(message)


def confirmation(now: float, *, topic: str = TOPIC, url: str = SUBSCRIBE) -> Signed:
    return sns({}, now, Type="SubscriptionConfirmation", SubscribeURL=url, Token="t", TopicArn=topic)


def scaleway(told: Any, now: float) -> Signed:
    message = {"Type": "Notification", "MessageId": "m1", "Message": orjson.dumps(told).decode()}
    return {"x-webhook-secret": SECRET}, orjson.dumps(message)


def zeptomail(told: Any, now: float, *, form: bool = True) -> Signed:
    value = orjson.dumps(told)
    digest = base64.b64encode(hmac.new(SECRET.encode(), value, hashlib.sha256).digest()).decode()
    headers = {"producer-signature": f"ts={int(now * 1000)};s={quote(digest, safe='')};s-algorithm=HmacSHA256"}
    if not form:
        return headers, value
    return {**headers, "content-type": "application/x-www-form-urlencoded"}, urlencode({"data": value}).encode()


def shared(told: Any, now: float) -> Signed:
    return {"x-webhook-secret": SECRET}, orjson.dumps(told)


SIGN: Mapping[str, Callable[[Any, float], Signed]] = {
    "sendgrid": sendgrid,
    "mailgun": mailgun,
    "resend": standard("svix"),
    "ahasend": standard("webhook", AHA.encode()),
    "mailersend": in_header("signature"),
    "mailtrap": in_header("mailtrap-signature"),
    "lettermint": lettermint,
    "mandrill": mandrill,
    "postal": postal,
    "ses": sns,
    "scaleway": scaleway,
}


def sign(kind: str, told: Any, now: float = NOW) -> Signed:
    return SIGN.get(kind, shared)(told, now)


def call(kind: str, told: Any, *, now: float = NOW, signed_at: float | None = None) -> Call:
    headers, body = sign(kind, told, now if signed_at is None else signed_at)
    return Call(headers=headers, body=body, now=now, url="http://127.0.0.1:1/elsewhere")
