"""Certificates of a cluster: one authority, a leaf for each component, renewed at every start.

Keys are elliptic (P-256), files have mode 0600. A leaf is made anew when it is missing, when its
names changed, or when less than a third of its life is left.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from local_cluster.layout import private_dir, write_private

_AUTHORITY_LIFE = datetime.timedelta(days=3650)
_LEAF_LIFE = datetime.timedelta(days=365)
# A host whose clock is set back a little must not refuse a fresh certificate.
_BACKDATE = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class KeyPair:
    """Paths of a certificate and its private key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority whose files lie in one folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = private_dir(folder)
        self.pair = KeyPair(folder / f"{name}.crt", folder / f"{name}.key")
        if not (self.pair.key.exists() and self.pair.certificate.exists()):
            self._create(name)
        self._certificate = x509.load_pem_x509_certificate(self.pair.certificate.read_bytes())
        key = serialization.load_pem_private_key(self.pair.key.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - written below
        self._key = key

    def issue(
        self,
        name: str,
        common_name: str,
        *,
        organization: str = "",
        hosts: Sequence[str] = (),
    ) -> KeyPair:
        """A leaf for clients, and for servers too where `hosts` (addresses or names) are given."""
        pair = KeyPair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        subject = _subject(common_name, organization)
        if self._is_current(pair, subject, hosts):
            return pair
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (
            _builder(subject, self._certificate.subject, _LEAF_LIFE)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(_alternative_names(hosts)), critical=False
            )
        write_private(pair.key, _pem(key))
        certificate = builder.sign(self._key, hashes.SHA256())
        write_private(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return pair

    def _is_current(self, pair: KeyPair, subject: x509.Name, hosts: Sequence[str]) -> bool:
        if not (pair.key.exists() and pair.certificate.exists()):
            return False
        certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        try:
            names = list(
                certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            )
        except x509.ExtensionNotFound:
            names = []
        return (
            left > _LEAF_LIFE / 3
            and certificate.subject == subject
            and certificate.issuer == self._certificate.subject
            and set(_alternative_names(hosts)) == set(names)
        )

    def _create(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(f"local-cluster-{name}", "")
        certificate = (
            _builder(subject, subject, _AUTHORITY_LIFE)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_AUTHORITY_USAGE, critical=True)
            .sign(key, hashes.SHA256())
        )
        write_private(self.pair.key, _pem(key))
        write_private(self.pair.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def signing_keys(folder: Path) -> KeyPair:
    """The pair that signs ServiceAccount tokens; the "certificate" is the bare public key.

    Never renewed: that would invalidate every token in use.
    """
    pair = KeyPair(private_dir(folder) / "sa.pub", folder / "sa.key")
    if not (pair.key.exists() and pair.certificate.exists()):
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(pair.key, _pem(key))
        write_private(
            pair.certificate,
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
        )
    return pair


_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _builder(
    subject: x509.Name, issuer: x509.Name, life: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + life)
    )


def _subject(common_name: str, organization: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
