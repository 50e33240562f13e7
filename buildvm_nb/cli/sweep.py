"""``buildvm sweep`` and ``buildvm batch``: many runs at once, and the tables of their results."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.command import Session, command, complete_case
from buildvm_nb.cli.options import LARGEST_GRID, FixedOptions, GridOptions, RunOptions
from buildvm_nb.cli.output import write_json, write_table
from buildvm_nb.errors import HostError, UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from buildvm_nb.batch import BatchResult, RowResult
    from buildvm_nb.study.laboratory import Order
    from buildvm_nb.study.sweep import CellResult, Grid, SweepResult

__all__ = [
    "batch",
    "describe_cell",
    "sweep",
    "verdict_table",
]

# ``buildvm batch``: a table of parameter sets, each run through a notebook.

_NAMED = 5
_SHOWN = ("row", "case", "commit", "date", "cpu", "kernel", "verdict", "notebook")


@command(
    "batch",
    examples=(
        "buildvm batch plan.csv",
        "buildvm batch plan.csv --out results --jobs 2",
        "buildvm batch plan.csv --notebook my.ipynb --json",
        "buildvm batch plan.csv --scheduler tcp://cluster:8786 --catalog postgresql://host/builds",
    ),
)
def batch(
    session: Session,
    plan: Annotated[
        Path,
        typer.Argument(
            metavar="PLAN",
            help="A CSV file with a header and one parameter set in each row: case, repository, "
            "commit, date, cpu, kernel, jobs, catalog. All but case may be left out.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Directory for notebooks, outcomes and summary.csv. Left out: the plan's name "
            "with -batch, beside it.",
        ),
    ] = None,
    notebook: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A notebook of your own. Left out: batch.ipynb."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Notebooks side by side. Left out: one per core that fits."
        ),
    ] = None,
    *,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="tcp://HOST:PORT", help="Run on the workers of this Dask scheduler instead."
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run also the rows that were run through before.")
    ] = False,
) -> None:
    """Run a table of parameter sets through a notebook.

    Each row of the plan is executed by papermill; the executed notebook is kept as evidence, its
    outcomes beside it, and summary.csv is over all of them. A batch that was interrupted goes on
    when it is started again. The exit code is 0 whatever the verdicts; 1 if a machine or a
    notebook broke, which says nothing about its case and leaves the other rows alone.
    """
    from buildvm_nb.batch import run_batch

    with session.resumable("rows that have ended are kept", scheduler=scheduler):
        result = run_batch(
            plan,
            out=out,
            jobs=jobs,
            scheduler=scheduler,
            notebook=notebook,
            catalog=session.catalog_place or "",
            cache_root=session.cache_root,
            fresh=fresh,
            progress=session.progress(),
            on_row=lambda row: _tell_row(session, row),
        )
    _show_batch(session, result)


def _tell_row(session: Session, result: "RowResult") -> None:
    verdicts = ", ".join(one.verdict.value for one in result.outcomes)
    name = result.notebook.name if result.notebook else "no notebook"
    told = result.problem.partition("\n")[0] or verdicts
    session.note(f"row {result.row.number}: {result.state.value}: {told}; {name}")


def _show_batch(session: Session, result: "BatchResult") -> None:
    """Print the summary; then say what broke."""
    from buildvm_nb.model.instants import format_instant

    rows = [
        {
            name: format_instant(cell) if name == "date" and cell else cell
            for name, cell in row.items()
        }
        for row in result.summary
    ]
    if session.as_json:
        write_json({"out": str(result.out), "rows": rows})
    else:
        shown = [name for name in _SHOWN if name != "commit" or any(row[name] for row in rows)]
        write_table(shown, [[row[name] for name in shown] for row in rows])
    session.note(f"wrote {result.out / 'summary.csv'}")
    if broken := result.broken:
        named = [f"  row {one.row.number}: {one.problem}" for one in broken[:_NAMED]]
        named += [f"  and {len(broken) - _NAMED} more"] if len(broken) > _NAMED else []
        lines = "\n".join(named)
        raise HostError(
            f"{len(broken)} of {len(result.results)} notebooks broke:\n{lines}",
            hint="the same command tries them again, and only them",
        )


# The results of a sweep as a table: verdicts over two axes, or a list of cells.

Table = tuple[tuple[str, ...], list[tuple[object, ...]]]

_AXES: dict[str, tuple[str, Callable[["Order"], str]]] = {
    "commits": ("commit", lambda cell: getattr(cell.case.source, "commit", None) or ""),
    "dates": ("date", lambda cell: _short_date(cell.machine.date)),
    "cpus": ("CPU", lambda cell: cell.machine.cpu),
    "kernels": ("kernel", lambda cell: cell.machine.kernel),
    "cores": ("cores", lambda cell: str(cell.machine.cpu_count)),
}
"""By the name of the axis: a heading, and what a cell has there."""

_MATRIX_AXES = 2


def describe_cell(cell: "Order", grid: "Grid") -> str:
    """Name a cell by what varies.

    For example ``2019-05-01, Westmere``.
    """
    shown = grid.varying or ("dates", "cpus")
    return ", ".join(_AXES[axis][1](cell) for axis in _AXES if axis in shown)


def cell_table(cells: Sequence["Order"]) -> Table:
    """List cells with all that they are."""
    axes = [axis for axis in _AXES if axis != "commits" or any(map(_AXES[axis][1], cells))]
    columns = ("cell ", *(_AXES[axis][0] for axis in axes))
    return columns, [
        (number, *(_AXES[axis][1](cell) for axis in axes)) for number, cell in enumerate(cells, 1)
    ]


def verdict_table(results: Sequence["CellResult"], grid: "Grid") -> Table:
    """Show the verdicts of a sweep.

    `results`: one for each cell, in order.
    Returns: a matrix where two axes vary, the longer one downwards; else a line for each cell, with
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
            result.outcome.why,
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


_NAMED_ERRORS = 5


@command(
    "sweep",
    examples=(
        "buildvm sweep dulwich-0.20.23 --dates 2018..2030/1Y",
        "buildvm sweep case.toml --dates 2020-01-01..2021-01-01/1M,today --csv sweep.csv",
        "buildvm sweep cityhash-0.4.10 --cpus x86-64-by-year --kernels all --jobs 2",
        "buildvm sweep case.toml --cpus Westmere,Haswell,-avx2 --cores 1,2,4 --dry-run",
        "buildvm sweep case.toml --commits v1.0,v1.1,main --scheduler tcp://cluster:8786",
    ),
)
def sweep(
    session: Session,
    grid_options: GridOptions,
    fixed: FixedOptions,
    how: RunOptions,
    case_name: Annotated[
        str,
        typer.Argument(
            metavar="CASE",
            autocompletion=complete_case,
            help="A case file or the id of a curated case.",
        ),
    ],
) -> None:
    """Run a case over dates, CPUs, kernels, cores and commits.

    Each combination is a cell: one machine, one outcome. Outcomes are recorded as they come, and
    a cell that the catalog has a verdict for is not run again, so a sweep that was interrupted
    goes on when it is started again. With --json the outcomes are printed as an array. The exit
    code is 0 whatever the verdicts; 1 if a cell could not be run, which says nothing about it.
    """
    from buildvm_nb.catalog import find_case
    from buildvm_nb.study.laboratory import Laboratory
    from buildvm_nb.study.sweep import make_cells
    from buildvm_nb.study.sweep import sweep as run_sweep

    cache = session.cache()
    (case, base), grid = find_case(case_name, session.catalog_place), grid_options.grid(cache)
    if grid.size > LARGEST_GRID and not (how.yes or how.dry_run):
        raise UsageError(
            f"{grid.size:,} cells; allowed without --yes: {LARGEST_GRID:,}",
            hint="take fewer values, look at --dry-run, or say --yes",
        )
    overrides = fixed.machine().overrides(case.image)
    with session.studying(how, base) as means:
        if how.dry_run:
            _show_cells(session, make_cells(Laboratory(case, means), grid, overrides))
            return
        result = run_sweep(case, grid, means, overrides, partial(_tell, session, grid))
    _show(session, result, grid, how.csv)


def _show_cells(session: Session, cells: Sequence["Order"]) -> None:
    if not session.as_json:
        write_table(*cell_table(cells))
        return
    told = [cell.model_dump(mode="json") for cell in cells]
    write_json(
        [
            {"index": at, "case": one["case"], "machine": one["machine"], **one["basis"]}
            for at, one in enumerate(told)
        ]
    )


def _tell(session: Session, grid: "Grid", result: "CellResult", far: str) -> None:
    session.note(f"{describe_cell(result.cell, grid)}: {result.outcome.told}; {far}")


def _show(session: Session, result: "SweepResult", grid: "Grid", csv: Path | None) -> None:
    """Print the results and write the file; then say what could not be run."""
    if csv is not None:
        from buildvm_nb.catalog import outcome_frame, write_csv

        write_csv(outcome_frame(result.outcomes), csv)
    if session.as_json:
        write_json([outcome.model_dump(mode="json") for outcome in result.outcomes])
    else:
        write_table(*verdict_table(result.results, grid))
    counts = Counter(outcome.verdict.value for outcome in result.outcomes)
    reused = sum(each.reused for each in result.results)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    known = f", {reused} of them from the catalog" if reused else ""
    session.note(f"{result.study}: {told}{known}; all with {_common(result)}")
    if errors := result.errors:
        named = [
            f"  {describe_cell(each.cell, grid)}: {each.outcome.reason}"
            for each in errors[:_NAMED_ERRORS]
        ]
        more = len(errors) - len(named)
        named += [f"  and {more} more"] if more else []
        lines = "\n".join(named)
        raise HostError(
            f"{len(errors)} of {len(result.results)} cells could not be run:\n{lines}",
            hint="the same command tries them again, and only them",
        )


def _common(result: "SweepResult") -> str:
    """Tell what did not vary, also where nobody asked for it."""
    specs = [each.cell.machine for each in result.results]
    fields = ("date", "cpu", "kernel", "cpu_count", "accelerator", "image")
    seen = {name: {str(getattr(spec, name)) for spec in specs} for name in fields}
    return ", ".join(
        f"{name} {values.pop()}" for name, values in seen.items() if len(values) == 1
    ).replace("cpu_count", "cores")
