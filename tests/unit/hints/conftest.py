"""Material for the scanner: certificates and their like, made anew for each session."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from buildvm_nb.hints import scan_tree

BEGINS = datetime(2018, 11, 28, 15, 28, 58, tzinfo=UTC)
ENDS = datetime(2021, 11, 27, 15, 28, 58, tzinfo=UTC)


def make_material(name="Thunderous Bandit", begins=BEGINS, ends=ENDS):
    """Make a key, a certificate and a revocation list of one name."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Org with a long name" * 3),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(names)
        .issuer_name(names)
        .public_key(key.public_key())
        .serial_number(4711)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(names)
        .last_update(begins)
        .next_update(ends)
        .sign(key, hashes.SHA256())
    )
    return SimpleNamespace(
        key=key,
        certificate=certificate,
        der=certificate.public_bytes(Encoding.DER),
        pem=certificate.public_bytes(Encoding.PEM).decode(),
        crl=crl.public_bytes(Encoding.DER),
        crl_pem=crl.public_bytes(Encoding.PEM).decode(),
    )


@pytest.fixture(scope="session")
def material():
    """A key, a certificate of "Thunderous Bandit" and a revocation list."""
    return make_material()


@pytest.fixture(scope="session")
def make():
    """Makes more of it."""
    return make_material


@pytest.fixture
def scan(tmp_path):
    """Scan contents or a path: rows (path, line, kind, instant as text), and what was left out."""

    def run(what, name="file.txt", **options):
        if not isinstance(what, Path):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(what.encode() if isinstance(what, str) else what)
            what = tmp_path / name
        left_out = []
        options.setdefault("around", datetime(2024, 1, 1, tzinfo=UTC))
        hints = [*scan_tree(what, skipped=lambda *row: left_out.append(row), **options)]
        rows = [
            (h.path, h.line, h.kind.value, h.instant and f"{h.instant:%Y-%m-%dT%H:%M:%SZ}")
            for h in hints
        ]
        return SimpleNamespace(hints=hints, rows=rows, left_out=left_out)

    return run
