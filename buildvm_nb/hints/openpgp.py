"""The times in OpenPGP packets: when keys and signatures begin and end.

Only packet headers, creation times and three subpackets are read. Full implementations stop at the
first packet that they do not like, and unpack compressed packets into memory without a bound;
test suites and hostile files have both.

References
----------
RFC 9580: 4.2 (headers), 5.2 (signatures), 5.5 (keys), 12.2 and 5.5.4 (key ids); RFC 4880, 5.2.2
(signatures of version 3). GnuPG, doc/DETAILS and kbx/keybox-blob.c, for keyboxes.
"""

from collections.abc import Iterator
from typing import NamedTuple

from buildvm_nb.hints.dates import to_instant
from buildvm_nb.hints.found import Found
from buildvm_nb.hints.packets import (
    CREATED,
    EXPIRES_AFTER,
    FINGERPRINT,
    ISSUER,
    KEY_EXPIRES_AFTER,
    OLDEST_WITH_SUBPACKETS,
    Packet,
    key_id,
    packets,
    read_signature,
)
from buildvm_nb.model.hint import HintKind

__all__ = ["find_keys", "looks_like_openpgp"]

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
    """Tell whether binary data begins with a key, a signature or a keybox.

    Parameters
    ----------
    data : bytes
        The beginning of a file.

    Returns
    -------
    bool
        Whether the first packet is whole and makes sense.
    """
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

    Parameters
    ----------
    data : bytes
        Keys, key rings, signatures, or a keybox of GnuPG.

    Yields
    ------
    Found
        Begin and, where there is one, end; ends of keys as their owner has signed them.

    Raises
    ------
    ValueError
        If something in it is damaged, after all that could be read.
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
