"""A finding, told to people."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildvm_nb.model.finding import Boundary, Finding, Reruns, Window

__all__ = ["finding_fields"]


def finding_fields(finding: "Finding", superseded_by: Iterable[str]) -> list[tuple[str, str]]:
    """Tell a finding: what was concluded and why, where the case passes, what proves it.

    Parameters
    ----------
    finding : Finding
        Any finding.
    superseded_by : iterable of str
        Ids of the findings that replace it.

    Returns
    -------
    list of (str, str)
        Names and values; an empty value says that there is nothing to tell.
    """
    return [
        ("case", _titled(finding)),
        ("kind", finding.kind.value),
        ("axis", finding.axis.value if finding.axis else ""),
        ("summary", finding.summary),
        ("superseded by", " ".join(superseded_by)),
        ("boundaries", "\n".join(map(_boundary, finding.boundaries))),
        ("cause", "\n".join(filter(None, map(_cause, finding.boundaries)))),
        *_dates(finding),
        *_machines(finding),
        ("environment", _environment(finding)),
        ("shown by", finding.failing_line),
        ("disagreed", "\n".join(map(_reruns, finding.reruns))),
        ("confidence", f"{finding.confidence:.4g}"),
        ("assumed", "\n".join(finding.assumptions)),
        ("runs", str(finding.runs)),
        ("evidence", "\n".join(finding.evidence)),
        *_origin(finding),
    ]


def _titled(finding: "Finding") -> str:
    case = finding.case
    return f"{case.id}: {case.title}" if case.title else case.id


def _boundary(boundary: "Boundary") -> str:
    exact = "exact" if boundary.is_exact else "somewhere between"
    return (
        f"{boundary.axis.value}: {boundary.before.value} up to {boundary.last_before}, "
        f"{boundary.after.value} from {boundary.first_after} "
        f"({exact}; {boundary.confirmed} confirming runs)"
    )


def _cause(boundary: "Boundary") -> str:
    cause = boundary.cause
    if cause is None:
        return ""
    line = "" if cause.line is None else f":{cause.line}"
    place = f" {cause.path}{line}" if cause.path else ""
    return f"{cause.kind.value}{place}: {cause.why}"


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
        ("needs features", " ".join(finding.features_needed)),
        ("passing kernels", ", ".join(finding.passing_kernels)),
        ("failing kernels", ", ".join(finding.failing_kernels)),
        ("varying files", "\n".join(finding.varying_files)),
        ("difference", finding.difference),
    ]


def _environment(finding: "Finding") -> str:
    from buildvm_nb.model.instants import format_instant

    machine = finding.environment
    if machine is None:
        return ""
    return (
        f"{format_instant(machine.date)}, {machine.cpu}, {machine.cpu_count} virtual, "
        f"{machine.memory_mib} MiB, kernel {machine.kernel}, {machine.accelerator.value}, "
        f"{machine.image}"
    )


def _reruns(reruns: "Reruns") -> str:
    from buildvm_nb.model.instants import format_instant

    machine = reruns.machine
    counts = ", ".join(f"{count} {verdict.value}" for verdict, count in reruns.verdicts.items())
    return f"{counts}: {format_instant(machine.date)}, {machine.cpu}, kernel {machine.kernel}"


def _origin(finding: "Finding") -> list[tuple[str, str]]:
    from buildvm_nb.model.instants import format_instant

    return [
        ("finding", finding.id),
        ("supersedes", finding.supersedes or ""),
        ("recorded", format_instant(finding.recorded_at)),
        ("study", finding.study or ""),
        ("buildvm", finding.tool_version),
    ]
