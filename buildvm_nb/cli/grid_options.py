"""The options of studies: what varies, what is the same for all machines, who runs them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from buildvm_nb.cli.machine_options import MachineOptions

if TYPE_CHECKING:
    from buildvm_nb.host.cache import Cache
    from buildvm_nb.study.grid import Grid

__all__ = ["LARGEST_GRID", "FixedOptions", "GridOptions", "RunOptions", "WorkOptions"]

LARGEST_GRID = 10_000
"""Cells that are run without being asked for twice."""


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """What varies."""

    dates: Annotated[
        str | None,
        typer.Option(
            metavar="DATES",
            help="2018..2030/1Y, 2020-01-01..2021-01-01/1M, a list with commas, or both mixed; "
            "steps in Y, M, W, D, H. Left out: the commit's date, else today.",
        ),
    ] = None
    cpus: Annotated[
        str | None,
        typer.Option(
            metavar="MODELS",
            help="A list with commas; a part that begins with + or - changes the model before it: "
            "Westmere,Haswell,-cx16 are two. x86-64-by-year: one model per year; all: every model "
            "with a date. Left out: the one current at the commit's date, for all dates.",
        ),
    ] = None
    kernels: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="A list with commas, or all: see `buildvm kernels`."),
    ] = None
    cores: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Virtual CPUs: 1,2,4. Left out: 1.")
    ] = None
    commits: Annotated[
        str | None,
        typer.Option(metavar="COMMITS", help="Commits, tags or branches of the git source."),
    ] = None

    def grid(self, cache: "Cache") -> "Grid":
        """Return the grid that was asked for.

        Parameters
        ----------
        cache : Cache
            Knows which kernels and CPU models there are.

        Returns
        -------
        Grid
            An axis that was left out has no values.

        Raises
        ------
        UsageError
            If a text is none; the message names the option.
        HostError
            If QEMU is missing, where its models are asked for.
        """
        from buildvm_nb.study.gridtext import read_grid

        return read_grid(vars(self), cache, names={axis: f"--{axis}" for axis in vars(self)})


@dataclass(frozen=True, kw_only=True)
class FixedOptions:
    """What is the same for all machines of a study."""

    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of each guest: MiB, or 2G.")
    ] = None
    accelerator: Annotated[
        str | None,
        typer.Option(
            metavar="auto|kvm|tcg|uml",
            help="Left out: auto; emulation where CPUs are given, else KVM where it works.",
        ),
    ] = None
    image: Annotated[str | None, typer.Option(metavar="IMAGE", help="debian:SUITE[,PACKAGE…].")] = (
        None
    )
    package: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Add a Debian package to the image; repeatable."),
    ] = None
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Package mirror, such as a dated archive.")
    ] = None
    network: Annotated[
        str | None,
        typer.Option(metavar="off|restricted|user", help="What the guest reaches. Left out: off."),
    ] = None

    def machine(self) -> MachineOptions:
        """Return them as options of a machine.

        Returns
        -------
        MachineOptions
            The rest is left out.
        """
        return MachineOptions(**vars(self))


@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """Who does the runs of a study, and which."""

    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Guests side by side. Left out: one per core that fits."
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="tcp://HOST:PORT",
            help="Run on the workers of this Dask scheduler instead, one guest for each thread.",
        ),
    ] = None
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run also what the catalog has an answer for.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class RunOptions(WorkOptions):
    """How a sweep is run."""

    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the outcomes to this file, too.")
    ] = None
    yes: Annotated[bool, typer.Option("--yes", help=f"Run more than {LARGEST_GRID:,} cells.")] = (
        False
    )
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cells and run none.")] = (
        False
    )
