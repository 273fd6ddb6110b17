"""A certificate authority for tests: certificates that are right, and certificates that are wrong in one way."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.smtp.raw import trusting

PEM = serialization.Encoding.PEM
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """`ca_file`: its own certificate. `issue` writes a certificate and its key into one file."""

    def __init__(self, directory: Path, name: str = "Test CA") -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        certificate = _builder(self._name, self._name, self._key, NOW + DAY).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(PEM))

    def issue(
        self,
        common: str,
        *sans: x509.GeneralName,
        until: datetime.datetime = NOW + DAY,
        file: str = "",
        with_rsa: bool = False,
    ) -> Path:
        key = rsa.generate_private_key(65537, 2048) if with_rsa else ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(common), self._name, key, until)
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        path = self._directory / (file or f"{len(list(self._directory.iterdir()))}.pem")
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(private + builder.sign(self._key, hashes.SHA256()).public_bytes(PEM))
        return path


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, until: datetime.datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(min(NOW, until) - DAY)
        .not_valid_after(until)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)] if common else [])


def showing(certificate: Path) -> ssl.SSLContext:
    """A client's context that shows this certificate when it is asked for one."""
    context = trusting()
    context.load_cert_chain(certificate)
    return context
