"""Certificates, revocation lists, JSON Web Tokens and SSH certificates: when they begin and end.

JKS and JCEKS stores, PKCS#7 and firmware hold certificates as plain DER, so that looking for DER
finds them there; PKCS#12 files have to be decrypted first.

References
----------
RFC 5280; RFC 7292, 4 (PKCS#12); keytool(1), whose stores are made with the password ``changeit``.
"""

import binascii
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    SSHCertificate,
    load_ssh_public_identity,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from buildvm_nb.hints.found import Found, Report
from buildvm_nb.hints.text import to_instant
from buildvm_nb.model.finding import HintKind
from buildvm_nb.model.instants import EARLIEST, LATEST

__all__ = [
    "KeyRounds",
    "find_certificates",
    "find_ssh_certificates",
    "find_tokens",
    "read_element",
    "read_validity",
]

# Just enough of DER to find certificates and revocation lists in any bytes, and when they hold.
#
# A full parser refuses what it finds odd: a negative serial number, a string in the wrong alphabet.
# Such a certificate ends on its day all the same, so this looks at the shape, and at the times
# only.
#
# References: X.690, 8.1 (identifier and length octets), 11.7 and 11.8 (times); RFC 5280, 4.1 and
# 5.1.

_DER_INTEGER, _DER_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x02, 0x30, 0x17, 0x18, 0xA0
_TIMES = {_UTC_TIME, _GENERALIZED_TIME}
_LONG_FORM = 0x80
_MOST_LENGTH_BYTES = 4
_PIVOT = 50
_MOST_TRIES = 100_000
_LONGEST = 2**20
"""Of a certificate or list that is looked for inside other bytes."""
_START = re.compile(rb"0\x82[\x00-\xff]{2}0[\x81\x82]")
_TIME = re.compile(
    rb"(\d{2}|\d{4})(\d\d)(\d\d)(\d\d)(?:(\d\d)(\d\d)?)?(?:\.\d{1,9})?(Z|[+-]\d{4})?"
)


class Element(NamedTuple):
    """A tag, and where its contents are."""

    tag: int
    start: int
    end: int


class Validity(NamedTuple):
    """When something holds."""

    offset: int
    """Where it begins."""
    end: int
    """Where its bytes end, as they say themselves."""
    is_list: bool
    """Whether it is a revocation list."""
    begins: datetime | None
    """None: no instant can hold it."""
    ends: datetime | None


def read_element(data: bytes, at: int) -> Element:
    """Read tag and length at an offset.

    `data`: any bytes; the contents may reach beyond their end.
    """
    if at + 2 > len(data):
        raise ValueError("DER ends too early")
    tag, length, start = data[at], data[at + 1], at + 2
    if length & _LONG_FORM:
        count = length - _LONG_FORM
        if not 0 < count <= _MOST_LENGTH_BYTES or start + count > len(data):
            raise ValueError("DER has an odd length")
        length = int.from_bytes(data[start : start + count])
        start += count
    return Element(tag, start, start + length)


def children(data: bytes, parent: Element) -> Iterator[Element]:
    """Iterate over what a constructed element holds, as far as the data goes."""
    at, end = parent.start, min(parent.end, len(data))
    while at < end:
        element = read_element(data, at)
        yield element
        at = element.end


def read_validity(data: bytes, at: int = 0) -> Validity | None:
    """Read the times of a certificate or revocation list.

    `data`: any bytes; what comes after the times may be missing.
    Returns: None: neither of both begins there.
    """
    try:
        whole = _expect(read_element(data, at), _DER_SEQUENCE)
        parts = children(data, _expect(read_element(data, whole.start), _DER_SEQUENCE))
        part = next(parts)
        if part.tag == _VERSION:
            part = next(parts)
        if part.tag == _DER_INTEGER:
            part = next(parts)
        _expect(part, _DER_SEQUENCE)  # the algorithm
        _expect(next(parts), _DER_SEQUENCE)  # the issuer
        part = next(parts)
        is_list = part.tag in _TIMES
        times = (
            [part, next(parts, None)]
            if is_list
            else [*children(data, _expect(part, _DER_SEQUENCE))]
        )
        begins, ends = (_time(data, time) for time in times)
    except (ValueError, StopIteration):
        return None
    return Validity(at, whole.end, is_list, begins, ends)


def find_validities(data: bytes) -> Iterator[Validity]:
    """Find certificates and revocation lists anywhere in some bytes.

    `data`: a key store, a signed message, firmware: whatever holds them in the clear.
    Yields: in the order in which they lie there; none lies inside another.
    """
    first = read_validity(data)
    if first is not None:
        yield first
    at = first.end if first is not None else 0
    tries = 0
    while match := _START.search(data, at):
        found = read_validity(data, match.start())
        tries += found is None
        if tries > _MOST_TRIES:
            raise ValueError("too much in it looks like certificates; the rest is left out")
        if found is not None and found.end - found.offset < _LONGEST:
            yield found
        at = found.end if found is not None and found.end <= len(data) else match.start() + 2


def _expect(element: Element, tag: int) -> Element:
    if element.tag != tag:
        raise ValueError("DER of another shape")
    return element


def _time(data: bytes, element: Element | None) -> datetime | None:
    if element is None or element.tag in {_DER_SEQUENCE, _VERSION}:
        return None  # a list without nextUpdate
    if element.tag not in _TIMES:
        raise ValueError("DER of another shape")
    match = _TIME.fullmatch(data[element.start : element.end][:40])
    if match is None:
        raise ValueError("no time")
    return _instant(match, is_short=element.tag == _UTC_TIME)


def _instant(match: re.Match[bytes], *, is_short: bool) -> datetime | None:
    year, month, day, hour, minute, second = (int(match[group] or 0) for group in range(1, 7))
    if is_short != (len(match[1]) == 2):  # noqa: PLR2004 - two digits
        raise ValueError("no time")
    if is_short:
        year += 2000 if year < _PIVOT else 1900
    offset = timedelta(0)
    if match[7] and match[7] != b"Z":
        offset = timedelta(hours=int(match[7][:3]), minutes=int(match[7][:1] + match[7][3:]))
    if year == 0:
        return None
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=UTC) - offset
    except OverflowError:
        return None
    return at if EARLIEST <= at <= LATEST else None


_T = TypeVar("_T")
_PASSWORDS = (b"", None, b"password", b"changeit", b"test", b"secret", b"1234", b"123456", b"pass")
_PKCS12_VERSION = b"\x02\x01\x03"
_SCRYPT = b"\x2b\x06\x01\x04\x01\xda\x47\x04\x0b"
_SHORT_NAMES = {NameOID.EMAIL_ADDRESS: "E"}
_INTEGER, _OCTETS, _SEQUENCE = 0x02, 0x04, 0x30
_MOST_ROUNDS = 1_000_000
_MOST_ELEMENTS = 10_000


class KeyRounds:
    """What PKCS#12 files may still ask for; each says itself how many rounds a password costs."""

    def __init__(self, left: int) -> None:
        self.left = left


def find_certificates(data: bytes, rounds: KeyRounds, report: Report) -> Iterator[Found]:
    """Find certificates and revocation lists in binary data."""
    if _is_pkcs12(data):
        for der in _decrypted(data, rounds, report):
            yield from (found.at(0) for found in _found(der))
    try:
        yield from _found(data)
    except ValueError as error:
        report(0, str(error))


def tolerant(read: Callable[[], _T]) -> _T | None:
    """Call something of `cryptography` on data that strangers made.

    Returns: what it returns; None: the data is damaged or of a kind that it does not know.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a negative serial number is no news to anybody here
        try:
            return read()
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
            return None
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # Rust's, which no module exports
                raise
            return None


def _found(data: bytes) -> Iterator[Found]:
    for validity in find_validities(data):
        der = data[validity.offset : validity.end]
        what = _list_name(der) if validity.is_list else _certificate_name(der)
        yield from _ends(validity, what)


def _ends(validity: Validity, what: str) -> Iterator[Found]:
    kinds = (
        (HintKind.CRL_BEGINS, HintKind.CRL_ENDS)
        if validity.is_list
        else (HintKind.CERTIFICATE_BEGINS, HintKind.CERTIFICATE_ENDS)
    )
    times = (validity.begins, validity.ends)
    for kind, at, verb in zip(kinds, times, ("begins", "ends"), strict=True):
        if at is not None:
            yield Found(kind, f"{what} {verb}", at, offset=validity.offset)


def _certificate_name(der: bytes) -> str:
    def read() -> str:
        certificate = x509.load_der_x509_certificate(der)
        subject = certificate.subject.rfc4514_string(_SHORT_NAMES)
        return subject or f"without a name, serial number {certificate.serial_number:x},"

    name = tolerant(read)
    return f"certificate {name}" if name else "certificate that cannot be read in full"


def _list_name(der: bytes) -> str:
    name = tolerant(lambda: x509.load_der_x509_crl(der).issuer.rfc4514_string(_SHORT_NAMES))
    return f"revocation list of {name}" if name else "revocation list that cannot be read in full"


def _is_pkcs12(data: bytes) -> bool:
    try:
        whole = read_element(data, 0)
    except ValueError:
        return False
    return whole.tag == _SEQUENCE and data.startswith(_PKCS12_VERSION, whole.start)


def _decrypted(data: bytes, rounds: KeyRounds, report: Report) -> Iterator[bytes]:
    asked = _rounds(data)
    if asked > _MOST_ROUNDS or _SCRYPT in data:
        report(0, "PKCS#12: its passwords take too long to try")
        return
    for password in _PASSWORDS:
        rounds.left -= asked
        if rounds.left < 0:
            report(0, "PKCS#12: all such files together take too long to try")
            return
        store = tolerant(lambda: pkcs12.load_pkcs12(data, password))  # noqa: B023 - called at once
        if store is not None:
            held = [store.cert, *store.additional_certs]
            yield from (
                each.certificate.public_bytes(Encoding.DER) for each in held if each is not None
            )
            return
    report(0, "PKCS#12: damaged, or its password is none of the usual ones")


def _rounds(data: bytes) -> int:
    """Return the largest small number in the clear: counts of rounds are among them."""
    stack, most, seen = [Element(_SEQUENCE, 0, len(data))], 1, 0
    while stack and seen < _MOST_ELEMENTS:
        try:
            for element in children(data, stack.pop()):
                seen += 1
                if element.tag == _INTEGER and element.end - element.start <= 8:  # noqa: PLR2004
                    most = max(most, int.from_bytes(data[element.start : element.end]))
                elif element.tag & 0x20 or element.tag == _OCTETS:
                    stack.append(element)
        except ValueError:
            continue
    return most if seen < _MOST_ELEMENTS else _MOST_ROUNDS + 1


# JSON Web Tokens and SSH certificates, which carry their times in the clear.
#
# References: RFC 7519, 4.1 (exp, nbf, iat); OpenSSH, PROTOCOL.certkeys.

_LETTER = rb"[A-Za-z0-9_-]"
_TOKEN = re.compile(
    rb"eyJ(?<!" + _LETTER + rb"eyJ)(" + _LETTER + rb"{5,4000}+)"
    rb"\.(eyJ" + _LETTER + rb"{2,16000}+)\." + _LETTER + rb"{0,1}"
)
_CLAIMS = (
    ("iat", HintKind.TOKEN_BEGINS, "is issued"),
    ("nbf", HintKind.TOKEN_BEGINS, "begins"),
    ("exp", HintKind.TOKEN_ENDS, "ends"),
)
_MARK = b"-cert-v01@openssh.com "
_SSH = re.compile(rb"[a-z0-9-]{3,40}-cert-v01@openssh\.com {1,4}[A-Za-z0-9+/]{100,16000}+={0,2}")
_NAME_BEFORE = re.compile(rb"[a-z0-9-]{3,40}\Z")
_LONGEST_NAME = 40
_NO_END = 2**64 - 1


def find_tokens(data: bytes) -> Iterator[Found]:
    """Find JSON Web Tokens.

    Yields: when each is issued, begins and ends, as far as it says so.
    """
    for match in _TOKEN.finditer(data):
        header, claims = _json(b"eyJ" + match[1]), _json(match[2])
        if "alg" not in header:
            continue
        for name, kind, verb in _CLAIMS:
            value = claims.get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                at = to_instant(int(value))
                if at is not None:
                    what = f"JSON Web Token ({header['alg']!s:.20}) {verb}: {name}"
                    yield Found(kind, what, at, offset=match.start())


def _json(text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(binascii.a2b_base64(text.translate(_TO_BASE64) + b"=" * (-len(text) % 4)))
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


_TO_BASE64 = bytes.maketrans(b"-_", b"+/")


def find_ssh_certificates(data: bytes, report: Report) -> Iterator[Found]:
    """Find SSH certificates.

    Yields: begin and end; nothing where they are always and never.
    """
    at = data.find(_MARK)
    while at >= 0:
        name = _NAME_BEFORE.search(data, max(0, at - _LONGEST_NAME), at)
        match = _SSH.match(data, name.start()) if name is not None else None
        if match is not None:
            yield from _in_ssh(match, report)
        at = data.find(_MARK, at + len(_MARK))


def _in_ssh(match: re.Match[bytes], report: Report) -> Iterator[Found]:
    key = tolerant(lambda: load_ssh_public_identity(match[0]))
    if not isinstance(key, SSHCertificate):
        report(match.start(), "SSH certificate: damaged, or of a kind that is not known")
        return
    name = key.key_id.decode("utf-8", "replace")
    for kind, seconds, verb in (
        (HintKind.SSH_CERTIFICATE_BEGINS, key.valid_after, "begins"),
        (HintKind.SSH_CERTIFICATE_ENDS, key.valid_before, "ends"),
    ):
        instant = to_instant(seconds) if 0 < seconds < _NO_END else None
        if instant is not None:
            yield Found(
                kind, f"SSH certificate {name!r:.100} {verb}", instant, offset=match.start()
            )
