"""Studies in one call, for notebooks: cache and catalog are the user's own.

The command line has the same studies with more to choose; `buildvm_nb.study` has the parts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from buildvm_nb.catalog import Catalog, find_case
from buildvm_nb.catalog.curated import Subject
from buildvm_nb.errors import CommandFailed, UsageError
from buildvm_nb.host.cache import Cache
from buildvm_nb.host.progress import Progress, cell_progress
from buildvm_nb.model.case import Case, GitSource
from buildvm_nb.model.finding import Axis, Finding, Forecast
from buildvm_nb.model.instants import format_instant, now, parse_instant
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome
from buildvm_nb.study import choose_faithful, open_machine, run_case
from buildvm_nb.study.axes import parse_distance
from buildvm_nb.study.choice import Choice
from buildvm_nb.study.choosing import environment as advise
from buildvm_nb.study.diagnose import diagnose_case
from buildvm_nb.study.forecast import forecast as run_forecast
from buildvm_nb.study.laboratory import OnOutcome
from buildvm_nb.study.questions import DEFAULT_AXES, Questions
from buildvm_nb.study.sweep import SweepResult, read_grid
from buildvm_nb.study.sweep import sweep as run_sweep

if TYPE_CHECKING:
    from buildvm_nb.study.sweep import CellResult

__all__ = [
    "at_commit",
    "build",
    "diagnose",
    "forecast",
    "run",
    "sweep",
]

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
        trial = run_case(case, fields, cache=Cache(), base=base, progress=cell_progress())
        outcome = trial.outcome.model_copy(update={"chosen_by": chosen_by})
        return opened.record(outcome, trial.log)


def sweep(  # noqa: PLR0913 - all but the subject have defaults
    subject: Subject,
    *,
    dates: str | None = None,
    commits: str | None = None,
    cpus: str | None = None,
    kernels: str | None = None,
    cores: str | None = None,
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
        What to build.
    dates, commits, cpus, kernels, cores : str, optional
        What varies, as ``buildvm sweep`` takes it: ``"2018..2030/1Y"``, ``"Westmere,Haswell"``.
    jobs : int, optional
        Guests side by side; by default one for each core, if they fit.
    fresh : bool
        Run also what the catalog has an answer for.
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
    texts = {"dates": dates, "commits": commits, "cpus": cpus, "kernels": kernels, "cores": cores}

    def tell_result(result: "CellResult", far: str) -> None:
        _tell(tell, result.outcome, far)

    with _opened(catalog) as chosen:
        return run_sweep(
            case,
            read_grid(texts, cache),
            machine,
            cache=cache,
            catalog=chosen,
            jobs=jobs,
            base=base,
            progress=cell_progress(),
            on_outcome=tell_result,
            fresh=fresh,
        )


def diagnose(  # noqa: PLR0913 - all but the subject have defaults
    subject: Subject,
    *,
    axes: Sequence[str] = DEFAULT_AXES,
    first: str | None = None,
    last: str | None = None,
    repeats: int = 2,
    cpus: Sequence[str] = (),
    kernels: Sequence[str] = (),
    jobs: int | None = None,
    fresh: bool = False,
    tell: Tell | None = None,
    catalog: Catalog | None = None,
    **machine: Any,  # noqa: ANN401 - fields of MachineSpec
) -> Finding:
    """Find out when, on which CPU or on which kernel a case stops building, and record it.

    Parameters
    ----------
    subject : Case, Path or str
        What is under study.
    axes : sequence of str
        What is varied, one after the other until one explains the case: ``date``, ``cpu``,
        ``kernel``, ``cores``.
    first, last : str, optional
        Ends of the dates; by default ten years before the case's date and fifteen from now.
    repeats : int
        Confirming runs on both sides of a boundary, at least 1.
    cpus, kernels : sequence of str
        Which ones to compare; by default some that tell most.
    jobs : int, optional
        Guests side by side; by default one for each core, if they fit.
    fresh : bool
        Run also what the catalog has an answer for.
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
    questions = Questions(
        axes=_axes(axes),
        first=None if first is None else parse_instant(first),
        last=None if last is None else parse_instant(last),
        repeats=repeats,
        cpus=tuple(cpus),
        kernels=tuple(kernels),
    )
    with _opened(catalog) as chosen, _counted(f"diagnose {case.id}", tell) as (progress, hear):
        return diagnose_case(
            case,
            questions,
            machine,
            cache=Cache(),
            catalog=chosen,
            jobs=jobs,
            base=base,
            progress=progress,
            on_outcome=hear,
            fresh=fresh,
        )


def forecast(
    subject: Subject,
    *,
    until: str = "2040",
    jobs: int | None = None,
    fresh: bool = False,
    tell: Tell | None = None,
    catalog: Catalog | None = None,
) -> Forecast:
    """Find out which day breaks what in a project.

    Parameters
    ----------
    subject : Case, Path or str
        The project.
    until : str
        The last day to look at, or a distance such as ``10y``.
    jobs : int, optional
        Guests side by side; by default one for each core, if they fit.
    fresh : bool
        Run also what the catalog has an answer for.
    tell : callable, optional
        Gets a line for each outcome.
    catalog : Catalog, optional
        Gets outcomes and the finding; by default the user's.

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
    with _opened(catalog) as chosen, _counted(f"forecast {case.id}", tell) as (progress, hear):
        return run_forecast(
            case,
            until=parse_distance(until, now().replace(microsecond=0)),
            cache=Cache(),
            catalog=chosen,
            jobs=jobs,
            base=base,
            progress=progress,
            on_outcome=hear,
            fresh=fresh,
        )


def at_commit(case: Case, commit: str, repository: str = "") -> Case:
    """Return a case with its source at another commit, or from another repository.

    Parameters
    ----------
    case : Case
        What to build; the id stays.
    commit : str
        Commit id, tag or branch.
    repository : str
        URL or path; empty: that of the case.

    Returns
    -------
    Case
        Changed in nothing else.

    Raises
    ------
    UsageError
        If the case has no repository and none is given, or a value is none.
    """
    source = case.source
    if not repository and not isinstance(source, GitSource):
        kind = source.kind if source else "none"
        raise UsageError(
            f"commit {commit!r} of what? the source of case {case.id} is {kind}; allowed: git",
            hint="give the repository, too",
        )
    submodules = source.submodules if isinstance(source, GitSource) else True
    url = repository or getattr(source, "url", "")
    fields = {"url": url, "commit": commit, "submodules": submodules}
    return case.model_copy(update={"source": GitSource.parse(fields)})


@contextmanager
def _opened(catalog: Catalog | None) -> Iterator[Catalog]:
    """Lend the catalog that was given, or the user's own."""
    if catalog is not None:
        yield catalog
        return
    with Catalog() as own:
        yield own


@contextmanager
def _counted(label: str, tell: Tell | None) -> Iterator[tuple[Progress, OnOutcome]]:
    """Show a study's runs so far, and tell of each."""
    progress, runs = cell_progress(), count(1)
    with progress.task(label) as task:

        def hear(outcome: Outcome, is_known: bool) -> None:  # noqa: FBT001 - a callback's argument
            number = next(runs)
            task.update(number, note=f"{number} outcome{'s' if number > 1 else ''} so far")
            _tell(tell, outcome, _known(is_known))

        yield progress, hear


def _axes(names: Sequence[str]) -> tuple[Axis, ...]:
    known = [axis.value for axis in Axis if axis is not Axis.COMMIT]
    wrong = [name for name in names if name not in known]
    if wrong or isinstance(names, str) or not names:
        raise UsageError(f"not axes: {names!r}; allowed: a list of {', '.join(known)}")
    return tuple(Axis(name) for name in names)


def _known(is_known: bool) -> str:  # noqa: FBT001 - as studies tell it
    return "in the catalog" if is_known else ""


def _tell(tell: Tell | None, outcome: Outcome, more: str) -> None:
    if tell is None:
        return
    spec = outcome.machine
    held = ", clock held" if outcome.probing.held else ""
    what = f"{format_instant(spec.date)}{held}, {spec.cpu}, {spec.kernel}: {outcome.verdict.value}"
    why = outcome.reason.partition("\n")[0]
    tell("".join([what, f" ({why})" if why else "", f"; {more}" if more else ""]))
