"""Whatever strangers put into files: no error, no hang."""

import base64
import gzip
import io
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildvm_nb.hints import ScanLimits, scan_tree

DATA = Path(__file__).parent / "data"
MIB = 2**20
FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
LIMITS = ScanLimits(member_bytes=4096, total_bytes=MIB, depth=3, per_file=20)
WORDS = [
    b"-----BEGIN CERTIFICATE-----\n",
    b"-----END CERTIFICATE-----",
    b"-----BEGIN PGP SIGNATURE-----",
    b"-----END PGP SIGNATURE-----",
    b"MIIDazCCAl",
    b"eyJhbGciOiJub25lIn0.eyJ",
    b".",
    b"\0",
    b"\n",
    b"ssh-rsa-cert-v01@openssh.com AAAA",
    b"0x30, 0x82, ",
    b"\x30\x82",
    b"\x02\x01\x03",
    b"PK\x03\x04",
    b"\x1f\x8b\x08\x00",
    b"BZh9",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",
    b"!<arch>\n",
    b"ustar\x0000",
    b"2025-01-01",
    b" exp 1893456000",
    b"date(2025, 1, 1",
    b"\x99\x01\x0d\x04",
    b"KBXf",
    b"-march=",
]


@settings(max_examples=150, deadline=2000, suppress_health_check=FIXTURES)
@given(st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=40)), max_size=40))
def test_bytes_of_any_kind_raise_nothing(scan, parts):
    scan(b"".join(parts), "data.tar", limits=LIMITS)


@pytest.fixture(scope="session")
def valid(material):
    """One valid file of each kind."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.txt", "2025-01-01")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(DATA / "rsa.asc", "rsa.asc")
    store = pkcs12.serialize_key_and_certificates(
        b"n", material.key, material.certificate, None, BestAvailableEncryption(b"test")
    )
    return {
        "pem": material.pem.encode(),
        "der": material.der,
        "crl": material.crl,
        "p12": store,
        "bare": base64.b64encode(material.der),
        "key.asc": (DATA / "version6.asc").read_bytes(),
        "kbx": base64.b64decode((DATA / "keybox.base64").read_text()),
        "zip": stream.getvalue(),
        "tar": packed.getvalue(),
        "tar.gz": gzip.compress(packed.getvalue()),
    }


@settings(max_examples=250, deadline=4000, suppress_health_check=FIXTURES)
@given(st.data())
def test_valid_files_with_some_bytes_changed_raise_nothing(scan, valid, data):
    name = data.draw(st.sampled_from(sorted(valid)))
    changed = bytearray(valid[name])
    for at in data.draw(st.lists(st.integers(0, len(changed) - 1), min_size=1, max_size=5)):
        changed[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(changed)))
    cut = data.draw(st.booleans())
    scan(bytes(changed[:end] if cut else changed), f"a.{name}", limits=LIMITS)


LOOPS = {
    "begins": b"-----BEGIN CERTIFICATE-----\n",
    "empty armour": b"-----BEGIN CERTIFICATE-----\nMIICCCCC\n-----END CERTIFICATE-----\n",
    "der": b"\x30\x82",
    "der of a length": b"0\x82\x00\x100\x82\x00\x08",
    "base64": b"MIIDazCC",
    "base64 of pem": b"LS0tLS1CRUdJTi",
    "hex": b"0x30, 0x82, ",
    "hex text": b"\\x30\\x82",
    "token": b"eyJ",
    "tokens": b"eyJaaaaa.eyJbb.c ",
    "ssh": b"ssh-rsa-cert-v01@openssh.com AAAA",
    "years": b"2024 ",
    "dates": b"2024-01-01\n",
    "epochs": b"exp 1700000000 1800000000 ",
    "one line": b"date(2024,1,1);",
    "flags": b"-march=",
    "backslashes": b"\\",
    "keybox": b"\x00\x00\x00\x10\x02\x00\x00\x00KBXf\xff\xff\xff\xff",
    "packets": b"\x88\x0a\x04\x00\x01\x08\x00\x00\x00\x00ab",
    "zeros": b"\0",
    "spaces": b" ",
    "digits": b"1",
}


@pytest.mark.parametrize("name", LOOPS)
def test_the_same_again_and_again_takes_time_in_proportion(name, scan):
    unit = LOOPS[name]
    times = []
    for size in (MIB // 32, MIB // 8):
        data = b"-----BEGIN PGP SIGNATURE-----\n" + unit * (size // len(unit))
        start = time.perf_counter()
        scan(data + b"\n-----END PGP SIGNATURE-----", "a.txt")
        times.append(time.perf_counter() - start)
    assert times[1] < 5
    assert (
        times[1] < 12 * times[0] + 0.5
    )  # four times as long, and no more than twice that for noise


def test_an_archive_member_without_a_name_is_no_trouble(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("x", b"x")
        packed.filelist[0].filename = packed.filelist[0].orig_filename = ""
    assert list(scan_tree(tmp_path)) == []
