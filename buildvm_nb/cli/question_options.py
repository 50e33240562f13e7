"""The options that say what a diagnosis is to find out, and in which machines."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from buildvm_nb.cli.completion import complete_axis, complete_cpu, complete_kernel
from buildvm_nb.cli.grid_options import FixedOptions, GridOptions
from buildvm_nb.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from buildvm_nb.host.cache import Cache
    from buildvm_nb.model.finding import Axis
    from buildvm_nb.model.machine import ImageSpec
    from buildvm_nb.study.questions import Questions

__all__ = ["DiagnosedMachineOptions", "QuestionOptions", "StudiedMachineOptions"]

_AXES = ("date", "cpu", "kernel", "cores", "commit")
_NEEDED_AXIS = {
    "first": ("--from", "date"),
    "last": ("--to", "date"),
    "resolution": ("--resolution", "date"),
    "no_hints": ("--no-hints", "date"),
    "cpus": ("--cpus", "cpu"),
    "kernels": ("--kernels", "kernel"),
    "cores": ("--cores", "cores"),
    "good": ("--good", "commit"),
    "bad": ("--bad", "commit"),
}
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_COARSEST_S = 3650 * 86_400


@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """What to find out, and how hard to try."""

    axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="date|cpu|kernel|cores|commit",
            autocompletion=complete_axis,
            help="What to vary; repeatable. They are tried in this order until one explains the "
            "case. Left out: date, cpu, kernel; commit where --good and --bad are given.",
        ),
    ] = None
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DATE",
            help="Where the dates begin: 2015, 2015-06-01, 2015-06-01T12:00:00Z. Left out: ten "
            "years before the case's own date.",
        ),
    ] = None
    last: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DATE", help="Where they end. Left out: July in fifteen years."
        ),
    ] = None
    resolution: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How closely to find the dates of changes: 1, 30s, 1m, 1h, 1d. Left out: to the "
            "second.",
        ),
    ] = None
    repeats: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Confirming runs on each side. Left out: 2."),
    ] = None
    effort: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="quick: what hints and three dates show; normal: every feature of the calendar "
            "once as well; thorough: each month around the case's own date. Left out: normal.",
        ),
    ] = None
    budget: Annotated[int | None, typer.Option(metavar="N", min=1, help="Guest runs at most.")] = (
        None
    )
    no_hints: Annotated[
        bool,
        typer.Option("--no-hints", help="Do not look for dates in sources, packages and logs."),
    ] = False
    cpus: Annotated[
        str | None,
        typer.Option(
            metavar="MODELS",
            autocompletion=complete_cpu,
            help="More CPUs to try: a list with commas, all, or x86-64-by-year, as `buildvm "
            "sweep` takes it.",
        ),
    ] = None
    kernels: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            autocompletion=complete_kernel,
            help="Kernels to try beside the case's own, in place of one for each series of "
            "Debian's: a list with commas, or all.",
        ),
    ] = None
    cores: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS", help="Virtual CPUs to try with --axis cores. Left out: 1,2,4."
        ),
    ] = None

    good: Annotated[
        str | None,
        typer.Option(
            metavar="C", help="A commit, tag or branch that passes: one end of --axis commit."
        ),
    ] = None
    bad: Annotated[
        str | None, typer.Option(metavar="C", help="One that fails, older or newer: the other end.")
    ] = None

    def questions(self, cache: "Cache") -> "Questions":
        """Return what was asked.

        Parameters
        ----------
        cache : Cache
            Knows which kernels and CPU models there are.

        Returns
        -------
        Questions
            What was left out is that of the diagnosis itself.

        Raises
        ------
        UsageError
            If a text is none, or an option is about an axis that is not studied; the message
            names the option.
        HostError
            If QEMU is missing, where its models are asked for.
        """
        from buildvm_nb.study.questions import DEFAULT_AXES, Questions

        axes = self._axes() or DEFAULT_AXES
        self._refuse_without_axis({axis.value for axis in axes})
        if "commit" in axes and not (self.good and self.bad):
            raise UsageError(
                "--axis commit needs both ends: --good and --bad",
                hint="for example --good v1.0 --bad main; either may be the older one",
            )
        more = GridOptions(cpus=self.cpus, kernels=self.kernels, cores=self.cores).grid(cache)
        given: dict[str, Any] = {
            "first": _read_date("--from", self.first),
            "last": _read_date("--to", self.last),
            "resolution_s": _read_resolution(self.resolution),
            "repeats": self.repeats,
            "effort": self.effort,
            "budget": self.budget,
            "cores": more.cores or None,
            "good": self.good,
            "bad": self.bad,
        }
        first, last = given["first"], given["last"]
        if first and last and first >= last:
            raise UsageError(
                f"the dates end before they begin: --from {self.first} --to {self.last}"
            )
        return Questions(
            axes=axes,
            use_hints=not self.no_hints,
            cpus=more.cpus,
            kernels=more.kernels,
            **{name: value for name, value in given.items() if value is not None},
        )

    def _axes(self) -> tuple["Axis", ...]:
        from buildvm_nb.model.finding import Axis

        names = self.axis or (["commit"] if self.good and self.bad else [])
        for name in names:
            if name not in _AXES:
                raise UsageError(f"--axis: unknown axis: {name!r}; allowed: {', '.join(_AXES)}")
        return tuple(Axis(name) for name in dict.fromkeys(names))

    def _refuse_without_axis(self, axes: set[str]) -> None:
        for field, (option, axis) in _NEEDED_AXIS.items():
            if getattr(self, field) and axis not in axes:
                raise UsageError(f"{option} says nothing without --axis {axis}")


@dataclass(frozen=True, kw_only=True)
class StudiedMachineOptions(FixedOptions):
    """What is the same for all machines of a study that chooses dates itself."""

    cpu: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            autocompletion=complete_cpu,
            help="Begin with this CPU at all dates. Left out: that of the case's own date and "
            "today's.",
        ),
    ] = None
    cpu_count: Annotated[
        str | None, typer.Option(metavar="N", help="Virtual CPUs. Left out: the case's, else 1.")
    ] = None
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_kernel,
            help="Begin with this kernel. Left out: debian:bookworm.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class DiagnosedMachineOptions(StudiedMachineOptions):
    """What is the same for all machines of a diagnosis."""

    date: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="Without --axis date: what all clocks show. Left out: the case's own date, and "
            "today.",
        ),
    ] = None
    timeout: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="End a step after that time: 90, 90s, 10m, 2h."),
    ] = None

    def overrides(self, image: "ImageSpec", questions: "Questions") -> dict[str, Any]:
        """Return what was given, checked, as fields of a `MachineSpec`.

        Parameters
        ----------
        image : ImageSpec
            That of the case.
        questions : Questions
            What is studied.

        Returns
        -------
        dict
            What was left out, or left to the diagnosis, is not in it.

        Raises
        ------
        UsageError
            If a value is none, or fixes what is studied.
        """
        if self.date is not None and "date" in questions.axes:
            raise UsageError(
                "--date fixes what --axis date varies",
                hint="name the axes to study, for example --axis cpu; --from and --to limit dates",
            )
        given = self.machine().overrides(image)
        if given.get("accelerator") == "auto":
            del given["accelerator"]
        return given


def _read_date(option: str, text: str | None) -> "datetime | None":
    if text is None:
        return None
    from buildvm_nb.study.axes import parse_dates

    try:
        dates = parse_dates(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error.message}", hint=error.hint) from error
    if len(dates) != 1 or dates[0].microsecond:
        raise UsageError(f"{option}: not one date with a whole second: {text!r}")
    return dates[0]


def _read_resolution(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text)
    seconds = int(match[1]) * _UNITS_S[match[2]] if match else 0
    if not 1 <= seconds <= _COARSEST_S:
        raise UsageError(
            f"--resolution: not a time: {text!r}; allowed: 1, 30s, 1m, 1h or 1d, from one second "
            "to ten years"
        )
    return seconds
