"""The tables failures and hints, derived from rows of findings and from cases."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError
from sqlalchemy import ColumnElement, Row, Select, case, null, select

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.findingrows import finding_row
from buildvm_nb.catalog.frames import empty_frame, join_columns
from buildvm_nb.catalog.rows import subject_row, told_by_case, without_nul
from buildvm_nb.catalog.schema import FAILURES, HINTS, SUBJECT
from buildvm_nb.catalog.springs import next_turns, read_boundaries
from buildvm_nb.errors import CatalogError
from buildvm_nb.model.finding import Finding, FindingKind
from buildvm_nb.model.instants import now

__all__ = [
    "FAILURE_KINDS",
    "failures_frame",
    "failures_of",
    "failures_query",
    "hint_rows",
    "hints_query",
]

T = TypeVar("T")

FAILURE_KINDS = tuple(
    kind for kind in FindingKind if kind not in {FindingKind.SOUND, FindingKind.UNDETERMINED}
)
"""The kinds of finding that tell of a failure."""

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
    """Ask for what `failures_frame` takes.

    Returns
    -------
    Select
        Of findings and their cases.
    """
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

    Parameters
    ----------
    rows : sequence of Row
        Of `failures_query`.
    at : datetime, optional
        Aware; what counts as now: by default the present instant.

    Returns
    -------
    DataFrame
        One row each, with the columns and dtypes of ``schema.FAILURES.dtypes``.

    Raises
    ------
    CatalogError
        If a finding cannot be read.
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

    Parameters
    ----------
    findings : iterable of Finding
        What is sound or undetermined among them is left out.
    at : datetime, optional
        As for `failures_frame`.

    Returns
    -------
    DataFrame
        One row each, with the columns and dtypes of ``schema.FAILURES.dtypes``.
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
    """Ask for what `hint_rows` takes.

    Returns
    -------
    Select
        Of those findings that name a cause.
    """
    findings = tables.findings.c
    shared = (findings[name] for name in _OF_FINDINGS)
    return select(findings.id, *shared, findings.boundaries).where(
        findings.boundaries.contains('"cause":{')
    )


def hint_rows(row: Row[Any]) -> Iterator[list[Any]]:
    """List the hints of a finding.

    Parameters
    ----------
    row : Row
        Of `hints_query`.

    Yields
    ------
    list
        A value of the standard library, or None, for each column of `schema.HINTS`.

    Raises
    ------
    CatalogError
        If the boundaries of the finding cannot be read.
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
