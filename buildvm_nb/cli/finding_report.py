"""A finding as a Markdown report, fit for a bug tracker.

Names, paths and log lines come from strangers: they stand in code, or with every character that
Markdown or HTML would take for its own escaped, so that none of them forms the page.
"""

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildvm_nb.cli.again import failing_command, passing_command
from buildvm_nb.cli.finding_summary import (
    describe_cause,
    describe_counts,
    describe_machine,
    describe_precision,
)
from buildvm_nb.cli.output import printable, printable_lines
from buildvm_nb.cli.timeline import draw_timeline

if TYPE_CHECKING:
    from buildvm_nb.model.finding import Boundary, Finding

__all__ = ["code", "escaped", "fenced", "write_report"]

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

    Parameters
    ----------
    finding : Finding
        Any finding.
    named : sequence of str
        Words by which the user named the case; left out, they follow from it.
    asked : sequence of str
        The command that made the finding.

    Returns
    -------
    str
        Markdown, as GitHub and GitLab read it.
    """
    case = finding.case
    lines = [f"# {escaped(case.id)}: {escaped(finding.summary)}", ""]
    lines += [escaped(case.title), ""] if case.title else []
    told = [f"**{finding.kind.value}**", *filter(None, [finding.repeats])]
    lines += [f"Found: {', '.join(told)}.", ""]
    parts = (
        ("When it passes", _timeline(finding)),
        ("Boundaries", _boundaries(finding)),
        ("Cause", _causes(finding)),
        ("CPUs and kernels", _machines(finding)),
        ("The line that shows the failure", _block(finding.failing_line)),
        ("Where it passes", _environment(finding, named)),
        ("How to reproduce", _reproduction(finding, named, asked)),
        ("Runs that disagreed", _reruns(finding)),
        ("Rests on", [f"- {escaped(one)}" for one in _support(finding)]),
        ("Taken for granted", [f"- {escaped(one)}" for one in finding.assumptions]),
        ("Evidence", _evidence(finding)),
    )
    for heading, body in parts:
        if body:
            lines += [f"## {heading}", "", *body, ""]
    return "\n".join(lines).rstrip()


def escaped(text: str) -> str:
    """Make text mean itself in Markdown, in one line.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        Without control characters, markup, HTML and mentions of people.
    """
    shown = _ACTIVE.sub(r"\\\1", printable(text))
    return _MENTION.sub("@<!-- -->", shown)


def code(text: str, *, in_table: bool = False) -> str:
    """Make text code within a line.

    Parameters
    ----------
    text : str
        Any text.
    in_table : bool
        Whether it stands in a table, where a bar ends a cell even within code.

    Returns
    -------
    str
        Between more backticks than it has.
    """
    shown = printable(text) or " "
    if in_table:
        shown = shown.replace("|", r"\|")
    fence = "`" * (_longest_run(shown) + 1)
    gap = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{gap}{shown}{gap}{fence}"


def fenced(text: str, language: str = "text") -> list[str]:
    """Make text a block of code.

    Parameters
    ----------
    text : str
        Any text.
    language : str
        What it is.

    Returns
    -------
    list of str
        Lines, between longer fences than it has.
    """
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
    return [_line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *map(_line, rows)] if rows else []


def _row(boundary: "Boundary") -> list[str]:
    return [
        boundary.axis.value,
        code(boundary.last_before, in_table=True),
        boundary.before.value,
        code(boundary.first_after, in_table=True),
        boundary.after.value,
        describe_precision(boundary),
        str(boundary.confirmed),
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _causes(finding: "Finding") -> list[str]:
    return [f"- {code(describe_cause(b.cause))}" for b in finding.boundaries if b.cause]


def _machines(finding: "Finding") -> list[str]:
    base = f" (beside {code(finding.features_base)})" if finding.features_base else ""
    told = (
        ("passes on", finding.passing_cpus, ""),
        ("fails on", finding.failing_cpus, ""),
        ("decided by", finding.features, base),
        ("passes when given", finding.features_needed, ""),
        ("passes on kernels", finding.passing_kernels, ""),
        ("fails on kernels", finding.failing_kernels, ""),
        ("files that vary", finding.varying_files, ""),
    )
    lines = [
        f"- {what}: {', '.join(map(code, names))}{more}" for what, names, more in told if names
    ]
    return [*lines, *([""] if lines and finding.difference else []), *_block(finding.difference)]


def _environment(finding: "Finding", named: Sequence[str]) -> list[str]:
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


def _reruns(finding: "Finding") -> list[str]:
    return [
        f"- {describe_counts(one)}: {code(describe_machine(one.machine))}" for one in finding.reruns
    ]


def _evidence(finding: "Finding") -> list[str]:
    if not finding.evidence:
        return []
    ids = ", ".join(map(code, finding.evidence))
    return [f"Finding {code(finding.id)}; outcomes: {ids}."]
