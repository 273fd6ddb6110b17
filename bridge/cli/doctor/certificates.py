"""TLS: the daemon's certificate, one with an RSA key for devices that cannot use that, and what the daemon takes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bridge.cli.doctor.hello import Hello, parse_client_hello
from bridge.config.settings import Settings
from bridge.smtp.tls import CertificateError, make_context, self_signed

_HANDSHAKE, _ALERT = 22, 21  # RFC 8446 5.1: content types


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """(certificate, key or None) of each. `ciphers`, `old_ciphers` and `key` as in `Setup`."""

    daemons: tuple[Path, Path | None]
    rsa: tuple[Path, Path] | None = None
    key: Literal["rsa", "ecdsa", ""] = ""
    ciphers: dict[int, str] = field(default_factory=dict)
    old_ciphers: dict[int, str] = field(default_factory=dict)


class Watch:
    """What passes in a handshake. `__call__`: (hello, the alert of the device, ours)."""

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.alerts = {"read": "", "write": ""}

    def __call__(self) -> tuple[Hello | None, str, str]:
        return self.hello, self.alerts["read"], self.alerts["write"]

    def message(self, conn: Any, direction: str, version: Any, content: Any, kind: Any, data: bytes) -> None:
        if content == _HANDSHAKE and direction == "read" and self.hello is None:
            self.hello = parse_client_hello(data)
        elif content == _ALERT:
            name = str(getattr(kind, "name", kind))
            if name not in ("CLOSE_NOTIFY", "USER_CANCELLED"):
                self.alerts[direction] = name


def lenient_context(certificates: Certificates) -> tuple[ssl.SSLContext, Watch]:
    """Takes whatever OpenSSL still can. Raises CertificateError."""
    context = make_context(*certificates.daemons, minimum="1.0")
    if certificates.rsa:
        context.load_cert_chain(*certificates.rsa)
    watch = Watch()
    # CPython's own tests and `http.client` debugging use it; without it only the reasons of failures are not known.
    context._msg_callback = watch.message  # type: ignore[attr-defined]
    return context, watch


def prepare(settings: Settings, minimum: str, directory: Path) -> Certificates:
    """`directory`: for what has to be made. The daemon's state directory is left alone. Blocking; raises CertificateError."""
    daemons = _daemons(settings, directory)
    key = _kind_of_key(daemons[0])
    return Certificates(
        daemons=daemons,
        rsa=None if key == "rsa" else _make_rsa(directory, settings.hostname),
        key=key,
        ciphers=_ciphers(make_context(*daemons, minimum=minimum)),
        old_ciphers=_ciphers(make_context(*daemons, minimum="1.0")),
    )


def _daemons(settings: Settings, directory: Path) -> tuple[Path, Path | None]:
    tls = settings.tls
    if tls.cert_file:
        return Path(tls.cert_file), Path(tls.key_file) if tls.key_file else None
    own = settings.state_directory / "self-signed.crt", settings.state_directory / "self-signed.key"
    try:
        make_context(*own, minimum="1.2")
    except (CertificateError, OSError):  # there is none yet, or it is the daemon's user's
        return self_signed(directory, settings.hostname)
    return own


def _ciphers(context: ssl.SSLContext) -> dict[int, str]:
    owners: dict[str, str] = {"auth-rsa": "rsa", "auth-ecdsa": "ecdsa", "auth-any": "any"}
    found: list[Any] = context.get_ciphers()
    return {each["id"] & 0xFFFF: owners.get(str(each.get("auth")), "other") for each in found}


def _kind_of_key(path: Path) -> Literal["rsa", "ecdsa", ""]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
    except (ValueError, OSError):
        return ""
    return "rsa" if isinstance(key, rsa.RSAPublicKey) else "ecdsa" if isinstance(key, ec.EllipticCurvePublicKey) else ""


def _make_rsa(directory: Path, hostname: str) -> tuple[Path, Path]:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hostname[:64])])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    ).sign(key, hashes.SHA256())
    paths = directory / "rsa.crt", directory / "rsa.key"
    _write_private(
        paths[1],
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return paths


def _write_private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
