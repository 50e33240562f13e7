"""The results of a sweep as a table: verdicts over two axes, or a list of cells."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from buildvm_nb.study.grid import Cell, Grid
    from buildvm_nb.study.sweep import CellResult

__all__ = ["cell_table", "describe_cell", "verdict_table"]

Table = tuple[tuple[str, ...], list[tuple[object, ...]]]

_AXES: dict[str, tuple[str, Callable[["Cell"], str]]] = {
    "commits": ("commit", lambda cell: getattr(cell.case.source, "commit", None) or ""),
    "dates": ("date", lambda cell: _short_date(cell.machine.date)),
    "cpus": ("CPU", lambda cell: cell.machine.cpu),
    "kernels": ("kernel", lambda cell: cell.machine.kernel),
    "cores": ("cores", lambda cell: str(cell.machine.cpu_count)),
}
"""By the name of the axis: a heading, and what a cell has there."""

_MATRIX_AXES = 2


def describe_cell(cell: "Cell", grid: "Grid") -> str:
    """Name a cell by what varies.

    Parameters
    ----------
    cell : Cell
        One of a sweep.
    grid : Grid
        That of the sweep.

    Returns
    -------
    str
        For example ``2019-05-01, Westmere``.
    """
    shown = grid.varying or ("dates", "cpus")
    return ", ".join(_AXES[axis][1](cell) for axis in _AXES if axis in shown)


def cell_table(cells: Sequence["Cell"]) -> Table:
    """List cells with all that they are.

    Parameters
    ----------
    cells : sequence of Cell
        Of one sweep.

    Returns
    -------
    tuple of columns and rows
        As `buildvm_nb.cli.output.write_table` takes them; without commits where there are none.
    """
    axes = [axis for axis in _AXES if axis != "commits" or any(map(_AXES[axis][1], cells))]
    columns = ("cell ", *(_AXES[axis][0] for axis in axes))
    return columns, [(cell.index + 1, *(_AXES[axis][1](cell) for axis in axes)) for cell in cells]


def verdict_table(results: Sequence["CellResult"], grid: "Grid") -> Table:
    """Show the verdicts of a sweep.

    Parameters
    ----------
    results : sequence of CellResult
        One for each cell, in order.
    grid : Grid
        That of the sweep.

    Returns
    -------
    tuple of columns and rows
        A matrix where two axes vary, the longer one downwards; else a line for each cell, with
        the reason.
    """
    if len(grid.varying) == _MATRIX_AXES:
        return _matrix(results, grid)
    shown = [axis for axis in _AXES if axis in (grid.varying or ("dates", "cpus"))]
    columns = (*(_AXES[axis][0] for axis in shown), "verdict", "why")
    return columns, [
        (
            *(_AXES[axis][1](result.cell) for axis in shown),
            result.outcome.verdict.value,
            result.outcome.reason.partition("\n")[0],
        )
        for result in results
    ]


def _matrix(results: Sequence["CellResult"], grid: "Grid") -> Table:
    first, second = (axis for axis in _AXES if axis in grid.varying)
    swap = len(getattr(grid, second)) > len(getattr(grid, first))
    down, across = (second, first) if swap else (first, second)
    read_down, read_across = _AXES[down][1], _AXES[across][1]
    verdicts = {
        (read_down(each.cell), read_across(each.cell)): each.outcome.verdict.value
        for each in results
    }
    rows = list(dict.fromkeys(row for row, _ in verdicts))
    columns = list(dict.fromkeys(column for _, column in verdicts))
    return (_AXES[down][0], *columns), [
        (row, *(verdicts.get((row, column)) for column in columns)) for row in rows
    ]


def _short_date(date: "datetime") -> str:
    """Write a date without the time of day where that is midnight."""
    from buildvm_nb.model.instants import format_instant

    return format_instant(date).removesuffix("T00:00:00Z")
