"""An outcome as a row of the ``outcomes`` table, and what other rows have in common with it."""

import json
from typing import Any

from buildvm_nb.model.case import Case, GitSource, LocalSource, WheelsSource
from buildvm_nb.model.entry import plain_name
from buildvm_nb.model.outcome import Outcome, SourceRecord, StepRecord

__all__ = [
    "asked_source",
    "canonical_json",
    "case_row",
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

    Parameters
    ----------
    outcome : Outcome
        Any outcome.

    Returns
    -------
    dict
        A value of the standard library, or None, for each column of `schema.OUTCOMES`.
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
    """Name the source of a case as the case names it.

    Parameters
    ----------
    case : Case
        Any case.

    Returns
    -------
    dict
        ``source_kind``, ``source_name`` and ``source_version``; None where the case has none.
    """
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
    """Name the package that a case is about.

    Parameters
    ----------
    case : Case
        Any case.

    Returns
    -------
    dict
        A text, or None, for each column of `schema.SUBJECT`.
    """
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
    """Flatten a case for its table.

    Parameters
    ----------
    case : Case
        Any case.

    Returns
    -------
    dict
        A value for each column of `tables.cases`.
    """
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
    """Name what a failure tells of its case.

    Parameters
    ----------
    case : Case
        Any case.

    Returns
    -------
    dict
        A text, or None, for ``title`` and ``provenance_url``.
    """
    url = case.provenance.url if case.provenance else ""
    return without_nul({"title": case.title or None, "provenance_url": url or None})


def canonical_json(value: object) -> str:
    """Write plain data so that equal data is equal text.

    Parameters
    ----------
    value : object
        Plain JSON.

    Returns
    -------
    str
        JSON with sorted keys.
    """
    return _CANONICAL.encode(value)


def storable(text: str) -> str:
    """Turn any text into one that a database takes, as it would stand in a row.

    Parameters
    ----------
    text : str
        As a user gave it; what cannot be decoded makes surrogates of it.

    Returns
    -------
    str
        With ``␀`` for NUL characters and ``?`` for surrogates.
    """
    return text.replace("\0", _NUL_SHOWN).encode(errors="replace").decode()


def without_nul(row: dict[str, Any]) -> dict[str, Any]:
    """Show NUL characters, which SQL text cannot hold, as ``␀``.

    Parameters
    ----------
    row : dict
        Values by column.

    Returns
    -------
    dict
        The same, without a NUL in any text.
    """
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
