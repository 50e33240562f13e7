"""OpenPGP keys and signatures, against material that GnuPG 2.2 and Sequoia have made.

The keys in data/ were made with ``gpg --faked-system-time`` (and version6.asc with Sequoia 2) for
nothing but these tests; what is expected is what ``gpg --list-packets`` tells of them.
"""

import base64
from contextlib import suppress
from pathlib import Path

import pytest

from buildvm_nb.hints.openpgp import find_keys, looks_like_openpgp
from buildvm_nb.hints.scan import find_armour

DATA = Path(__file__).parent / "data"
KEY, SUBKEY = "OpenPGP key f7f0d93b0dbfc011", "OpenPGP subkey e17b2363085deeb5"
OWNER = "of Test User <test@example.org>"
ED25519 = [
    ("openpgp-key-begins", "2021-03-30T13:10:24Z", f"{KEY} begins"),
    ("openpgp-key-ends", "2023-03-30T13:10:24Z", f"{KEY} {OWNER} ends"),
    ("openpgp-key-begins", "2021-03-30T13:10:25Z", f"{SUBKEY} begins"),
    ("openpgp-key-ends", "2022-03-30T13:10:25Z", f"{SUBKEY} {OWNER} ends"),
]


def told(found):
    rows = zip(found.rows, found.hints, strict=True)
    return [(row[2], row[3], hint.why) for row, hint in rows]


def binary(name):
    (blob,) = find_armour((DATA / name).read_bytes(), lambda *_: None)
    return blob.data


@pytest.mark.parametrize("name", ["ed25519.asc", "ed25519-secret.asc"])
def test_keys_and_subkeys_begin_and_end(name, scan):
    assert told(scan(DATA / name)) == ED25519


def test_armour_is_read_inside_source_text_and_binary_keys_without(scan):
    text = (DATA / "ed25519.asc").read_text()
    assert told(scan(f'KEY = """\n{text}"""\n', "test_key.py")) == ED25519
    literals = "\n".join(f'    "{line}\\n"' for line in text.splitlines())
    assert told(scan(f"KEY = (\n{literals}\n)\n", "test_key.py")) == ED25519
    assert told(scan(binary("ed25519.asc"), "pubring.gpg")) == ED25519


@pytest.mark.parametrize(
    ("name", "key", "begins", "ends"),
    [
        ("rsa.asc", "5de2e5396b8e06f5", "2020-01-01T00:00:00Z", "2024-12-30T00:00:00Z"),
        ("dsa.asc", "ed98f1cd34c6fb13", "2020-01-01T00:00:00Z", "2022-12-31T00:00:00Z"),
        ("version6.asc", "06a07e858b613587", "2026-11-23T16:02:35Z", "2027-11-23T16:02:35Z"),
    ],
)
def test_keys_of_several_algorithms_and_versions_are_read(name, key, begins, ends, scan):
    found = told(scan(DATA / name))
    assert found[0] == ("openpgp-key-begins", begins, f"OpenPGP key {key} begins")
    assert found[1][:2] == ("openpgp-key-ends", ends)
    assert f"OpenPGP key {key}" in found[1][2]
    subkeys = {row[2].split()[2] for row in found[2:]}
    assert subkeys == ({"153e98340b73800d", "f35d0cd0f24bba4e"} if "6" in name else set())


def test_signatures_begin_and_end(scan):
    by = "OpenPGP signature by f7f0d93b0dbfc011"
    expected = [
        ("openpgp-signature-begins", "2021-04-01T00:00:00Z", f"{by} begins"),
        ("openpgp-signature-ends", "2021-05-01T00:00:00Z", f"{by} ends"),
    ]
    assert told(scan(DATA / "signature.asc")) == expected
    assert told(scan(binary("signature.asc"), "a.sig")) == expected


def test_the_keys_in_a_keybox_of_gnupg_are_read(scan):
    keybox = base64.b64decode((DATA / "keybox.base64").read_text())
    found = told(scan(keybox, "pubring.kbx"))
    assert found[:4] == ED25519
    assert len(found) == 8


def test_a_key_ends_as_its_owner_says_and_nobody_else():
    own, other = binary("ed25519.asc"), binary("rsa.asc")
    signature = own[own.index(b"\xb4") :]  # the user id and what follows it
    ends = [f.why for f in find_keys(other + signature) if f.kind == "openpgp-key-ends"]
    assert ends == ["OpenPGP key 5de2e5396b8e06f5 of RSA <rsa@example.org> ends"] + [
        why for why in ends[1:] if "e17b2363085deeb5" in why
    ]


def packet(tag, body):
    """A packet with a length of the new format in two parts."""
    head, rest = body[:4], body[4:]
    return bytes([0xC0 | tag, 0xE0 | 2]) + head + bytes([len(rest)]) + rest


def test_a_key_of_version_3_ends_after_days():
    body = bytes([3]) + (10**9).to_bytes(4) + (30).to_bytes(2) + b"\x01\x00\x40" + b"12345678\0\2\3"
    begins, ends = find_keys(packet(6, body))
    assert begins.why == "OpenPGP key 3132333435363738 begins"
    assert (ends.instant - begins.instant).days == 30


def test_a_signature_of_version_3_is_read():
    body = b"\x03\x05\x00" + (10**9).to_bytes(4) + b"\1\2\3\4\5\6\7\x08\x01\x02ab\0\2\3"
    assert looks_like_openpgp(packet(2, body))
    (found,) = find_keys(packet(2, body))
    assert found.why == "OpenPGP signature by 0102030405060708 begins"
    assert found.instant.year == 2001


@pytest.mark.parametrize("name", ["ed25519.asc", "ed25519-secret.asc", "rsa.asc", "version6.asc"])
def test_whatever_is_cut_off_or_changed_is_an_error_or_data(name):
    data = binary(name)
    for size in range(len(data)):
        changed = data[:size] + bytes([data[size] ^ 0xFF]) + data[size + 1 :]
        for odd in (data[:size], changed):
            looks_like_openpgp(odd)
            with suppress(ValueError):
                list(find_keys(odd))


def test_a_keybox_that_names_itself_as_its_content_ends():
    blob = (16).to_bytes(4) + b"\x02\0\0\0KBXf" + (2**32 - 1).to_bytes(4)
    with pytest.raises(ValueError, match="OpenPGP"):
        list(find_keys(blob * 100 + b"\0" * 16))


def test_damage_is_reported_after_what_could_be_read(scan):
    data = binary("ed25519.asc")
    found = scan(data + b"\0garbage", "pubring.gpg")
    assert told(found) == ED25519
    assert found.left_out == [("pubring.gpg", "OpenPGP: no packet header")]
