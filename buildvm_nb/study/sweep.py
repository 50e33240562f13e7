"""Sweeps: one case run in every cell of a grid, on any executor, resumable."""

import hashlib
import os
import re
import socket
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from pydantic import Field

from buildvm_nb.errors import BuildVMError, HostError, SourceError, Unreachable, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.facts import host_facts
from buildvm_nb.host.progress import SILENT, Progress, Task
from buildvm_nb.image import build_image
from buildvm_nb.model.case import ArchiveSource, Case, GitSource, LocalSource, Source
from buildvm_nb.model.instants import Instant, parse_instant
from buildvm_nb.model.machine import Accelerator, KernelName, MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.value import Digest, Value
from buildvm_nb.source import Fetched, fetch
from buildvm_nb.study.executors import Means
from buildvm_nb.study.questions import refuse_fixed
from buildvm_nb.study.run import (
    Basis,
    Trial,
    engine_for,
    kernel_for,
    kvm_status,
    machine_for,
    run_case,
)
from buildvm_nb.vm import check_cpu, find_emulator

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog
    from buildvm_nb.catalog.frames import Frame

__all__ = [
    "Cell",
    "CellResult",
    "Grid",
    "Place",
    "SweepResult",
    "check_basis",
    "compared",
    "find_answers",
    "make_cells",
    "pin_cells",
    "run_cell",
    "run_cells",
    "sweep",
    "trial_of",
    "worker",
]

# The cells of a sweep: which case runs in which machine, with nothing left open.
#
# What a user leaves out is decided here, once, for all cells: a date or CPU that followed from each
# cell's own would vary along with the axis under study.

_FIELDS = {"dates": "date", "cpus": "cpu", "kernels": "kernel", "cores": "cpu_count"}
"""Which field of a machine an axis varies."""

_FAR = re.compile(r"(?!file:)([a-z+]+://|[^/]+:)")
"""A URL, or an address as scp takes it: ``host:path``."""


class Grid(Value):
    """What varies: all combinations are run. An axis without values is left to the case."""

    dates: tuple[Instant, ...] = ()
    commits: tuple[str, ...] = ()
    """Commits of the case's git source."""
    cpus: tuple[str, ...] = ()
    kernels: tuple[KernelName, ...] = ()
    cores: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Number of cells."""
        size = 1
        for _, values in self:
            size *= max(len(values), 1)
        return size

    @property
    def varying(self) -> tuple[str, ...]:
        """Names of the axes that have more than one value."""
        return tuple(name for name, values in self if len(values) > 1)


class Cell(Value):
    """One run of a sweep, complete: another host that runs it runs the same."""

    index: int = Field(ge=0)
    """Its place in the sweep."""
    case: Case
    """With the commit of this cell."""
    machine: MachineSpec
    """With nothing that follows from something else."""
    image_digest: str = ""
    """SHA-256 that the image must have; empty: any."""
    kernel_digest: str = ""
    """Key that the kernel must have; empty: any."""
    source_digests: tuple[Digest, ...] | None = None
    """What the source and the inputs must be; None: they could not be had."""
    engine: str = ""
    """Name and version that QEMU must have; empty: any."""

    @property
    def basis(self) -> Basis:
        """What an outcome must have been made with to be one of this cell."""
        return Basis(
            image_digest=self.image_digest,
            kernel_digest=self.kernel_digest,
            source_digests=self.source_digests,
            engine=self.engine,
        )


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a sweep is planned."""

    cache: Cache
    """Keeps sources, images and kernels."""
    base: Path = Path()
    """Directory that relative paths of the case are below."""
    progress: Progress = SILENT
    """Shows what is being had ready."""
    remote: bool = False
    """Whether cells run on other hosts."""


def make_cells(
    case: Case, grid: Grid, overrides: Mapping[str, Any] | None = None, *, place: Place
) -> tuple[Cell, ...]:
    """Work out the cells of a sweep; sources are fetched for it.

    Returns: in the order of commits, dates, CPUs, kernels and cores. A date that is left open is
    that of the commit, else today's midnight; a CPU the one that was current then.
    Raises `UsageError` if a value is none, a field is both fixed and varied, commits are given
    without a git source, or the case has files of this host and runs on others.
    """
    fixed = dict(overrides or {})
    chosen = [_FIELDS[axis] for axis, values in grid if axis in _FIELDS and values]
    refuse_fixed(fixed, chosen, "the sweep")
    variants = _variants(case, grid.commits)
    if place.remote:
        _refuse_local_files(case, grid.kernels or (fixed.get("kernel") or "",))
    cells: list[Cell] = []
    for variant in variants:
        fetched = _fetched(variant, place)
        own = _own_machine(variant, grid, dict(fixed), fetched)
        digests = None if fetched is None else tuple(one.record.digest for one in fetched)
        for date, cpu, kernel, cores in product(
            grid.dates or (own.date,),
            [_spelled(cpu, place) for cpu in grid.cpus or (own.cpu,)],
            grid.kernels or (own.kernel,),
            grid.cores or (own.cpu_count,),
        ):
            varied = {"date": date, "cpu": cpu, "kernel": kernel, "cpu_count": cores}
            machine = MachineSpec.parse({**dict(own), **varied})
            cells.append(
                Cell(index=len(cells), case=variant, machine=machine, source_digests=digests)
            )
    return tuple(cells)


def pin_cells(cells: tuple[Cell, ...], place: Place) -> tuple[Cell, ...]:
    """Have images and kernels ready, and say in each cell which ones it must run with.

    Returns: with digests, and with one accelerator for all where it was left open: KVM where it is
    proven to work and cells run on this host, else emulation.
    """
    images = {
        spec: build_image(spec, place.cache, place.progress).digest
        for spec in dict.fromkeys(cell.machine.image for cell in cells)
    }
    kernels = {
        key: kernel_for(cell.machine, place.cache, place.progress).path.name
        for key, cell in {_kernel_key(cell.machine): cell for cell in cells}.items()
    }
    is_open = any(cell.machine.accelerator is Accelerator.AUTO for cell in cells)
    works = is_open and not place.remote and kvm_status(place.cache)[0]
    chosen = Accelerator.KVM if works else Accelerator.TCG
    pinned = []
    for cell in cells:
        spec = cell.machine
        if spec.accelerator is Accelerator.AUTO:
            spec = spec.model_copy(update={"accelerator": chosen})
        digests = {"image_digest": images[spec.image], "kernel_digest": kernels[_kernel_key(spec)]}
        engine = _engine(spec, place)
        pinned.append(cell.model_copy(update={"machine": spec, "engine": engine, **digests}))
    return tuple(pinned)


def _variants(case: Case, commits: tuple[str, ...]) -> list[Case]:
    if not commits:
        return [case]
    if not isinstance(case.source, GitSource):
        kind = case.source.kind if case.source else "none"
        raise UsageError(
            f"commits need a git source; that of case {case.id} is {kind}",
            hint='give the case a [source] with kind = "git"',
        )
    fields = {**dict(case.source), "before": None, "branch": None}
    return [
        case.model_copy(update={"source": GitSource.parse({**fields, "commit": commit})})
        for commit in commits
    ]


def _fetched(case: Case, place: Place) -> list[Fetched] | None:
    """Fetch source and inputs; None: they cannot be had, which is for the run to tell."""
    wanted = [case.source] if case.source else []
    wanted += [entry.source for entry in case.inputs]
    try:
        return [
            fetch(source, place.cache, base=place.base, progress=place.progress)
            for source in wanted
        ]
    except (SourceError, Unreachable):
        return None


def _own_machine(
    case: Case, grid: Grid, overrides: dict[str, Any], fetched: list[Fetched] | None
) -> MachineSpec:
    """Complete a machine at the case's own date."""
    dated = fetched[0] if fetched and case.source else None
    if overrides.get("date") is None and not (dated and dated.record.dated_at):
        overrides["date"] = parse_instant("today")
    own = machine_for(case, overrides, dated)
    if grid.cpus and own.accelerator is Accelerator.AUTO:
        return own.model_copy(update={"accelerator": Accelerator.TCG})
    return own


def _spelled(cpu: str, place: Place) -> str:
    """Check a CPU; where cells run elsewhere, this host may have no QEMU to ask."""
    try:
        return check_cpu(cpu, find_emulator(place.cache.root))
    except HostError:
        if place.remote:
            return cpu
        raise


def _kernel_key(spec: MachineSpec) -> tuple[str, bool]:
    return spec.kernel, spec.accelerator is Accelerator.UML


def _engine(spec: MachineSpec, place: Place) -> str:
    """Return what runs guests here; empty where they run elsewhere and this host has none."""
    try:
        return engine_for(spec, place.cache, place.progress)
    except HostError:
        if place.remote:
            return ""
        raise


def _refuse_local_files(case: Case, kernels: tuple[str, ...]) -> None:
    sources = [case.source, *(entry.source for entry in case.inputs)]
    paths = [path for source in sources if source and (path := _local_path(source))]
    paths += [kernel for kernel in kernels if kernel.startswith("/")]
    if paths:
        raise UsageError(
            f"workers on other hosts have no files of this one: {', '.join(paths)}",
            hint="name a source by URL and a kernel by suite, or run without a scheduler",
        )


def _local_path(source: Source) -> str:
    if isinstance(source, LocalSource):
        return source.path
    if isinstance(source, (GitSource, ArchiveSource)):
        return "" if _FAR.match(source.url) else source.url
    return ""


# What the catalog knows already: verdicts that need not be asked for again.

_NO_ANSWER = frozenset({Verdict.ERROR, Verdict.UNAVAILABLE})


def find_answers(cells: tuple[Cell, ...], catalog: "Catalog") -> dict[int, Outcome]:
    """Look up cells whose answer is known.

    Returns: by the cell's index: the newest verdict on the same case in the same machine, with the
    same image, kernel, sources and QEMU.
    """
    wanted = {
        (cell.case.build_digest(), cell.machine): cell
        for cell in cells
        if cell.source_digests is not None
    }
    answers = {}
    for outcome in catalog.documents(case=cells[0].case.id):
        probing = outcome.probing
        if outcome.verdict in _NO_ANSWER or probing.held or probing.prepared_at is not None:
            continue
        cell = wanted.get((outcome.case.build_digest(), outcome.machine))
        if cell is not None and cell.engine and not cell.basis.difference(outcome):
            answers[cell.index] = outcome
    return answers


# Runs on workers: one with another image, kernel, source or QEMU says nothing about a case.


def run_cell(cell: Cell, cache_root: Path | None, base: Path) -> Trial:
    """Run a cell on this host.

    A difference to what the cell says it must run with, and whatever else this host lacks, is an
    error that names the host: never a verdict about the case.

    `cache_root`: this host's cache; None: the user's.
    """
    try:
        cache = Cache(cache_root)
        check_basis(cell.basis, cell.machine, cache)
        trial = run_case(cell.case, dict(cell.machine), cache=cache, base=base)
    except (BuildVMError, OSError) as error:
        return broken_run(cell.case, cell.machine, f"{worker()}: {error}")
    return compared(cell.basis, trial)


def trial_of(future: Future[Trial], case: Case, spec: MachineSpec) -> Trial:
    """Return what a worker gave; one that breaks, in whatever way, ran nothing."""
    try:
        return future.result()
    except UsageError:
        raise
    except CancelledError:
        return broken_run(case, spec, "the executor dropped it: was the cluster restarted?")
    except Exception as error:  # noqa: BLE001 - of an executor of any kind
        return broken_run(case, spec, f"the worker broke: {type(error).__name__}: {error}")


def broken_run(case: Case, spec: MachineSpec, reason: str) -> Trial:
    """Tell that something could not be run."""
    outcome = Outcome(
        case=case,
        machine=spec,
        verdict=Verdict.ERROR,
        reason=reason,
        host=host_facts(),
        tool_version=version("buildvm-nb"),
    )
    return Trial(outcome=outcome, log=b"")


def check_basis(basis: Basis, spec: MachineSpec, cache: Cache) -> None:
    """Make image and kernel here, and compare them before anything runs."""
    if basis.image_digest:
        seen = build_image(spec.image, cache).digest
        _require(f"image {spec.image}", seen, basis.image_digest, "`buildvm image rm` and build")
    if basis.kernel_digest:
        seen = kernel_for(spec, cache).path.name
        refresh = f"`buildvm kernels --fetch {spec.kernel} --refresh`"
        _require(f"kernel {spec.kernel}", seen, basis.kernel_digest, refresh)
    if basis.engine and (seen := engine_for(spec, cache)) != basis.engine:
        raise HostError(
            f"QEMU is another one here: {seen}; the study's is {basis.engine}",
            hint="install the same version of QEMU on all hosts",
        )


def _require(what: str, seen: str, expected: str, remedy: str) -> None:
    if seen != expected:
        raise HostError(
            f"{what} is another one here: its digest is {seen}; the study's is {expected}",
            hint=f"make it anew on both hosts from the same state of the mirror: {remedy}",
        )


def compared(basis: Basis, trial: Trial) -> Trial:
    """Take a verdict back where it was made with something else than the study has."""
    outcome = trial.outcome
    if outcome.verdict is Verdict.ERROR:
        return trial
    if outcome.verdict is Verdict.UNAVAILABLE:
        if not basis.source_digests:
            return trial
        reason = f"a worker cannot have the sources, which are here: {outcome.reason}"
    elif difference := basis.difference(outcome):
        reason = f"a worker has {difference}"
    else:
        return trial
    changes = {"verdict": Verdict.ERROR, "reason": reason, "failing_step": None}
    return replace(trial, outcome=outcome.model_copy(update=changes))


def worker() -> str:
    """Name this host and process."""
    return f"worker {socket.gethostname()} (process {os.getpid()})"


# A grid, read from text: one list for each axis.


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


def sweep(
    case: Case,
    grid: Grid,
    means: Means,
    overrides: Mapping[str, Any] | None = None,
    on_result: OnResult | None = None,
) -> SweepResult:
    """Run a case in every cell of a grid and record the outcomes as they come.

    `on_result`: gets each result as it comes, and a few words on how far the sweep is.
    Returns: one result for each cell. A cell that ended as an error was tried twice.
    Raises `UsageError` if the request is wrong: an unknown CPU, image or kernel, more jobs than
    fit.
    Raises `SourceError` if a package of the image or of a kernel cannot be had.
    """
    place = Place(
        cache=means.cache, base=means.base, progress=means.progress, remote=means.is_remote
    )
    with means.executing(machine_for(case, overrides or {}, None).memory_mib) as (chosen, _):
        cells = make_cells(case, grid, overrides, place=place)
        return run_cells(
            pin_cells(cells, place),
            chosen,
            place=place,
            catalog=means.catalog,
            on_outcome=on_result,
            fresh=means.fresh,
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
    """Run cells and record their outcomes as they come."""
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

    Yields: whether it is the last word: an error is tried once more.
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
