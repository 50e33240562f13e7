"""The cells of a sweep: which case runs in which machine, with nothing left open.

What a user leaves out is decided here, once, for all cells: a date or CPU that followed from each
cell's own would vary along with the axis under study.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field

from buildvm_nb.errors import HostError, SourceError, Unreachable, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import SILENT, Progress
from buildvm_nb.image import build_image
from buildvm_nb.model.case import ArchiveSource, Case, GitSource, LocalSource, Source
from buildvm_nb.model.instants import Instant, parse_instant
from buildvm_nb.model.machine import Accelerator, KernelName, MachineSpec
from buildvm_nb.model.value import Digest, Value
from buildvm_nb.source import Fetched, fetch
from buildvm_nb.study.environment import engine_for, kernel_for, kvm_status
from buildvm_nb.study.questions import refuse_fixed
from buildvm_nb.study.recording import Basis
from buildvm_nb.study.trial import machine_for
from buildvm_nb.vm import check_cpu, find_emulator

__all__ = ["Cell", "Grid", "Place", "make_cells", "pin_cells"]


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

    Parameters
    ----------
    case : Case
        What to build.
    grid : Grid
        What varies.
    overrides : mapping, optional
        Fields of `MachineSpec` that are the same in all cells.
    place : Place
        Where it is planned.

    Returns
    -------
    tuple of Cell
        In the order of commits, dates, CPUs, kernels and cores. A date that is left open is that
        of the commit, else today's midnight; a CPU the one that was current then.

    Raises
    ------
    UsageError
        If a value is none, a field is both fixed and varied, commits are given without a git
        source, or the case has files of this host and runs on others.
    HostError
        If this host lacks what it takes to fetch a source.
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

    Parameters
    ----------
    cells : tuple of Cell
        As of `make_cells`.
    place : Place
        Where they are had ready.

    Returns
    -------
    tuple of Cell
        With digests, and with one accelerator for all where it was left open: KVM where it is
        proven to work and cells run on this host, else emulation.

    Raises
    ------
    UsageError
        If the image, the suite or the kernel is unknown.
    SourceError
        If a package cannot be had.
    HostError
        If this host lacks a program, a mirror or space.
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
