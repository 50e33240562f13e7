"""Findings of three tiers: the user's own, the curated catalog's, and what the literature reports.

Every row says of which tier it is.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pandas as pd

from buildvm_nb.catalog.casefile import load_case
from buildvm_nb.catalog.curated import (
    curated_cases,
    curated_findings,
    curated_root,
    load_proof,
    proof_path,
)
from buildvm_nb.catalog.frames import empty_frame, make_frame
from buildvm_nb.catalog.logs import replacing
from buildvm_nb.catalog.query import FAILURE_KINDS, Query
from buildvm_nb.catalog.reported import REPORTED, REPORTED_FILE, reported_entries
from buildvm_nb.catalog.rows import finding_row
from buildvm_nb.catalog.schema import FAILURES, FINDINGS, Column, Kind, TableSchema
from buildvm_nb.catalog.store import Catalog
from buildvm_nb.catalog.tablefiles import write_csv
from buildvm_nb.catalog.traps import failures_of
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.case import Case
from buildvm_nb.model.claims import describe_claim
from buildvm_nb.model.display import card
from buildvm_nb.model.finding import Finding
from buildvm_nb.model.instants import format_instant

__all__ = [
    "CuratedShelf",
    "OwnShelf",
    "ReportedShelf",
    "Shelf",
    "Tier",
    "curated_catalog",
    "derive",
    "derived_files",
    "page_of_shelves",
    "stale_files",
]

# What follows from the curated catalog's entries: ``failures.csv`` and the table for readers.

_BEGIN = "<!-- begin: made by `buildvm catalog derive` -->"
_END = "<!-- end -->"


def derived_files(root: Path | None = None) -> dict[Path, str]:
    """Work out the derived files of a curated catalog.

    Parameters
    ----------
    root : Path, optional
        Its directory; default: the one that comes with buildvm-nb.

    Returns
    -------
    dict of Path to str
        What each must hold.

    Raises
    ------
    UsageError
        If a case file is invalid.
    CatalogError
        If a proof is, or README.md has no place for the table.
    """
    root = root or curated_root()
    findings = curated_findings(root)
    csv = StringIO()
    # not the present instant: the file would be out of step tomorrow
    made_at = max((one.recorded_at for one in findings), default=None)
    write_csv(failures_of(findings, made_at), csv, FAILURES)
    readme = root / "README.md"
    return {root / "failures.csv": csv.getvalue(), readme: _readme(readme, root, findings)}


def stale_files(root: Path | None = None) -> tuple[Path, ...]:
    """Return the derived files that do not hold what follows from the entries.

    Parameters
    ----------
    root : Path, optional
        A curated catalog.

    Returns
    -------
    tuple of Path
        Those that differ or are missing.

    Raises
    ------
    UsageError
        If a case file is invalid.
    CatalogError
        If a proof is, or README.md has no place for the table.
    """
    return tuple(path for path, text in derived_files(root).items() if _content(path) != text)


def derive(root: Path | None = None) -> tuple[Path, ...]:
    """Make the derived files anew.

    Parameters
    ----------
    root : Path, optional
        A curated catalog.

    Returns
    -------
    tuple of Path
        Those that were not in step.

    Raises
    ------
    UsageError
        If a case file is invalid.
    CatalogError
        If a proof is, README.md has no place for the table, or a file cannot be written.
    """
    stale = stale_files(root)
    texts = derived_files(root)
    for path in stale:
        with replacing(path) as stream:
            stream.write(texts[path])
    return stale


def _content(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"cannot read {path}: {error}") from error


def _readme(path: Path, root: Path, findings: tuple[Finding, ...]) -> str:
    text = _content(path) or ""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise CatalogError(f"no place for the table in {path}: allowed: {_BEGIN} … {_END}")
    body = "\n".join(_tables(root, findings))
    return f"{before}{_BEGIN}\n\n{body}\n{_END}{after}"


def _tables(root: Path, findings: tuple[Finding, ...]) -> Iterator[str]:
    cases = [load_case(path) for path in curated_cases(root).values()]
    by_status = {
        status: [case for case in cases if case.entry and case.entry.status == status]
        for status in ("verified", "proposed", "withdrawn")
    }
    yield f"### Verified: {len(by_status['verified'])}\n"
    yield "| entry | what it is about | what machines showed | passes in |"
    yield "|---|---|---|---|"
    for case in by_status["verified"]:
        shown = [one for one in findings if one.case.id == case.id]
        summary = _safe("; ".join(one.summary for one in shown))
        yield _row(
            _link(case),
            _safe(case.title),
            f"{summary} ([proof](proofs/{case.id}.json))",
            _safe("; ".join(filter(None, map(_environment, shown)))) or "no machine that is known",
        )
    yield f"\n### Proposed: {len(by_status['proposed'])}\n"
    yield "Nobody has proved these yet.\n"
    yield "| entry | what it is about | what is claimed |"
    yield "|---|---|---|"
    for case in by_status["proposed"]:
        yield _row(_link(case), _safe(case.title), _safe(_claimed(case)))
    if by_status["withdrawn"]:
        yield f"\n### Withdrawn: {len(by_status['withdrawn'])}\n"
        yield "| entry | why |"
        yield "|---|---|"
        for case in by_status["withdrawn"]:
            why = case.entry.withdrawn_because if case.entry else ""
            yield _row(_link(case), _safe(why))
    reported = reported_entries(root)
    yield f"\n### Reported: {len(reported)}\n"
    yield f"Told by public sources, proved by nobody here: [{REPORTED_FILE}]({REPORTED_FILE}).\n"
    yield "| kind | entries |"
    yield "|---|---|"
    for kind, count in sorted(Counter(reported["kind"]).items()):
        yield _row(_safe(str(kind)), str(count))


def _claimed(case: Case) -> str:
    return describe_claim(case.claim) if case.claim else "nothing"


def _environment(finding: Finding) -> str:
    machine = finding.environment
    if machine is None:
        return ""
    return f"{format_instant(machine.date)[:10]}, {machine.cpu}, {machine.kernel}"


def _link(case: Case) -> str:
    return f"[{case.id}](cases/{case.id}.toml)"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _safe(text: str) -> str:
    """Show what is markup in texts that are not ours."""
    return " ".join(re.sub(r"([|`<>*_\[\]\\])", r"\\\1", text).split())


class Tier(StrEnum):
    """Who says so."""

    OWN = "own"
    """The user's own catalog."""
    CURATED = "curated"
    """A verified entry of the curated catalog."""
    REPORTED = "reported"
    """A public source; no machine of ours has proved it."""


SHELVED = TableSchema(
    name="shelved",
    columns=(
        Column(name="tier", kind=Kind.TEXT, meaning="own, curated or reported", optional=False),
        FINDINGS["id"],
        FINDINGS["case_id"],
        Column(name="package", kind=Kind.TEXT, meaning="name and version of what was built"),
        FINDINGS["kind"],
        FINDINGS["axis"],
        FINDINGS["first_after"],
        FINDINGS["summary"],
        Column(name="recorded_at", kind=Kind.INSTANT, meaning="when it was concluded"),
    ),
    meaning="One row for each finding or report, of any tier.",
)
_AXES = {"time-trap": "date", "cpu-dependent": "cpu", "kernel-dependent": "kernel"}


class Shelf(Protocol):
    """The findings of one tier."""

    @property
    def tier(self) -> Tier:
        """Which one."""

    def count(self, wanted: Query) -> int:
        """Count the rows of a selection."""

    def page(
        self, wanted: Query, *, sort: str, descending: bool, offset: int, size: int
    ) -> pd.DataFrame:
        """Return a page of a selection, with the columns of `SHELVED`."""

    def export(self, wanted: Query, target: Path) -> None:
        """Write a selection to a CSV file, in the form that is that tier's own."""

    def open(self, key: str) -> tuple[str, tuple[str, ...]]:
        """Return an entry as HTML, and the ids of the outcomes that prove it, if they are here."""


@dataclass(frozen=True)
class OwnShelf:
    """What the user's own catalog has."""

    catalog: Catalog
    tier: Tier = Tier.OWN

    def count(self, wanted: Query) -> int:
        """Count the rows of a selection; see `Shelf`."""
        return self.catalog.count(wanted)

    def page(
        self, wanted: Query, *, sort: str, descending: bool, offset: int, size: int
    ) -> pd.DataFrame:
        """Return a page; see `Shelf`."""
        column = {"tier": "recorded_at", "package": "source_name"}.get(sort, sort)
        frame = self.catalog.page(
            wanted, sort=column, descending=descending, offset=offset, size=size
        )
        return _shelved(self.tier, frame.astype(object).where(frame.notna(), None))

    def export(self, wanted: Query, target: Path) -> None:
        """Write the failures among them; see `Shelf`."""
        kinds = tuple(kind for kind in FAILURE_KINDS if wanted.only in {None, kind.value})
        failures = replace(wanted, table=FAILURES.name, only=kinds)
        self.catalog.export(target, failures, form="csv")

    def open(self, key: str) -> tuple[str, tuple[str, ...]]:
        """Open a finding; see `Shelf`."""
        finding = self.catalog.finding(key)
        return finding._repr_html_(), finding.evidence


class _FrameShelf:
    """A tier that is small enough to be held in memory."""

    tier: Tier

    def __init__(self, frame: pd.DataFrame, texts: Iterable[str]) -> None:
        self._frame = frame
        self._texts = pd.Series(list(texts), index=frame.index, dtype="string[pyarrow]")

    def count(self, wanted: Query) -> int:
        """Count the rows of a selection; see `Shelf`."""
        return len(self._selected(wanted))

    def page(
        self, wanted: Query, *, sort: str, descending: bool, offset: int, size: int
    ) -> pd.DataFrame:
        """Return a page; see `Shelf`."""
        if sort not in SHELVED.dtypes:
            raise UsageError(f"no such column: {sort!r}; allowed: {', '.join(SHELVED.dtypes)}")
        chosen = self._selected(wanted).sort_values(
            [sort, "id"], ascending=not descending, na_position="last"
        )
        return chosen.iloc[offset : offset + size].reset_index(drop=True)

    def _selected(self, wanted: Query) -> pd.DataFrame:
        frame = self._frame
        keep = pd.Series(data=True, index=frame.index)
        for column, values in (("kind", wanted.only), ("axis", wanted.axis)):
            if values is not None:
                keep &= frame[column].isin([values] if isinstance(values, str) else list(values))
        if wanted.case_part:
            named = frame["case_id"].str.lower()
            keep &= named.str.contains(wanted.case_part.lower(), regex=False)
        if wanted.text:
            keep &= self._texts.str.contains(wanted.text.lower(), regex=False)
        if wanted.since is not None:
            keep &= frame["recorded_at"] >= wanted.since
        if wanted.until is not None:
            keep &= frame["recorded_at"] < wanted.until
        return frame[keep]


class CuratedShelf(_FrameShelf):
    """What was verified for the curated catalog.

    `root`: a curated catalog; default: the one that comes with buildvm-nb.
    """

    tier = Tier.CURATED

    def __init__(self, root: Path | None = None) -> None:
        self._findings = {finding.id: finding for finding in curated_findings(root)}
        rows = [finding_row(finding) for finding in self._findings.values()]
        super().__init__(_shelved(self.tier, pd.DataFrame(rows, dtype=object)), map(_text, rows))

    def export(self, wanted: Query, target: Path) -> None:
        """Write the failures among them; see `Shelf`."""
        chosen = self._selected(wanted)["id"]
        with replacing(target) as stream:
            write_csv(failures_of(self._findings[key] for key in chosen), stream, FAILURES)

    def open(self, key: str) -> tuple[str, tuple[str, ...]]:
        """Open a finding; see `Shelf`. Its outcomes are in nobody's catalog."""
        return self._findings[key]._repr_html_(), ()


class ReportedShelf(_FrameShelf):
    """What the literature reports.

    `root`: a curated catalog; default: the one that comes with buildvm-nb.
    """

    tier = Tier.REPORTED

    def __init__(self, root: Path | None = None) -> None:
        entries = reported_entries(root)
        self._entries = entries.set_index("id", drop=False)
        told = entries.astype(object).where(entries.notna(), None).to_dict("records")
        self._told = {row["id"]: row for row in told}
        rows = [
            {
                "id": row["id"],
                "case_id": row["id"],
                "source_name": row["package"],
                "source_version": row["version"],
                "kind": row["kind"],
                "axis": _AXES.get(row["kind"]),
                "first_after": row["springs_at"],
                "summary": row["symptom"],
            }
            for row in told
        ]
        super().__init__(_shelved(self.tier, pd.DataFrame(rows, dtype=object)), map(_text, told))

    def export(self, wanted: Query, target: Path) -> None:
        """Write the entries as they are reported; see `Shelf`."""
        chosen = self._entries.loc[list(self._selected(wanted)["id"])]
        with replacing(target) as stream:
            write_csv(chosen.reset_index(drop=True), stream, REPORTED)

    def open(self, key: str) -> tuple[str, tuple[str, ...]]:
        """Open an entry; see `Shelf`."""
        row = self._told[key]
        facts = [(name, row[name]) for name in REPORTED.dtypes]
        return card(f"Reported: {key}; no machine of ours has proved it", facts), ()


@contextmanager
def curated_catalog(root: Path | None = None) -> Iterator[Catalog]:
    """Open a catalog with the curated findings in it, for whoever has none of their own.

    `root`: a curated catalog; default: the one that comes with buildvm-nb.
    Yields: a copy, gone afterwards: with the outcomes of those proofs that carry them.
    """
    proofs = [
        load_proof(place)
        for place in map(proof_path, curated_cases(root).values())
        if place.exists()
    ]
    carried = {one.id: one for proof in proofs for one in proof.outcomes}
    with (
        TemporaryDirectory(prefix="buildvm-") as directory,
        Catalog(Path(directory) / "catalog.sqlite") as catalog,
    ):
        catalog.record_many((one, b"") for one in carried.values())
        for finding in curated_findings(root):
            evidence = tuple(key for key in finding.evidence if key in carried)
            catalog.record_finding(finding.model_copy(update={"evidence": evidence}))
        yield catalog


def page_of_shelves(
    shelves: Sequence[Shelf],
    wanted: Query,
    *,
    sort: str,
    descending: bool,
    offset: int,
    size: int,
) -> tuple[dict[Tier, int], pd.DataFrame]:
    """Return a page of several tiers, one after the other: they are not mixed.

    `shelves`: in this order.
    Returns: how many rows of each tier are selected in all, and the page, with the columns of
    `SHELVED`.
    """
    counts = {shelf.tier: shelf.count(wanted) for shelf in shelves}
    pages, left = [empty_frame(SHELVED)], size
    for shelf in shelves:
        if left and offset < counts[shelf.tier]:
            page = shelf.page(wanted, sort=sort, descending=descending, offset=offset, size=left)
            pages.append(page)
            left -= len(page)
        offset = max(0, offset - counts[shelf.tier])
    return counts, pd.concat(pages, ignore_index=True)


def _shelved(tier: Tier, frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame.to_dict("records")
    return make_frame(
        (
            [
                tier.value,
                row["id"],
                row["case_id"],
                f"{row['source_name'] or ''} {row['source_version'] or ''}".strip() or None,
                *(row[name] for name in ("kind", "axis", "first_after", "summary")),
                row.get("recorded_at"),
            ]
            for row in rows
        ),
        SHELVED,
    )


def _text(row: Mapping[Any, Any]) -> str:
    return "\n".join(str(value).lower() for value in row.values() if value is not None)
