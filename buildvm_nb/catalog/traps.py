"""Time traps in frames: the tables of failures and hints, and what ``frame.traps`` tells."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError
from sqlalchemy import ColumnElement, Row, Select, case, null, select

from buildvm_nb.catalog import database as tables
from buildvm_nb.catalog.frames import empty_frame, join_columns, make_array
from buildvm_nb.catalog.query import FAILURE_KINDS
from buildvm_nb.catalog.rows import finding_row, subject_row, told_by_case, without_nul
from buildvm_nb.catalog.schema import FAILURES, HINTS, SUBJECT, Kind
from buildvm_nb.catalog.springs import Spring, next_turns, read_boundaries, springs
from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.finding import Finding, FindingKind
from buildvm_nb.model.instants import now, parse_instant
from buildvm_nb.model.machine import cpu_age, kernel_age
from buildvm_nb.model.outcome import Verdict

__all__ = [
    "failures_frame",
    "failures_of",
    "failures_query",
    "hint_rows",
    "hints_query",
]

# ``frame.traps``: what frames of a catalog tell about traps, as further frames.
#
# It is there once `buildvm_nb.catalog.Catalog` has been imported.

_TIMELINE = {
    "springs_at": Kind.INSTANT,
    "passes_until": Kind.INSTANT,
    "is_exact": Kind.BOOLEAN,
    "passes_again_at": Kind.INSTANT,
    "is_past": Kind.BOOLEAN,
    "case_id": Kind.TEXT,
    "kind": Kind.TEXT,
    "cause_kind": Kind.TEXT,
    "cause_path": Kind.TEXT,
    "cause_why": Kind.TEXT,
    "id": Kind.TEXT,
}
_PARTS = {"year": "%Y", "month": "%Y-%m", "day": "%Y-%m-%d", "instant": ""}
_AGES: dict[str, Callable[[str], Any]] = {
    "cpu": cpu_age,
    "env_cpu": cpu_age,
    "kernel": kernel_age,
    "kernel_release": kernel_age,
    "env_kernel": kernel_age,
}
"""What the alphabet would put into an order that tells nothing."""
_FEATURES = {
    "feature": Kind.TEXT,
    "needed": Kind.INTEGER,
    "harmful": Kind.INTEGER,
    "cases": Kind.TEXT,
}


@pd.api.extensions.register_dataframe_accessor("traps")
class Traps:
    """What a frame tells about traps.

    `frame`: of `Catalog.failures` or `Catalog.findings`; of `Catalog.outcomes` for `matrix`. Any
    rows of it will do.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def timeline(self, *, at: datetime | str | None = None) -> pd.DataFrame:
        """List when traps spring, past and to come.

        `at`: what counts as now; by default the present instant.
        Returns: one row for each boundary on the date axis from passing to failing, ordered by
        time: - ``springs_at``, the first instant that is known to fail, ``passes_until``, the last
        one before it that is known to pass, and ``is_exact``, whether they are neighbouring seconds
        (``datetime64[us, UTC]`` and ``boolean``); - ``passes_again_at``, from when on it passes
        again; missing: it stays so; - ``is_past``, whether ``springs_at`` is not after `at`
        (``boolean``); - ``case_id``, ``kind``, ``cause_kind``, ``cause_path``, ``cause_why`` and
        ``id`` of the finding (``string[pyarrow]``).
        """
        instant = _instant(at)
        self._need("id", "case_id", "kind", "boundaries")
        about = self._frame[["case_id", "kind", "id"]].itertuples(index=False)
        pairs = zip(about, self._springs(), strict=True)
        rows = [
            (
                spring.springs_at,
                spring.passes_until,
                spring.is_exact,
                spring.passes_again_at,
                spring.springs_at <= instant,
                row.case_id,
                row.kind,
                spring.cause and spring.cause.kind.value,
                spring.cause and (spring.cause.path or None),
                spring.cause and spring.cause.why,
                row.id,
            )
            for row, found in pairs
            for spring in found
        ]
        rows.sort(key=lambda row: (row[0], row[-1]))
        return _frame_of(rows, _TIMELINE)

    def expiring(
        self, before: datetime | str, *, after: datetime | str | None = None
    ) -> pd.DataFrame:
        """Choose the rows whose trap springs within a stretch of time.

        `after`: and after this one; by default the present instant.
        Returns: rows of the frame with their index, ordered by their first spring within the
        stretch. Where a spring is not exact, it counts if it may lie in the stretch.
        """
        first, last = _instant(after), _instant(before)
        self._need("boundaries")
        found = []
        for position, all_springs in enumerate(self._springs()):
            within = [entry.springs_at for entry in all_springs if entry.may_lie(first, last)]
            if within:
                found.append((min(within), position))
        return self._frame.iloc[[position for _, position in sorted(found)]]

    def by_feature(self) -> pd.DataFrame:
        """Count what CPU features decide.

        Returns: one row for each feature, those that decide most cases first: ``feature``
        (``string[pyarrow]``), ``needed``, the number of cases that fail without it (or without a
        set that it belongs to), ``harmful``, the number of cases that fail with it (``Int64``), and
        ``cases``, their ids by spaces (``string[pyarrow]``).
        """
        self._need("case_id", "features", "features_needed", "features_harmful")
        frame = self._frame
        needed = [
            *_words(frame["features"], frame["case_id"]),
            *_words(frame["features_needed"], frame["case_id"]),
        ]
        harmful = list(_words(frame["features_harmful"], frame["case_id"]))
        rows: list[tuple[str, int, int, str]] = []
        for feature in {word for word, _ in (*needed, *harmful)}:
            needing = {case for word, case in needed if word == feature}
            harmed = {case for word, case in harmful if word == feature}
            cases = " ".join(sorted(needing | harmed))
            rows.append((feature, len(needing), len(harmed), cases))
        rows.sort(key=lambda row: (-row[1] - row[2], row[0]))
        return _frame_of(rows, _FEATURES)

    def matrix(self, rows: str = "date", columns: str = "cpu", *, by: str = "year") -> pd.DataFrame:
        """Lay verdicts out over two columns of a frame of outcomes.

        `rows`, `columns`: names of two columns, such as ``date``, ``cpu``, ``kernel``,
        ``cpu_count`` or ``case_id``.
        Returns: one row and one column for each value, in order, CPUs and kernels by their age; its
        cells are ``string[pyarrow]``. A cell is the verdict where all outcomes there agree, else
        their counts, for example ``mixed: 1 failed, 3 passed``, and missing where there is none.
        Outcomes with verdict ``error``, which say nothing about a case, count only where there is
        no other.
        Raises `UsageError` if the frame lacks a column, both are the same, or dates do not count
        so.
        """
        self._need("verdict", rows, columns)
        if rows == columns:
            raise UsageError(f"rows and columns are the same: {rows!r}")
        if self._frame.empty:
            return pd.DataFrame(dtype="string[pyarrow]")
        if by not in _PARTS:
            raise UsageError(f"dates by {by!r}; allowed: {', '.join(_PARTS)}")
        frame = self._frame[["verdict", rows, columns]].copy()
        for name in (rows, columns):
            if _PARTS[by] and isinstance(frame[name].dtype, pd.DatetimeTZDtype):
                frame[name] = frame[name].dt.strftime(_PARTS[by]).astype("string[pyarrow]")
        cells = frame.pivot_table("verdict", rows, columns, aggfunc=_told, observed=True)
        if rows in _AGES:
            cells = cells.reindex(index=sorted(cells.index, key=_AGES[rows]))
        if columns in _AGES:
            cells = cells.reindex(columns=sorted(cells.columns, key=_AGES[columns]))
        return cells.astype("string[pyarrow]")

    def _springs(self) -> Iterator[tuple[Spring, ...]]:
        return map(springs, self._frame["boundaries"])

    def _need(self, *names: str) -> None:
        missing = [name for name in names if name not in self._frame.columns]
        if missing:
            raise UsageError(
                f"the frame has no column {', '.join(map(repr, missing))}",
                hint="take a frame of Catalog.failures(), or of Catalog.outcomes() for a matrix",
            )


def _instant(given: datetime | str | None) -> datetime:
    return now() if given is None else parse_instant(given)


def _words(cells: "pd.Series[Any]", cases: "pd.Series[Any]") -> Iterator[tuple[str, str]]:
    for cell, name in zip(cells, cases, strict=True):
        if not pd.isna(cell):
            for word in cell.split():
                yield word, name


def _told(verdicts: "pd.Series[Any]") -> str:
    counts = verdicts.value_counts()
    if len(counts) > 1:
        counts = counts.drop(Verdict.ERROR.value, errors="ignore")
    if len(counts) == 1:
        return str(counts.index[0])
    counted = (f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    return f"mixed: {', '.join(counted)}"


def _frame_of(rows: list[tuple[Any, ...]], kinds: dict[str, Kind]) -> pd.DataFrame:
    columns = zip(*rows, strict=True) if rows else ([] for _ in kinds)
    return pd.DataFrame(
        {
            name: make_array(list(values), kind)
            for (name, kind), values in zip(kinds.items(), columns, strict=True)
        }
    )


# The tables failures and hints, derived from rows of findings and from cases.

T = TypeVar("T")

_OF_CASES = frozenset([*(column.name for column in SUBJECT), "title", "provenance_url"])
_LISTS = ("passing_kernels", "failing_kernels", "varying_files")
_OF_FINDINGS = (
    "recorded_at",
    "case_id",
    "source_kind",
    "source_name",
    "source_version",
)


class _ToldByFinding(BaseModel):
    """As much of a finding's document as a failure tells and the table findings does not."""

    features_harmful: tuple[str, ...] = ()


def failures_query() -> Select[Any]:
    """Ask for what `failures_frame` takes."""
    findings, cases = tables.findings.c, tables.cases.c
    of_cpu = findings.kind == FindingKind.CPU_DEPENDENT.value
    columns: list[ColumnElement[Any]] = [
        cases[name]
        if name in _OF_CASES
        else findings[name]
        if name in findings
        else null().label(name)
        for name in FAILURES.dtypes
    ]
    return select(
        *columns,
        # documents are long, and only these tell more than their row
        case((of_cpu, findings.document)).label("finding_document"),
    ).join_from(
        tables.findings,
        tables.cases,
        (cases.id == findings.case_id) & (cases.digest == findings.case_digest),
    )


def failures_frame(rows: Sequence[Sequence[Any]], at: datetime | None = None) -> pd.DataFrame:
    """Derive failures.

    `at`: aware; what counts as now: by default the present instant.
    """
    if not rows:
        return empty_frame(FAILURES)
    # column by column: tens of thousands of lists, one for each row, take longer than all else
    *values, documents = zip(*rows, strict=True)
    columns: dict[str, Sequence[Any]] = dict(zip(FAILURES.dtypes, values, strict=True))
    instant = at or now()
    told = zip(columns["boundaries"], columns["recurs"], strict=True)
    turns = [next_turns(text, instant, recurs) for text, recurs in told]
    columns["next_springs_at"] = [fails for fails, _ in turns]
    columns["next_passes_at"] = [passes for _, passes in turns]
    for name in _LISTS:
        columns[name] = [None if text == "[]" else text for text in columns[name]]
    columns["features_harmful"] = list(_read_each(_harmful, documents, columns["id"]))
    return join_columns(columns.values(), FAILURES)


def failures_of(findings: Iterable[Finding], at: datetime | None = None) -> pd.DataFrame:
    """Tell findings that are in no catalog as failures.

    `findings`: what is sound or undetermined among them is left out.
    """
    rows = [_as_asked(one) for one in findings if one.kind in FAILURE_KINDS]
    return failures_frame(rows, at)


def _as_asked(finding: Finding) -> tuple[Any, ...]:
    """Return what `failures_query` would."""
    row = finding_row(finding) | subject_row(finding.case) | told_by_case(finding.case)
    return (
        *(row.get(name) for name in FAILURES.dtypes),
        finding.model_dump_json() if finding.kind is FindingKind.CPU_DEPENDENT else None,
    )


def hints_query() -> Select[Any]:
    """Ask for what `hint_rows` takes."""
    findings = tables.findings.c
    shared = (findings[name] for name in _OF_FINDINGS)
    return select(findings.id, *shared, findings.boundaries).where(
        findings.boundaries.contains('"cause":{')
    )


def hint_rows(row: Row[Any]) -> Iterator[list[Any]]:
    """List the hints of a finding.

    Yields: a value of the standard library, or None, for each column of `schema.HINTS`.
    """
    for boundary in read_boundaries(row.boundaries):
        if boundary.cause is not None:
            told = without_nul(
                {
                    "finding_id": row.id,
                    **{name: getattr(row, name) for name in _OF_FINDINGS},
                    "kind": boundary.cause.kind.value,
                    "path": boundary.cause.path or None,
                    "line": boundary.cause.line,
                    "instant": boundary.cause.instant,
                    "condition": boundary.cause.condition or None,
                    "why": boundary.cause.why,
                    "axis": boundary.axis.value,
                    "last_before": boundary.last_before,
                    "first_after": boundary.first_after,
                }
            )
            yield [told[name] for name in HINTS.dtypes]


def _read_each(
    read: Callable[[Any], T], documents: Iterable[Any], ids: Iterable[str]
) -> Iterator[T]:
    for key, document in zip(ids, documents, strict=True):
        try:
            yield read(document)
        except ValidationError as error:
            raise CatalogError(
                f"finding {key} cannot be read: {error.error_count()} fields are not "
                "as this buildvm-nb knows them",
                hint="it was written by another version, or changed by hand",
            ) from error


def _harmful(document: str | None) -> str | None:
    if document is None:
        return None
    return " ".join(_ToldByFinding.model_validate_json(document).features_harmful) or None
