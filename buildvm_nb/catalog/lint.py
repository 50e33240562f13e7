"""Lint of the curated catalog: the rules for its entries, the reported tier and what is derived."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType

from buildvm_nb.catalog.casefile import load_case
from buildvm_nb.catalog.curated import Proof, curated_cases, curated_root, load_proof, proof_path
from buildvm_nb.catalog.reported import CHECKED, REPORTED, REPORTED_FILE
from buildvm_nb.catalog.shelves import stale_files
from buildvm_nb.catalog.tablefiles import read_csv, write_csv
from buildvm_nb.catalog.toml_lines import KeyPath, key_lines
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.case import (
    Case,
    Claim,
    Entry,
    LocalSource,
    Provenance,
    PyPISource,
    WheelsSource,
    is_page,
    plain_name,
)
from buildvm_nb.model.claims import Agreement, claim_agrees, claim_troubles
from buildvm_nb.model.finding import Finding, FindingKind
from buildvm_nb.model.instants import format_instant, parse_instant

__all__ = [
    "LintTrouble",
    "lint_catalog",
    "lint_files",
    "lint_notes",
]

# The rules for one entry of the curated catalog: its case file and its proof.

ID_SCHEME = (
    "PACKAGE-VERSION[-WHAT]: lower-case letters, digits, '.' and '+', in words joined by '-'"
)
_ID = re.compile(r"[a-z0-9][a-z0-9.+]*(-[a-z0-9.+]+)+")
_TOML_ERROR = re.compile(r"(\d+)(?::\d+)?: (?:([\w.\[\]-]+): )?(.*)")


@dataclass(frozen=True, kw_only=True)
class LintTrouble:
    """One thing that is wrong with a file of the curated catalog."""

    file: str
    line: int | None = None
    """From 1; None: it is about the file as a whole."""
    key: str = ""
    """Of the file, or the column of a table."""
    text: str
    """What is wrong, the value seen, what is allowed."""

    def __str__(self) -> str:
        parts = [self.file if self.line is None else f"{self.file}:{self.line}", self.key]
        return ": ".join([*filter(None, parts), self.text])


def is_id(text: str) -> bool:
    """Tell whether a text fits the scheme of ids."""
    return _ID.fullmatch(text) is not None


def lint_entry(path: Path) -> list[LintTrouble]:
    """Check one entry.

    Returns: where the file is no valid case, only that.
    """
    try:
        case = load_case(path)
    except UsageError as error:
        return list(_unreadable(path, error))
    lines = key_lines(path.read_text(encoding="utf-8-sig"))
    troubles = _Entry(path, case, lines).troubles()
    return sorted(troubles, key=lambda one: (one.file, one.line or 0))


def _unreadable(path: Path, error: UsageError) -> Iterator[LintTrouble]:
    for line in error.message.splitlines():
        told = line.removeprefix(f"{path}:")
        match = _TOML_ERROR.fullmatch(told) if told != line else None
        if match:
            key = match[2] or ""
            yield LintTrouble(file=str(path), line=int(match[1]), key=key, text=match[3])
        else:
            yield LintTrouble(file=str(path), text=line)


class _Entry:
    """A case file under the rules."""

    def __init__(self, path: Path, case: Case, lines: dict[KeyPath, int]) -> None:
        self._path = path
        self._case = case
        self._lines = lines

    def troubles(self) -> Iterator[LintTrouble]:
        yield from self._id()
        yield from self._sources()
        if not self._case.title.strip():
            yield self._at("title", "missing: what it is about, in one line")
        if self._case.about is None:
            text = "missing: its source does not tell; allowed: ecosystem, name, version"
            yield self._at("subject", text)
        claim, entry = self._case.claim, self._case.entry
        if claim is None:
            yield self._at("claim", "missing: what must a diagnosis find?")
        else:
            for key, text in claim_troubles(claim):
                yield self._at(f"claim.{key}", text)
        if entry is None:
            yield self._at(
                "entry", "missing; allowed: [entry] with status, description, workaround"
            )
        else:
            yield from self._texts(entry, claim)
            yield from self._proof(entry, claim)

    def _id(self) -> Iterator[LintTrouble]:
        case_id, stem = self._case.id, self._path.stem
        if case_id != stem:
            yield self._at("id", f"{case_id!r} is not the file's name; allowed: {stem!r}")
        if not is_id(case_id):
            yield self._at("id", f"{case_id!r} does not fit; allowed: {ID_SCHEME}")
        source = self._case.source
        if isinstance(source, PyPISource):
            name, version = (_slug(text) for text in (source.name, source.version))
            expected = f"{name}-{version}"
            if not re.match(rf"{re.escape(expected)}(-|$)", case_id):
                yield self._at("id", f"{case_id!r}; allowed: {expected}, or {expected}-WHAT")

    def _sources(self) -> Iterator[LintTrouble]:
        case = self._case
        places = [(f"input[{at}].source", one.source) for at, one in enumerate(case.inputs)]
        for key, source in [("source", case.source), *places]:
            if isinstance(source, LocalSource):
                yield self._at(key, f"of this host: {source.path}; allowed: what anyone can fetch")
            if isinstance(source, WheelsSource):
                for text in source.requirements:
                    if "==" not in text:
                        yield self._at(key, f"not pinned: {text!r}; allowed: NAME==VERSION")

    def _texts(self, entry: Entry, claim: Claim | None) -> Iterator[LintTrouble]:
        provenance = self._case.provenance or Provenance()
        if provenance.url and not is_page(provenance.url):
            yield self._at("provenance.url", f"not a public page: {provenance.url!r}")
        if entry.status == "verified":
            if not provenance.url:
                yield self._at("provenance.url", "missing: a verified entry says where it is from")
            if not entry.description.strip():
                yield self._at("entry.description", "missing: a verified entry explains itself")
            if not entry.workaround.strip() and (claim is None or claim.kind != "sound"):
                yield self._at("entry.workaround", "missing: how can it be built all the same?")
        is_withdrawn = entry.status == "withdrawn"
        if is_withdrawn and not entry.withdrawn_because.strip():
            yield self._at("entry.withdrawn_because", "missing: why is it not believed any more?")
        if not is_withdrawn and entry.withdrawn_because:
            yield self._at("entry.withdrawn_because", f"given, but the status is {entry.status!r}")

    def _proof(self, entry: Entry, claim: Claim | None) -> Iterator[LintTrouble]:
        place = proof_path(self._path)
        if entry.status == "proposed" and place.exists():
            yield self._at(
                "entry.status", f"'proposed', but there is a proof: {place}; allowed: 'verified'"
            )
        if entry.status != "verified":
            return
        remedy = f"`buildvm catalog verify {self._case.id} --write` makes it"
        if not place.exists():
            yield self._at("entry.status", f"'verified', but there is no proof: {place}; {remedy}")
            return
        try:
            proof = load_proof(place)
        except CatalogError as error:
            yield LintTrouble(file=str(place), text=error.message)
            return
        yield from self._evidence(place, proof)
        yield from self._compare(place, proof.findings, claim)

    def _evidence(self, place: Path, proof: Proof) -> Iterator[LintTrouble]:
        """Tell what is missing in a proof; one of the first version has none, see `lint_notes`."""
        missing = proof.missing if proof.outcomes else ()
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            text = f"evidence that is not in it: {missing[0]}{more}"
            yield LintTrouble(file=str(place), key="outcomes", text=text)
        for at, finding in enumerate(proof.findings):
            if proof.outcomes and not finding.runs:
                text = "no run was made for it; allowed: what `--write` runs anew"
                yield LintTrouble(file=str(place), key=f"findings[{at}].runs", text=text)
            if finding.supersedes:
                text = f"{finding.supersedes}, which is in nobody's catalog; allowed: null"
                yield LintTrouble(file=str(place), key=f"findings[{at}].supersedes", text=text)

    def _compare(
        self, place: Path, findings: tuple[Finding, ...], claim: Claim | None
    ) -> Iterator[LintTrouble]:
        expected = (self._case.id, self._case.build_digest())
        for at, finding in enumerate(findings):
            seen = (finding.case.id, finding.case.build_digest())
            if seen != expected:
                text = f"on another build: {' '.join(seen)}; allowed: {' '.join(expected)}"
                yield LintTrouble(file=str(place), key=f"[{at}].case", text=text)
        if claim is None:
            return
        checks = [claim_agrees(claim, finding) for finding in findings]
        if not any(check.agreement is Agreement.AGREES for check in checks):
            why = "; ".join(dict.fromkeys(text for check in checks for text in check.why))
            text = f"does not bear out the claim ({checks[0].claimed}): {why}"
            yield LintTrouble(file=str(place), text=text)

    def _at(self, key: str, text: str) -> LintTrouble:
        parts = re.findall(r"[^.\[\]]+", key)
        path: KeyPath = tuple(int(part) if part.isdigit() else part for part in parts)
        while path not in self._lines:
            path = path[:-1]
        return LintTrouble(file=str(self._path), line=self._lines[path], key=key, text=text)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.+]+", "-", text.lower())


# The rules for the reported tier: one CSV file, safe to open in a spreadsheet.

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

    `cases`: files of the other tier's cases by id; what one of them is about is not reported again.
    Returns: in the order of the file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            troubles = list(_reported_troubles(path, stream, cases))
        return troubles or list(_unlike_ours(path))  # from what can be read
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [LintTrouble(file=str(path), text=f"cannot be read as CSV in UTF-8: {error}")]


def _reported_troubles(
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


def lint_catalog(root: Path | None = None) -> list[LintTrouble]:
    """Check a whole curated catalog.

    Parameters
    ----------
    root : Path, optional
        Its directory; default: the one that comes with buildvm-nb.

    Returns
    -------
    list of LintTrouble
        Empty where all is well.

    Raises
    ------
    CatalogError
        If this installation lacks it.
    """
    root = root or curated_root()
    troubles = list(_troubles(root))
    return troubles or list(_derived_troubles(root))  # from sound files only


def lint_files(paths: Sequence[Path]) -> list[LintTrouble]:
    """Check parts of curated catalogs.

    Parameters
    ----------
    paths : sequence of Path
        Case files in a directory ``cases``, ``reported.csv``, or directories of whole catalogs.

    Returns
    -------
    list of LintTrouble
        Empty where all is well.

    Raises
    ------
    UsageError
        If a path is none of these.
    """
    troubles: list[LintTrouble] = []
    for path in paths:
        if (path / "cases").is_dir():
            troubles += lint_catalog(path)
        elif path.suffix == ".toml" and path.absolute().parent.name == "cases":
            troubles += lint_entry(path)
        elif path.name == REPORTED_FILE and path.is_file():
            troubles += lint_reported(path, curated_cases(path.absolute().parent))
        else:
            raise UsageError(
                f"no part of a curated catalog: {path}; allowed: cases/ID.toml, {REPORTED_FILE}, "
                "or a directory with cases in it"
            )
    return troubles


def lint_notes(root: Path | None = None) -> list[LintTrouble]:
    """Tell what is no trouble, and could be better.

    Parameters
    ----------
    root : Path, optional
        A curated catalog; default: the one that comes with buildvm-nb.

    Returns
    -------
    list of LintTrouble
        One for each proof that does not carry its outcomes.

    Raises
    ------
    CatalogError
        If a proof cannot be read.
    """
    root = root or curated_root()
    places = [proof_path(path) for path in curated_cases(root).values()]
    notes = []
    for place in places:
        if place.exists() and (missing := load_proof(place).missing):
            text = f"carries none of its {len(missing)} outcomes; `buildvm catalog verify "
            text += f"{place.stem} --write` makes it anew with them"
            notes.append(LintTrouble(file=str(place), text=text))
    return notes


def _troubles(root: Path) -> Iterator[LintTrouble]:
    cases = curated_cases(root)
    if not cases:
        yield LintTrouble(file=str(root / "cases"), text="no case file in it")
    for path in cases.values():
        yield from lint_entry(path)
    for path in sorted((root / "cases").iterdir()):
        if path.suffix != ".toml":
            yield LintTrouble(file=str(path), text="no case file; allowed: ID.toml")
    proofs = root / "proofs"
    for path in sorted(proofs.iterdir()) if proofs.is_dir() else ():
        if path.suffix != ".json" or path.stem not in cases:
            text = "proves nothing: there is no such case; allowed: ID.json"
            yield LintTrouble(file=str(path), text=text)
    reported = root / REPORTED_FILE
    if reported.exists():
        yield from lint_reported(reported, cases)


def _derived_troubles(root: Path) -> Iterator[LintTrouble]:
    try:
        stale = stale_files(root)
    except (CatalogError, UsageError) as error:
        yield LintTrouble(file=str(root), text=error.message)
        return
    for path in stale:
        yield LintTrouble(
            file=str(path), text="not in step; `buildvm catalog derive` makes it anew"
        )
