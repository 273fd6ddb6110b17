"""TLS contexts for listeners, and the self-signed certificate that is made when none is given."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from pathlib import Path

MINIMUM = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
MODERN = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!eNULL"
# Old scanners end at TLS 1.0 with SHA-1; OpenSSL 3 allows that at security level 0 only.
OLD = "DEFAULT:!aNULL:!eNULL:!RC4:!3DES@SECLEVEL=0"
VALID_DAYS = 3650


class CertificateError(Exception):
    """A certificate or key that cannot be used; the text names the file and the reason."""


def make_context(cert_file: Path, key_file: Path | None, *, minimum: str) -> ssl.SSLContext:
    """A server context. Raises CertificateError naming the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(MODERN if minimum in {"1.2", "1.3"} else OLD)
    context.minimum_version = MINIMUM[minimum]
    for path in (cert_file, *([key_file] if key_file else [])):
        try:
            path.read_bytes()
        except OSError as error:
            raise CertificateError(f"{path}: {error.strerror}") from error
    try:
        # A key behind a pass phrase must not make the daemon ask on a terminal.
        context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise CertificateError(
            f"{cert_file}, {key_file or cert_file}: {reason or 'not a certificate and its key'}"
        ) from error
    return context


def self_signed(directory: Path, hostname: str) -> tuple[Path, Path]:
    """(certificate, key) kept in `directory`, made at first use. Raises CertificateError when it cannot be written.

    The key is written with mode 0600, and before the certificate, so that a half-made pair is made again.
    """
    cert, key = directory / "self-signed.crt", directory / "self-signed.key"
    if cert.exists() and key.exists():
        return cert, key
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        key_pem, cert_pem = _make_pair(hostname)
        _write(key, key_pem, 0o600)
        _write(cert, cert_pem, 0o644)
    except OSError as error:
        raise CertificateError(f"{directory}: {error.strerror}") from error
    return cert, key


def _write(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    temporary.rename(path)


def _make_pair(hostname: str) -> tuple[bytes, bytes]:
    # Imported here: cryptography costs 10 MiB, and an installation with a certificate of its own never needs it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hostname[:64])])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    if hostname.isascii() and hostname != "localhost":
        names.append(x509.DNSName(hostname))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem, certificate.public_bytes(serialization.Encoding.PEM)
