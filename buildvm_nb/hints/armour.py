r"""Binary things written as text: PEM and OpenPGP armour, bare base64, arrays of hexadecimal bytes.

Source text holds them in string literals, with ``\n`` written out, one literal for each line,
behind comment marks, or with the ``+`` of a patch before each line. So all that can stand around
base64 is taken away first.

References
----------
RFC 7468 (PEM); RFC 9580, 6 (OpenPGP armour); RFC 4648, 4 (base64).
"""

import binascii
import re
from collections.abc import Iterator
from typing import NamedTuple

from buildvm_nb.hints.der import read_element, read_validity
from buildvm_nb.hints.found import Report

__all__ = ["Blob", "find_armour", "find_bare"]

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 #.]{1,40})-----")
_WORTH_A_LOOK = re.compile(rb"CERTIFICATE$|CRL$|PKCS ?#?[0-9]+|CMS|^PGP (?:PUBLIC|PRIVATE|SIG)")
_OPENPGP = "PGP "
_WRITTEN_BREAK = re.compile(rb"\\{1,3}(?:[nrt]|x0[aAdD]|u000[aAdD])|&#1[03];|%0[AaDd]")
_LITERAL_PREFIX = re.compile(rb"(?<![A-Za-z0-9+/])[bBuUrRfFL]{1,2}(?=[\"'])")
_SEPARATOR = re.compile(rb"[\s\"'`,;()\\\[\]{}<>]+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]++={0,2}")
_NOISE = re.compile(rb"[+/]{1,3}")
_HEADER = re.compile(rb"[A-Z][A-Za-z0-9-]{2,30}: ")
_LONGEST = 2**23
_LONGEST_PREFIX = 40

_BARE_PEM = re.compile(rb"LS0tLS1CRUdJTi[A-Za-z0-9+/]{20,200000}+={0,2}")
"""Base64 of ``-----BEGIN``."""
_BARE_DER = re.compile(rb"MII[A-Za-z0-9+/]{2}(?:[DTjz]C[BC]|[AQgw]IBAz)")
"""Base64 of the first bytes of a certificate, of a revocation list or of PKCS#12."""
_HEX_ARRAY = re.compile(rb"0x30,\s{0,4}0x82")
_HEX_TEXT = re.compile(rb"\\x30\\x82")
_HEX_BYTE = re.compile(rb"(?:0[xX]|\\x)([0-9a-fA-F]{2})")
_HEAD = 3000
"""Bytes of text that hold the times of nearly all certificates."""
_LONGEST_BARE = 2**16
_MOST_TRIES = 2000
_SPREAD = 4
"""How many bytes of text may stand for one of base64."""
_HEX_SPREAD = 8


class Blob(NamedTuple):
    """Bytes that were written as text."""

    data: bytes
    offset: int
    """Where the text begins."""
    label: str = ""
    """What its armour calls it; empty: it has none."""

    @property
    def is_openpgp(self) -> bool:
        """Whether it holds OpenPGP packets and not DER."""
        return self.label.startswith(_OPENPGP)


def find_armour(data: bytes, report: Report) -> Iterator[Blob]:
    """Find PEM and OpenPGP armour.

    Parameters
    ----------
    data : bytes
        Any file.
    report : callable
        Is told what cannot be read.

    Yields
    ------
    Blob
        What may hold certificates, revocation lists, or OpenPGP keys and signatures.
    """
    for match in _BEGIN.finditer(data):
        if not _WORTH_A_LOOK.search(match[1]):
            continue
        end = data.find(b"-----", match.end(), match.end() + _LONGEST)
        if end < 0 or not data.startswith(b"-----END " + match[1], end):
            continue  # no armour, but a word about it, or cut off
        start = data.rfind(b"\n", max(0, match.start() - _LONGEST_PREFIX), match.start()) + 1
        body = data[match.end() : end]
        if start:
            body = body.replace(b"\n" + data[start : match.start()], b"\n")
        decoded, label = _decode(body), match[1].decode()
        if decoded is None:
            report(match.start(), f"not readable: {label}")
        else:
            yield Blob(decoded, match.start(), label)


def find_bare(data: bytes, report: Report) -> Iterator[Blob]:
    """Find certificates and their like without armour: base64, base64 of PEM, hexadecimal bytes.

    Parameters
    ----------
    data : bytes
        Text.
    report : callable
        Is told what is left out.

    Yields
    ------
    Blob
        What has the shape of a certificate, a revocation list or PKCS#12; or is PEM.
    """
    for match in _BARE_PEM.finditer(data):
        if (decoded := _decode(match[0])) is not None:
            for blob in find_armour(decoded, lambda *_: None):
                yield blob._replace(offset=match.start())
    for pattern, gather in _BARE_FORMS:
        tries = at = 0
        while (start := pattern.search(data, at)) is not None:
            at, found = start.end(), gather(data, start.start())
            if found is not None:
                decoded, at = found
                yield Blob(decoded, start.start())
                continue
            tries += 1
            if tries > _MOST_TRIES:
                report(at, "too much in it looks like certificates; the rest is left out")
                break


def _from_base64(data: bytes, start: int) -> tuple[bytes, int] | None:
    size = _worth_gathering(_decode(data[start : start + _HEAD], is_cut=True))
    if size is None:
        return None
    letters = (size + 2) // 3 * 4
    end = start + letters * _SPREAD
    decoded = _decode(data[start:end], most=letters)
    return None if decoded is None else (decoded[:size], start + letters)


def _from_hex(data: bytes, start: int) -> tuple[bytes, int] | None:
    size = _worth_gathering(_hex_bytes(data[start : start + _HEAD * 2]))
    if size is None:
        return None
    return _hex_bytes(data[start : start + size * _HEX_SPREAD])[:size], start + size * 4


def _hex_bytes(text: bytes) -> bytes:
    return binascii.unhexlify(b"".join(_HEX_BYTE.findall(text)))


_BARE_FORMS = ((_BARE_DER, _from_base64), (_HEX_ARRAY, _from_hex), (_HEX_TEXT, _from_hex))


def _worth_gathering(head: bytes | None) -> int | None:
    """Return how many bytes what begins so has, if it is something to look for."""
    if head is None:
        return None
    try:
        whole = read_element(head, 0)
    except ValueError:
        return None
    is_pkcs12 = head.startswith(b"\2\1\3", whole.start)
    if whole.end > _LONGEST_BARE or not (is_pkcs12 or read_validity(head)):
        return None
    return whole.end


def _decode(text: bytes, *, most: int | None = None, is_cut: bool = False) -> bytes | None:
    """Decode base64 with whatever source text puts around it; None: there is none."""
    text = _LITERAL_PREFIX.sub(b"", _WRITTEN_BREAK.sub(b"\n", text))
    lines = [line for line in text.split(b"\n") if not _HEADER.search(line)]
    words = _SEPARATOR.split(b"\n".join(lines))
    wanted = [word for word in words if _BASE64.fullmatch(word) and not _NOISE.fullmatch(word)]
    letters = b"".join(wanted)[:most].rstrip(b"=")
    if is_cut:
        letters = letters[: len(letters) // 4 * 4]
    try:
        return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4)) or None
    except ValueError:
        return None
