"""Rows of the tables failures and hints, derived from rows of findings and from cases."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError
from sqlalchemy import ColumnElement, Row, Select, case, null, select

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.rows import without_nul
from buildvm_nb.catalog.schema import FAILURES, HINTS
from buildvm_nb.catalog.springs import breaks, read_boundaries, spring_at
from buildvm_nb.errors import CatalogError
from buildvm_nb.model.case import Provenance
from buildvm_nb.model.finding import Axis, FindingKind

__all__ = ["failure_row", "failures_query", "hint_rows", "hints_query"]

_CASES_KEPT = 4096
_OF_FINDINGS = (
    "recorded_at",
    "case_id",
    "source_kind",
    "source_name",
    "source_version",
)


class _ToldByCase(BaseModel):
    """As much of a case's document as a failure tells."""

    title: str = ""
    provenance: Provenance | None = None


class _ToldByFinding(BaseModel):
    """As much of a finding's document as a failure tells and the table findings does not."""

    features_harmful: tuple[str, ...] = ()


def failures_query() -> Select[Any]:
    """Ask for what `failure_row` takes.

    Returns
    -------
    Select
        Of findings and their cases.
    """
    findings, cases = tables.findings.c, tables.cases.c
    of_cpu = findings.kind == FindingKind.CPU_DEPENDENT.value
    columns: list[ColumnElement[Any]] = [
        findings[name] if name in findings else null().label(name) for name in FAILURES.dtypes
    ]
    return select(
        *columns,
        cases.document.label("case_document"),
        # documents are long, and only these tell more than their row
        case((of_cpu, findings.document)).label("finding_document"),
    ).join_from(
        tables.findings,
        tables.cases,
        (cases.id == findings.case_id) & (cases.digest == findings.case_digest),
    )


def failure_row(row: Row[Any]) -> list[Any]:
    """Derive a failure.

    Parameters
    ----------
    row : Row
        Of `failures_query`.

    Returns
    -------
    list
        A value of the standard library, or None, for each column of `schema.FAILURES`.

    Raises
    ------
    CatalogError
        If the finding or its case cannot be read.
    """
    *values, case_document, finding_document = tuple(row)
    try:
        title, url = _told_by_case(case_document)
        harmful = _harmful(finding_document)
    except ValidationError as error:
        raise CatalogError(
            f"finding {row.id} or its case cannot be read: {error.error_count()} fields are not "
            "as this buildvm-nb knows them",
            hint="it was written by another version, or changed by hand",
        ) from error
    sprung = row.axis == Axis.DATE and breaks(row.verdict_before, row.verdict_after)
    values[_TITLE], values[_URL] = title, url
    values[_SPRINGS] = spring_at(row.first_after) if sprung else None
    values[_HARMFUL] = harmful
    return values


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


_TITLE, _URL, _SPRINGS, _HARMFUL = (
    list(FAILURES.dtypes).index(name)
    for name in ("title", "provenance_url", "springs_at", "features_harmful")
)


@lru_cache(maxsize=_CASES_KEPT)
def _told_by_case(document: str) -> tuple[str | None, str | None]:
    told = _ToldByCase.model_validate_json(document)
    url = told.provenance.url if told.provenance else ""
    shown = without_nul({"title": told.title or None, "url": url or None})
    return shown["title"], shown["url"]


def _harmful(document: str | None) -> str | None:
    if document is None:
        return None
    return " ".join(_ToldByFinding.model_validate_json(document).features_harmful) or None
