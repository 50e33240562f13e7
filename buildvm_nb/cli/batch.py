"""``buildvm batch``: a table of parameter sets, each run through a notebook."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.options import command
from buildvm_nb.cli.output import write_json, write_table
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import HostError

if TYPE_CHECKING:
    from buildvm_nb.batch import BatchResult, RowResult

__all__ = ["batch"]

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
            on_row=lambda row: _tell(session, row),
        )
    _show(session, result)


def _tell(session: Session, result: "RowResult") -> None:
    verdicts = ", ".join(one.verdict.value for one in result.outcomes)
    name = result.notebook.name if result.notebook else "no notebook"
    told = result.problem.partition("\n")[0] or verdicts
    session.note(f"row {result.row.number}: {result.state.value}: {told}; {name}")


def _show(session: Session, result: "BatchResult") -> None:
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
