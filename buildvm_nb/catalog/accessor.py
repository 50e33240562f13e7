"""``frame.traps``: what frames of a catalog tell about traps, as further frames.

It is there once `buildvm_nb.catalog.Catalog` has been imported.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pandas as pd

from buildvm_nb.catalog.columns import Kind
from buildvm_nb.catalog.frames import make_array
from buildvm_nb.catalog.springs import Spring, springs
from buildvm_nb.errors import UsageError
from buildvm_nb.model.cpu import cpu_age
from buildvm_nb.model.instants import now, parse_instant
from buildvm_nb.model.machine import kernel_age
from buildvm_nb.model.outcome import Verdict

__all__ = ["Traps"]

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

    Parameters
    ----------
    frame : DataFrame
        Of `Catalog.failures` or `Catalog.findings`; of `Catalog.outcomes` for `matrix`. Any rows
        of it will do.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def timeline(self, *, at: datetime | str | None = None) -> pd.DataFrame:
        """List when traps spring, past and to come.

        Parameters
        ----------
        at : datetime or str, optional
            What counts as now; by default the present instant.

        Returns
        -------
        DataFrame
            One row for each boundary on the date axis from passing to failing, ordered by time:

            - ``springs_at``, the first instant that is known to fail, ``passes_until``, the last
              one before it that is known to pass, and ``is_exact``, whether they are neighbouring
              seconds (``datetime64[us, UTC]`` and ``boolean``);
            - ``passes_again_at``, from when on it passes again; missing: it stays so;
            - ``is_past``, whether ``springs_at`` is not after `at` (``boolean``);
            - ``case_id``, ``kind``, ``cause_kind``, ``cause_path``, ``cause_why`` and ``id`` of the
              finding (``string[pyarrow]``).

        Raises
        ------
        UsageError
            If the frame lacks a column, or `at` is no instant.
        CatalogError
            If its boundaries cannot be read.
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

        Parameters
        ----------
        before : datetime or str
            The trap springs before this instant.
        after : datetime or str, optional
            And after this one; by default the present instant.

        Returns
        -------
        DataFrame
            Rows of the frame with their index, ordered by their first spring within the stretch.
            Where a spring is not exact, it counts if it may lie in the stretch.

        Raises
        ------
        UsageError
            If the frame lacks a column, or an instant is none.
        CatalogError
            If its boundaries cannot be read.
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

        Returns
        -------
        DataFrame
            One row for each feature, those that decide most cases first: ``feature``
            (``string[pyarrow]``), ``needed``, the number of cases that fail without it (or
            without a set that it belongs to), ``harmful``, the number of cases that fail with it
            (``Int64``), and ``cases``, their ids by spaces (``string[pyarrow]``).

        Raises
        ------
        UsageError
            If the frame lacks a column; those of `Catalog.failures` have all.
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

        Parameters
        ----------
        rows, columns : str
            Names of two columns, such as ``date``, ``cpu``, ``kernel``, ``cpu_count`` or
            ``case_id``.
        by : str
            How much of a date counts: ``year``, ``month``, ``day`` or ``instant``.

        Returns
        -------
        DataFrame
            One row and one column for each value, in order, CPUs and kernels by their age; its
            cells are ``string[pyarrow]``.
            A cell is the verdict where all outcomes there agree, else their counts, for example
            ``mixed: 1 failed, 3 passed``, and missing where there is none. Outcomes with verdict
            ``error``, which say nothing about a case, count only where there is no other.

        Raises
        ------
        UsageError
            If the frame lacks a column, both are the same, or dates do not count so.
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
