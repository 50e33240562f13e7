"""Outcomes and findings as rows of their tables."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from buildvm_nb.catalog.springs import breaks, spring_at
from buildvm_nb.model.case import Case, GitSource, LocalSource, WheelsSource, Window, plain_name
from buildvm_nb.model.finding import Axis, Boundary, Finding, FindingKind
from buildvm_nb.model.instants import next_within
from buildvm_nb.model.machine import cpu_age, kernel_age
from buildvm_nb.model.outcome import Outcome, SourceRecord, StepRecord
from buildvm_nb.model.value import Value

__all__ = [
    "canonical_json",
    "case_row",
    "finding_row",
    "outcome_row",
    "storable",
    "subject_row",
    "told_by_case",
    "without_nul",
]

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_NUL_SHOWN = "\N{SYMBOL FOR NULL}"


def outcome_row(outcome: Outcome) -> dict[str, Any]:
    """Flatten an outcome for tables.

    Where the model has an empty text for what is not there, the row has None. SQL text cannot
    hold a NUL character, so it is shown as ``␀``; the full outcome, kept beside, is exact.

    Returns: a value of the standard library, or None, for each column of `schema.OUTCOMES`.
    """
    row = {
        "id": outcome.id,
        "recorded_at": outcome.recorded_at,
        "study": outcome.study,
        "tool_version": outcome.tool_version or None,
        "case_id": outcome.case.id,
        "case_digest": outcome.case.build_digest(),
        **_source(outcome),
        **_asked(outcome),
        **_found(outcome),
        "verdict": outcome.verdict.value,
        "reason": outcome.reason or None,
        "evidence": outcome.evidence or None,
        "failing_step": outcome.failing_step,
        **_steps(outcome),
        "duration_s": outcome.duration_s,
        "log_digest": outcome.log_digest or None,
        "artifacts": canonical_json({entry.path: entry.digest for entry in outcome.artifacts}),
        "host": canonical_json(outcome.host),
        "prepared_at": outcome.probing.prepared_at,
        "clock_held": outcome.probing.held,
        "drift_s": outcome.probing.drift_s,
        "attempt": outcome.probing.attempt,
        "chosen_by": " ".join(outcome.chosen_by) or None,
    }
    return without_nul(row)


def asked_source(case: Case) -> dict[str, Any]:
    """Name the source of a case as the case names it."""
    source = case.source
    name: str | None
    version: str | None
    if isinstance(source, WheelsSource):
        name, version = " ".join(source.requirements), None
    elif isinstance(source, GitSource):
        name, version = source.url, source.commit
    elif isinstance(source, LocalSource):
        name, version = source.path, None
    else:
        name = getattr(source, "name", None) or getattr(source, "url", None)
        version = getattr(source, "version", None)
    return {
        "source_kind": source and source.kind,
        "source_name": name,
        "source_version": version,
    }


def subject_row(case: Case) -> dict[str, str | None]:
    """Name the package that a case is about."""
    about = case.about
    return without_nul(
        {
            "ecosystem": about and about.ecosystem,
            "package": about and about.name,
            "version": about and (about.version or None),
            "purl": about and about.purl,
        }
    )


def case_row(case: Case) -> dict[str, Any]:
    """Flatten a case for its table."""
    subject = subject_row(case)
    return {
        "id": case.id,
        "digest": case.build_digest(),
        "document": case.model_dump_json(by_alias=True),
        **subject,
        "package_key": plain_name(subject["package"]) if subject["package"] else None,
        **told_by_case(case),
        "source_name": without_nul(asked_source(case))["source_name"],
    }


def told_by_case(case: Case) -> dict[str, str | None]:
    """Name what a failure tells of its case."""
    url = case.provenance.url if case.provenance else ""
    return without_nul({"title": case.title or None, "provenance_url": url or None})


def canonical_json(value: object) -> str:
    """Write plain data so that equal data is equal text."""
    return _CANONICAL.encode(value)


def storable(text: str) -> str:
    """Turn any text into one that a database takes, as it would stand in a row.

    `text`: as a user gave it; what cannot be decoded makes surrogates of it.
    """
    return text.replace("\0", _NUL_SHOWN).encode(errors="replace").decode()


def without_nul(row: dict[str, Any]) -> dict[str, Any]:
    """Show NUL characters, which SQL text cannot hold, as ``␀``."""
    return {
        name: value.replace("\0", _NUL_SHOWN) if isinstance(value, str) else value
        for name, value in row.items()
    }


def _source(outcome: Outcome) -> dict[str, Any]:
    """Tell what was built: as fetched, or as asked for where it could not be fetched."""
    records = list(outcome.sources)
    main = records.pop(0) if outcome.case.source is not None and records else None
    if main is None and outcome.case.source is not None:
        nothing = {"source_digest": None, "source_dated_at": None}
        main_row = {**asked_source(outcome.case), **nothing}
    else:
        main_row = {
            "source_kind": main and main.kind,
            "source_name": main and main.name,
            "source_version": main and (main.version or None),
            "source_digest": main and main.digest,
            "source_dated_at": main and main.dated_at,
        }
    return {**main_row, "inputs": canonical_json([_input(record) for record in records])}


def _input(record: SourceRecord) -> dict[str, str]:
    return {
        "kind": record.kind,
        "name": record.name,
        "version": record.version,
        "digest": record.digest,
    }


def _asked(outcome: Outcome) -> dict[str, Any]:
    machine = outcome.machine
    return {
        "image": str(machine.image),
        "date": machine.date,
        "cpu": machine.cpu,
        "cpu_count": machine.cpu_count,
        "memory_mib": machine.memory_mib,
        "kernel": machine.kernel,
        "accelerator": machine.accelerator.value,
    }


def _found(outcome: Outcome) -> dict[str, Any]:
    found = outcome.environment
    identity = found and found.cpu_identity
    return {
        "cpu_vendor": identity and identity.vendor,
        "cpu_family": identity and identity.family,
        "cpu_model": identity and identity.model,
        "cpu_stepping": identity and identity.stepping,
        "cpu_name": identity and identity.name,
        "cpu_features": None if found is None else " ".join(found.cpu_features),
        "kernel_release": found and found.kernel_release,
        "accelerator_used": found and found.accelerator.value,
        "engine": found and found.engine,
        "image_digest": outcome.image_digest or None,
        "kernel_digest": outcome.kernel_digest or None,
    }


def _steps(outcome: Outcome) -> dict[str, Any]:
    step = _deciding(outcome)
    seconds = {record.name: record.duration_s for record in outcome.steps}
    return {
        "clock_started_at": step and step.clock_started_at,
        "clock_ended_at": step and step.clock_ended_at,
        "exit_status": step and step.exit_status,
        "signal": step and step.signal,
        "tests_run": step and step.tests_run,
        "prepare_s": seconds.get("prepare"),
        "build_s": seconds.get("build"),
        "test_s": seconds.get("test"),
    }


def _deciding(outcome: Outcome) -> StepRecord | None:
    failing = [step for step in outcome.steps if step.name == outcome.failing_step]
    return next(reversed(failing or list(outcome.steps)), None)


# A finding as a row of the ``findings`` table.

_SECOND = timedelta(seconds=1)
_LATEST = datetime.max.replace(tzinfo=UTC) - _SECOND


def finding_row(finding: Finding) -> dict[str, Any]:
    """Flatten a finding for tables.

    As in the row of an outcome, None stands for what is not there, and ``␀`` for a NUL character.

    Returns: a value of the standard library, or None, for each column of `schema.FINDINGS`.
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

    Returns: of those on the finding's axis (of all, where none is on it): on the date axis the end
    of the window that holds the case's own date, else its beginning; on another axis the last one
    after which a passing case does not pass; else the first. None: there are none.
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

    Returns: the one that holds the case's own date, else the first. None: there are no windows.
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
