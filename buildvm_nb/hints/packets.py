"""OpenPGP packets: their headers, and the fields of keys and signatures that tell times and ids.

References
----------
RFC 9580: 4.2 (headers), 5.2.3 (signatures), 5.5.2 and 5.5.4 (keys and their ids); RFC 4880, 5.2.2
(signatures of version 3) and 12.2 (ids of keys of version 3).
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "CREATED",
    "EXPIRES_AFTER",
    "FINGERPRINT",
    "ISSUER",
    "KEY_EXPIRES_AFTER",
    "OLDEST_WITH_SUBPACKETS",
    "Packet",
    "key_id",
    "packets",
    "read_signature",
]

CREATED, EXPIRES_AFTER, KEY_EXPIRES_AFTER, ISSUER, FINGERPRINT = 2, 3, 9, 16, 33
"""Kinds of subpackets."""
OLDEST_WITH_SUBPACKETS = 4
"""The version of signatures, and of keys whose id is a digest."""
_MOST_PACKETS = 200_000
_NUMBERS = {1: 2, 2: 2, 3: 2, 16: 3, 17: 4, 20: 3}
"""How many there are in the public part of a key, by algorithm: RSA, ElGamal, DSA."""
_WIDTHS = {25: 32, 26: 56, 27: 32, 28: 57}
"""Bytes of the public part of a key, by algorithm: X25519, X448, Ed25519, Ed448."""
_CURVES = {18, 19, 22}
_ECDH = 18


class Packet(NamedTuple):
    """A packet."""

    tag: int
    body: bytes
    offset: int


def packets(data: bytes) -> Iterator[Packet]:
    """Split binary OpenPGP data; nothing in it is decrypted or unpacked.

    Parameters
    ----------
    data : bytes
        Packets, one after the other.

    Yields
    ------
    Packet
        Each one.

    Raises
    ------
    ValueError
        Where something is no packet or not there in full.
    """
    at = 0
    for _ in range(_MOST_PACKETS):
        if at >= len(data):
            return
        head, offset = data[at], at
        if not head & 0x80:
            raise ValueError("OpenPGP: no packet header")
        if head & 0x40:
            body, at = _new_body(data, at + 1)
            tag = head & 0x3F
        else:
            tag, width = head >> 2 & 0xF, (1, 2, 4, 0)[head & 3]
            start = at + 1 + width
            size = int.from_bytes(_cut(data, at + 1, width)) if width else len(data) - start
            body, at = _cut(data, start, size), start + size
        yield Packet(tag, body, offset)


def _new_body(data: bytes, at: int) -> tuple[bytes, int]:
    """Read a length of the new format and the body; where it comes in parts, all of them."""
    parts = []
    while True:
        size, at, is_part = _new_length(data, at)
        parts.append(_cut(data, at, size))
        at += size
        if not is_part:
            return b"".join(parts), at


def _new_length(data: bytes, at: int) -> tuple[int, int, bool]:
    first = _cut(data, at, 1)[0]
    if first < 192:  # noqa: PLR2004 - the limits of RFC 9580, 4.2.1
        return first, at + 1, False
    if first < 224:  # noqa: PLR2004
        return (first - 192 << 8) + _cut(data, at + 1, 1)[0] + 192, at + 2, False
    if first < 255:  # noqa: PLR2004
        return 1 << (first & 0x1F), at + 1, True
    return int.from_bytes(_cut(data, at + 1, 4)), at + 5, False


def _cut(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError("OpenPGP: a packet ends too early")
    return data[at : at + size]


def key_id(body: bytes) -> str:
    """Return the id of a key, which is a digest of its public part.

    Parameters
    ----------
    body : bytes
        Of a public or secret key or subkey.

    Returns
    -------
    str
        16 hexadecimal digits.

    Raises
    ------
    ValueError
        If the key is not there in full.
    """
    version = _cut(body, 0, 10)[0]
    if version < OLDEST_WITH_SUBPACKETS:
        return body[10 : _after_number(body, 8)][-8:].hex()
    public = body[: _public_end(version, body)]
    if version == OLDEST_WITH_SUBPACKETS:
        framed = b"\x99" + (len(public) & 0xFFFF).to_bytes(2) + public
        return hashlib.sha1(framed, usedforsecurity=False).hexdigest()[-16:]
    mark = b"\x9a" if version == 5 else b"\x9b"  # noqa: PLR2004
    return hashlib.sha256(mark + len(public).to_bytes(4) + public).hexdigest()[:16]


def _public_end(version: int, body: bytes) -> int:
    if version > OLDEST_WITH_SUBPACKETS:
        return 10 + int.from_bytes(body[6:10])
    algorithm, at = body[5], 6
    if algorithm in _CURVES:
        at = _after_number(body, at + 1 + body[at])
        return at + 1 + _cut(body, at, 1)[0] if algorithm == _ECDH else at
    for _ in range(_NUMBERS.get(algorithm, 0)):
        at = _after_number(body, at)
    return at + _WIDTHS.get(algorithm, 0)


def _after_number(body: bytes, at: int) -> int:
    return at + 2 + (int.from_bytes(_cut(body, at, 2)) + 7) // 8


def read_signature(body: bytes) -> tuple[int, dict[int, bytes]]:
    """Read what a signature is about.

    Parameters
    ----------
    body : bytes
        Of the packet.

    Returns
    -------
    int
        The type.
    dict
        Contents of subpackets by their kind; those that are signed come before those that are not.

    Raises
    ------
    ValueError
        If it is not there in full.
    """
    version = _cut(body, 0, 4)[0]
    if version < OLDEST_WITH_SUBPACKETS:
        return body[2], {CREATED: _cut(body, 3, 4), ISSUER: _cut(body, 7, 8)}
    width = 4 if version == 6 else 2  # noqa: PLR2004
    parts: dict[int, bytes] = {}
    at = 4
    for _ in ("hashed", "unhashed"):
        size = int.from_bytes(_cut(body, at, width))
        area = _cut(body, at + width, size)
        at += width + size
        for kind, content in _subpackets(area):
            parts.setdefault(kind, content)
    return body[1], parts


def _subpackets(area: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(area):
        first = area[at]
        if first < 192:  # noqa: PLR2004 - the limits of RFC 9580, 5.2.3.7
            size, at = first, at + 1
        elif first < 255:  # noqa: PLR2004
            size, at = (first - 192 << 8) + _cut(area, at + 1, 1)[0] + 192, at + 2
        else:
            size, at = int.from_bytes(_cut(area, at + 1, 4)), at + 5
        content = _cut(area, at, max(size, 1))
        yield content[0] & 0x7F, content[1:]
        at += len(content)
