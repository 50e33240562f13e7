"""``buildvm sweep``: one case over a grid of dates, CPUs, kernels, cores and commits."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.completion import complete_case
from buildvm_nb.cli.grid_options import LARGEST_GRID, FixedOptions, GridOptions, RunOptions
from buildvm_nb.cli.matrix import cell_table, describe_cell, verdict_table
from buildvm_nb.cli.options import command
from buildvm_nb.cli.output import write_json, write_table
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import HostError, UsageError

if TYPE_CHECKING:
    from buildvm_nb.study.grid import Grid
    from buildvm_nb.study.sweep import CellResult, SweepResult

__all__ = ["sweep"]

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
    from buildvm_nb.catalog import find_case_file, load_case
    from buildvm_nb.study.grid import Place, make_cells
    from buildvm_nb.study.sweep import sweep as run_sweep

    path, cache = find_case_file(case_name), session.cache()
    case, grid = load_case(path), grid_options.grid(cache)
    if grid.size > LARGEST_GRID and not (how.yes or how.dry_run):
        raise UsageError(
            f"{grid.size:,} cells; allowed without --yes: {LARGEST_GRID:,}",
            hint="take fewer values, look at --dry-run, or say --yes",
        )
    overrides = fixed.machine().overrides(case.image)
    base, progress = path.absolute().parent, session.progress()
    if how.dry_run:
        remote = how.scheduler is not None
        place = Place(cache=cache, base=base, progress=progress, remote=remote)
        cells = make_cells(case, grid, overrides, place=place)
        if session.as_json:
            write_json([cell.model_dump(mode="json") for cell in cells])
        else:
            write_table(*cell_table(cells))
        return
    with session.catalog() as catalog, session.resumable(scheduler=how.scheduler):
        result = run_sweep(
            case,
            grid,
            overrides,
            cache=cache,
            catalog=catalog,
            jobs=how.jobs,
            scheduler=how.scheduler,
            base=base,
            progress=progress,
            on_outcome=lambda each, far: _tell(session, each, far, grid),
            fresh=how.fresh,
        )
    _show(session, result, grid, how.csv)


def _tell(session: Session, result: "CellResult", far: str, grid: "Grid") -> None:
    outcome = result.outcome
    why = outcome.reason.partition("\n")[0]
    verdict = f"{outcome.verdict.value} ({why})" if why else outcome.verdict.value
    session.note(f"{describe_cell(result.cell, grid)}: {verdict}; {far}")


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
