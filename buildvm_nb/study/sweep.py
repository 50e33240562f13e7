"""Sweeps: one case run in every cell of a grid, on any executor, resumable."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from buildvm_nb.errors import SourceError, Unreachable, UsageError
from buildvm_nb.host.progress import Task
from buildvm_nb.model.case import ArchiveSource, Case, GitSource, LocalSource, Source, at_commit
from buildvm_nb.model.instants import Instant, parse_instant
from buildvm_nb.model.machine import Accelerator, KernelName, MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.model.value import Value
from buildvm_nb.study.executors import Means
from buildvm_nb.study.laboratory import Laboratory, Order, open_laboratory, order_key
from buildvm_nb.study.questions import refuse_fixed
from buildvm_nb.study.run import Basis, Inputs, known_cpu, machine_for

if TYPE_CHECKING:
    from buildvm_nb.catalog.frames import Frame

__all__ = [
    "CellResult",
    "Grid",
    "SweepResult",
    "make_cells",
    "run_cells",
    "sweep",
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


def make_cells(
    lab: Laboratory, grid: Grid, overrides: Mapping[str, Any] | None = None
) -> tuple[Order, ...]:
    """Work out the cells of a sweep; sources are fetched for it.

    Returns: in the order of commits, dates, CPUs, kernels and cores. A date that is left open is
    that of the commit, else today's midnight; a CPU the one that was current then.
    Raises `UsageError` if a value is invalid, a field is both fixed and varied, commits are given
    without a git source, or the case has files of this host and runs on others.
    """
    case, fixed = lab.case, dict(overrides or {})
    chosen = [_FIELDS[axis] for axis, values in grid if axis in _FIELDS and values]
    refuse_fixed(fixed, chosen, "the sweep")
    variants = [at_commit(case, commit) for commit in grid.commits] or [case]
    if lab.is_remote:
        _refuse_local_files(case, grid.kernels or (fixed.get("kernel") or "",))
    cells: list[Order] = []
    for variant in variants:
        inputs = _gathered(lab, variant)
        own = _own_machine(variant, grid, dict(fixed), inputs)
        digests = None if inputs is None else tuple(one.record.digest for one in inputs.fetched)
        for date, cpu, kernel, cores in product(
            grid.dates or (own.date,),
            [
                known_cpu(own.model_copy(update={"cpu": cpu}), lab.cache, elsewhere=lab.is_remote)
                for cpu in grid.cpus or (own.cpu,)
            ],
            grid.kernels or (own.kernel,),
            grid.cores or (own.cpu_count,),
        ):
            varied = {"date": date, "cpu": cpu, "kernel": kernel, "cpu_count": cores}
            machine = MachineSpec.parse({**dict(own), **varied})
            basis = Basis(source_digests=digests)
            cells.append(Order(case=variant, machine=machine, basis=basis))
    return tuple(cells)


def _gathered(lab: Laboratory, case: Case) -> Inputs | None:
    """Fetch source and inputs; None: they cannot be had, which is for the run to tell."""
    try:
        return lab.gathered(case)
    except (SourceError, Unreachable):
        return None


def _own_machine(
    case: Case, grid: Grid, overrides: dict[str, Any], inputs: Inputs | None
) -> MachineSpec:
    """Complete a machine at the case's own date."""
    dated = inputs.main if inputs else None
    if overrides.get("date") is None and not (dated and dated.record.dated_at):
        overrides["date"] = parse_instant("today")
    own = machine_for(case, overrides, dated)
    if grid.cpus and own.accelerator is Accelerator.AUTO:
        return own.model_copy(update={"accelerator": Accelerator.TCG})
    return own


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


# What came of a sweep: an outcome for each cell, from a run or from the catalog.


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """What came of a cell."""

    cell: Order
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
    Raises `SourceError` if a package of the image or of the kernel cannot be had.
    """
    with open_laboratory(case, means, overrides, study="sweep") as lab:
        return run_cells(lab, make_cells(lab, grid, overrides), on_result)


def run_cells(
    lab: Laboratory, cells: Sequence[Order], on_result: OnResult | None = None
) -> SweepResult:
    """Run cells, all with one accelerator; what images and kernels need is had first."""
    if any(cell.machine.accelerator is Accelerator.AUTO for cell in cells):
        chosen = {"accelerator": lab.accelerator(cpu_matters=False)}
        cells = [
            cell.model_copy(update={"machine": cell.machine.model_copy(update=chosen)})
            if cell.machine.accelerator is Accelerator.AUTO
            else cell
            for cell in cells
        ]
    lab.study = _study(cells)
    for cell in cells:
        lab.boot_files(cell.machine)
    tell = on_result or (lambda _result, _far: None)
    results: dict[str, CellResult] = {}
    clock = _Clock(total=len({order_key(cell) for cell in cells}))
    with (
        lab.progress.task(f"sweep {lab.case.id}, {len(cells)} cells") as task,
        closing(lab.answers(cells)) as coming,
    ):
        task.update(0, clock.total)
        for cell, outcome, is_known in coming:
            result = CellResult(cell=cell, outcome=outcome, reused=is_known)
            results[order_key(cell)] = result
            clock.count(task, is_known=is_known)
            tell(result, "in the catalog" if is_known else clock.text())
    return SweepResult(study=lab.study, results=tuple(results[order_key(cell)] for cell in cells))


@dataclass(kw_only=True)
class _Clock:
    """How far a sweep is."""

    total: int
    known: int = 0
    ran: int = 0
    began: float = field(default_factory=time.monotonic)

    def count(self, task: Task, *, is_known: bool) -> None:
        self.known += is_known
        self.ran += not is_known
        task.update(self.known + self.ran, self.total, self.text())

    def text(self) -> str:
        done = self.known + self.ran
        left = self.total - done
        if not left or not self.ran:
            return f"{done} of {self.total}"
        seconds = (time.monotonic() - self.began) / self.ran * left
        return f"{done} of {self.total}, about {_duration(seconds)} left"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _study(cells: Sequence[Order]) -> str:
    """Name a sweep by what it asks, so that it keeps its name when it is gone on with."""
    digest = hashlib.sha256()
    for cell in cells:
        digest.update(f"{cell.case.build_digest()} {cell.machine.content_digest()}\n".encode())
    return f"sweep-{digest.hexdigest()[:16]}"
