"""A report: what a catalog knows, gathered, and shown as one HTML page."""

import hashlib
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from pydantic import Field

from buildvm_nb.errors import CatalogError, HostError, UsageError
from buildvm_nb.model.display import (
    describe_boundary,
    describe_cause,
    describe_machine,
    describe_window,
)
from buildvm_nb.model.finding import Axis, Finding, FindingKind
from buildvm_nb.model.instants import Instant, format_instant, next_within, now, parse_instant
from buildvm_nb.model.machine import CPU_MODELS
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.model.value import Value, clean
from buildvm_nb.study.choice import package_of

if TYPE_CHECKING:
    from buildvm_nb.catalog import Catalog

__all__ = [
    "Cell",
    "Entry",
    "Matrix",
    "Report",
    "Spring",
    "excerpt",
    "gather_report",
    "render_page",
]

# What a report says, as plain values.


class Spring(Value):
    """One change along the date axis: the day on which something breaks, or heals."""

    finding: str
    """Id of the finding that has it."""
    case: str
    last_before: Instant
    at: Instant
    """First instant after the change that was seen."""
    before: Verdict
    after: Verdict
    is_exact: bool
    is_to_come: bool
    """Whether it lay in the future when the report was made."""
    cause: str = ""

    @property
    def breaks(self) -> bool:
        """Whether it is for the worse."""
        return self.after is not Verdict.PASSED


class Cell(Value):
    """Verdicts of the runs of one case in one year on one CPU."""

    verdicts: dict[Verdict, int]

    @property
    def kind(self) -> str:
        """``passed``, ``failed``, ``mixed`` or ``unknown``."""
        known = {
            verdict is Verdict.PASSED
            for verdict in self.verdicts
            if verdict not in {Verdict.ERROR, Verdict.UNAVAILABLE}
        }
        if len(known) == 1:
            return "passed" if known.pop() else "failed"
        return "mixed" if known else "unknown"

    def __str__(self) -> str:
        return ", ".join(f"{count} {verdict.value}" for verdict, count in self.verdicts.items())


class Matrix(Value):
    """Verdicts of one case over years and CPUs."""

    case: str
    cpus: tuple[str, ...]
    """Oldest first; models with features added or taken away are put together."""
    years: tuple[int, ...]
    cells: tuple[tuple[Cell | None, ...], ...]
    """A row for each year; None: nothing was run there."""


class Entry(Value):
    """A finding with what supports it."""

    id: str
    case: str
    title: str = ""
    package: str = ""
    kind: FindingKind
    axis: Axis | None
    summary: str
    recorded_at: Instant
    repeats: str = ""
    """How many runs confirm it, in words."""
    boundaries: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    """When, on which CPUs and kernels it passes, in words."""
    causes: tuple[str, ...] = ()
    environment: str = ""
    """A machine in which it was seen to pass."""
    failing_line: str = ""
    excerpt: str = ""
    """Lines of the log of a failing run, without escape sequences."""
    excerpt_of: str = ""
    """Id of that run's outcome."""
    support: tuple[str, ...] = ()
    """How many runs agreed on each side, and what was covered, in words."""
    assumptions: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    commands: dict[str, str] = Field(default={})
    """What each is for, and the command for a shell that reproduces it."""


class Report(Value):
    """What a catalog knows."""

    catalog: str
    """Path or URL."""
    made_at: Instant
    tool_version: str
    case: str | None = None
    """The case that it is limited to."""
    since: Instant | None = None
    """Nothing in it was recorded before."""
    kinds: dict[FindingKind, int]
    """How many findings of each kind."""
    verdicts: dict[Verdict, int]
    """How many outcomes with each verdict."""
    cases: int
    """How many cases they are of."""
    springs: tuple[Spring, ...]
    """Oldest first."""
    entries: tuple[Entry, ...]
    """Newest finding first."""
    matrices: tuple[Matrix, ...]
    findings_left_out: int = 0
    """Older findings that are counted and not shown."""
    is_outcome_limit_reached: bool = False
    """Whether only the newest outcomes are counted."""


# Excerpts of logs: the lines around the one that shows a failure, safe to be shown.

_TAIL = 256 * 1024
_BEFORE, _AFTER = 12, 6
_LONGEST = 400


def excerpt(pieces: Iterable[bytes], failing_line: str) -> str:
    """Cut the telling lines out of a log.

    `pieces`: the log; only its last 256 KiB are kept in memory.
    `failing_line`: the line to look for, or several; not found or empty: the log's end is taken.
    """
    tail = b""
    for piece in pieces:
        tail = (tail + piece)[-_TAIL:]
    lines = clean(tail.decode(errors="replace")).rstrip().split("\n")
    wanted = clean(failing_line).strip().split("\n")[0].strip()
    found = [at for at, line in enumerate(lines) if wanted and wanted in line]
    middle = found[-1] if found else len(lines)
    chosen = lines[max(middle - _BEFORE, 0) : middle + _AFTER + 1]
    return "\n".join(line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…" for line in chosen)


# From a catalog to the content of a report.

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
                cause=clean(describe_cause(edge.cause)),
            )


def _entry(catalog: "Catalog", finding: Finding, commands: Mapping[str, str]) -> Entry:
    lines, outcome = _excerpt(catalog, finding)
    case, machine = finding.case, finding.environment
    where = f"{describe_machine(machine)}, {machine.image}" if machine else ""
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
        boundaries=tuple(clean(describe_boundary(edge)) for edge in finding.boundaries),
        passes=tuple(_passes(finding)),
        causes=tuple(
            clean(describe_cause(edge.cause)) for edge in finding.boundaries if edge.cause
        ),
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


def _passes(finding: Finding) -> Iterator[str]:
    yield from map(describe_window, finding.windows)
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


# A report as one HTML page that needs nothing else: it opens from disk, without a network.

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'"
"""Nothing is loaded, and no script runs but ours."""


def render_page(report: Report) -> str:
    """Write a report as HTML.

    Parameters
    ----------
    report : Report
        Any.

    Returns
    -------
    str
        A whole document. Text of cases and logs in it is escaped, and the page's own policy
        forbids scripts other than the one that sorts its tables.

    Raises
    ------
    HostError
        If matplotlib is not installed, which draws the timeline.
    """
    try:
        from buildvm_nb.report.drawing import draw_springs  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise HostError(
            f"a report as HTML needs matplotlib: {error}",
            hint="pip install 'buildvm-nb[notebook]'; without --html no drawing is needed",
        ) from error
    script = _part("page.js")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"instant": format_instant, "minute": _minute}
    # our own parts and matplotlib's drawing are markup; everything else is escaped
    return environment.from_string(_part("page.html.j2")).render(
        report=report,
        timeline=Markup(draw_springs(report.springs, report.made_at)),  # noqa: S704
        style=Markup(_part("page.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        policy=_POLICY.format(digest),
    )


def _part(name: str) -> str:
    return files("buildvm_nb.report").joinpath(name).read_text(encoding="utf-8")


def _minute(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M}"
