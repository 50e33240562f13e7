"""JSON Web Tokens and SSH certificates."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    SSHCertificateBuilder,
    SSHCertificateType,
)

AT = 1638026938  # 2021-11-27T15:28:58Z


def part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def token(claims, header=None):
    return f"{part(header or {'alg': 'RS256', 'typ': 'JWT'})}.{part(claims)}.c2ln"


def test_a_tokens_times_are_found(scan):
    text = f'first\nTOKEN = "{token({"iat": AT, "nbf": AT + 1, "exp": AT + 3600.9, "sub": "x"})}"\n'
    found = scan(text)
    assert [row[1:] for row in found.rows] == [
        (2, "token-begins", "2021-11-27T15:28:58Z"),
        (2, "token-begins", "2021-11-27T15:28:59Z"),
        (2, "token-ends", "2021-11-27T16:28:58Z"),
    ]
    assert found.hints[2].why == "JSON Web Token (RS256) ends: exp"


@pytest.mark.parametrize(
    "text",
    [
        token({"exp": "tomorrow"}),
        token({"exp": True}),
        token({"exp": 1e300}),
        token({"exp": 10**30}),
        token({"exp": -1}),
        token({"exp": float("inf")}),
        token({"exp": AT}, header={"typ": "JWT"}),
        token([AT]),
        token({"exp": AT})[3:],
        "eyJ" + "A" * 5000 + ".eyJ" + "A" * 50000 + ".x",
        "eyJhbGciOiJub25lIn0.eyJ" + "W1tb" * 3000 + ".x",
    ],
)
def test_what_is_no_token_or_holds_no_time_gives_nothing(text, scan):
    assert scan(text).rows == []


def ssh_certificate(after, before):
    key = ed25519.Ed25519PrivateKey.generate()
    builder = SSHCertificateBuilder().public_key(key.public_key()).type(SSHCertificateType.HOST)
    builder = builder.serial(7).key_id(b"host key").valid_for_all_principals()
    return builder.valid_after(after).valid_before(before).sign(key).public_bytes().decode()


def test_an_ssh_certificate_begins_and_ends(scan):
    found = scan(f"# known\n{ssh_certificate(AT, AT + 60)} host@example\n", "id-cert.pub")
    assert [row[1:] for row in found.rows] == [
        (2, "ssh-certificate-begins", "2021-11-27T15:28:58Z"),
        (2, "ssh-certificate-ends", "2021-11-27T15:29:58Z"),
    ]
    assert found.hints[0].why == "SSH certificate 'host key' begins"


def test_an_ssh_certificate_for_ever_gives_nothing(scan):
    found = scan(ssh_certificate(0, 2**64 - 1))
    assert (found.rows, found.left_out) == ([], [])


def test_a_damaged_ssh_certificate_is_reported(scan):
    text = ssh_certificate(AT, AT + 60)
    found = scan(text[:-40], "id-cert.pub")
    reason = "SSH certificate: damaged, or of a kind that is not known"
    assert (found.rows, found.left_out) == ([], [("id-cert.pub", reason)])
