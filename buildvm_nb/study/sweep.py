"""Sweeps: one case run in every cell of a grid, on any executor, and gone on with after a break."""

import hashlib
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from buildvm_nb.errors import HostError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress, Task
from buildvm_nb.model.case import Case
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.study.answers import find_answers
from buildvm_nb.study.cells import compared, run_cell, trial_of
from buildvm_nb.study.executors import is_local, open_executor
from buildvm_nb.study.grid import Cell, Grid, Place, make_cells, pin_cells
from buildvm_nb.study.jobs import fit_jobs
from buildvm_nb.study.trial import Trial, machine_for

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog
    from buildvm_nb.catalog.frames import Frame

__all__ = ["CellResult", "SweepResult", "run_cells", "sweep"]

_TRIES = 2
"""An error says nothing about the case, so it is tried again."""


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """What came of a cell."""

    cell: Cell
    outcome: Outcome
    reused: bool = False
    """Whether the catalog had it already."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What came of a sweep."""

    study: str
    """Under which its outcomes are in the catalog; the same sweep always has the same."""
    results: tuple[CellResult, ...]
    """In the order of the cells."""

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """One for each cell, in order."""
        return tuple(result.outcome for result in self.results)

    @property
    def frame(self) -> "Frame":
        """The outcomes as a table, with the columns of `Catalog.outcomes`."""
        from buildvm_nb.catalog import outcome_frame  # noqa: PLC0415 - imports pandas

        return outcome_frame(self.outcomes)

    @property
    def errors(self) -> tuple[CellResult, ...]:
        """Cells that could not be run: nothing is known about them."""
        return tuple(each for each in self.results if each.outcome.verdict is Verdict.ERROR)


OnResult = Callable[[CellResult, str], None]
"""Gets each result as it comes, and how far the sweep is, in words."""


def sweep(  # noqa: PLR0913 - all but case and grid have defaults
    case: Case,
    grid: Grid,
    overrides: Mapping[str, Any] | None = None,
    *,
    cache: Cache,
    catalog: "Catalog",
    executor: Executor | None = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    base: Path = Path(),
    progress: Progress = SILENT,
    on_outcome: OnResult | None = None,
    fresh: bool = False,
) -> SweepResult:
    """Run a case in every cell of a grid and record the outcomes as they come.

    Parameters
    ----------
    case : Case
        What to build.
    grid : Grid
        What varies.
    overrides : mapping, optional
        Fields of `MachineSpec` that are the same in all cells.
    cache : Cache
        Keeps sources, images and kernels; a remote worker has its own.
    catalog : Catalog
        Gets the outcomes, and is asked for those that it has.
    executor : Executor, optional
        Where cells run, of any kind; it is not shut down. By default one is opened.
    jobs : int, optional
        Guests side by side on this host; by default as many as there are cores and fit.
    scheduler : str, optional
        Address of a Dask scheduler to use instead.
    base : Path
        Directory that relative paths of the case are below.
    progress : Progress
        Shows how far it is.
    on_outcome : callable, optional
        Gets each result as it comes, and a few words on how far the sweep is.
    fresh : bool
        Run cells also where the catalog has an answer.

    Returns
    -------
    SweepResult
        One result for each cell. A cell that ended as an error was tried twice.

    Raises
    ------
    UsageError
        If the request is wrong: an unknown CPU, image or kernel, more jobs than fit.
    SourceError
        If a package of the image or of a kernel cannot be had.
    HostError
        If this host lacks something, or the executor breaks.
    CatalogError
        If an outcome cannot be recorded.
    """
    remote = scheduler is not None if executor is None else not is_local(executor)
    place = Place(cache=cache, base=base, progress=progress, remote=remote)
    if executor is None and scheduler is None:
        jobs = fit_jobs(jobs, machine_for(case, overrides or {}, None).memory_mib)
    with nullcontext(executor) if executor else open_executor(jobs, scheduler) as chosen:
        cells = make_cells(case, grid, overrides, place=place)
        return run_cells(
            pin_cells(cells, place),
            chosen,
            place=place,
            catalog=catalog,
            on_outcome=on_outcome,
            fresh=fresh,
        )


def run_cells(
    cells: tuple[Cell, ...],
    executor: Executor,
    *,
    place: Place,
    catalog: "Catalog",
    on_outcome: OnResult | None = None,
    fresh: bool = False,
) -> SweepResult:
    """Run cells and record their outcomes as they come.

    Parameters
    ----------
    cells : tuple of Cell
        Of one case, as of `pin_cells`.
    executor : Executor
        Where they run.
    place : Place
        As they were made for.
    catalog, on_outcome, fresh
        As for `sweep`.

    Returns
    -------
    SweepResult
        One result for each cell.

    Raises
    ------
    HostError
        If the executor breaks.
    CatalogError
        If an outcome cannot be recorded.
    """
    study = _study(cells)
    answers = {} if fresh else find_answers(cells, catalog)
    results = [
        CellResult(cell=cell, outcome=answers[cell.index], reused=True)
        for cell in cells
        if cell.index in answers
    ]
    todo = [cell for cell in cells if cell.index not in answers]
    clock = _Clock(total=len(cells), done=len(results), todo=len(todo))
    tell = on_outcome or (lambda _result, _far: None)
    for result in results:
        tell(result, "in the catalog")
    root = None if place.remote else place.cache.root
    with (
        place.progress.task(f"sweep {cells[0].case.id}, {len(cells)} cells") as task,
        closing(_run(todo, executor, root, place.base.absolute())) as ended,
    ):
        clock.show(task)
        for cell, trial, is_last in ended:
            outcome = trial.outcome.model_copy(update={"study": study})
            outcome = catalog.record(outcome, trial.log)
            if is_last:
                results.append(CellResult(cell=cell, outcome=outcome))
                clock.done += 1
                clock.show(task)
                tell(results[-1], clock.text())
    results.sort(key=lambda result: result.cell.index)
    return SweepResult(study=study, results=tuple(results))


@dataclass(kw_only=True)
class _Clock:
    """How far a sweep is."""

    total: int
    done: int
    todo: int
    began: float = field(default_factory=time.monotonic)

    def show(self, task: Task) -> None:
        task.update(self.done, self.total, self.text())

    def text(self) -> str:
        left = self.total - self.done
        ran = self.todo - left
        if not left or not ran:
            return f"{self.done} of {self.total}"
        seconds = (time.monotonic() - self.began) / ran * left
        return f"{self.done} of {self.total}, about {_duration(seconds)} left"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _study(cells: tuple[Cell, ...]) -> str:
    """Name a sweep by what it asks, so that it keeps its name when it is gone on with."""
    digest = hashlib.sha256()
    for cell in cells:
        digest.update(f"{cell.case.build_digest()} {cell.machine.content_digest()}\n".encode())
    return f"sweep-{digest.hexdigest()[:16]}"


def _run(
    cells: list[Cell], executor: Executor, root: Path | None, base: Path
) -> Generator[tuple[Cell, Trial, bool]]:
    """Run cells and yield what they come to, in the order in which they end.

    Yields
    ------
    Cell
        Which one.
    Trial
        What came of it.
    bool
        Whether it is the last word: an error is tried once more.
    """
    ended: SimpleQueue[Future[Trial]] = SimpleQueue()
    running: dict[Future[Trial], tuple[Cell, int]] = {}
    engine = ""  # of the first worker; where this host has no QEMU the others must have the same

    def submit(cell: Cell, attempt: int) -> None:
        try:
            future = executor.submit(run_cell, cell, root, base)
        except (BrokenExecutor, RuntimeError) as error:
            raise HostError(
                f"the executor takes no more runs: {error}",
                hint="what has ended is in the catalog: the same sweep goes on from there",
            ) from error
        running[future] = (cell, attempt)
        future.add_done_callback(ended.put)

    try:
        for cell in cells:
            submit(cell, 1)
        while running:
            future = ended.get()
            cell, attempt = running.pop(future)
            basis = cell.basis.model_copy(update={"engine": cell.engine or engine})
            trial = compared(basis, trial_of(future, cell.case, cell.machine))
            if trial.outcome.environment and trial.outcome.verdict is not Verdict.ERROR:
                engine = trial.outcome.environment.engine
            again = trial.outcome.verdict is Verdict.ERROR and attempt < _TRIES
            yield cell, trial, not again
            if again:
                submit(cell, attempt + 1)
    finally:
        for future in running:
            future.cancel()
