"""Outcomes and findings for people: text, Markdown, a line of dates, commands to run them again."""

import re
import shlex
import shutil
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import groupby, pairwise
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildvm_nb.cli.options import SourceOptions, make_case
from buildvm_nb.cli.output import (
    can_show,
    printable,
    printable_lines,
    write_fields,
    write_line,
    write_pieces,
)

if TYPE_CHECKING:
    from buildvm_nb.model.case import Case
    from buildvm_nb.model.finding import Boundary, Finding
    from buildvm_nb.model.machine import MachineSpec
    from buildvm_nb.model.outcome import Outcome, Probing, StepRecord

__all__ = [
    "Mark",
    "Narrator",
    "code",
    "describe_machine",
    "diagnosing_command",
    "draw_timeline",
    "escaped",
    "failing_command",
    "fenced",
    "outcome_fields",
    "passing_command",
    "show_finding",
    "table_row",
    "write_report",
]

# Commands that build again what a finding is about: ready to be copied.


def diagnosing_command(finding: "Finding") -> str:
    """Write the command that makes a finding again.

    Returns: for a shell; what the catalog still has is not run again. On the commit axis it has the
    commits next to the change.
    """
    from buildvm_nb.study.again import image_options, question_options
    from buildvm_nb.study.questions import DEFAULT_AXES, Questions

    words, last = _subject(finding.case, [])
    asked = Questions(
        axes=DEFAULT_AXES if finding.axis is None else (finding.axis,),
        good=_commit(finding, passes=True) or "",
        bad=_commit(finding, passes=False) or "",
        first=finding.studied_from,
        last=finding.studied_until,
    )
    options = question_options(asked)
    if last:
        options += image_options(finding.case.image)
    return shlex.join(["buildvm", "diagnose", *words, *options, *last])


def passing_command(finding: "Finding", named: Sequence[str] = ()) -> str:
    """Write the command that builds a finding's case where it passes.

    `named`: words by which the user named the case; left out, they follow from the case: the id of
    a curated one, the options of a source with one command, else a case file of its id.
    Returns: for a shell; empty where no machine was found in which it passes.
    """
    if finding.environment is None:
        return ""
    return _command(finding, finding.environment, _commit(finding, passes=True), named)


def failing_command(finding: "Finding", named: Sequence[str] = ()) -> str:
    """Write the command that builds a finding's case where it fails.

    Returns: for a shell, in a machine like the one in which it passes, but for what decides; empty
    where the finding names none.
    """
    passing = finding.environment
    if passing is None or finding.axis is None or finding.kind.value == "flaky":
        return ""
    changes = _failing_fields(finding)
    if None in changes.values():
        return ""
    machine = passing.parse(dict(passing) | changes)
    return _command(finding, machine, _commit(finding, passes=False), named)


def _command(
    finding: "Finding", machine: "MachineSpec", commit: str | None, named: Sequence[str]
) -> str:
    from buildvm_nb.study.again import image_options, is_curated, machine_options

    case = finding.case
    name = list(named) or ([case.id] if is_curated(case) else [])
    if commit is not None:
        if name:  # a case file has a commit of its own, and a sweep takes others
            return _sweep(name[0], machine, commit)
        fields = {**dict(case.source or {}), "commit": commit, "before": None, "branch": None}
        case = case.parse(dict(case) | {"source": fields})
    words, last = _subject(case, name)
    options = machine_options(case, machine)
    if last or machine.image != case.image:
        options += image_options(machine.image)
    return shlex.join(["buildvm", "build", *words, *options, *last])


def _subject(case: "Case", name: list[str]) -> tuple[list[str], list[str]]:
    """Return the words that name a case, and those that stand last."""
    from buildvm_nb.study.again import is_curated

    if not name and is_curated(case):
        name = [case.id]
    return (name, []) if name else _source_words(case) or ([f"{case.id}.toml"], [])


def _sweep(name: str, machine: "MachineSpec", commit: str) -> str:
    from buildvm_nb.model.instants import format_instant

    words = ["--commits", commit, "--dates", format_instant(machine.date), "--cpus", machine.cpu]
    words += ["--kernels", machine.kernel, "--accelerator", machine.accelerator.value]
    return shlex.join(["buildvm", "sweep", name, *words])


def _commit(finding: "Finding", *, passes: bool) -> str | None:
    """Return a commit next to a change; None: the case's own."""
    if finding.axis is None or finding.axis.value != "commit" or not finding.boundaries:
        return None
    boundary = finding.boundaries[0]
    is_before = (boundary.before.value == "passed") is passes
    return boundary.last_before if is_before else boundary.first_after


def _failing_fields(finding: "Finding") -> dict[str, Any]:
    """Return what makes a machine fail; a value of None: the finding does not say."""
    match finding.axis and finding.axis.value:
        case "date":
            return {"date": _failing_date(finding)}
        case "cpu":
            return {"cpu": next(reversed(finding.failing_cpus), None)}
        case "kernel":
            return {"kernel": next(reversed(finding.failing_kernels), None)}
        case "cores":
            return {"cpu_count": _failing_count(finding)}
    return {}


def _failing_date(finding: "Finding") -> str | None:
    """Return a date whose whole test fails: it runs away from the passing side."""
    from buildvm_nb.model.instants import format_instant

    for boundary in finding.boundaries:
        if _turns_bad(boundary):
            return boundary.first_after
    is_bad = bool(finding.boundaries) and finding.boundaries[0].before.value != "passed"
    return format_instant(finding.studied_from) if is_bad and finding.studied_from else None


def _failing_count(finding: "Finding") -> int | None:
    if not finding.boundaries:
        return None
    boundary = finding.boundaries[0]
    return int(boundary.first_after if _turns_bad(boundary) else boundary.last_before)


def _turns_bad(boundary: "Boundary") -> bool:
    return boundary.before.value == "passed" != boundary.after.value


def _source_words(case: "Case") -> tuple[list[str], list[str]] | None:
    """Say it with options; None: they cannot say all that the case is."""
    from buildvm_nb.errors import UsageError

    fields, run = _source_fields(case), case.steps[0].run
    try:
        made = make_case(SourceOptions(**fields), [run], case.image)
    except UsageError:
        return None
    limits = made.limits.model_copy(update={"step_timeout_s": case.limits.step_timeout_s})
    if made.model_copy(update={"limits": limits}).build_digest() != case.build_digest():
        return None
    words = [str(word) for name, value in fields.items() for word in (_option(name), value)]
    if limits != made.limits:
        words += ["--timeout", str(limits.step_timeout_s)]
    return words, ["--", run]


def _source_fields(case: "Case") -> dict[str, Any]:
    """Return the fields of `SourceOptions` that name a case's source."""
    told = case.source.model_dump(mode="json") if case.source else {}
    name, version = told.get("name"), told.get("version")
    pinned = f"{name}={version}" if version else name
    fields: dict[str, dict[str, Any]] = {
        "git": {
            "git": told.get("url"),
            "commit": told.get("commit"),
            "before": told.get("before"),
            "branch": told.get("branch"),
        },
        "pypi": {"pypi": f"{name}=={version}"},
        "debian-source": {"debian": pinned},
        "debian-binary": {"debian_binary": pinned},
        "local": {"local": Path(told.get("path", ""))},
    }
    chosen = fields.get(told.get("kind", ""), {})
    return {name: value for name, value in chosen.items() if value is not None}


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


# The dates that were studied, drawn in one line: where a case passes and where it does not.

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WIDTH = 78
_MONTHS = 12


class Mark(Enum):
    """What a column stands for: a name for people, a character, and one in plain ASCII."""

    PASSES = ("passes", "█", "=")
    FAILS = ("fails", "░", ".")
    CHANGES = ("changes", "┃", "|")
    UNKNOWN = ("not known", "?", "?")


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A line of marks with a scale below it."""

    marks: tuple[Mark, ...]
    ticks: tuple[tuple[int, str], ...]
    """Columns, and the year or other moment that begins in them."""

    def bar(self, *, ascii_only: bool = False) -> str:
        """Return the line itself."""
        return "".join(mark.value[1 + ascii_only] for mark in self.marks)

    def scale(self, *, ascii_only: bool = False) -> str:
        """Return what stands below it."""
        line, sign = "", "'" if ascii_only else "╵"
        for column, label in self.ticks:
            line = f"{line:<{column}}{sign}{label}"
        return line

    def legend(self, *, ascii_only: bool = False) -> str:
        """Return what the characters mean."""
        return "  ".join(
            f"{mark.value[1 + ascii_only]} {mark.value[0]}" for mark in Mark if mark in self.marks
        )


def draw_timeline(finding: "Finding", width: int = _WIDTH) -> Timeline | None:
    """Draw the dates that a finding is about.

    `width`: columns, at least 20.
    Returns: None where no dates were studied, or where they are not what decides.
    """
    if finding.studied_from is None or finding.studied_until is None:
        return None
    first, last = _second(finding.studied_from), _second(finding.studied_until)
    stretches = _stretches(finding, first)
    if stretches is None or first >= last:
        return None
    column_s = (last + 1 - first) / width
    edges = [first + index * column_s for index in range(width + 1)]
    marks = [_mark(stretches, *pair) for pair in pairwise(edges)]
    for at in _changes(finding, column_s):
        if first <= at <= last:
            marks[min(bisect_right(edges, at) - 1, width - 1)] = Mark.CHANGES
    return Timeline(marks=tuple(marks), ticks=tuple(_ticks(first, last, width)))


def _stretches(finding: "Finding", first: int) -> list[tuple[int, Mark]] | None:
    """Return the seconds at which something else begins; None: it cannot be told."""
    from buildvm_nb.model.finding import FindingKind

    boundaries = _on_dates(finding)
    if not boundaries:
        only = {FindingKind.SOUND: Mark.PASSES, FindingKind.ALWAYS_FAILING: Mark.FAILS}
        return [(first, only[finding.kind])] if finding.kind in only else None
    stretches = [(first, _state(boundaries[0].before))]
    for boundary in boundaries:
        end, start = _ends(boundary)
        if end + 1 < start:
            stretches.append((end + 1, Mark.UNKNOWN))
        stretches.append((start, _state(boundary.after)))
    return stretches


def _on_dates(finding: "Finding") -> list["Boundary"]:
    from buildvm_nb.model.finding import Axis

    return [boundary for boundary in finding.boundaries if boundary.axis is Axis.DATE]


def _state(verdict: str) -> Mark:
    return Mark.PASSES if verdict == "passed" else Mark.FAILS


def _ends(boundary: "Boundary") -> tuple[int, int]:
    from buildvm_nb.model.instants import parse_instant

    return _second(parse_instant(boundary.last_before)), _second(
        parse_instant(boundary.first_after)
    )


def _changes(finding: "Finding", column_s: float) -> Iterator[int]:
    """Iterate over the changes that are known as well as can be drawn."""
    for end, start in map(_ends, _on_dates(finding)):
        if start - end <= max(1, column_s):
            yield start


def _mark(stretches: list[tuple[int, Mark]], start: float, end: float) -> Mark:
    """Return what a column stands for."""
    begins = [at for at, _ in stretches]
    inside = stretches[max(bisect_right(begins, start) - 1, 0) : max(bisect_right(begins, end), 1)]
    seen = {mark for at, mark in inside if at < end}
    if {Mark.PASSES, Mark.FAILS} <= seen:
        return Mark.CHANGES
    if Mark.UNKNOWN in seen:
        return Mark.UNKNOWN
    return inside[0][1]


_CLOCK, _DAY, _MONTH, _YEAR = "%H:%M", "%m-%d", "%Y-%m", "%Y"
_SECONDS = (
    *((step, "%H:%M:%S") for step in (1, 5, 15, 30)),
    *((60 * step, _CLOCK) for step in (1, 5, 15, 30, 60, 180, 360, 720)),
    *((86_400 * step, _DAY) for step in (1, 2, 7, 14)),
)
_CALENDAR = (
    *((step, _MONTH) for step in (1, 3, 6)),
    *((_MONTHS * step, _YEAR) for step in (1, 2, 5, 10, 20, 50, 100)),
)
_MONTH_S = 30.4 * 86_400


def _ticks(first: int, last: int, width: int) -> Iterator[tuple[int, str]]:
    """Iterate over the ticks of the finest scale whose labels do not touch."""
    column_s = (last + 1 - first) / width
    moments, form = _scale(first, last, column_s)
    for at in moments:
        column, label = int((at - first) / column_s), f"{_when(at):{form}}"
        if first <= at <= last and column + len(label) < width:
            yield column, label


def _scale(first: int, last: int, column_s: float) -> tuple[Iterator[int], str]:
    for step, form in _SECONDS:
        if step / column_s >= _needed(first, form):
            return iter(range(ceil(first / step) * step, last + 1, step)), form
    for step, form in _CALENDAR:
        if step * _MONTH_S / column_s >= _needed(first, form):
            return _month_turns(first, last, step), form
    return iter(()), _YEAR


def _needed(first: int, form: str) -> int:
    """Return how many columns a label takes, with its sign and a gap."""
    return len(f"{_when(first):{form}}") + 2


def _month_turns(first: int, last: int, step: int) -> Iterator[int]:
    begin, end = _when(first), _when(last)
    months = range(begin.year * _MONTHS, (end.year + 1) * _MONTHS, step)
    if step > _MONTHS:
        months = range(months.start - months.start % step, months.stop, step)
    for number in months:
        if number // _MONTHS > 0:
            turn = begin.replace(year=number // _MONTHS, month=number % _MONTHS + 1, day=1)
            yield _second(turn.replace(hour=0, minute=0, second=0))


def _second(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(seconds=1)


def _when(second: int) -> datetime:
    return _EPOCH + timedelta(seconds=second)


# A finding, told to people.

_WIDTHS = (20, 78)
_STYLES = {
    Mark.PASSES: "green",
    Mark.FAILS: "red",
    Mark.CHANGES: "bold yellow",
    Mark.UNKNOWN: "dim",
}
_IDS_IN_A_LINE = 2


def show_finding(
    finding: "Finding", superseded_by: Iterable[str] = (), named: Sequence[str] = ()
) -> None:
    """Write a finding to standard output: what was concluded, when it passes, and all the rest.

    `named`: words by which the user named the case; left out, they follow from it.
    """
    write_pieces([(finding.kind.value, "bold"), (f": {printable(finding.summary)}", "")])
    columns = shutil.get_terminal_size().columns - 2 if sys.stdout.isatty() else max(_WIDTHS)
    timeline = draw_timeline(finding, max(min(_WIDTHS), min(columns, max(_WIDTHS))))
    if timeline is not None:
        _show_timeline(timeline)
    write_line()
    write_fields(finding_fields(finding, superseded_by, named))


def _show_timeline(timeline: Timeline) -> None:
    ascii_only = not can_show(timeline.bar() + timeline.scale())
    write_line()
    bar = timeline.bar(ascii_only=ascii_only)
    marked = zip(timeline.marks, bar, strict=True)
    write_pieces(
        [
            ("".join(letter for _, letter in run), _STYLES[mark])
            for mark, run in groupby(marked, key=lambda pair: pair[0])
        ]
    )
    write_line(timeline.scale(ascii_only=ascii_only))
    write_line(timeline.legend(ascii_only=ascii_only))


def finding_fields(
    finding: "Finding", superseded_by: Iterable[str] = (), named: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Tell all of a finding but its conclusion: what supports it, where the case passes.

    `named`: words by which the user named the case; left out, they follow from it.
    Returns: names and values; an empty value says that there is nothing to tell.
    """
    from buildvm_nb.model.display import describe_boundary, describe_cause, describe_reruns, titled

    return [
        ("case", titled(finding.case)),
        ("superseded by", " ".join(superseded_by)),
        ("boundaries", "\n".join(map(describe_boundary, finding.boundaries))),
        ("cause", "\n".join(describe_cause(b.cause) for b in finding.boundaries if b.cause)),
        ("fails by rule", finding.recurs),
        *_dates(finding),
        *_machines(finding),
        ("passes in", _environment(finding, named)),
        ("failing line", finding.failing_line),
        ("disagreed", "\n".join(map(describe_reruns, finding.reruns))),
        ("confirmed by", finding.repeats),
        ("counts", finding.support.counts if finding.support else ""),
        ("covered", finding.support.covered if finding.support else ""),
        ("runs", f"{finding.runs} made for it, {len(finding.evidence)} in its evidence"),
        ("assumed", "\n".join(finding.assumptions)),
        ("evidence", _evidence(finding.evidence)),
        *_origin(finding),
    ]


def describe_machine(machine: "MachineSpec") -> str:
    """Tell what a machine is."""
    from buildvm_nb.model.instants import format_instant

    return (
        f"{format_instant(machine.date)}, {machine.cpu}, {machine.cpu_count} virtual, "
        f"{machine.memory_mib} MiB, kernel {machine.kernel}, {machine.accelerator.value}, "
        f"{machine.image}"
    )


def _dates(finding: "Finding") -> list[tuple[str, str]]:
    from buildvm_nb.model.display import describe_window
    from buildvm_nb.model.instants import format_instant

    ends = (finding.studied_from, finding.studied_until)
    first, last = ("?" if end is None else format_instant(end) for end in ends)
    return [
        ("passes", "\n".join(map(describe_window, finding.windows))),
        ("studied", f"{first} to {last}" if any(ends) else ""),
    ]


def _machines(finding: "Finding") -> list[tuple[str, str]]:
    base = f" (removed from {finding.features_base})" if finding.features_base else ""
    return [
        ("passing CPUs", ", ".join(finding.passing_cpus)),
        ("failing CPUs", ", ".join(finding.failing_cpus)),
        ("features", f"{' '.join(finding.features)}{base}" if finding.features else ""),
        ("harmful features", _harmful(finding)),
        ("needs features", " ".join(finding.features_needed)),
        ("passing kernels", ", ".join(finding.passing_kernels)),
        ("failing kernels", ", ".join(finding.failing_kernels)),
        ("varying files", "\n".join(finding.varying_files)),
        ("difference", finding.difference),
    ]


def _harmful(finding: "Finding") -> str:
    if not finding.features_harmful:
        return ""
    return f"{' '.join(finding.features_harmful)} (added to {finding.features_base})"


def _environment(finding: "Finding", named: Sequence[str]) -> str:
    machine = finding.environment
    if machine is None:
        return ""
    return f"{describe_machine(machine)}\n{passing_command(finding, named)}"


def _evidence(ids: Sequence[str]) -> str:
    rows = range(0, len(ids), _IDS_IN_A_LINE)
    return "\n".join(" ".join(ids[start : start + _IDS_IN_A_LINE]) for start in rows)


def _origin(finding: "Finding") -> list[tuple[str, str]]:
    from buildvm_nb.model.instants import format_instant

    return [
        ("finding", finding.id),
        ("supersedes", finding.supersedes or ""),
        ("recorded", format_instant(finding.recorded_at)),
        ("study", finding.study or ""),
        ("buildvm", finding.tool_version),
    ]


# A finding as a Markdown report, fit for a bug tracker.
#
# Names, paths and log lines come from strangers: they stand in code, or with every character that
# Markdown or HTML would take for its own escaped, so that none of them forms the page.

_ACTIVE = re.compile(r"([\\`*_\[\]<>|~&])")
_MENTION = re.compile(r"(?<!\w)@(?=\w)")
_COLUMNS = (
    "axis",
    "last before",
    "verdict",
    "first after",
    "verdict",
    "precision",
    "confirming runs",
)


def write_report(
    finding: "Finding", *, named: Sequence[str] = (), asked: Sequence[str] = ()
) -> str:
    """Write a report.

    `named`: words by which the user named the case; left out, they follow from it.
    """
    case = finding.case
    lines = [f"# {escaped(case.id)}: {escaped(finding.summary)}", ""]
    lines += [escaped(case.title), ""] if case.title else []
    told = [f"**{finding.kind.value}**", *filter(None, [finding.repeats])]
    lines += [f"Found: {', '.join(told)}.", ""]
    parts = (
        ("When it passes", _timeline(finding)),
        ("Fails by rule", _block(finding.recurs)),
        ("Boundaries", _boundaries(finding)),
        ("Cause", _causes(finding)),
        ("CPUs and kernels", _finding_report_machines(finding)),
        ("The line that shows the failure", _block(finding.failing_line)),
        ("Where it passes", _finding_report_environment(finding, named)),
        ("How to reproduce", _reproduction(finding, named, asked)),
        ("Runs that disagreed", _finding_report_reruns(finding)),
        ("Rests on", [f"- {escaped(one)}" for one in _support(finding)]),
        ("Taken for granted", [f"- {escaped(one)}" for one in finding.assumptions]),
        ("Evidence", _finding_report_evidence(finding)),
    )
    for heading, body in parts:
        if body:
            lines += [f"## {heading}", "", *body, ""]
    return "\n".join(lines).rstrip()


def escaped(text: str) -> str:
    """Make text mean itself in Markdown, in one line."""
    shown = _ACTIVE.sub(r"\\\1", printable(text))
    return _MENTION.sub("@<!-- -->", shown)


def code(text: str, *, in_table: bool = False) -> str:
    """Make text code within a line.

    `in_table`: whether it stands in a table, where a bar ends a cell even within code.
    """
    shown = printable(text) or " "
    if in_table:
        shown = shown.replace("|", r"\|")
    fence = "`" * (_longest_run(shown) + 1)
    gap = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{gap}{shown}{gap}{fence}"


def fenced(text: str, language: str = "text") -> list[str]:
    """Make text a block of code."""
    lines = printable_lines(text)
    fence = "`" * max(3, max(map(_longest_run, lines)) + 1)
    return [f"{fence}{language}", *lines, fence]


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _block(text: str) -> list[str]:
    return fenced(text) if text else []


def _support(finding: "Finding") -> list[str]:
    if finding.support is None:
        return []
    return [one for one in (finding.support.counts, finding.support.covered) if one]


def _timeline(finding: "Finding") -> list[str]:
    timeline = draw_timeline(finding)
    if timeline is None:
        return []
    return fenced(f"{timeline.bar()}\n{timeline.scale()}\n{timeline.legend()}")


def _boundaries(finding: "Finding") -> list[str]:
    rows = [_row(boundary) for boundary in finding.boundaries]
    return (
        [table_row(_COLUMNS), table_row(["---"] * len(_COLUMNS)), *map(table_row, rows)]
        if rows
        else []
    )


def _row(boundary: "Boundary") -> list[str]:
    from buildvm_nb.model.display import describe_precision

    return [
        boundary.axis.value,
        code(boundary.last_before, in_table=True),
        boundary.before.value,
        code(boundary.first_after, in_table=True),
        boundary.after.value,
        describe_precision(boundary),
        str(boundary.confirmed),
    ]


def table_row(cells: Sequence[str]) -> str:
    """Write a row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def _causes(finding: "Finding") -> list[str]:
    from buildvm_nb.model.display import describe_cause

    return [f"- {code(describe_cause(b.cause))}" for b in finding.boundaries if b.cause]


def _finding_report_machines(finding: "Finding") -> list[str]:
    base = f" (beside {code(finding.features_base)})" if finding.features_base else ""
    told = (
        ("passes on", finding.passing_cpus, ""),
        ("fails on", finding.failing_cpus, ""),
        ("decided by", finding.features, base),
        ("passes when given", finding.features_needed, ""),
        ("fails when given", finding.features_harmful, base),
        ("passes on kernels", finding.passing_kernels, ""),
        ("fails on kernels", finding.failing_kernels, ""),
        ("files that vary", finding.varying_files, ""),
    )
    lines = [
        f"- {what}: {', '.join(map(code, names))}{more}" for what, names, more in told if names
    ]
    return [*lines, *([""] if lines and finding.difference else []), *_block(finding.difference)]


def _finding_report_environment(finding: "Finding", named: Sequence[str]) -> list[str]:
    machine = finding.environment
    if machine is None:
        return []
    command = passing_command(finding, named)
    return [code(describe_machine(machine)), "", *fenced(command, "sh")]


def _reproduction(finding: "Finding", named: Sequence[str], asked: Sequence[str]) -> list[str]:
    lines = []
    if command := failing_command(finding, named):
        lines += ["It fails there:", "", *fenced(command, "sh"), ""]
    if asked:
        lines += ["The whole study:", "", *fenced(shlex.join(asked), "sh"), ""]
    if lines:
        lines.append(f"With buildvm-nb {code(finding.tool_version or 'of any version')}.")
    return lines


def _finding_report_reruns(finding: "Finding") -> list[str]:
    from buildvm_nb.model.display import describe_counts

    return [
        f"- {describe_counts(one)}: {code(describe_machine(one.machine))}" for one in finding.reruns
    ]


def _finding_report_evidence(finding: "Finding") -> list[str]:
    if not finding.evidence:
        return []
    ids = ", ".join(map(code, finding.evidence))
    return [f"Finding {code(finding.id)}; outcomes: {ids}."]


# The runs of a diagnosis, told as they come.

_SHORT = 12


class Narrator:
    """Puts outcomes into words.

    Date and CPU are always told; kernel, cores and commit as soon as one is not the first one.
    """

    def __init__(self, *, tells_commits: bool = False) -> None:
        self._always = {"date", "cpu", *(["commit"] if tells_commits else [])}
        self._seen: dict[str, set[str]] = {}

    def describe(self, outcome: "Outcome", *, is_known: bool) -> str:
        """Tell an outcome.

        For example ``2024-01-01, Haswell, in a fork, clock held: failed (test: exited with 1), 2.9
        s``.
        """
        told = _places(outcome)
        for name, value in told.items():
            self._seen.setdefault(name, set()).add(value)
        shown = [value for name, value in told.items() if self._is_told(name)]
        where = ", ".join([*shown, *_marks(outcome.probing)])
        took = "from the catalog" if is_known else f"{outcome.duration_s:.1f} s"
        return f"{where}: {outcome.told}, {took}"

    def _is_told(self, name: str) -> bool:
        return name in self._always or len(self._seen[name]) > 1


def _places(outcome: "Outcome") -> dict[str, str]:
    from buildvm_nb.model.instants import format_instant

    spec, source = outcome.machine, outcome.case.source
    commit = getattr(source, "commit", None) or ""
    return {
        "commit": f"commit {commit[:_SHORT]}",
        "date": format_instant(spec.date).removesuffix("T00:00:00Z"),
        "cpu": spec.cpu,
        "kernel": f"kernel {spec.kernel}",
        "cores": f"{spec.cpu_count} virtual CPUs",
    }


def _marks(probing: "Probing") -> list[str]:
    marks = ["in a fork"] if probing.prepared_at else []
    marks += ["clock held"] if probing.held else []
    marks += [f"repetition {probing.attempt}"] if probing.attempt else []
    return marks


# An outcome, told to people.


def outcome_fields(outcome: "Outcome", catalog_place: str | None = None) -> list[tuple[str, str]]:
    """Tell an outcome: verdict and why, the evidence, where it ran, how to see more.

    `catalog_place`: the catalog that holds it, where it is not the user's own.
    Returns: names and values; an empty value says that there is nothing to tell.
    """
    from buildvm_nb.model.display import titled

    see = ["buildvm", "catalog", "log", outcome.id]
    see += ["--catalog", catalog_place] if catalog_place else []
    return [
        ("case", titled(outcome.case)),
        ("verdict", outcome.verdict.value),
        ("why", outcome.reason),
        ("evidence", outcome.evidence),
        ("source", _source(outcome)),
        *_where(outcome),
        ("chosen by", "\n".join(f"finding {key}" for key in outcome.chosen_by)),
        ("steps", "\n".join(map(_step, outcome.steps))),
        ("artifacts", "\n".join(f"{a.digest[:_SHORT]} {a.path}" for a in outcome.artifacts)),
        ("took", f"{outcome.duration_s:.1f} s"),
        ("outcome", outcome.id),
        ("log", shlex.join(see) if outcome.log_digest else ""),
    ]


def _source(outcome: "Outcome") -> str:
    return "\n".join(
        " ".join(part for part in (source.kind, source.name, source.version) if part)
        if source.kind != "wheels"  # their list is long, and the outcome's JSON has it
        else f"wheels of {len(source.version.split())} distributions"
        for source in outcome.sources
    )


def _where(outcome: "Outcome") -> list[tuple[str, str]]:
    from buildvm_nb.model.instants import format_instant

    spec, found = outcome.machine, outcome.environment
    image = ("image", str(spec.image))
    date = ("date", format_instant(spec.date))
    ran = [(step.clock_started_at, step.clock_ended_at) for step in outcome.steps]
    started, ended = (ran[0][0], ran[-1][1]) if ran else (None, None)
    told = f"{format_instant(started)} to {format_instant(ended)}" if started and ended else ""
    if outcome.probing.held and told:
        told += " (held)"
    if found is None:
        asked = f"{spec.cpu}, kernel {spec.kernel}, {spec.accelerator} (asked for; none came up)"
        return [date, ("machine", asked), image]
    emulated = [("not KVM, as", found.accelerator_reason)] if found.accelerator_reason else []
    return [
        date,
        ("clock", told),
        ("CPU", f"{found.cpu}, {found.cpu_count} virtual, {found.accelerator} ({found.engine})"),
        *emulated,
        ("kernel", f"{found.kernel_release} ({spec.kernel})"),
        image,
    ]


def _step(step: "StepRecord") -> str:
    ran = f", {step.tests_run} tests" if step.tests_run is not None else ""
    return f"{step.name}: {step.verdict.value} in {step.duration_s:.1f} s{ran}"
