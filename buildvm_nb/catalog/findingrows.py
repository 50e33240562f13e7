"""A finding as a row of the ``findings`` table."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from buildvm_nb.catalog.rows import asked_source, canonical_json, without_nul
from buildvm_nb.catalog.springs import breaks, spring_at
from buildvm_nb.model.case import WheelsSource
from buildvm_nb.model.cpu import cpu_age
from buildvm_nb.model.finding import Axis, Boundary, Finding, FindingKind, Window
from buildvm_nb.model.machine import kernel_age
from buildvm_nb.model.recurrence import next_within
from buildvm_nb.model.value import Value

__all__ = ["deciding_boundary", "deciding_window", "finding_row"]

_SECOND = timedelta(seconds=1)
_LATEST = datetime.max.replace(tzinfo=UTC) - _SECOND


def finding_row(finding: Finding) -> dict[str, Any]:
    """Flatten a finding for tables.

    As in the row of an outcome, None stands for what is not there, and ``␀`` for a NUL character.

    Parameters
    ----------
    finding : Finding
        Any finding.

    Returns
    -------
    dict
        A value of the standard library, or None, for each column of `schema.FINDINGS`.
    """
    row = {
        "id": finding.id,
        "recorded_at": finding.recorded_at,
        "study": finding.study,
        "tool_version": finding.tool_version or None,
        "case_id": finding.case.id,
        "case_digest": finding.case.build_digest(),
        **asked_source(finding.case),
        "kind": finding.kind.value,
        "axis": finding.axis and finding.axis.value,
        "summary": finding.summary,
        **_boundary(finding),
        **_dates(finding),
        **_machines(finding),
        "varying_files": canonical_json(finding.varying_files),
        "difference": finding.difference or None,
        "reruns": _documents(finding.reruns),
        **_environment(finding),
        "failing_line": finding.failing_line or None,
        "confidence": finding.confidence,
        "assumptions": canonical_json(finding.assumptions),
        "evidence": canonical_json(finding.evidence),
        "runs": finding.runs,
        "supersedes": finding.supersedes,
        **_springs(finding),
        "recurs": finding.recurs or None,
        "covers": _covered(finding),
    }
    return without_nul(row)


def deciding_boundary(finding: Finding) -> Boundary | None:
    """Choose the boundary that tells most.

    Parameters
    ----------
    finding : Finding
        Any finding.

    Returns
    -------
    Boundary or None
        Of those on the finding's axis (of all, where none is on it): on the date axis the end of
        the window that holds the case's own date, else its beginning; on another axis the last
        one after which a passing case does not pass; else the first. None: there are none.
    """
    on_axis = [entry for entry in finding.boundaries if entry.axis is finding.axis]
    choice = on_axis or list(finding.boundaries)
    if not choice:
        return None
    breaking = [entry for entry in choice if breaks(entry.before, entry.after)]
    if choice[0].axis is not Axis.DATE:
        return breaking[-1] if breaking else choice[0]
    own = _own_date(finding)
    if own is None:
        return next(iter(breaking), choice[0])
    ends = (entry for entry in breaking if (at := spring_at(entry.first_after)) and at > own)
    begun = [entry for entry in choice if (at := spring_at(entry.first_after)) and at <= own]
    return next(ends, begun[-1] if begun else choice[0])


def deciding_window(finding: Finding) -> Window | None:
    """Choose the window that tells most.

    Parameters
    ----------
    finding : Finding
        Any finding.

    Returns
    -------
    Window or None
        The one that holds the case's own date, else the first. None: there are no windows.
    """
    own = _own_date(finding)
    holding = (one for one in finding.windows if own and _holds(one, own))
    return next(holding, next(iter(finding.windows), None))


def _own_date(finding: Finding) -> datetime | None:
    """Return the date of the least unusual machine that passes: the case's own where it does."""
    if finding.environment is not None:
        return finding.environment.date
    source = finding.case.source
    return source.as_of if isinstance(source, WheelsSource) else None


def _holds(window: Window, date: datetime) -> bool:
    first, last = window.passes_from, window.passes_until
    return (first is None or first <= date) and (last is None or date <= last)


def _boundary(finding: Finding) -> dict[str, Any]:
    boundary = deciding_boundary(finding)
    cause = boundary and boundary.cause
    return {
        "last_before": boundary and boundary.last_before,
        "first_after": boundary and boundary.first_after,
        "verdict_before": boundary and boundary.before.value,
        "verdict_after": boundary and boundary.after.value,
        "is_exact": boundary and boundary.is_exact,
        "confirmed": boundary and boundary.confirmed,
        "cause_kind": cause and cause.kind.value,
        "cause_path": cause and (cause.path or None),
        "cause_why": cause and cause.why,
        "boundaries": _documents(finding.boundaries),
    }


def _dates(finding: Finding) -> dict[str, Any]:
    window = deciding_window(finding)
    return {
        "passes_from": window and window.passes_from,
        "passes_until": window and window.passes_until,
        "windows": _documents(finding.windows),
        "studied_from": finding.studied_from,
        "studied_until": finding.studied_until,
    }


def _springs(finding: Finding) -> dict[str, Any]:
    boundary = deciding_boundary(finding)
    does_spring = (
        boundary and boundary.axis is Axis.DATE and breaks(boundary.before, boundary.after)
    )
    passed = [
        last
        for entry in finding.boundaries
        if entry.axis is Axis.DATE and breaks(entry.before, entry.after)
        if (last := spring_at(entry.last_before)) and spring_at(entry.first_after)
    ]
    ruled = None
    if finding.recurs and (own := _own_date(finding)):
        ruled = next_within(finding.recurs, own)
    return {
        "springs_at": spring_at(boundary.first_after) if boundary and does_spring else ruled,
        "may_spring_from": min(*passed, _LATEST) + _SECOND if passed else None,
    }


def _covered(finding: Finding) -> str | None:
    """Name the axes along which nothing made a difference, which only the summary tells."""
    if finding.kind not in {FindingKind.SOUND, FindingKind.ALWAYS_FAILING}:
        return None
    words = finding.summary.rpartition(" along ")[2].replace(",", " ").split()
    told = [axis for axis in Axis if axis in words]
    if not told and finding.studied_from is not None:
        told = [Axis.DATE]
    return " ".join(told) or None


def _machines(finding: Finding) -> dict[str, Any]:
    return {
        "passing_cpus": _words(sorted(finding.passing_cpus, key=cpu_age)),
        "failing_cpus": _words(sorted(finding.failing_cpus, key=cpu_age)),
        "features": _words(finding.features),
        "features_base": finding.features_base or None,
        "features_needed": _words(finding.features_needed),
        # a list, not words: the path of a kernel may hold a space
        "passing_kernels": canonical_json(sorted(finding.passing_kernels, key=kernel_age)),
        "failing_kernels": canonical_json(sorted(finding.failing_kernels, key=kernel_age)),
    }


def _environment(finding: Finding) -> dict[str, Any]:
    machine = finding.environment
    return {
        "env_date": machine and machine.date,
        "env_cpu": machine and machine.cpu,
        "env_cpu_count": machine and machine.cpu_count,
        "env_memory_mib": machine and machine.memory_mib,
        "env_kernel": machine and machine.kernel,
        "env_accelerator": machine and machine.accelerator.value,
        "env_image": machine and str(machine.image),
    }


def _words(words: Sequence[str]) -> str | None:
    return " ".join(words) or None


def _documents(values: tuple[Value, ...]) -> str:
    return canonical_json([value.model_dump(mode="json") for value in values])
