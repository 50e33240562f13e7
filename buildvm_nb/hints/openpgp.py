"""OpenPGP packets: when keys and signatures begin and end.

Only packet headers, creation times and three subpackets are read. Full implementations stop at the
first packet that they do not like, and unpack compressed packets into memory without a bound;
test suites and hostile files have both.

References
----------
RFC 9580: 4.2 (headers), 5.2 (signatures), 5.5 (keys), 12.2 and 5.5.4 (key ids); RFC 4880, 5.2.2
(signatures of version 3). GnuPG, doc/DETAILS and kbx/keybox-blob.c, for keyboxes.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from buildvm_nb.hints.found import Found
from buildvm_nb.hints.text import to_instant
from buildvm_nb.model.finding import HintKind

__all__ = [
    "find_keys",
    "looks_like_openpgp",
]

# OpenPGP packets: their headers, and the fields of keys and signatures that tell times and ids.
#
# References: RFC 9580: 4.2 (headers), 5.2.3 (signatures), 5.5.2 and 5.5.4 (keys and their ids); RFC
# 4880, 5.2.2 (signatures of version 3) and 12.2 (ids of keys of version 3).

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
    """Split binary OpenPGP data; nothing in it is decrypted or unpacked."""
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
    """Return the id of a key, which is a digest of its public part."""
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

    Returns: contents of subpackets by their kind; those that are signed come before those that are
    not.
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


_SIGNATURE, _SECRET_KEY, _PUBLIC_KEY, _SECRET_SUBKEY, _USER_ID, _PUBLIC_SUBKEY = 2, 5, 6, 7, 13, 14
_PRIMARIES, _SUBKEYS = {_SECRET_KEY, _PUBLIC_KEY}, {_SECRET_SUBKEY, _PUBLIC_SUBKEY}
_ON_PRIMARY, _ON_SUBKEY, _ON_DATA = {0x10, 0x11, 0x12, 0x13, 0x1F}, {0x18}, {0x00, 0x01, 0x02}
_VERSIONS = {2, 3, 4, 5, 6}
_ALGORITHMS = {1, 2, 3, 16, 17, 18, 19, 20, 22, 25, 26, 27, 28, 30, 31, 32, 33, 34, 35, 36}
_LATER_VERSIONS = {b"\5", b"\6"}
_SHORTEST = 10
_KEYBOX = b"KBXf"
_KEY_BLOB = 2
_BLOB_HEADER = 16
_DAY_S = 86_400
_LONGEST_NAME = 200


def looks_like_openpgp(data: bytes) -> bool:
    """Tell whether binary data begins with a key, a signature or a keybox."""
    if data[8:12] == _KEYBOX:
        return True
    try:
        packet = next(packets(data), None)
    except ValueError:
        return False
    if packet is None or len(packet.body) < _SHORTEST or packet.body[0] not in _VERSIONS:
        return False
    is_old = packet.body[0] < OLDEST_WITH_SUBPACKETS
    if packet.tag == _SIGNATURE:
        return packet.body[2] in _ALGORITHMS if not is_old else packet.body[1] == 5  # noqa: PLR2004
    return packet.tag in _PRIMARIES and packet.body[7 if is_old else 5] in _ALGORITHMS


def find_keys(data: bytes) -> Iterator[Found]:
    """Find the times of keys and signatures in binary OpenPGP data, as far as it can be read.

    Yields: begin and, where there is one, end; ends of keys as their owner has signed them.
    Raises `ValueError` if something in it is damaged, after all that could be read.
    """
    if data[8:12] == _KEYBOX:
        for start, end in _key_blobs(data):
            yield from (found.at(found.offset + start) for found in _in_packets(data[start:end]))
    else:
        yield from _in_packets(data)


def _in_packets(data: bytes) -> Iterator[Found]:
    ring, damaged = _KeyRing(), None
    for packet in packets(data):
        try:
            yield from ring.look_at(packet)
        except ValueError as error:
            damaged = error
    if damaged:
        raise damaged


class _Key(NamedTuple):
    name: str
    key_id: str
    created: int


class _KeyRing:
    """Knows what the packets so far were about."""

    def __init__(self) -> None:
        self._primary: _Key | None = None
        self._key: _Key | None = None
        self._owner = ""
        self._ends: set[tuple[str, int]] = set()

    def look_at(self, packet: Packet) -> Iterator[Found]:
        """Find the times in the next packet."""
        if packet.tag in _PRIMARIES | _SUBKEYS:
            yield from self._on_key(packet)
        elif packet.tag == _USER_ID and not self._owner:
            self._owner = packet.body[:_LONGEST_NAME].decode("utf-8", "replace")
        elif packet.tag == _SIGNATURE:
            kind, parts = read_signature(packet.body)
            yield from self._end_of_key(packet, kind, parts)
            yield from _on_signature(packet, kind, parts)

    def _on_key(self, packet: Packet) -> Iterator[Found]:
        name = key_id(packet.body)
        what = "subkey" if packet.tag in _SUBKEYS else "key"
        key = _Key(f"OpenPGP {what} {name}", name, int.from_bytes(packet.body[1:5]))
        self._key = key
        if packet.tag in _PRIMARIES:
            self._primary, self._owner = key, ""
        yield from _found(HintKind.OPENPGP_KEY_BEGINS, key.created, key.name, packet)
        days = int.from_bytes(packet.body[5:7])
        if packet.body[0] < OLDEST_WITH_SUBPACKETS and days:
            end = key.created + days * _DAY_S
            yield from _found(HintKind.OPENPGP_KEY_ENDS, end, key.name, packet)

    def _end_of_key(self, packet: Packet, kind: int, parts: dict[int, bytes]) -> Iterator[Found]:
        """Tell when a key ends, once for each end that its owner has signed."""
        key = self._primary if kind in _ON_PRIMARY else self._key if kind in _ON_SUBKEY else None
        lasts = _number(parts, KEY_EXPIRES_AFTER)
        if key is None or self._primary is None or not lasts:
            return
        end = (key.key_id, key.created + lasts)
        if _issuer(parts) in {"", self._primary.key_id} and end not in self._ends:
            self._ends.add(end)
            what = f"{key.name} of {self._owner}" if self._owner else key.name
            yield from _found(HintKind.OPENPGP_KEY_ENDS, end[1], what, packet)


def _found(kind: HintKind, seconds: int, what: str, packet: Packet) -> Iterator[Found]:
    at = to_instant(seconds)
    if at is not None:
        verb = kind.rpartition("-")[2]
        yield Found(kind, f"{what} {verb}", at, offset=packet.offset)


def _on_signature(packet: Packet, kind: int, parts: dict[int, bytes]) -> Iterator[Found]:
    created, lasts = _number(parts, CREATED), _number(parts, EXPIRES_AFTER)
    what = f"OpenPGP signature by {_issuer(parts) or 'unknown'}"
    if kind in _ON_DATA and created:
        yield from _found(HintKind.OPENPGP_SIGNATURE_BEGINS, created, what, packet)
    if created and lasts:
        yield from _found(HintKind.OPENPGP_SIGNATURE_ENDS, created + lasts, what, packet)


def _issuer(parts: dict[int, bytes]) -> str:
    """Return the key id of who made a signature; empty: it does not say."""
    fingerprint = parts.get(FINGERPRINT, b"")
    if fingerprint[:1] in _LATER_VERSIONS:  # their key ids are the first bytes
        return fingerprint[1:9].hex()
    return (parts.get(ISSUER) or fingerprint[-8:]).hex()


def _number(parts: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(parts.get(kind, b"")[:4])


def _key_blobs(data: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while at + _BLOB_HEADER <= len(data):
        size = int.from_bytes(data[at : at + 4])
        if size < _BLOB_HEADER:
            raise ValueError("OpenPGP: a keybox is damaged")
        if data[at + 4] == _KEY_BLOB:
            start = at + int.from_bytes(data[at + 8 : at + 12])
            yield start, min(start + int.from_bytes(data[at + 12 : at + 16]), at + size)
        at += size
