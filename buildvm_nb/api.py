"""Studies in one call, for notebooks: cache and catalog are the user's own.

The command line has the same studies with more to choose; `buildvm_nb.study` has the parts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from buildvm_nb.catalog import Catalog, find_case
from buildvm_nb.catalog.curated import Subject
from buildvm_nb.errors import CommandFailed, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import cell_progress
from buildvm_nb.model.finding import Finding, Forecast
from buildvm_nb.model.instants import format_instant, now
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.study import build_case, choose_faithful, open_machine
from buildvm_nb.study.axes import parse_distance
from buildvm_nb.study.choice import Choice
from buildvm_nb.study.choosing import environment as advise
from buildvm_nb.study.diagnose import diagnose_case
from buildvm_nb.study.executors import Means
from buildvm_nb.study.forecast import forecast as run_forecast
from buildvm_nb.study.options import read_grid, read_option, read_questions
from buildvm_nb.study.sweep import SweepResult
from buildvm_nb.study.sweep import sweep as run_sweep

if TYPE_CHECKING:
    from buildvm_nb.study.sweep import CellResult

__all__ = [
    "build",
    "diagnose",
    "forecast",
    "run",
    "sweep",
]

Texts = str | int | Sequence[str | int] | None
"""A list with commas, or its parts."""

Tell = Callable[[str], None]
"""Gets a line for each outcome as it comes: `print`, for example."""


def run(
    command: str | Sequence[str],
    **machine: Any,  # noqa: ANN401 - fields of MachineSpec
) -> str:
    """Boot a machine, run one command in it, and shut it down.

    Parameters
    ----------
    command : str or sequence of str
        Text for ``/bin/sh -e``, or a program and its arguments.
    **machine
        Fields of `MachineSpec`: ``date="2019-05-01"``, ``cpu="Westmere"``, ``kernel=…``. What is
        left out follows from the date; the date from the present.

    Returns
    -------
    str
        What it printed, to standard output and standard error.

    Raises
    ------
    UsageError
        If the request is wrong.
    SourceError
        If a package of the image or of the kernel cannot be had.
    HostError
        If this host lacks something.
    MachineError
        If the machine does not do its part.
    CommandFailed
        If the command fails; what it printed is in a note.
    """
    spec = choose_faithful(MachineSpec.parse(machine), cpu_matters="cpu" in machine)
    printed = bytearray()
    progress = cell_progress()
    with closing(open_machine(spec, cache=Cache(), progress=progress)) as opened:
        with progress.task(f"boot {spec.cpu} at {spec.date:%Y-%m-%d}"):
            opened.boot()
        try:
            with progress.task("run the command"):
                opened.run(command, check=True, stdout=printed.extend, merged=True)
        except CommandFailed as error:
            error.add_note(printed.decode(errors="replace"))
            raise
    return printed.decode(errors="replace")


def build(
    subject: Subject,
    *,
    environment: Choice | Literal["auto"] | None = None,
    catalog: Catalog | None = None,
    **machine: Any,  # noqa: ANN401 - fields of MachineSpec
) -> Outcome:
    """Build a case once and record the outcome.

    Parameters
    ----------
    subject : Case, Path or str
        What to build.
    environment : Choice or ``"auto"``, optional
        Where findings show that it builds, as `buildvm_nb.environment` tells; ``"auto"`` asks that.
        The outcome names these findings.
    catalog : Catalog, optional
        Gets the outcome, and is asked for findings; by default the user's.
    **machine
        Fields of `MachineSpec`: ``date="2019-05-01"``, ``cpu="Westmere"``, ``kernel=…``. They take
        precedence over `environment`; what is left out follows from the case.

    Returns
    -------
    Outcome
        As recorded; a build that fails is one, too.

    Raises
    ------
    UsageError
        If the request is wrong.
    CatalogError
        If a catalog cannot be read, or the outcome cannot be recorded.
    """
    case, base = find_case(subject, catalog)
    with _opened(catalog) as opened:
        if (
            environment is not None
            and environment != "auto"
            and not isinstance(environment, Choice)
        ):
            raise UsageError(f"environment: unknown: {environment!r}; allowed: 'auto', a Choice")
        choice = advise(case, catalog=opened, base=base) if environment == "auto" else environment
        fields, chosen_by = choice.beside(machine) if choice else (machine, ())
        case = choice.applied_to(case) if choice else case
        means = Means(cache=Cache(), catalog=opened, base=base, progress=cell_progress())
        return build_case(case, means, fields, chosen_by=chosen_by)


def sweep(  # noqa: PLR0913 - all but the subject have defaults
    subject: Subject,
    *,
    dates: Texts = None,
    commits: Texts = None,
    cpus: Texts = None,
    kernels: Texts = None,
    cores: Texts = None,
    jobs: int | None = None,
    fresh: bool = False,
    tell: Tell | None = None,
    catalog: Catalog | None = None,
    **machine: Any,  # noqa: ANN401 - fields of MachineSpec
) -> SweepResult:
    """Run a case over dates, commits, CPUs, kernels or cores, and record the outcomes.

    Parameters
    ----------
    subject : Case, Path or str
        What to build: a case, a case file, a directory with a ``buildvm.toml``, or a case's id.
    dates, commits, cpus, kernels, cores : str or sequence, optional
        What varies, as ``buildvm sweep`` takes it: ``"2018..2030/1Y"``, ``"Westmere,Haswell"``; or
        several of them.
    jobs : int, optional
        Guests side by side; by default one for each core, if they fit.
    fresh : bool
        Ignore recorded outcomes and run everything again.
    tell : callable, optional
        Gets a line for each outcome.
    catalog : Catalog, optional
        Gets the outcomes; by default the user's.
    **machine
        Fields of `MachineSpec` that are the same everywhere.

    Returns
    -------
    SweepResult
        Its `SweepResult.frame` is a table of the outcomes.

    Raises
    ------
    UsageError
        If the request is wrong.
    SourceError
        If a package of an image or of a kernel cannot be had.
    HostError
        If this host lacks something.
    CatalogError
        If an outcome cannot be recorded.
    """
    case, base = find_case(subject, catalog)
    cache = Cache()
    given = {"dates": dates, "commits": commits, "cpus": cpus, "kernels": kernels, "cores": cores}

    def tell_result(result: "CellResult", far: str) -> None:
        _tell(tell, result.outcome, far)

    grid = read_grid(given, cache)
    with _opened(catalog) as chosen:
        means = Means(
            cache=cache,
            catalog=chosen,
            jobs=jobs,
            base=base,
            progress=cell_progress(),
            fresh=fresh,
        )
        return run_sweep(case, grid, means, machine, tell_result)


def diagnose(  # noqa: PLR0913 - all but the subject have defaults
    subject: Subject,
    *,
    axes: Texts = None,
    first: datetime | str | None = None,
    last: datetime | str | None = None,
    resolution: str | int | None = None,
    repeats: int = 2,
    effort: str = "normal",
    budget: int | None = None,
    cpus: Texts = None,
    kernels: Texts = None,
    cores: Texts = None,
    good: str = "",
    bad: str = "",
    use_hints: bool = True,
    jobs: int | None = None,
    fresh: bool = False,
    tell: Tell | None = None,
    catalog: Catalog | None = None,
    **machine: Any,  # noqa: ANN401 - fields of MachineSpec
) -> Finding:
    """Find out when, on which CPU or kernel, or since which commit a case fails, and record it.

    Parameters
    ----------
    subject : Case, Path or str
        What is under study: a case, a case file, a directory with a ``buildvm.toml``, or a case's
        id.
    axes : str or sequence of str, optional
        What is varied, one after the other until one explains the case: ``date``, ``cpu``,
        ``kernel``, ``cores``, ``commit``. By default the first four; ``commit`` where both ends are
        given.
    first, last : str, optional
        Ends of the dates; by default ten years before the case's date and fifteen from now.
    resolution : str or int, optional
        How closely to find the dates of changes: ``"1h"``, ``"1d"``, or seconds; by default 1.
    repeats : int
        Confirming runs on both sides of a boundary, at least 0.
    effort : str
        ``quick``, ``normal`` or ``thorough``.
    budget : int, optional
        Guest runs at most; by default as many as it takes.
    cpus, kernels, cores : str or sequence, optional
        Which ones to compare, as for `sweep`; by default some that tell most.
    good, bad : str
        A commit, tag or branch that passes, and one that fails: the ends of the axis ``commit``.
    use_hints : bool
        Look for dates in sources, packages and logs.
    jobs : int, optional
        Guests side by side; by default one for each core, if they fit.
    fresh : bool
        Ignore recorded outcomes and run everything again.
    tell : callable, optional
        Gets a line for each outcome.
    catalog : Catalog, optional
        Gets outcomes and the finding; by default the user's.
    **machine
        Fields of `MachineSpec` that hold for every machine.

    Returns
    -------
    Finding
        As recorded.

    Raises
    ------
    UsageError
        If the request is wrong.
    SourceError
        If a source, a package or a kernel cannot be had.
    HostError
        If this host lacks something.
    CatalogError
        If something cannot be recorded.
    """
    case, base = find_case(subject, catalog)
    cache = Cache()
    given = {
        "axes": axes,
        "first": first,
        "last": last,
        "resolution_s": resolution,
        "repeats": repeats,
        "effort": effort,
        "budget": budget,
        "use_hints": use_hints,
        "cpus": cpus,
        "kernels": kernels,
        "cores": cores,
        "good": good,
        "bad": bad,
    }
    questions = read_questions(given, cache, names={"resolution_s": "resolution"})
    work = _Work(f"diagnose {case.id}", base, jobs, tell, fresh)
    with _opened(catalog) as chosen, work.means(cache, chosen) as means:
        return diagnose_case(case, means, questions, machine)


def forecast(  # noqa: PLR0913 - all but the subject have defaults
    subject: Subject,
    *,
    until: str = "2040",
    budget: int | None = None,
    jobs: int | None = None,
    fresh: bool = False,
    tell: Tell | None = None,
    catalog: Catalog | None = None,
    **machine: Any,  # noqa: ANN401 - fields of MachineSpec
) -> Forecast:
    """Find out which day breaks what in a project.

    Parameters
    ----------
    subject : Case, Path or str
        The project: a directory with a ``buildvm.toml``, a case file, a case, or a case's id.
    until : str
        The last day to look at, or a distance such as ``10y``.
    budget : int, optional
        Guest runs at most; by default as many as it takes.
    jobs : int, optional
        Guests side by side; by default one for each core, if they fit.
    fresh : bool
        Ignore recorded outcomes and run everything again.
    tell : callable, optional
        Gets a line for each outcome.
    catalog : Catalog, optional
        Gets outcomes and the finding; by default the user's.
    **machine
        Fields of `MachineSpec` that hold for every machine, but for the date.

    Returns
    -------
    Forecast
        Its status says whether the project is sound, breaks, or fails today already.

    Raises
    ------
    UsageError
        If the request is wrong.
    SourceError
        If a source, a package or a kernel cannot be had.
    HostError
        If this host lacks something.
    CatalogError
        If something cannot be recorded.
    """
    case, base = find_case(subject, catalog)
    work = _Work(f"forecast {case.id}", base, jobs, tell, fresh)
    with _opened(catalog) as chosen, work.means(Cache(), chosen) as means:
        return run_forecast(
            case,
            means,
            until=parse_distance(until, now().replace(microsecond=0)),
            budget=read_option("budget", budget),
            overrides=machine,
        )


@contextmanager
def _opened(catalog: Catalog | None) -> Iterator[Catalog]:
    """Lend the catalog that was given, or the user's own."""
    if catalog is not None:
        yield catalog
        return
    with Catalog() as own:
        yield own


@dataclass(frozen=True)
class _Work:
    """How a study of one call is done."""

    label: str
    base: Path
    jobs: int | None
    tell: Tell | None
    fresh: bool

    @contextmanager
    def means(self, cache: Cache, catalog: Catalog) -> Iterator[Means]:
        """Lend what the study works with; its runs so far are shown, and each is told."""
        progress, runs = cell_progress(), count(1)
        with progress.task(self.label) as task:

            def hear(outcome: Outcome, is_known: bool) -> None:  # noqa: FBT001 - a callback
                number = next(runs)
                task.update(number, note=f"{number} outcome{'s' if number > 1 else ''} so far")
                _tell(self.tell, outcome, "in the catalog" if is_known else "")

            yield Means(
                cache=cache,
                catalog=catalog,
                jobs=self.jobs,
                base=self.base,
                progress=progress,
                on_outcome=hear,
                fresh=self.fresh,
            )


def _tell(tell: Tell | None, outcome: Outcome, more: str) -> None:
    if tell is not None:
        spec = outcome.machine
        held = ", clock held" if outcome.probing.held else ""
        where = f"{format_instant(spec.date)}{held}, {spec.cpu}, {spec.kernel}"
        tell(f"{where}: {outcome.told}{'; ' if more else ''}{more}")
