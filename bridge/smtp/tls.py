"""TLS contexts for listeners, and the self-signed certificate that is made when none is given."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

MINIMUM = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
MODERN = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!eNULL"
# Old scanners end at TLS 1.0 with SHA-1; OpenSSL 3 allows that at security level 0 only.
OLD = "DEFAULT:!aNULL:!eNULL:!RC4:!3DES:!PSK:!SRP@SECLEVEL=0"
MAKING_S = 60  # a slow machine short of entropy


class CertificateError(Exception):
    """A certificate or key that cannot be used; the text names the file and the reason."""


def make_context(
    cert_file: Path, key_file: Path | None, *, minimum: str, client_ca: Path | None = None
) -> ssl.SSLContext:
    """A server context; with `client_ca` it asks for a certificate of one of these authorities, but goes on without one.

    Raises CertificateError naming the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(MODERN if minimum in {"1.2", "1.3"} else OLD)
    context.minimum_version = MINIMUM[minimum]
    for path in (cert_file, *([key_file] if key_file else [])):
        _check_readable(path)
    try:
        # A key behind a pass phrase must not make the daemon ask on a terminal.
        context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise CertificateError(
            f"{cert_file}, {key_file or cert_file}: {reason or 'not a certificate and its key'}"
        ) from error
    if client_ca:
        trust_clients(context, client_ca)
    return context


def trust_clients(context: ssl.SSLContext, client_ca: Path) -> None:
    """Raises CertificateError naming the file."""
    _check_readable(client_ca)
    try:
        context.load_verify_locations(client_ca)
    except (ssl.SSLError, OSError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise CertificateError(f"{client_ca}: {reason or 'no certificates of authorities'}") from error
    context.verify_mode = ssl.CERT_OPTIONAL


def _check_readable(path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from error


def handshake_fault(error: OSError) -> str:
    """For the log: `certificate has expired`, `UNSUPPORTED_PROTOCOL`, `TimeoutError`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    return reason or type(error).__name__


def self_signed(directory: Path, hostname: str) -> tuple[Path, Path]:
    """(certificate, key) kept in `directory`, made at first use. Raises CertificateError when it cannot be written.

    The key is written with mode 0600, and before the certificate, so that a half-made pair is made again.
    """
    cert, key = directory / "self-signed.crt", directory / "self-signed.key"
    if cert.exists() and key.exists():
        return cert, key
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        # A process of its own: what makes a certificate is never needed again, and would cost the daemon 10 MiB for ever.
        command = (sys.executable, "-m", "bridge.smtp.certificate", str(cert), str(key), hostname)
        subprocess.run(command, check=True, capture_output=True, timeout=MAKING_S)  # noqa: S603 our own program
    except OSError as error:
        raise CertificateError(f"{directory}: {error.strerror}") from error
    except subprocess.SubprocessError as error:
        raise CertificateError(
            f"{directory}: a self-signed certificate could not be made: {_last_line(error)}"
        ) from error
    return cert, key


def _last_line(error: subprocess.SubprocessError) -> str:
    said = getattr(error, "stderr", None) or b""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else type(error).__name__
