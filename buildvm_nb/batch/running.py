"""Batches: every row of a plan through a notebook, on any executor, and gone on with after a break.

Beside each other in the batch's directory are, for each row, ``CASE-DIGEST.ipynb`` (executed, with
its outcomes within) and ``CASE-DIGEST.outcomes.csv``; ``….broken.ipynb`` is one that broke, kept
until it has run through. ``summary.csv`` is over all of them.
"""

import json
from collections.abc import Callable
from concurrent.futures import Executor, Future, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

from buildvm_nb.batch.handover import read_outcomes
from buildvm_nb.batch.notebook import (
    Executed,
    NotebookTask,
    execute,
    require_papermill,
)
from buildvm_nb.batch.plan import PlanRow, read_plan
from buildvm_nb.batch.results import SUMMARY, BatchResult, RowResult, State
from buildvm_nb.catalog import outcome_frame, write_csv
from buildvm_nb.errors import HostError, UsageError
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.study.again import batch_notebook
from buildvm_nb.study.executors import open_executor
from buildvm_nb.study.jobs import fit_jobs

__all__ = ["OnRow", "run_batch"]

OnRow = Callable[[RowResult], None]
"""Gets each row's result as it comes."""


def run_batch(  # noqa: PLR0913 - all but the plan have defaults
    plan: Path | str,
    *,
    out: Path | str | None = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    notebook: Path | str | None = None,
    catalog: str = "",
    cache_root: Path | None = None,
    fresh: bool = False,
    progress: Progress = SILENT,
    on_row: OnRow = lambda _: None,
) -> BatchResult:
    """Run every row of a plan through a notebook.

    A row whose parameters were run through before, in the same directory, is not run again.
    Builds that fail are data. What breaks, breaks its own notebook only.

    Parameters
    ----------
    plan : Path or str
        A CSV file, see `buildvm_nb.batch.read_plan`.
    out : Path or str, optional
        Directory for what comes of it; by default the plan's name with ``-batch``, beside it.
    jobs : int, optional
        Notebooks side by side on this host; by default as many as there are cores and fit.
    scheduler : str, optional
        Address of a Dask scheduler to use instead.
    notebook : Path or str, optional
        A notebook of your own; by default the one that comes with buildvm-nb.
    catalog : str
        Where outcomes are recorded, for rows that do not say it; empty: the user's catalog.
    cache_root : Path, optional
        This host's cache; by default the user's.
    fresh : bool
        Run also what was run before. What the catalog has an answer for is not run again even so.
    progress : Progress
        Shows how far it is.
    on_row : callable
        Gets each result as it comes.

    Returns
    -------
    BatchResult
        One result for each row of the plan. ``summary.csv`` is written.

    Raises
    ------
    UsageError
        If the plan or another argument is wrong.
    HostError
        If papermill is not installed, or the directory cannot be written.
    """
    require_papermill()
    plan = Path(plan)
    rows = read_plan(plan)
    place = Path(out) if out is not None else plan.with_name(f"{plan.stem}-batch")
    template = Path(notebook) if notebook is not None else batch_notebook()
    text = _read_notebook(template)
    if scheduler is None:
        jobs = fit_jobs(jobs, max(map(_memory_mib, rows)))
    batch = _Batch(place, on_row)
    todo = [row for row in rows if fresh or not batch.knows(row)]
    root = None if scheduler or cache_root is None else str(cache_root.absolute())
    with (
        progress.task(f"batch {plan.name}, {len(rows)} notebooks") as task,
        open_executor(jobs, scheduler) as executor,
    ):
        running = {
            _submit(executor, row, text, catalog=catalog, cache_root=root): row for row in todo
        }
        task.update(len(rows) - len(todo), len(rows))
        for future in as_completed(running):
            batch.take(running[future], _result(future))
            task.update(len(batch.results), len(rows))
    result = BatchResult(out=place, results=tuple(batch.results[row.number] for row in rows))
    write_csv(result.frame, place / "summary.csv", SUMMARY)
    return result


class _Batch:
    """The directory of a batch, and what came of its rows so far."""

    def __init__(self, out: Path, on_row: OnRow) -> None:
        self.out = out
        self.results: dict[int, RowResult] = {}
        self._tell = on_row
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"cannot make the directory {out}: {error.strerror}") from error

    def knows(self, row: PlanRow) -> bool:
        """Take what is there of a row; tell whether anything is."""
        path = self._path(row)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            is_same = document["metadata"]["buildvm"]["digest"] == row.digest
            outcomes = read_outcomes(document) if is_same else ()
        except (OSError, ValueError, LookupError, TypeError):
            return False
        if not _is_answered(outcomes):
            return False
        self._keep(RowResult(row=row, state=State.KNOWN, outcomes=outcomes, notebook=path))
        return True

    def take(self, row: PlanRow, executed: Executed) -> None:
        """Write down what came of a row."""
        path, broken = self._path(row), self._path(row, ".broken")
        problem = executed.problem
        document: dict[str, Any] = {}
        outcomes: tuple[Outcome, ...] = ()
        if executed.notebook:
            document = json.loads(executed.notebook)
            document["metadata"]["buildvm"] = {
                "digest": row.digest,
                "parameters": row.parameters.model_dump(mode="json"),
                "tool_version": version("buildvm-nb"),
            }
            outcomes = read_outcomes(document)
        if not problem and not _is_answered(outcomes):
            problem = "the notebook hands no outcomes over: display what run_parameters returns"
        if problem:
            written = self._write(broken, document) if document else None
            state = State.BROKEN
        else:
            written, state = self._write(path, document), State.FINISHED
            write_csv(outcome_frame(outcomes), path.with_suffix(".outcomes.csv"))
            broken.unlink(missing_ok=True)
        self._keep(
            RowResult(row=row, state=state, outcomes=outcomes, problem=problem, notebook=written)
        )

    def _keep(self, result: RowResult) -> None:
        self.results[result.row.number] = result
        self._tell(result)

    def _path(self, row: PlanRow, mark: str = "") -> Path:
        name = row.parameters.cases()[0].id
        return self.out / f"{name}-{row.digest[:12]}{mark}.ipynb"

    def _write(self, path: Path, document: dict[str, Any]) -> Path:
        beside = path.with_name(f".{path.name}.partial")
        try:
            beside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            raise HostError(f"cannot write {path}: {error.strerror}") from error
        finally:
            beside.unlink(missing_ok=True)
        return path


def _read_notebook(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        cells = json.loads(text)["cells"]
        is_tagged = any("parameters" in cell["metadata"].get("tags", ()) for cell in cells)
    except OSError as error:
        raise UsageError(f"cannot read the notebook {path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"not a notebook of format 4: {path}") from error
    if not is_tagged:
        raise UsageError(f"no cell of {path} is tagged 'parameters'; allowed: one that is")
    return text


def _memory_mib(row: PlanRow) -> int:
    needs = max(case.limits.memory_mib for case in row.parameters.cases())
    return needs * row.parameters.jobs


def _submit(
    executor: Executor, row: PlanRow, text: str, *, catalog: str, cache_root: str | None
) -> "Future[Executed]":
    parameters = row.parameters.model_dump(mode="json")
    parameters["catalog"] = parameters["catalog"] or catalog
    task = NotebookTask(notebook=text, parameters=parameters, cache_root=cache_root)
    return executor.submit(execute, task)


def _result(future: "Future[Executed]") -> Executed:
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - a worker that breaks in whatever way ran nothing
        return Executed(notebook="", problem=f"the worker broke: {type(error).__name__}: {error}")


def _is_answered(outcomes: tuple[Outcome, ...]) -> bool:
    return bool(outcomes) and all(one.verdict is not Verdict.ERROR for one in outcomes)
