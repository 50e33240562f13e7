"""An outcome, told to people."""

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildvm_nb.model.outcome import Outcome, StepRecord

__all__ = ["outcome_fields"]

_SHORT = 12


def outcome_fields(outcome: "Outcome", catalog_place: str | None = None) -> list[tuple[str, str]]:
    """Tell an outcome: verdict and why, the evidence, where it ran, how to see more.

    Parameters
    ----------
    outcome : Outcome
        Any outcome.
    catalog_place : str, optional
        The catalog that holds it, where it is not the user's own.

    Returns
    -------
    list of (str, str)
        Names and values; an empty value says that there is nothing to tell.
    """
    see = ["buildvm", "catalog", "log", outcome.id]
    see += ["--catalog", catalog_place] if catalog_place else []
    return [
        ("case", _case(outcome)),
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


def _case(outcome: "Outcome") -> str:
    case = outcome.case
    return f"{case.id}: {case.title}" if case.title else case.id


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
