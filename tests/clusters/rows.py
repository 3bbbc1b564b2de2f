"""Rows and key pairs that the tests of the inventory begin with."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from clusters.inventory import save_record
from clusters.models import Cluster

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
CANARY = "canary-4f1c9d2e-never-to-be-seen"


def add_cluster(**values):
    """An own cluster on loopback that nobody serves, saved."""
    cluster = Cluster(
        **{
            "name": "metal",
            "endpoint": "http://127.0.0.1:9",
            "allow_private_network": True,
            "cost_per_hour_nanousd": 92_800_000,
            **({"billing": "metered"} if values.get("kind") == "provider" else {}),
            **values,
        }
    )
    save_record(record=cluster)
    return cluster


def certificate_and_key(*, name="client", now=NOW, days=365):
    """PEM texts of a self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return certificate.public_bytes(Encoding.PEM).decode(), key_pem
