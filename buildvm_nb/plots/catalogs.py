"""Plots over many cases or runs: when traps spring, and verdicts over two axes."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from buildvm_nb.errors import UsageError
from buildvm_nb.model.instants import now, parse_instant
from buildvm_nb.plots.style import (
    COLOURS,
    INK,
    ON_COLOUR,
    Drawing,
    day_number,
    day_range,
    scale_dates,
    short,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["matrix", "timeline"]

_PAST, _TO_COME = "#0072B2", "#D55E00"


def timeline(frame: "pd.DataFrame", *, at: datetime | str | None = None) -> Drawing:
    """Draw when traps spring, and how long each stays sprung.

    Parameters
    ----------
    frame : DataFrame
        Of `Catalog.failures` or `Catalog.findings`, or any rows of it.
    at : datetime or str, optional
        What counts as now; by default the present instant.

    Returns
    -------
    Drawing
        One line for each case with a spring, the earliest one on top: a marker where it springs,
        a circle in the past and a triangle to come; a bar up to where it passes again, or to the
        right edge. A vertical line is now.

    Raises
    ------
    UsageError
        If the frame lacks a column, or no trap in it springs at any known time.
    CatalogError
        If its boundaries cannot be read.
    """
    instant = now() if at is None else parse_instant(at)
    springs = frame.traps.timeline(at=instant)
    if springs.empty:
        raise UsageError("no trap in this frame springs at a known time: there is nothing to draw")
    cases = list(dict.fromkeys(springs["case_id"]))
    figure = Drawing(figsize=(9, 1.6 + 0.3 * len(cases)), layout="constrained")
    axes = figure.add_subplot()
    left, right = day_range([*springs["springs_at"], *springs["passes_again_at"].dropna(), instant])
    for is_past, label, marker, colour in (
        (True, "has sprung", "o", _PAST),
        (False, "will spring", "^", _TO_COME),
    ):
        some = springs[springs["is_past"] == is_past]
        heights = [cases.index(case) for case in some["case_id"]]
        starts = [day_number(value) for value in some["springs_at"]]
        ends = [day_number(value, right) for value in some["passes_again_at"]]
        axes.hlines(heights, starts, ends, color=colour, linewidth=5, alpha=0.35)
        axes.plot(starts, heights, marker, color=colour, label=label, linestyle="none")
    axes.axvline(day_number(instant), color=INK, linewidth=1, linestyle="--", label="now")
    axes.set_xlim(left, right)
    axes.set_yticks(range(len(cases)), [short(case) for case in cases])
    axes.set_ylim(len(cases) - 0.5, -0.5)
    scale_dates(axes)
    figure.set_label("When traps spring; bars: as long as they fail")
    axes.set_title(str(figure.get_label()))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)
    return figure


def matrix(
    frame: "pd.DataFrame", rows: str = "date", columns: str = "cpu", *, by: str = "year"
) -> Drawing:
    """Draw verdicts over two columns of a frame of outcomes.

    Parameters
    ----------
    frame : DataFrame
        Of `Catalog.outcomes`, or any rows of it.
    rows, columns : str
        Names of two of its columns, as for ``frame.traps.matrix``.
    by : str
        How much of a date counts: ``year``, ``month``, ``day`` or ``instant``.

    Returns
    -------
    Drawing
        One cell for each pair of values: a colour and the verdict's first letter; empty where
        there is no outcome.

    Raises
    ------
    UsageError
        If the frame lacks a column, or has no rows.
    """
    table = frame.traps.matrix(rows, columns, by=by)
    if table.empty:
        raise UsageError("this frame has no outcomes: there is nothing to draw")
    verdicts = [[_verdict(cell) for cell in row] for row in table.to_numpy(dtype=object).tolist()]
    figure = Drawing(
        figsize=(3 + 0.7 * len(table.columns), 1.8 + 0.3 * len(table)), layout="constrained"
    )
    axes = figure.add_subplot()
    numbers = {name: float(number) for number, name in enumerate(COLOURS)}
    axes.imshow(
        [[numbers.get(verdict, float("nan")) for verdict in row] for row in verdicts],
        cmap=ListedColormap(list(COLOURS.values())),
        vmin=-0.5,
        vmax=len(COLOURS) - 0.5,
        aspect="auto",
    )
    for height, row in enumerate(verdicts):
        for place, verdict in enumerate(row):
            axes.text(place, height, verdict[:1], ha="center", va="center", color=ON_COLOUR)
    axes.set_xticks(range(len(table.columns)), _labels(table.columns), rotation=45, ha="right")
    axes.set_yticks(range(len(table)), _labels(table.index))
    axes.set_xlabel(columns)
    axes.set_ylabel(rows)
    figure.set_label(f"verdicts by {rows} and {columns}")
    there = {verdict for row in verdicts for verdict in row}
    handles = [
        Patch(color=colour, label=f"{name[0]}: {name}")
        for name, colour in COLOURS.items()
        if name in there
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _verdict(cell: object) -> str:
    return cell.partition(":")[0] if isinstance(cell, str) else ""


def _labels(values: "pd.Index[Any]") -> list[str]:
    return [short(str(value).removesuffix(" 00:00:00+00:00")) for value in values]
