"""A finding as a row of the ``findings`` table."""

from typing import Any

from buildvm_nb.catalog.rows import asked_source, canonical_json, without_nul
from buildvm_nb.model.finding import Boundary, Finding
from buildvm_nb.model.outcome import Verdict
from buildvm_nb.model.value import Value

__all__ = ["deciding_boundary", "finding_row"]


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
        Of those on the finding's axis (of all, where none is on it) the last one after which a
        passing case does not pass, else the first. None: there are no boundaries.
    """
    on_axis = [entry for entry in finding.boundaries if entry.axis is finding.axis]
    choice = on_axis or list(finding.boundaries)
    breaking = [entry for entry in choice if _breaks(entry)]
    return breaking[-1] if breaking else next(iter(choice), None)


def _breaks(boundary: Boundary) -> bool:
    return boundary.before is Verdict.PASSED and boundary.after is not Verdict.PASSED


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
    last = finding.windows[-1] if finding.windows else None
    return {
        "passes_from": last and last.passes_from,
        "passes_until": last and last.passes_until,
        "windows": _documents(finding.windows),
        "studied_from": finding.studied_from,
        "studied_until": finding.studied_until,
    }


def _machines(finding: Finding) -> dict[str, Any]:
    return {
        "passing_cpus": _words(finding.passing_cpus),
        "failing_cpus": _words(finding.failing_cpus),
        "features": _words(finding.features),
        "features_base": finding.features_base or None,
        "features_needed": _words(finding.features_needed),
        # a list, not words: the path of a kernel may hold a space
        "passing_kernels": canonical_json(finding.passing_kernels),
        "failing_kernels": canonical_json(finding.failing_kernels),
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


def _words(words: tuple[str, ...]) -> str | None:
    return " ".join(words) or None


def _documents(values: tuple[Value, ...]) -> str:
    return canonical_json([value.model_dump(mode="json") for value in values])
