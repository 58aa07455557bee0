"""An authority and a certificate, for servers that a benchmark or a test starts."""

import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Issued(NamedTuple):
    """Files in PEM."""

    authority: Path
    chain: Path
    key: Path


def issue(folder: Path, host: str = "localhost") -> Issued:
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issued = Issued(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")
    issued.authority.write_bytes(_certificate("authority", authority_key, authority_key, ca=True))
    issued.chain.write_bytes(_certificate(host, key, authority_key, ca=False))
    issued.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return issued


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, signed_by: ec.EllipticCurvePrivateKey, *, ca: bool
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(signed_by, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)
