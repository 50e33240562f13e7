"""Certificates, revocation lists and the stores that hold them.

JKS and JCEKS stores, PKCS#7 and firmware hold certificates as plain DER, so that looking for DER
finds them there; PKCS#12 files have to be decrypted first.

References
----------
RFC 5280; RFC 7292, 4 (PKCS#12); keytool(1), whose stores are made with the password ``changeit``.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12
from cryptography.x509.oid import NameOID

from buildvm_nb.hints.der import Element, Validity, children, find_validities, read_element
from buildvm_nb.hints.found import Found, Report
from buildvm_nb.model.hint import HintKind

__all__ = ["KeyRounds", "find_certificates", "tolerant"]

_T = TypeVar("_T")
_PASSWORDS = (b"", None, b"password", b"changeit", b"test", b"secret", b"1234", b"123456", b"pass")
_PKCS12_VERSION = b"\x02\x01\x03"
_SCRYPT = b"\x2b\x06\x01\x04\x01\xda\x47\x04\x0b"
_SHORT_NAMES = {NameOID.EMAIL_ADDRESS: "E"}
_INTEGER, _OCTETS, _SEQUENCE = 0x02, 0x04, 0x30
_MOST_ROUNDS = 1_000_000
_MOST_ELEMENTS = 10_000


class KeyRounds:
    """What PKCS#12 files may still ask for; each says itself how many rounds a password costs.

    Parameters
    ----------
    left : int
        Rounds.
    """

    def __init__(self, left: int) -> None:
        self.left = left


def find_certificates(data: bytes, rounds: KeyRounds, report: Report) -> Iterator[Found]:
    """Find certificates and revocation lists in binary data.

    Parameters
    ----------
    data : bytes
        A certificate, a store or anything else.
    rounds : KeyRounds
        Made less by PKCS#12.
    report : callable
        Is told what cannot be read.

    Yields
    ------
    Found
        Begin and end of each.
    """
    if _is_pkcs12(data):
        for der in _decrypted(data, rounds, report):
            yield from (found.at(0) for found in _found(der))
    try:
        yield from _found(data)
    except ValueError as error:
        report(0, str(error))


def tolerant(read: Callable[[], _T]) -> _T | None:
    """Call something of `cryptography` on data that strangers made.

    Parameters
    ----------
    read : callable
        What to call.

    Returns
    -------
    object or None
        What it returns; None: the data is damaged or of a kind that it does not know.
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
