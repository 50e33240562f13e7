"""Certificates, revocation lists and stores, in all the ways in which trees hold them."""

import base64
import hashlib
import json
import struct
import textwrap
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    SSHCertificateBuilder,
    SSHCertificateType,
    pkcs7,
    pkcs12,
)

from buildvm_nb.hints import ScanLimits

BEGINS, ENDS = "2018-11-28T15:28:58Z", "2021-11-27T15:28:58Z"
BOTH = [("certificate-begins", BEGINS), ("certificate-ends", ENDS)]
LISTS = [("crl-begins", BEGINS), ("crl-ends", ENDS)]


def kinds(found):
    return [row[2:] for row in found.rows]


def lines_of(found):
    return {row[1] for row in found.rows}


def wrapped(data, width=64):
    return textwrap.wrap(base64.b64encode(data).decode(), width)


def c_source(m):
    return "\n".join(["static char pem[] =", *(f'  "{line}\\n"' for line in m.pem.splitlines())])


def java_source(m):
    first, *rest = m.pem.splitlines()
    return f'String PEM = "{first}\\n"\n' + "\n".join(f'    + "{line}\\n"' for line in rest) + ";"


def python_source(m):
    return "PEM = (\n" + "\n".join(f"    b'{line}\\n'" for line in m.pem.splitlines()) + ")\n"


def comment(m):
    return "\n".join(f"// {line}" for line in m.pem.splitlines())


def patch(m):
    return "\n".join(["@@ -0,0 +1,9 @@", *(f"+{line}" for line in m.pem.splitlines())])


def yaml(m):
    return "ca: |\n" + textwrap.indent(m.pem, "    ")


WRITTEN = {
    "pem": lambda m: m.pem,
    "crlf": lambda m: m.pem.replace("\n", "\r\n"),
    "after text": lambda m: f"Certificate:\n    Data:\n{m.pem}",
    "json": lambda m: json.dumps({"ca": m.pem}),
    "escaped twice": lambda m: json.dumps({"a": json.dumps({"ca": m.pem})}),
    "yaml": yaml,
    "c": c_source,
    "java": java_source,
    "python": python_source,
    "raw": lambda m: f'PEM = """{m.pem}"""',
    "comment": comment,
    "patch": patch,
    "base64 of pem": lambda m: f"data: {base64.b64encode(m.pem.encode()).decode()}",
    "x5c": lambda m: json.dumps({"x5c": [base64.b64encode(m.der).decode()]}),
    "bare": lambda m: "\n".join(wrapped(m.der)),
    "bare literals": lambda m: "\n".join(f'    "{line}" +' for line in wrapped(m.der, 40)),
    "hex array": lambda m: ", ".join(f"0x{byte:02x}" for byte in m.der),
    "hex literal": lambda m: '"' + "".join(f"\\x{byte:02X}" for byte in m.der) + '"',
    "der": lambda m: m.der,
    "firmware": lambda m: b"\x7fELF" + bytes(1000) + m.der + bytes(999),
    "pem in a binary": lambda m: b"\x7fELF" + bytes(1000) + m.pem.encode() + bytes(9),
}


@pytest.mark.parametrize("form", WRITTEN)
def test_a_certificate_is_found_however_it_is_written(form, material, scan):
    found = scan(WRITTEN[form](material), "tests/data")
    assert kinds(found) == BOTH
    assert {hint.why.rpartition(" ")[0] for hint in found.hints} == {
        "certificate CN=Thunderous Bandit,O=" + "Org with a long name" * 3
    }
    assert found.left_out == []


def test_the_line_is_where_it_begins_and_binary_files_have_none(material, scan):
    assert lines_of(scan("one\ntwo\n" + material.pem)) == {3}
    assert lines_of(scan("one\ntwo\n" + c_source(material))) == {4}
    assert lines_of(scan("one\n\n\n" + "\n".join(wrapped(material.der)))) == {4}
    assert lines_of(scan(bytes(100) + material.der)) == {None}


def test_each_certificate_of_a_bundle_is_found_once(make, scan):
    bundle = [
        make(name, ends=datetime(2030, 1, day, tzinfo=UTC)) for day, name in enumerate("abc", 1)
    ]
    text = "".join(one.pem for one in (*bundle, bundle[0]))
    found = scan(text)
    ends = [hint for hint in found.hints if hint.kind == "certificate-ends"]
    assert [(hint.why[:16], hint.instant.day) for hint in ends] == [
        ("certificate CN=a", 1),
        ("certificate CN=b", 2),
        ("certificate CN=c", 3),
    ]


def test_revocation_lists_are_found(material, scan):
    assert kinds(scan(material.crl, "a.crl")) == LISTS
    assert kinds(scan(material.crl_pem)) == LISTS


def test_certificates_in_pkcs7_are_found(material, scan):
    for encoding in (Encoding.DER, Encoding.PEM):
        data = pkcs7.serialize_certificates([material.certificate], encoding)
        assert kinds(scan(data, "chain.p7b")) == BOTH


@pytest.mark.parametrize("password", [b"", b"changeit", b"secret", None])
def test_certificates_in_pkcs12_are_found_behind_the_usual_passwords(password, material, scan):
    cipher = BestAvailableEncryption(password) if password else NoEncryption()
    data = pkcs12.serialize_key_and_certificates(
        b"name", material.key, material.certificate, None, cipher
    )
    assert kinds(scan(data, "key.p12")) == BOTH
    assert kinds(scan("\n".join(wrapped(data)))) == BOTH


def test_pkcs12_behind_another_password_is_reported(material, scan):
    data = pkcs12.serialize_key_and_certificates(
        b"name", material.key, material.certificate, None, BestAvailableEncryption(b"Tr0ub4dor&3")
    )
    found = scan(data, "key.pfx")
    reason = "PKCS#12: damaged, or its password is none of the usual ones"
    assert (found.rows, found.left_out) == ([], [("key.pfx", reason)])
    found = scan(data, "key.pfx", limits=ScanLimits(key_rounds=10))
    assert found.left_out == [("key.pfx", "PKCS#12: all such files together take too long to try")]


def test_pkcs12_that_asks_for_too_many_rounds_is_reported_at_once(material, scan):
    data = pkcs12.serialize_key_and_certificates(
        b"name", material.key, material.certificate, None, BestAvailableEncryption(b"any")
    )
    rounds = b"\x02\x02" + (20_000).to_bytes(2)
    assert rounds in data
    hostile = data.replace(rounds, b"\x02\x04\x7f\xff\xff\xff")
    short = hostile[:2] + (int.from_bytes(hostile[2:4]) + 2 * data.count(rounds)).to_bytes(2)
    found = scan(short + hostile[4:], "key.p12")
    assert found.left_out == [("key.p12", "PKCS#12: its passwords take too long to try")]


@pytest.mark.parametrize("magic", [0xFEEDFEED, 0xCECECECE], ids=["JKS", "JCEKS"])
def test_certificates_in_java_key_stores_are_found(magic, material, scan):
    entry = struct.pack(">IH4sQH5sI", 2, 4, b"name", 0, 5, b"X.509", len(material.der))
    store = struct.pack(">III", magic, 2, 1) + entry + material.der
    store += hashlib.sha1(store).digest()
    assert kinds(scan(store, "trust.jks")) == BOTH


def test_an_odd_certificate_that_a_full_parser_refuses_still_ends(material, scan):
    odd = material.der.replace(b"\x02\x02\x12\x67", b"\x02\x02\x80\x00").replace(
        b"\x0c\x11Thunderous", b"\x13\x11Thunder\xffus"
    )
    assert odd != material.der
    found = scan(odd, "odd.der")
    assert kinds(found) == BOTH


def test_a_certificate_without_end_is_told_and_one_beyond_all_dates_is_not(make, scan):
    forever = make(ends=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert kinds(scan(forever.pem))[1] == ("certificate-ends", "9999-12-31T23:59:59Z")
    old = make(begins=datetime(1950, 1, 1, tzinfo=UTC))
    assert kinds(scan(old.pem)) == [("certificate-ends", ENDS)]


def test_cut_off_certificates_do_no_harm(material, scan):
    for size in range(0, len(material.der), 7):
        scan(material.der[:size], "cut.der")
    cut = material.pem[:400]
    assert kinds(scan(cut)) == BOTH  # the times come first
    assert kinds(scan(cut[:100])) == []
    assert kinds(scan(cut[:100] + "\n" + material.pem)) == BOTH


def test_armour_around_something_else_is_reported(material, scan):
    for body in ("", "bm8gY2VydGlmaWNhdGU=", "!"):
        found = scan(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n", "a.pem")
        assert (found.rows, found.left_out) == ([], [("a.pem", "not readable: CERTIFICATE")])


def test_words_about_armour_are_no_armour(scan):
    found = scan("if b'-----BEGIN CERTIFICATE-----' in data:\n    pass\n")
    assert (found.rows, found.left_out) == ([], [])


def test_private_keys_give_nothing(material, scan):
    from cryptography.hazmat.primitives.serialization import PrivateFormat

    pem = material.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    found = scan(pem)
    assert (found.rows, found.left_out) == ([], [])


# JSON Web Tokens and SSH certificates.

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
