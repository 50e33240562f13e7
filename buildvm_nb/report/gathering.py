"""From a catalog to the content of a report."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING

from buildvm_nb.errors import CatalogError, UsageError
from buildvm_nb.model.cpu import CPU_MODELS
from buildvm_nb.model.finding import Axis, Boundary, Finding, FindingKind, Window
from buildvm_nb.model.instants import format_instant, now, parse_instant
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.model.plaintext import clean
from buildvm_nb.model.recurrence import next_within
from buildvm_nb.report.content import Cell, Entry, Matrix, Report, Spring
from buildvm_nb.report.excerpts import excerpt
from buildvm_nb.study.packages import package_of

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = ["Commands", "gather_report"]

Commands = Callable[[Finding], Mapping[str, str]]
"""Gives the commands that reproduce a finding, by what each is for."""

_Run = tuple[int, str, Verdict]
"""Year of the guest's clock, column of the CPU, verdict."""

_MOST_FINDINGS = 200
_MOST_OUTCOMES = 100_000
_MOST_MATRICES = 100
_ORDER = {model.name: number for number, model in enumerate(CPU_MODELS)}
_FAILURES = frozenset({Verdict.FAILED, Verdict.CRASHED, Verdict.TIMEOUT})


def gather_report(
    catalog: "Catalog",
    *,
    case: str | None = None,
    since: datetime | None = None,
    commands: Commands = lambda _: {},
    most: int = _MOST_FINDINGS,
) -> Report:
    """Gather what a catalog knows.

    Parameters
    ----------
    catalog : Catalog
        It is only read.
    case : str, optional
        Only findings and outcomes of the case with this id.
    since : datetime, optional
        Aware; only what was recorded at this instant or later.
    commands : callable
        Gives the commands that reproduce a finding.
    most : int
        How many findings are shown with their evidence, the newest ones; all are counted.

    Returns
    -------
    Report
        Of current findings; what a later finding supersedes is left out.

    Raises
    ------
    UsageError
        If a filter is none.
    CatalogError
        If the catalog cannot be read.
    """
    made_at = now().replace(microsecond=0)
    frame = catalog.findings(case=case, since=since)
    # in the order of the frame; ids are read one by one, so that few documents are in memory
    shown = [catalog.finding(key) for key in list(frame["id"])[::-1][:most]]
    outcomes = catalog.outcomes(case=case, since=since, limit=_MOST_OUTCOMES)
    runs: dict[str, list[_Run]] = {}
    columns = (outcomes[name] for name in ("case_id", "date", "cpu", "verdict"))
    for name, date, cpu, verdict in zip(*columns, strict=True):
        runs.setdefault(name, []).append((date.year, _column(cpu), Verdict(verdict)))
    names = dict.fromkeys(one.case.id for one in shown) or runs
    springs = [spring for one in shown for spring in _springs(one, made_at)]
    matrices = [_matrix(name, runs[name]) for name in names if name in runs]
    return Report(
        catalog=catalog.name,
        made_at=made_at,
        tool_version=version("buildvm-nb"),
        case=case,
        since=since,
        kinds={FindingKind(kind): count for kind, count in Counter(frame["kind"]).items()},
        verdicts={Verdict(name): count for name, count in Counter(outcomes["verdict"]).items()},
        cases=len({*outcomes["case_id"], *frame["case_id"]}),
        springs=tuple(sorted(springs, key=lambda spring: (spring.at, spring.case))),
        entries=tuple(_entry(catalog, one, commands(one)) for one in shown),
        matrices=tuple(matrices[:_MOST_MATRICES]),
        findings_left_out=len(frame) - len(shown),
        is_outcome_limit_reached=len(outcomes) == _MOST_OUTCOMES,
    )


def _springs(finding: Finding, made_at: datetime) -> Iterator[Spring]:
    if finding.kind not in {FindingKind.TIME_TRAP, FindingKind.RECURRING}:
        return
    at = next_within(finding.recurs, made_at) if finding.recurs else None
    if at is not None:
        yield Spring(
            finding=finding.id,
            case=finding.case.id,
            last_before=at - timedelta(seconds=1),
            at=at,
            before=Verdict.PASSED,
            after=Verdict.FAILED,
            is_exact=True,
            is_to_come=at > made_at,
            cause=clean(finding.recurs.replace("\n", " ")),
        )
    for edge in finding.boundaries:
        if edge.axis is Axis.DATE:
            at = parse_instant(edge.first_after)
            yield Spring(
                finding=finding.id,
                case=finding.case.id,
                last_before=parse_instant(edge.last_before),
                at=at,
                before=edge.before,
                after=edge.after,
                is_exact=edge.is_exact,
                is_to_come=at > made_at,
                cause=clean(_cause(edge)),
            )


def _entry(catalog: "Catalog", finding: Finding, commands: Mapping[str, str]) -> Entry:
    lines, outcome = _excerpt(catalog, finding)
    case, machine = finding.case, finding.environment
    where = ""
    if machine is not None:
        where = (
            f"{format_instant(machine.date)}, {machine.cpu}, kernel {machine.kernel}, "
            f"{machine.accelerator.value}, {machine.image}"
        )
    return Entry(
        id=finding.id,
        case=case.id,
        title=clean(case.title),
        package=clean(str(package_of(case.source) or "")),
        kind=finding.kind,
        axis=finding.axis,
        summary=clean(finding.summary),
        recorded_at=finding.recorded_at,
        repeats=finding.repeats,
        boundaries=tuple(map(_boundary, finding.boundaries)),
        passes=tuple(_passes(finding)),
        causes=tuple(clean(_cause(edge)) for edge in finding.boundaries if edge.cause),
        environment=clean(where),
        failing_line=clean(finding.failing_line),
        excerpt=lines,
        excerpt_of=outcome,
        support=tuple(map(clean, _support(finding))),
        assumptions=tuple(map(clean, finding.assumptions)),
        evidence=finding.evidence,
        commands={name: clean(line) for name, line in commands.items() if line},
    )


def _support(finding: Finding) -> list[str]:
    known = finding.support
    return [line for line in (known.counts, known.covered) if line] if known else []


def _boundary(edge: Boundary) -> str:
    exact = "exactly" if edge.is_exact else "somewhere between"
    return clean(
        f"{edge.axis.value}: {edge.before.value} up to {edge.last_before}, {edge.after.value} from "
        f"{edge.first_after} on ({exact}; {edge.confirmed} confirming runs)"
    )


def _cause(edge: Boundary) -> str:
    cause = edge.cause
    if cause is None:
        return ""
    line = "" if cause.line is None else f":{cause.line}"
    return f"{cause.kind.value} {cause.path}{line}: {cause.why}"


def _passes(finding: Finding) -> Iterator[str]:
    yield from map(_window, finding.windows)
    if finding.passing_cpus:
        yield clean(f"on CPUs {', '.join(finding.passing_cpus)}")
    if finding.failing_cpus:
        yield clean(f"not on CPUs {', '.join(finding.failing_cpus)}")
    for what, features in (
        ("not without", finding.features),
        ("when given", finding.features_needed),
        ("not with", finding.features_harmful),
    ):
        if features:
            yield clean(f"{what} {' '.join(features)}")
    if finding.passing_kernels:
        yield clean(f"on kernels {', '.join(finding.passing_kernels)}")
    if finding.failing_kernels:
        yield clean(f"not on kernels {', '.join(finding.failing_kernels)}")


def _window(window: Window) -> str:
    first, last = window.passes_from, window.passes_until
    begins = "from the beginning" if first is None else f"from {format_instant(first)}"
    return f"{begins} {'to the end' if last is None else f'until {format_instant(last)}'}"


def _excerpt(catalog: "Catalog", finding: Finding) -> tuple[str, str]:
    """Return lines of the log of the last failing run, and its id; empty where there is none."""
    for key in reversed(finding.evidence):
        try:
            outcome = catalog.outcome(key)
            if outcome.verdict in _FAILURES and outcome.log_digest:
                line = outcome.evidence or finding.failing_line
                return excerpt(catalog.log_pieces(key), line), key
        except (CatalogError, UsageError):  # the log was removed: the finding stands without it
            continue
    return "", ""


def _matrix(case: str, runs: list[_Run]) -> Matrix:
    cells: dict[tuple[int, str], Counter[Verdict]] = {}
    for year, cpu, verdict in runs:
        cells.setdefault((year, cpu), Counter())[verdict] += 1
    years = sorted({year for year, _ in cells})
    cpus = sorted({cpu for _, cpu in cells}, key=lambda cpu: (_place(cpu), cpu))
    return Matrix(
        case=case,
        cpus=tuple(cpus),
        years=tuple(years),
        cells=tuple(tuple(_cell(cells.get((year, cpu))) for cpu in cpus) for year in years),
    )


def _cell(counts: Counter[Verdict] | None) -> Cell | None:
    return None if counts is None else Cell(verdicts=dict(sorted(counts.items())))


def _column(cpu: str) -> str:
    model, comma, _ = cpu.partition(",")
    return f"{model} with changes" if comma else model


def _place(cpu: str) -> int:
    return _ORDER.get(cpu.partition(" ")[0], len(_ORDER))
