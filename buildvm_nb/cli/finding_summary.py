"""A finding, told to people."""

import shutil
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from buildvm_nb.cli.again import passing_command
from buildvm_nb.cli.output import can_show, printable, write_fields, write_line, write_pieces
from buildvm_nb.cli.timeline import Mark, Timeline, draw_timeline

if TYPE_CHECKING:
    from buildvm_nb.model.finding import Boundary, Finding, Reruns, Window
    from buildvm_nb.model.hint import Hint
    from buildvm_nb.model.machine import MachineSpec

__all__ = [
    "describe_cause",
    "describe_counts",
    "describe_machine",
    "describe_precision",
    "show_finding",
]

_WIDTHS = (20, 78)
_STYLES = {
    Mark.PASSES: "green",
    Mark.FAILS: "red",
    Mark.CHANGES: "bold yellow",
    Mark.UNKNOWN: "dim",
}
_IDS_IN_A_LINE = 2
_MOST_SECONDS = 120


def show_finding(
    finding: "Finding", superseded_by: Iterable[str] = (), named: Sequence[str] = ()
) -> None:
    """Write a finding to standard output: what was concluded, when it passes, and all the rest.

    Parameters
    ----------
    finding : Finding
        Any finding.
    superseded_by : iterable of str
        Ids of the findings that replace it.
    named : sequence of str
        Words by which the user named the case; left out, they follow from it.
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

    Parameters
    ----------
    finding : Finding
        Any finding.
    superseded_by : iterable of str
        Ids of the findings that replace it.
    named : sequence of str
        Words by which the user named the case; left out, they follow from it.

    Returns
    -------
    list of (str, str)
        Names and values; an empty value says that there is nothing to tell.
    """
    return [
        ("case", _titled(finding)),
        ("superseded by", " ".join(superseded_by)),
        ("boundaries", "\n".join(map(_boundary, finding.boundaries))),
        ("cause", "\n".join(describe_cause(b.cause) for b in finding.boundaries if b.cause)),
        ("fails by rule", finding.recurs),
        *_dates(finding),
        *_machines(finding),
        ("passes in", _environment(finding, named)),
        ("failing line", finding.failing_line),
        ("disagreed", "\n".join(map(_reruns, finding.reruns))),
        ("confirmed by", finding.repeats),
        ("counts", finding.support.counts if finding.support else ""),
        ("covered", finding.support.covered if finding.support else ""),
        ("runs", f"{finding.runs} made for it, {len(finding.evidence)} in its evidence"),
        ("assumed", "\n".join(finding.assumptions)),
        ("evidence", _evidence(finding.evidence)),
        *_origin(finding),
    ]


def describe_cause(cause: "Hint") -> str:
    """Tell what changes at a boundary, and where that is written.

    Parameters
    ----------
    cause : Hint
        Of a boundary.

    Returns
    -------
    str
        For example ``certificate-ends tests/c.pem:3: CN=x ends``.
    """
    return f"{cause.kind.value}{_place(cause)}: {cause.why}"


def _place(cause: "Hint") -> str:
    if cause.path:
        return f" {cause.path}" if cause.line is None else f" {cause.path}:{cause.line}"
    return "" if cause.line is None else f", line {cause.line} of the log"


def describe_machine(machine: "MachineSpec") -> str:
    """Tell what a machine is.

    Parameters
    ----------
    machine : MachineSpec
        Any.

    Returns
    -------
    str
        In one line.
    """
    from buildvm_nb.model.instants import format_instant

    return (
        f"{format_instant(machine.date)}, {machine.cpu}, {machine.cpu_count} virtual, "
        f"{machine.memory_mib} MiB, kernel {machine.kernel}, {machine.accelerator.value}, "
        f"{machine.image}"
    )


def _titled(finding: "Finding") -> str:
    case = finding.case
    return f"{case.id}: {case.title}" if case.title else case.id


def _boundary(boundary: "Boundary") -> str:
    return (
        f"{boundary.axis.value}: {boundary.before.value} up to {boundary.last_before}, "
        f"{boundary.after.value} from {boundary.first_after} "
        f"({describe_precision(boundary)}; {boundary.confirmed} confirming runs)"
    )


def describe_precision(boundary: "Boundary") -> str:
    """Tell how closely a change is known.

    Parameters
    ----------
    boundary : Boundary
        Any.

    Returns
    -------
    str
        ``exact`` where nothing lies between both ends, for dates else the time between them.
    """
    from buildvm_nb.model.finding import Axis
    from buildvm_nb.model.instants import parse_instant

    if boundary.axis is not Axis.DATE:
        return "exact" if boundary.is_exact else "somewhere between"
    between = parse_instant(boundary.first_after) - parse_instant(boundary.last_before)
    seconds = int(between.total_seconds())
    if boundary.is_exact and seconds == 1:
        return "exact"
    return f"within {seconds} s" if seconds <= _MOST_SECONDS else f"within {between}"


def _dates(finding: "Finding") -> list[tuple[str, str]]:
    from buildvm_nb.model.instants import format_instant

    ends = (finding.studied_from, finding.studied_until)
    first, last = ("?" if end is None else format_instant(end) for end in ends)
    return [
        ("passes", "\n".join(map(_window, finding.windows))),
        ("studied", f"{first} to {last}" if any(ends) else ""),
    ]


def _window(window: "Window") -> str:
    from buildvm_nb.model.instants import format_instant

    first, last = window.passes_from, window.passes_until
    begins = "from the beginning" if first is None else f"from {format_instant(first)}"
    ends = "to the end" if last is None else f"until {format_instant(last)}"
    return f"{begins} {ends}"


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


def describe_counts(reruns: "Reruns") -> str:
    """Tell how often which verdict came.

    Parameters
    ----------
    reruns : Reruns
        Of one machine.

    Returns
    -------
    str
        For example ``3 passed, 1 failed``.
    """
    return ", ".join(f"{count} {verdict.value}" for verdict, count in reruns.verdicts.items())


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


def _reruns(reruns: "Reruns") -> str:
    from buildvm_nb.model.instants import format_instant

    machine = reruns.machine
    where = f"{format_instant(machine.date)}, {machine.cpu}, kernel {machine.kernel}"
    return f"{describe_counts(reruns)}: {where}"


def _origin(finding: "Finding") -> list[tuple[str, str]]:
    from buildvm_nb.model.instants import format_instant

    return [
        ("finding", finding.id),
        ("supersedes", finding.supersedes or ""),
        ("recorded", format_instant(finding.recorded_at)),
        ("study", finding.study or ""),
        ("buildvm", finding.tool_version),
    ]
