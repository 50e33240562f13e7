"""The rules for the reported tier: one CSV file, safe to open in a spreadsheet."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType

from buildvm_nb.catalog.casefile import load_case
from buildvm_nb.catalog.csvfile import read_csv, write_csv
from buildvm_nb.catalog.lintentry import ID_SCHEME, LintTrouble, is_id
from buildvm_nb.catalog.reported import CHECKED, REPORTED
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.entry import is_page, plain_name
from buildvm_nb.model.finding import FindingKind
from buildvm_nb.model.instants import format_instant, parse_instant

__all__ = ["REPORTED_KINDS", "lint_reported"]

REPORTED_KINDS = tuple(
    kind.value
    for kind in FindingKind
    if kind not in {FindingKind.SOUND, FindingKind.UNDETERMINED, FindingKind.COMMIT_DEPENDENT}
)
"""Kinds that a problem can be of."""

_NO_CASES: Mapping[str, Path] = MappingProxyType({})
_PARTIAL = re.compile(r"\d{4}(-\d{2})?")
_DATES = "2024, 2024-02, 2024-02-29 or 2024-02-29T12:30:00Z"


def lint_reported(path: Path, cases: Mapping[str, Path] = _NO_CASES) -> list[LintTrouble]:
    """Check the file of the reported tier.

    Parameters
    ----------
    path : Path
        ``reported.csv``.
    cases : mapping
        Files of the other tier's cases by id; what one of them is about is not reported again.

    Returns
    -------
    list of LintTrouble
        In the order of the file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            troubles = list(_troubles(path, stream, cases))
        return troubles or list(_unlike_ours(path))  # from what can be read
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [LintTrouble(file=str(path), text=f"cannot be read as CSV in UTF-8: {error}")]


def _troubles(
    path: Path, stream: Iterator[str], cases: Mapping[str, Path]
) -> Iterator[LintTrouble]:
    names = list(REPORTED.dtypes)
    reader = csv.reader(stream, strict=True)
    header = next(reader, [])
    if header != names:
        text = f"wrong header: {','.join(header)}; allowed: {','.join(names)}"
        yield LintTrouble(file=str(path), line=1, text=text)
        return
    before, seen = reader.line_num, dict.fromkeys(cases, "an entry of the other tier")
    problems = [known for file in cases.values() if (known := _problem(file))]
    for cells in reader:
        line, before = before + 1, reader.line_num
        if len(cells) != len(names):
            text = f"{len(cells)} cells; allowed: {len(names)}"
            yield LintTrouble(file=str(path), line=line, text=text)
            continue
        row = dict(zip(names, cells, strict=True))
        for key, text in _row_troubles(row):
            yield LintTrouble(file=str(path), line=line, key=key, text=text)
        if (entry := row["id"]) in seen:
            text = f"{entry!r} is there already: {seen[entry]}"
            yield LintTrouble(file=str(path), line=line, key="id", text=text)
        seen.setdefault(entry, f"line {line}")
        for known in problems:
            if known.is_told_by(row):
                text = f"{entry!r} tells of the same as the case {known.case_id}"
                yield LintTrouble(file=str(path), line=line, key="id", text=text)


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """What a case of the other tier is about, as far as a row may tell of the same."""

    case_id: str
    packages: frozenset[str]
    kind: str
    days: frozenset[str]
    """On which it springs."""
    url: str

    def is_told_by(self, row: dict[str, str]) -> bool:
        """Tell by package and kind, and then by the day where both know it, else by the page."""
        package = _package(row["purl"].partition("@")[0])
        if package not in self.packages or row["kind"] != self.kind:
            return False
        if self.days and row["springs_at"]:
            day = row["springs_at"][:10]
            return any(one.startswith(day) for one in self.days)
        return row["source_url"] == self.url


def _problem(file: Path) -> _Problem | None:
    try:
        case = load_case(file)
    except (UsageError, CatalogError):
        return None  # the linter of entries says what is wrong with it
    if case.claim is None:
        return None
    source = case.source
    named = [case.about and case.about.name, getattr(source, "name", None)]
    ends = (window.passes_until for window in case.claim.windows)
    instants = [case.claim.passes_until, *ends]
    seconds = (timedelta(0), timedelta(seconds=1))
    days = {format_instant(one + more)[:10] for one in instants if one for more in seconds}
    return _Problem(
        case_id=case.id,
        packages=frozenset(_package(name) for name in named if name),
        kind=case.claim.kind,
        days=frozenset(days),
        url=case.provenance.url if case.provenance else "",
    )


def _package(name: str) -> str:
    """Return what Perl's distributions and Debian's packages of them have in common, too."""
    plain = plain_name(name)
    of_perl = re.fullmatch(r"lib(.+)-perl", plain)
    return of_perl[1] if of_perl else plain


def _unlike_ours(path: Path) -> Iterator[LintTrouble]:
    """Compare the file with what the catalog would write, which no spreadsheet takes amiss."""
    ours = StringIO()
    write_csv(read_csv(path, REPORTED), ours, REPORTED)
    lines = path.read_bytes().decode().split("\n")
    for number, (seen, wanted) in enumerate(
        zip_longest(lines, ours.getvalue().split("\n"), fillvalue=""), start=1
    ):
        if seen != wanted:
            text = f"not as a spreadsheet can safely open it: {seen!r}; allowed: {wanted!r}"
            yield LintTrouble(file=str(path), line=number, text=text)


def _row_troubles(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    yield from _cell_troubles(row)
    if row["id"] and not is_id(row["id"]):
        yield "id", f"{row['id']!r} does not fit; allowed: {ID_SCHEME}"
    if row["source_url"] and not is_page(row["source_url"]):
        yield "source_url", f"not a public page: {row['source_url']!r}"
    for name, allowed in (("kind", REPORTED_KINDS), ("checked", CHECKED)):
        if row[name] and row[name] not in allowed:
            yield name, f"unknown: {row[name]!r}; allowed: {', '.join(allowed)}"
    if row["purl"] and not row["purl"].startswith(f"pkg:{row['ecosystem']}/"):
        yield "purl", f"{row['purl']!r}; allowed: pkg:{row['ecosystem']}/NAME, or NAME@VERSION"
    yield from _date_troubles(row)


def _cell_troubles(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    for column in REPORTED.columns:
        cell = row[column.name]
        if not cell.strip() and not column.optional:
            yield column.name, "missing"
        if any(not letter.isprintable() for letter in cell):
            yield column.name, f"control characters: {cell[:40]!r}; allowed: one line of text"


def _date_troubles(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    known = {}
    for name in ("springs_at", "ends_at"):
        if cell := row[name]:
            known[name] = is_right = _is_date(cell)
            if not is_right:
                yield name, f"not a date: {cell!r}; allowed: {_DATES}"
    if all(known.get(name) for name in ("springs_at", "ends_at")):
        springs, ends = row["springs_at"], row["ends_at"]
        length = min(len(springs), len(ends))
        if ends[:length] < springs[:length]:  # as far as both are known
            yield "ends_at", f"{ends} is before springs_at: {springs}"


def _is_date(cell: str) -> bool:
    if _PARTIAL.fullmatch(cell):
        cell = f"{cell}-01-01"[:10] if len(cell) == len("2024") else f"{cell}-01"
    try:
        parse_instant(cell)
    except UsageError:
        return False
    return _is_day(cell) or re.fullmatch(r"[0-9-]{10}T[0-9:]{8}Z", cell) is not None


def _is_day(cell: str) -> bool:
    try:
        return len(cell) == len("2024-02-29") and bool(date.fromisoformat(cell))
    except ValueError:
        return False
