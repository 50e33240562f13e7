"""The failures of a catalog: its current findings as the public table, and their causes."""

from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import Any

import pandas as pd
from sqlalchemy import Select

from buildvm_nb.catalog import tables
from buildvm_nb.catalog.failurerows import (
    FAILURE_KINDS,
    failures_frame,
    failures_query,
    hint_rows,
    hints_query,
)
from buildvm_nb.catalog.findings import FindingRecords, is_current
from buildvm_nb.catalog.frames import make_frame
from buildvm_nb.catalog.queries import filtered, instant_of, names_of, newest_rows, uncollected
from buildvm_nb.catalog.schema import HINTS
from buildvm_nb.errors import UsageError
from buildvm_nb.model.finding import Axis, FindingKind
from buildvm_nb.model.hint import HintKind

__all__ = ["FailureRecords", "chosen_failures"]

_KIND, _AXIS = (list(HINTS.dtypes).index(name) for name in ("kind", "axis"))


class FailureRecords(FindingRecords):
    """What `Catalog` tells of failures."""

    def failures(  # noqa: PLR0913 - filters, none of which need be given
        self,
        *,
        case: str | Iterable[str] | None = None,
        kind: FindingKind | str | Iterable[FindingKind | str] | None = None,
        axis: Axis | str | Iterable[Axis | str] | None = None,
        package: str | Iterable[str] | None = None,
        since: datetime | str | None = None,
        springs_before: datetime | str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return the current findings that tell of a failure, oldest first.

        The runs in which a case did not pass are
        ``outcomes(verdict=["failed", "crashed", "timeout"])``.

        Parameters
        ----------
        case, package : str or several of them, optional
            Only those on the case with this id; on this package, however it is spelled.
        kind : FindingKind, str or several of them, optional
            Only those of one of these kinds; by default of all but ``sound`` and
            ``undetermined``.
        axis : Axis, str or several of them, optional
            Only those that one of these axes explains.
        since : datetime or str, optional
            Aware, or text such as ``2026-11-24``; only those recorded at this instant or later.
        springs_before : datetime or str, optional
            Aware, or text such as ``2028-01-01``; only time traps that spring, or may spring,
            before this instant.
        limit : int, optional
            At most so many, the newest ones.

        Returns
        -------
        DataFrame
            One row each, with the columns and dtypes of ``schema.FAILURES.dtypes``.

        Raises
        ------
        UsageError
            If a filter is none: an unknown kind, a naive instant, a negative limit.
        CatalogError
            If the catalog cannot be read.
        """
        query = chosen_failures(case=case, kind=kind, axis=axis, package=package, since=since)
        if springs_before is not None:
            query = query.where(tables.findings.c.may_spring_from < instant_of(springs_before))
        with uncollected():
            return failures_frame(newest_rows(self._database, tables.findings, query, limit))

    def hints(
        self,
        *,
        case: str | Iterable[str] | None = None,
        kind: HintKind | str | Iterable[HintKind | str] | None = None,
        axis: Axis | str | Iterable[Axis | str] | None = None,
        package: str | Iterable[str] | None = None,
        since: datetime | str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return the hints that current findings name as the cause of a boundary, oldest first.

        Parameters
        ----------
        case, package : str or several of them, optional
            Only those of findings on the case with this id; on this package, however spelled.
        kind : HintKind, str or several of them, optional
            Only hints of one of these kinds.
        axis : Axis, str or several of them, optional
            Only those that explain a boundary on one of these axes.
        since : datetime or str, optional
            Aware, or text such as ``2026-11-24``; only those of findings recorded at this instant
            or later.
        limit : int, optional
            Those of at most so many findings, the newest ones.

        Returns
        -------
        DataFrame
            One row for each boundary with a cause, with the columns and dtypes of
            ``schema.HINTS.dtypes``.

        Raises
        ------
        UsageError
            If a filter is none: an unknown kind, a naive instant, a negative limit.
        CatalogError
            If the catalog cannot be read.
        """
        fits = partial(
            _fits,
            kinds=names_of(kind, HintKind, "kind of hint"),
            axes=names_of(axis, Axis, "axis"),
        )
        wanted = {"case_id": case, "package": package}
        query = filtered(hints_query().where(is_current()), tables.findings, wanted, since)
        rows = newest_rows(
            self._database,
            tables.findings,
            query,
            limit,
            lambda row: any(map(fits, hint_rows(row))),
        )
        return make_frame((hint for row in rows for hint in hint_rows(row) if fits(hint)), HINTS)


def chosen_failures(
    *,
    case: str | Iterable[str] | None = None,
    kind: FindingKind | str | Iterable[FindingKind | str] | None = None,
    axis: Axis | str | Iterable[Axis | str] | None = None,
    package: str | Iterable[str] | None = None,
    since: datetime | str | None = None,
) -> Select[Any]:
    """Ask for failures.

    Parameters
    ----------
    case, kind, axis, package, since
        As for `FailureRecords.failures`.

    Returns
    -------
    Select
        Of what `failurerows.failures_frame` takes.

    Raises
    ------
    UsageError
        If a filter is none.
    """
    kinds = names_of(FAILURE_KINDS if kind is None else kind, FindingKind, "kind of finding")
    for name in kinds or ():
        if name not in FAILURE_KINDS:
            raise UsageError(
                f"no kind of failure: {name!r}; allowed: {', '.join(FAILURE_KINDS)}",
                hint="findings() and `buildvm catalog findings` have all kinds",
            )
    wanted = {
        "case_id": case,
        "package": package,
        "kind": kinds,
        "axis": names_of(axis, Axis, "axis"),
    }
    return filtered(failures_query().where(is_current()), tables.findings, wanted, since)


def _fits(hint: list[Any], kinds: tuple[str, ...] | None, axes: tuple[str, ...] | None) -> bool:
    return (kinds is None or hint[_KIND] in kinds) and (axes is None or hint[_AXIS] in axes)
