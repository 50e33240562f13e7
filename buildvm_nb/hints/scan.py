"""A tree scanned for hints: each file by what reads it, armoured text unpacked on the way."""

import binascii
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from buildvm_nb.hints.certificates import (
    KeyRounds,
    find_certificates,
    find_ssh_certificates,
    find_tokens,
    read_element,
    read_validity,
)
from buildvm_nb.hints.files import FileReader, Piece, Skipped
from buildvm_nb.hints.found import Found, Report, ScanLimits
from buildvm_nb.hints.openpgp import find_keys, looks_like_openpgp
from buildvm_nb.hints.text import find_conditions, find_constants, is_quiet
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.finding import Hint, HintKind
from buildvm_nb.model.instants import EARLIEST, LATEST, now

__all__ = [
    "find_armour",
    "scan_tree",
]

# Binary things written as text: PEM and OpenPGP armour, bare base64, arrays of hexadecimal bytes.
#
# Source text holds them in string literals, with ``\n`` written out, one literal for each line,
# behind comment marks, or with the ``+`` of a patch before each line. So all that can stand around
# base64 is taken away first.
#
# References: RFC 7468 (PEM); RFC 9580, 6 (OpenPGP armour); RFC 4648, 4 (base64).

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
    """Find PEM and OpenPGP armour."""
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

    `report`: is told what is left out.
    Yields: what has the shape of a certificate, a revocation list or PKCS#12; or is PEM.
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


_YEAR = timedelta(days=365.25)
_LOOKED_AT = 8192
_LONGEST_WHY = 300
_MIB = 2**20
_DEFAULT_LIMITS = ScanLimits()


def _ignore(path: str, reason: str) -> None:
    """Do nothing."""


def scan_tree(
    path: Path,
    *,
    around: datetime | None = None,
    limits: ScanLimits = _DEFAULT_LIMITS,
    progress: Progress = SILENT,
    skipped: Skipped = _ignore,
) -> Iterator[Hint]:
    """Look through a tree for what carries instants or asks for a CPU or a kernel.

    Nothing in it is run, written or sent anywhere, and hostile files cost no more than their size
    allows. Archives are looked into; symbolic links are not followed.

    Parameters
    ----------
    path : Path
        A directory, a file or an archive.
    around : datetime, optional
        Aware. Dates written in text count from 10 years before it to 30 years after it, those of
        certificates, keys and tokens always. Without it: the present.
    limits : ScanLimits
        How much is read.
    progress : Progress
        Shows the bytes read.
    skipped : callable
        Is called with the path, and a reason, of whatever is not read or not in full.

    Yields
    ------
    Hint
        One for each instant or condition in a file, sorted by path and place. The same tree gives
        the same hints in the same order.

    Raises
    ------
    UsageError
        If there is nothing at `path`.
    """
    scan = _Scan(around or now(), limits, skipped)
    done = 0
    with progress.task(f"scan {path.name or path}") as task:
        for piece in FileReader(limits, skipped).pieces(path):
            yield from scan.hints(piece)
            done += piece.end
            task.update(done, note=f"{done // _MIB} MiB")


class _Scan:
    """What is known from piece to piece."""

    def __init__(self, around: datetime, limits: ScanLimits, skipped: Skipped) -> None:
        self._first = max(EARLIEST, _shifted(around, -10 * _YEAR))
        self._last = min(LATEST, _shifted(around, 30 * _YEAR))
        self._limits = limits
        self._skipped = skipped
        self._rounds = KeyRounds(limits.key_rounds)
        self._is_text = True
        self._seen: set[tuple[HintKind, datetime | None, str]] = set()
        self._counts: Counter[HintKind] = Counter()

    def hints(self, piece: Piece) -> Iterator[Hint]:
        """Look at a piece; those of a file must come one after the other."""
        if piece.is_first:
            self._is_text = b"\0" not in piece.data[:_LOOKED_AT]
            self._seen.clear()
            self._counts.clear()
        line, at = piece.line, 0
        for found in sorted(self._new(piece), key=lambda found: found.offset):
            line, at = line + piece.data.count(b"\n", at, found.offset), found.offset
            yield Hint(
                kind=found.kind,
                path=piece.path,
                line=line if self._is_text else None,
                instant=found.instant,
                condition=found.condition,
                why=found.why[:_LONGEST_WHY],
            )

    def _new(self, piece: Piece) -> Iterator[Found]:
        """Leave out what the file had before, what the next piece has too, and what is too much."""
        for found in self._found(piece):
            what = found.why if found.kind not in _CONSTANTS else ""
            key = (found.kind, found.instant, what)
            if found.offset >= piece.end or key in self._seen:
                continue
            self._counts[found.kind] += 1
            if self._counts[found.kind] > self._limits.per_file:
                if self._counts[found.kind] == self._limits.per_file + 1:
                    reason = f"over {self._limits.per_file} of {found.kind}: the rest is left out"
                    self._skipped(piece.path, reason)
                continue
            self._seen.add(key)
            yield found

    def _found(self, piece: Piece) -> Iterator[Found]:
        def report(offset: int, reason: str) -> None:
            if offset < piece.end:
                self._skipped(piece.path, reason)

        data = piece.data
        yield from find_certificates(data, self._rounds, report)
        for blob in (*find_armour(data, report), *find_bare(data, report)):
            yield from self._in_blob(blob, report)
        if piece.is_first and looks_like_openpgp(data):
            yield from self._keys(data, 0, report)
        yield from find_ssh_certificates(data, report)
        if self._is_text:
            yield from find_tokens(data)
            if not is_quiet(piece.path):
                yield from find_conditions(data)
                reach = self._limits.line_bytes
                yield from find_constants(data, self._first, self._last, reach, report)

    def _in_blob(self, blob: Blob, report: Report) -> Iterator[Found]:
        def report_there(_: int, reason: str) -> None:
            report(blob.offset, reason)

        if blob.is_openpgp:
            yield from self._keys(blob.data, blob.offset, report_there)
        else:
            is_empty = True
            for found in find_certificates(blob.data, self._rounds, report_there):
                is_empty = False
                yield found.at(blob.offset)
            if is_empty and blob.label.endswith(_WITH_DATES):
                report_there(0, f"not readable: {blob.label}")

    def _keys(self, data: bytes, offset: int, report: Report) -> Iterator[Found]:
        try:
            for found in find_keys(data):
                yield found.at(offset)
        except ValueError as error:
            report(offset, str(error))


_WITH_DATES = ("CERTIFICATE", "CRL")
_CONSTANTS = {HintKind.DATE_CONSTANT, HintKind.EPOCH_CONSTANT}


def _shifted(instant: datetime, by: timedelta) -> datetime:
    try:
        return instant + by
    except OverflowError:
        return LATEST if by > timedelta(0) else EARLIEST
