"""Looks through trees, files and archives for what carries instants or asks for a CPU or kernel."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from buildvm_nb.hints.armour import Blob, find_armour, find_bare
from buildvm_nb.hints.certificates import KeyRounds, find_certificates
from buildvm_nb.hints.conditions import find_conditions
from buildvm_nb.hints.constants import find_constants, is_quiet
from buildvm_nb.hints.files import FileReader, Piece, Skipped
from buildvm_nb.hints.found import Found, Report
from buildvm_nb.hints.limits import ScanLimits
from buildvm_nb.hints.openpgp import find_keys, looks_like_openpgp
from buildvm_nb.hints.tokens import find_ssh_certificates, find_tokens
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.hint import Hint, HintKind
from buildvm_nb.model.instants import EARLIEST, LATEST, now

__all__ = ["scan_tree"]

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
